"""Results in files: whole under their name, interrupted ones continued; progress on the way. Knows no models.

While ``FILE`` is being written there are ``FILE.part``, the results so far, and ``FILE.part.json``, what was asked for.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..support.errors import UserError
from ..text.corpus import count_lines

log = logging.getLogger("mtcli")

Result = TypeVar("Result")


@contextmanager
def writer(
    path: Path | None, task: dict[str, Any] | None = None, keep: int = 0
) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that bears its name only once it is whole.

    ``task``, JSON, is what `left_behind` will hold against a later wish to continue. ``keep`` is the number of bytes of
    an interrupted file's results that stay; the new ones follow them.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    part, wish = _beside(path)
    try:
        with open(part, "a" if keep else "w", encoding="utf-8", newline="\n") as file:
            file.truncate(keep)
            if task is not None:
                wish.write_text(json.dumps(task, indent=1, ensure_ascii=False), encoding="utf-8")
            try:
                yield file
            except (KeyboardInterrupt, UserError):
                if task is not None and file.tell():
                    log.info(f"{part} holds the results so far; --resume continues it.")
                raise
        part.replace(path)
        wish.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def left_behind(path: Path, task: dict[str, Any], grouped: bool) -> tuple[int, int] | None:
    """How many lines of input an interrupted ``path`` answers, and in how many bytes; None where nothing was left.

    A line that was torn does not count. Where results are ``grouped``, several lines that begin with the number of
    their input, neither does the last group, since more of it may have been to come. Raises UserError where the task
    was another.
    """
    part, wish = _beside(path)
    try:
        if not part.exists():
            return None
        if not part.stat().st_size:
            return 0, 0
        before = json.loads(wish.read_text(encoding="utf-8")) if wish.exists() else None
        if not isinstance(before, dict):
            raise UserError(
                f"{part} cannot be continued: {wish}, which says what was asked for, is missing or damaged."
            )
        differences = [
            f"  {key}: {before.get(key)} -> {task.get(key)}"
            for key in task
            if before.get(key) != task.get(key)
        ]
        if differences:
            raise UserError(
                "\n".join([f"{part} was begun with another task:", *differences])
                + "\nTo continue it, ask for the same as before; without --resume it is begun anew."
            )
        with open(part, "rb") as file:
            return _last_group(file) if grouped else _whole_lines(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{part} cannot be continued: {getattr(error, 'strerror', None) or error}."
        ) from None


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _whole_lines(file: Iterable[bytes]) -> tuple[int, int]:
    count = size = 0
    for line in file:
        if line.endswith(b"\n"):
            count, size = count + 1, size + len(line)
    return count, size


def _last_group(file: Iterable[bytes]) -> tuple[int, int]:
    """The number before the last group's, and where that group begins. Raises ValueError where a line has none."""
    number = start = size = 0
    for line in file:
        if line.endswith(b"\n") and int(line.split(b" ", 1)[0]) != number:
            number, start = int(line.split(b" ", 1)[0]), size
        size += len(line)
    return max(number - 1, 0), start


@contextmanager
def progress(
    results: Iterable[Result], path: Path | None, to_stdout: bool, done: int = 0
) -> Iterator[Iterable[Result]]:
    """``results`` with a bar on stderr, if that is a terminal and not the one where the results appear.

    ``path``: the file that has a line for each result; None where their number is not known. ``done``: how many of
    them were there before.
    """
    if not sys.stderr.isatty() or to_stdout and sys.stdout.isatty():
        yield results
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    total = _count_lines(path) if path is not None else None
    with (
        logging_redirect_tqdm(),
        tqdm(results, total=total, initial=done, unit=" lines", smoothing=0) as bar,
    ):
        yield bar


def _count_lines(path: Path) -> int | None:
    """Lines of a regular file; None for what is none or cannot be read, of which the reader will say more."""
    try:
        return count_lines(path) if path.is_file() else None
    except UserError:
        return None
