"""Which files a run was trained and scored on; the one place that opens a file because a run names it.

    data.json    for train, validation and test: each file's path from the run's directory, its size and SHA-256

A run may come from a stranger, whose config could name anything: only a file that is what the record says is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..config import TSV, Corpus, Data, files_of
from ..support import files
from ..support.errors import UserError, log

FILE = "data.json"

Role = Literal["train", "validation", "test"]
Digests = dict[str, dict[str, Any]]  # by path: stamp, sha256


class Entry(NamedTuple):
    """A file as it was; ``path`` may not be where it is now."""

    path: Path
    bytes: int
    sha256: str


class Record(dict[str, list[Entry]]):
    """By role the files, in the order of the config. A role is left out if one of its files is not a regular file."""

    def digests(self) -> dict[str, str]:
        """A digest of the training data and one of the validation data."""
        sums = {role: "".join(entry.sha256 for entry in entries) for role, entries in self.items()}
        sums.pop("test", None)
        return {role: hashlib.sha256(text.encode()).hexdigest() for role, text in sums.items()}

    def changes(self, now: Record) -> list[str]:
        """What training or validation data differ from ``now``'s, a line for each file."""
        lines = []
        for role in ("train", "validation"):
            then, new = self.get(role), now.get(role)
            if then and new and len(then) != len(new):
                lines.append(f"data.{role}: {len(then)} files, now {len(new)}")
            elif then and not new:
                lines.append(f"data.{role}: not a regular file now")
            elif then and new:
                lines += [
                    f"data.{role}, {b.path}: {_differ(a, b)}"
                    for a, b in zip(then, new)
                    if a.sha256 != b.sha256
                ]
        return lines


def _differ(then: Entry, now: Entry) -> str:
    if then.bytes == now.bytes:
        return f"{now.bytes:,} bytes as before, but their contents differ"
    return f"{then.bytes:,} bytes when it was used, {now.bytes:,} now"


def corpora(data: Data, role: str) -> list[Corpus]:
    """What a config names for a role."""
    named = getattr(data, role)
    return named if isinstance(named, list) else [named] if named else []


def take(folder: Path, data: Data) -> Record:
    """The record of the files that a config names now; ``folder`` is the run's. Raises UserError."""
    memory = folder / "cache" / "corpora.json"
    files.refuse_link(memory.parent)
    with files.user_errors(memory.parent):
        memory.parent.mkdir(parents=True, exist_ok=True)
    record = Record()
    for role in ("train", "validation", "test"):
        paths = [path for corpus in corpora(data, role) for path in files_of(corpus)]
        if paths and all(map(os.path.isfile, paths)):
            digests = digest(memory, paths)
            record[role] = [
                Entry(Path(p), digests[p]["stamp"][0], digests[p]["sha256"]) for p in paths
            ]
    return record


def write(folder: Path, record: Record) -> None:
    """Put a record into a run or an export. Raises UserError."""
    rows = {
        role: [{**entry._asdict(), "path": _from(folder, entry.path)} for entry in entries]
        for role, entries in record.items()
    }
    files.replace_file(folder / FILE, f"{json.dumps(rows, indent=1)}\n".encode())


