"""What people are meant to read: the log, and the one exception."""

from __future__ import annotations

import importlib
import logging
import re
from functools import cache
from typing import Any

log = logging.getLogger("mtcli")
warn_once = cache(log.warning)  # in the life of a process, for what is read several times


class UserError(Exception):
    """Something the user can fix. The command line prints its text alone, without a traceback, and exits with 1.

    The text names the place (``file:line`` or the key), what was got, what is allowed, and what to do.
    """


def require(package: str, extra: str) -> Any:
    """An optional package, imported. Raises UserError where it is missing, with what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"This needs the package {package} ({error}): pip install 'mtcli[{extra}]'"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, by whatever name a library gives it, says that memory ran out."""
    words = re.compile("(can't|cannot) allocate memory|bad_alloc|can't start new thread", re.I)
    out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out or bool(words.search(str(error)))


# Control characters, but not line end and tab; what reorders a line; line and paragraph separators.
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text that is safe to show: what could control a terminal is written as Python would (``\\x1b``)."""
    return UNSAFE.sub(lambda match: repr(match[0])[1:-1], text)
