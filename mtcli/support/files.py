"""Files that appear complete or not at all, locks, and careful reading of files that strangers may have made."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import UserError

# Where the system has them: open no link, and do not wait for a writer when opening a named pipe.
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | NO_WAIT
LARGEST_JSON = 10 << 20  # bytes, more than an honest file ever has


@contextmanager
def user_errors(path: Path, action: str = "written") -> Iterator[None]:
    """Within this, an OSError becomes a UserError: ``path`` cannot be written, or whatever the action is."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be {action}: {reason(error)}.") from error


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# ------------------------------------------------------------------------------------------------------------- writing


def replace_file(path: Path, data: bytes) -> None:
    """Write a file; if the process dies, the old or the new content is there. Raises UserError."""
    aside = _aside(path)
    with user_errors(path):
        try:
            remove(aside)
            aside.write_bytes(data)
            with suppress(FileNotFoundError):
                shutil.copymode(path, aside)
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a directory to fill. At the end it is flushed and renamed to ``path``; after an error nothing of it remains.

    With ``replace`` it takes the place of what is there. Raises OSError.
    """
    aside = _aside(path)
    try:
        remove(aside)
        aside.mkdir(parents=True)
        yield aside
        for entry in aside.rglob("*"):
            sync(entry)
        sync(aside)
        if replace and os.path.lexists(path):
            remove(_replaced(path))
            os.rename(path, _replaced(path))
        os.rename(aside, path)
        sync(path.parent)
    finally:
        _settle(path)
        remove(aside)


def remove(path: Path) -> None:
    """Remove a file, or a directory as one: if the process dies, no half of it is left under its name."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith("."):
        remove(_aside(path))
        path = path.rename(_aside(path))
    shutil.rmtree(path, ignore_errors=True)


def clear_leftovers(folder: Path, names: str = ".*") -> None:
    """Remove what killed processes left in a folder, and put back what they moved; nobody else may work on it.

    ``names``: a pattern of the things that they worked on.
    """
    left = re.compile(rf"\.({names})\.(replaced|[0-9]+\.aside)")
    for path in list(folder.glob(".*")):
        if match := left.fullmatch(path.name):
            with suppress(OSError):
                _settle(path.with_name(match[1])) if match[2] == "replaced" else remove(path)


def sync(path: Path) -> None:
    """Flush a file, or a directory's list of names, to the disk. Raises OSError."""
    directory = path.is_dir()
    if directory and os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(path, (os.O_RDONLY if directory else os.O_RDWR) | OPEN_FLAGS)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush directories
            raise
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    """Where a thing is, in the same directory, before it is complete or while it is removed."""
    return path.with_name(f".{path.name}.{os.getpid()}.aside")


def _replaced(path: Path) -> Path:
    """Where a directory is while a new one takes its place."""
    return path.with_name(f".{path.name}.replaced")


def _settle(path: Path) -> None:
    """Remove the directory that was replaced, or put it back if the new one never came."""
    old = _replaced(path)
    if os.path.lexists(old):
        remove(old) if os.path.lexists(path) else os.rename(old, path)