def read(folder: Path) -> Record:
    """The record of a run or an export; empty where it has none. Raises UserError."""
    path = folder / FILE
    files.refuse_link(path)
    if not os.path.lexists(path):
        return Record()
    try:
        return Record(
            (
                role,
                [
                    Entry(folder / row["path"], int(row["bytes"]), str(row["sha256"]))
                    for row in rows
                ],
            )
            for role, rows in files.read_json(path).items()
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{path} does not list paths, sizes and SHA-256s.") from None


def check(folder: Path, data: Data, accept: bool) -> None:
    """Raises UserError where a run's training or validation data are not what they were, unless that is accepted."""
    record = read(folder)
    changes = record.changes(take(folder, data)) if record else []
    if not changes:
        return
    shown = "".join(f"\n  {change}" for change in changes)
    told = f"{folder} was trained on other data than there is now:{shown}\n"
    if not accept:
        raise UserError(
            f"{told}Put the old files back and run the same command, or add to it\n"
            f"  --run NEW --set {shlex.quote(f'init_from={folder}')}   a new run that starts from these weights\n"
            "  --accept-changed-data   continue; scores on other data are dropped, and it is no longer one experiment"
        )
    log.warning(f"{told}It continues as was asked; it is no longer one experiment.")


def _from(folder: Path, path: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return os.path.abspath(path)


def find(folder: Path, data: Data, role: Role) -> list[Corpus]:
    """What the config of a run or an export names for a role, with the paths where its recorded files are now.

    Each is looked for where the config says, and where it was as seen from ``folder``, which may have moved with it.
    Raises UserError, which says which file is missing or another.
    """
    named, entries = corpora(data, role), read(folder).get(role, [])
    paths = [path for corpus in named for path in files_of(corpus)]
    if not named:
        raise UserError(f"{folder}: the config names no data.{role}.")
    if len(entries) != len(paths):
        raise UserError(
            f"{folder} has no record of what data.{role} was ({', '.join(paths)}), so it was not opened."
        )
    places = iter([_find(Path(path), entry, f"data.{role}") for path, entry in zip(paths, entries)])
    found: list[Corpus] = []
    for corpus in named:
        if isinstance(corpus, TSV):
            found.append(corpus.model_copy(update={"path": next(places)}))
        else:
            source, *targets = (next(places) for _ in files_of(corpus))
            target = targets[0] if isinstance(corpus.target, str) else targets
            found.append(corpus.model_copy(update={"source": source, "target": target}))
    return found


def _find(named: Path, entry: Entry, key: str) -> str:
    # Where there are links, .. may lead elsewhere than its name says.
    places = named, Path(os.path.normpath(entry.path)), entry.path
    there = [path for path in dict.fromkeys(places) if os.path.lexists(path)]
    for path in there:
        if _is(path, entry):
            return str(path)
    if there:
        why = f"{there[0]} is not the file that the run was made with ({entry.bytes:,} bytes); it was not used"
    else:
        why = f"there is no {named} (seen from {os.getcwd()})"
        if places[1] != named:
            why += f", and no {places[1]}"
    raise UserError(f"{key}: {why}.")


def _is(path: Path, entry: Entry) -> bool:
    """Whether a path leads to a regular file with this content. A pipe is not waited for, a device not read."""
    try:
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | files.NO_WAIT)
        ) as file:
            there = os.fstat(file.fileno())
            plain = stat.S_ISREG(there.st_mode) and there.st_size == entry.bytes
            return plain and files.sha256(file) == entry.sha256
    except (OSError, ValueError):
        return False


# ------------------------------------------------------------------------------------------------------------- digests


def stamp(path: str) -> list[int]:
    """What changes when a file does: its size and time."""
    there = os.stat(path)
    return [there.st_size, there.st_mtime_ns]


def digest(memory: Path, paths: Iterable[str]) -> Digests:
    """For each file its stamp and its SHA-256; it is read only if ``memory`` has no digest of that stamp.

    Raises UserError where one cannot be read.
    """
    try:
        known = files.read_json(memory)
    except UserError:
        known = {}
    digests: Digests = {}
    for path in paths:
        before = known.get(path)
        try:
            now = stamp(path)
            if (
                not isinstance(before, dict)
                or before.get("stamp") != now
                or not isinstance(before.get("sha256"), str)
            ):
                with open(path, "rb") as file:
                    before = {"stamp": now, "sha256": files.sha256(file)}
            digests[path] = before
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {files.reason(error)}.") from None
    if any(known.get(path) != each for path, each in digests.items()):
        files.replace_file(memory, json.dumps({**known, **digests}, indent=1).encode())
    return digests
