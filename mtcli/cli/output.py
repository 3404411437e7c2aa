"""Results in files that are complete under their name or can be continued, and a progress bar.

While ``FILE`` is being written there are ``FILE.part``, the results so far, and ``FILE.part.json``, what was asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..support import files
from ..support.errors import UserError, log
from ..text.corpus import count_lines

Result = TypeVar("Result")
Task = dict[str, Any]  # what was asked for, as JSON


@contextmanager
def writer(path: Path | None, task: Task | None = None, keep: int = 0) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that has its name only once it is complete.

    ``task`` is what `resume_point` will compare with a later request to continue. The first ``keep`` bytes of an
    interrupted file's results stay; the new ones follow them.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    part, asked = _beside(path)
    with files.user_errors(path):
        with open(part, "a" if keep else "w", encoding="utf-8", newline="\n") as file:
            file.truncate(keep)
            if task is not None:
                asked.write_text(json.dumps(task, indent=1), encoding="utf-8")
            try:
                yield file
            except (KeyboardInterrupt, UserError):
                if task is not None and file.tell():
                    log.info(f"{part} holds the results so far; --resume continues it.")
                raise
        files.sync(part)
        part.replace(path)
        asked.unlink(missing_ok=True)


def resume_point(path: Path, task: Task, grouped: bool) -> tuple[int, int] | None:
    """How many lines of input an interrupted ``path`` answers, and in how many bytes; None if nothing was interrupted.

    A torn line does not count. Where results are ``grouped``, several lines that begin with the number of their input,
    neither does the last group, which may lack some. Raises UserError where the task was another.
    """
    part, asked = _beside(path)
    try:
        if not part.exists():
            return None
        if not part.stat().st_size:
            return 0, 0
        before = json.loads(asked.read_text(encoding="utf-8")) if asked.exists() else None
        if not isinstance(before, dict):
            raise UserError(
                f"{part} cannot be continued: {asked}, which says what was asked for, is missing or damaged."
            )
        changed = [key for key in task if before.get(key) != task[key]]
        if changed:
            lines = "".join(f"\n  {key}: {before.get(key)} -> {task[key]}" for key in changed)
            raise UserError(
                f"{part} was begun with another task:{lines}\n"
                "To continue it, ask for the same as before; without --resume it begins again."
            )
        with open(part, "rb") as file:
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