# --------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock file; a process that dies holds nothing. Who holds it is in the file ``path`` + ".pid".

    If another process holds it, waits, or raises UserError with the message ``busy`` if there is one. Raises UserError
    for a link and where it cannot be locked.
    """
    from filelock import FileLock, Timeout  # takes 50 ms, which translating need not wait for

    refuse_link(path)
    number = path.with_name(f"{path.name}.pid")
    # For a moment the processes that a killed one had forked may still hold it.
    held = FileLock(path, timeout=1 if busy else -1, thread_local=False)
    with user_errors(path, "locked"):
        if os.path.lexists(path) and not path.is_file():
            raise OSError(errno.EINVAL, "not a file")
        try:
            held.acquire()
        except Timeout:
            holder = read_file(number, 20) if number.exists() else b""
            by = f" (process {int(holder)})" if holder.isdigit() else ""
            raise UserError(f"{busy}{by}.") from None
    try:
        replace_file(number, str(os.getpid()).encode())
        yield
    finally:
        held.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file. Raises UserError for a link and where that cannot be found out."""
    from filelock import FileLock, Timeout

    refuse_link(path)
    if not os.path.lexists(path):
        return False
    with user_errors(path, "locked"):
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Be the only process that makes ``path``, and clear away what a killed one left beside it. Raises UserError."""
    with user_errors(path):
        os.scandir(path.parent).close()
    held = path.with_name(f".{path.name}.lock")
    with lock(held, f"Another process is writing {path}"):
        clear_leftovers(path.parent, re.escape(path.name))
        try:
            yield
        finally:
            for file in (held.with_name(f"{held.name}.pid"), held):
                with suppress(OSError):
                    file.unlink()


# ---------------------------------------------------------------------------------------- what the user wants written


def follow(path: Path, kind: str = "file") -> Path:
    """What the links at ``path`` lead to; it need not exist. Links to open files (/dev/stdout) are not followed.

    Raises UserError for a directory where the ``kind`` is a file, and for what has no name (``.``, ``..``).
    """
    with user_errors(path), suppress(FileNotFoundError):
        os.stat(path)  # refuses a circle
    while path.is_symlink() and not _is_open_file(path):
        path = path.parent / os.readlink(path)
    if path.name in ("", "..") or kind == "file" and path.is_dir():
        raise UserError(f"{path} is a directory; name a {kind} in it.")
    return path


def is_special(path: Path) -> bool:
    """Whether this is to be written into and cannot be replaced: a device, a pipe, an open file of a process."""
    there = os.path.lexists(path) and not path.is_file() and not path.is_dir()
    return there or _is_open_file(path)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user has named: through a link, or into a device or a pipe. Raises UserError."""
    place = follow(path)
    if is_special(place):
        with user_errors(path), open(place, "ab") as file:
            file.write(data)
    else:
        replace_file(place, data)


def _is_open_file(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().parts[:2] == ("/", "proc")


# ------------------------------------------------------------------------------------------------------------- reading


def refuse_link(path: Path) -> None:
    """Raises UserError if ``path`` is a link, which could lead anywhere."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, which could lead anywhere. It was not followed.")


def open_regular(path: Path, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
    """Open what is a file, not a link, pipe or device. Raises UserError for a link, else OSError."""
    refuse_link(path)  # OPEN_FLAGS do too, where the system has them
    file = open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags | OPEN_FLAGS, 0o666))  # fmt: skip
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a file", str(path))
    return file


def plain_files(folder: Path, largest: int) -> list[Path]:
    """The files in a folder and below. Raises UserError for anything that is no file of at most ``largest`` bytes."""
    found = []
    with user_errors(folder, "read"):
        for path in folder.rglob("*"):
            refuse_link(path)
            if path.is_dir():
                continue
            if not path.is_file() or path.stat().st_size > largest:
                raise UserError(
                    f"{path} is not what it should be: a file of at most {largest:,} bytes."
                )
            found.append(path)
    return found


def read_file(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes. Raises UserError."""
    with user_errors(path, "read"), open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} is larger than {limit:,} bytes, so it is not what it should be.")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError."""
    return parse_json(read_file(path, LARGEST_JSON), path)


def parse_json(data: bytes, place: str | Path) -> dict[str, Any]:
    """A JSON object whose numbers are finite. Raises UserError, which names ``place``, for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{place} does not hold a JSON object.")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def sha256(file: IO[bytes]) -> str:
    """Of the rest of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as JSON. Raises UserError."""
    with user_errors(path, "read"), open_regular(path) as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": sha256(file)}


def verify(path: Path, expected: Any, manifest: str) -> None:
    """Raises UserError unless a file's `checksum` is the one that its manifest has."""
    found = checksum(path)
    if found != expected:
        size = found["bytes"]
        raise UserError(
            f"{path} ({size:,} bytes) has another size or SHA-256 than {manifest} says."
        )
