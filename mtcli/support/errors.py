"""What people are meant to read: the log, and the one exception."""

from __future__ import annotations

import importlib
import logging
from typing import Any

log = logging.getLogger("mtcli")


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
