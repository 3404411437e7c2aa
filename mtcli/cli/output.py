"""Results in files that are complete under their name or can be continued, and a progress bar.

While ``FILE`` is being written there are ``FILE.part``, the results so far, and ``FILE.part.json``, what was asked for.
A second process that would write the same is refused.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from ..support import files
from ..support.errors import UserError, log, visible
from ..support.signals import Interrupted
from ..text.corpus import count_lines

Result = TypeVar("Result")
Task = dict[str, Any]  # what was asked for, as JSON
DIGITS = 4  # after the point; more would depend on what is computed beside a number


def to_json(value: Any) -> str:
    """One line of JSON, in which every number has the DIGITS that are promised of it."""
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0  # -0.0 + 0.0 is 0.0
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def writer(path: Path | None) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that has its name only once it is complete.

    A link is followed; a device or a pipe is written into. Raises UserError.
    """
    with resumable(path) as (file, _):
        yield file


@contextmanager
def resumable(
    path: Path | None, task: Task | None = None, resume: bool = False, grouped: bool = False
) -> Iterator[tuple[TextIO, int]]:
    """As `writer`, and how many lines of input an interrupted file answers, which ``resume`` continues.

    ``task`` is what a later request to continue must ask for as well. See `resume_point` for ``grouped``.
    """
    if path is None:
        yield (cast(TextIO, _Terminal()) if sys.stdout.isatty() else sys.stdout), 0
        sys.stdout.flush()
        return
    place = files.follow(path)
    if files.is_special(place):
        with files.user_errors(path), open(place, "a", encoding="utf-8", newline="\n") as file:
            yield file, 0
        return
    part, asked = _beside(place)
    with files.user_errors(path), files.claim(place):
        done, keep = resume_point(place, task or {}, grouped) if resume else (0, 0)
        with io.TextIOWrapper(files.open_regular(part, "ab"), "utf-8", newline="\n") as file:
            file.truncate(keep)
            if task is not None:
                files.replace_file(asked, json.dumps(task, indent=1).encode())
            try:
                yield file, done
                file.flush()
                os.fsync(file.fileno())
            except (Interrupted, UserError, OSError) as error:
                if task is not None and part.stat().st_size:
                    hint = f"{part} holds the results so far; --resume continues it."
                    if isinstance(error, Interrupted):
                        error.hint = hint
                    else:
                        log.info(hint)
                raise
        with suppress(FileNotFoundError):
            shutil.copymode(place, part)
        part.replace(place)
        asked.unlink(missing_ok=True)


class _Terminal:
    """stdout where it is a terminal, which is shown nothing that could control it."""

    def write(self, text: str) -> None:
        sys.stdout.write(visible(text))

    def flush(self) -> None:
        sys.stdout.flush()


def is_complete(path: Path) -> bool:
    """Whether there is such a file and nothing of it is left to do."""
    place = files.follow(path)
    return place.is_file() and not os.path.lexists(_beside(place)[0])


def resume_point(path: Path, task: Task, grouped: bool) -> tuple[int, int]:
    """How many lines of input an interrupted ``path`` answers, and in how many bytes.

    A torn line does not count. Where results are ``grouped``, several lines that begin with the number of their input,
    neither does the last group, which may lack some. Raises UserError where the task was another.
    """
    part, asked = _beside(path)
    try:
        if not os.path.lexists(part) or not part.lstat().st_size:
            return 0, 0
        try:
            before = files.read_json(asked)
        except UserError as error:
            raise UserError(
                f"{part} cannot be continued without what was asked for. {error}"
            ) from None
        changed = [key for key in task if before.get(key) != task[key]]
        if changed:
            lines = "".join(f"\n  {key}: {before.get(key)} -> {task[key]}" for key in changed)
            raise UserError(
                f"{part} was begun with another task:{lines}\n"
                "To continue it, ask for the same as before; without --resume it begins again."
            )
        with files.open_regular(part) as file:
            if grouped:
                return _last_group(file)
            lengths = [len(line) for line in file if line.endswith(b"\n")]
            return len(lengths), sum(lengths)
    except (OSError, ValueError) as error:
        raise UserError(f"{part} cannot be continued: {files.reason(error)}.") from None


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


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
    """``results`` with a bar on stderr, if that is a terminal where no results appear and no sentences are typed.

    ``path``: the file that has a line for each result, if their number is known. ``done``: how many were there before.
    """
    typed, shown = path is None and sys.stdin.isatty(), to_stdout and sys.stdout.isatty()
    if typed or shown or not sys.stderr.isatty():
        yield results
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    total = None
    if path is not None and path.is_file():
        with suppress(UserError):  # its reader will say more
            total = count_lines(path)
    bar = tqdm(results, total=total, initial=done, unit=" lines", smoothing=0)
    with logging_redirect_tqdm(), bar:
        yield bar
