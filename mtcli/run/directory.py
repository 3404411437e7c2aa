"""A run on disk.

    config.yaml       every value, also the chosen defaults
    requested.yaml    what the user asked for
    tokenizer/        tokenizers and vocabularies
    log.jsonl         one object a line
    checkpoints/N/    after update N: see checkpoint.py
    best.json         which checkpoint is best, by what
    alignment.json    which head of it aligns best; see decoding/alignment.py
    traces/N.json     a few sentences, as they were translated after update N
    data.json         which files it was trained on: see record.py
    versions.jsonl    what it was trained with: a line whenever that changed
    lock, lock.pid    held by the process that trains, and its number

What is written appears complete or not at all. What is read may come from a stranger or a failing disk: nothing in it is
run, no link is followed, no size is believed before it is checked.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from .. import config as configs
from ..config import Config
from ..support import files
from ..support.errors import UserError, log
from . import checkpoint as checkpoints, record as records
from .checkpoint import Checkpoint, Damaged, Tensors
from .record import Record

LARGEST_YAML = 1 << 20  # bytes, like all of these: more than an honest file of its kind ever has
LARGEST_TOKENIZER = 64 << 20
LARGEST_LOG = 256 << 20


class Run:
    """A run directory. Making one from a path touches nothing; only the process that holds `lock` may write."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._is_locked = False  # by this object
        self._intact: set[int] = set()  # checkpoints that this process has written or verified

    @classmethod
    def create(
        cls,
        path: str | Path,
        requested_text: str,
        config: Config,
        accept_changed_data: bool = False,
    ) -> Run:
        """The run for a config: new, or the one that is there if it can be continued with this config.

        Raises UserError where it was trained with another config or, unless that is accepted, on other data; where
        another training uses it, or it cannot be written.
        """
        run = cls(path)
        with run.lock():
            there = os.path.lexists(run.path / "config.yaml")
            if there:
                run._check_tokenizer()
                if run.checkpoints():
                    run._check_changes(config)
                    records.check(run.path, config.data, accept_changed_data)
                elif configs.changes(run.config, config, configs.free_on_resume(run.config)):
                    files.remove(run.path / "tokenizer")  # nothing was trained with it
            if not there or run.config != config:
                files.replace_file(run.inside("requested.yaml"), requested_text.encode())
                # Last, since it makes this a run.
                files.replace_file(run.inside("config.yaml"), configs.dump(config).encode())
        run.config = config
        return run

    def _check_changes(self, config: Config) -> None:
        """Raises UserError where what was trained cannot be continued with this config."""
        changes = configs.changes(
            self.config, config, configs.free_on_resume(self.config, bool(self.record))
        )
        if not changes:
            return
        longer = all(change.startswith(configs.LENGTHS) for change in changes)
        if longer and self.load_checkpoint("last", training=True).state.get("ended"):
            return
        advice = "Such a run cannot be continued. Name a new directory with --run."
        if longer:
            advice = (
                "Its learning rate falls until the end, which cannot move before it is reached. Let it finish by the same "
                "command without this change; then the command with it trains further, by a new schedule."
            )
        shown = "".join(f"\n  {change}" for change in changes)
        raise UserError(f"{self.path} was made with another config:{shown}\n{advice}")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run to read from. Raises UserError, which says what is missing."""
        run = cls(path)
        parts = ("config.yaml", "tokenizer", "checkpoints")
        missing = [part for part in parts if not os.path.lexists(run.path / part)]
        why = f"it lacks {', '.join(missing)}"
        if "config.yaml" in missing:
            why = why if os.path.isdir(run.path) else "there is no such directory"
            raise UserError(f"{run.path} is no run directory: {why}.{_runs_in(run.path.parent)}")
        if missing:
            raise UserError(f"{run.path} holds no model yet: {why}. Train it: mtcli train")
        run._check_tokenizer()
        return run

    @classmethod
    def latest(cls, root: Path = Path("runs")) -> Run:
        """The run that was trained last. Raises UserError where there is none."""
        marker = root / "latest"
        if not os.path.lexists(marker):
            raise UserError(
                "No run has been trained here yet: mtcli train --config … trains one; --run names another."
            )
        name = os.fsdecode(files.read_file(marker, LARGEST_YAML).removesuffix(b"\n"))
        if not os.path.isdir(root / name):
            raise UserError(
                f"{marker} names the run {name!r}, which is gone. Name another with --run.{_runs_in(root)}"
            )
        return cls.open(root / name)

    def mark_latest(self, root: Path = Path("runs")) -> None:
        """Make this the run that `latest` opens."""
        own, root = self.path.resolve(), root.resolve()
        name = own.relative_to(root) if own.is_relative_to(root) else own
        with files.user_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        files.replace_file(root / "latest", os.fsencode(name) + b"\n")

    @cached_property
    def config(self) -> Config:
        """What the run was made with, every default resolved. Raises UserError."""
        path = self.path / "config.yaml"
        return configs.loads(self._read_text(path.name), str(path), unknown="ignore")

    @property
    def record(self) -> Record:
        """The files it was trained on; empty for a run that was made before they were recorded. Raises UserError."""
        return records.read(self.path)

    def record_data(self) -> None:
        """Record the files that the config names, as they are now. Raises UserError."""
        records.write(self.path, records.take(self.path, self.config.data))

    def record_versions(self, versions: dict[str, str]) -> None:
        """Add what trains it from now on to versions.jsonl, if that is not what its last line says."""
        lines = self._content("versions.jsonl").splitlines()
        line = json.dumps(versions).encode()
        if not lines or lines[-1] != line:
            self._append("versions.jsonl", line + b"\n")

    @property
    def requested(self) -> str:
        """The YAML that the user wrote."""
        return self._read_text("requested.yaml")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that writes here, and clear away what a killed one left half-written.

        Raises UserError where another process holds it. A process that dies holds nothing.
        """
        with files.user_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with files.lock(self.inside("lock"), f"Another training is running on {self.path}"):
            files.clear_leftovers(self.path)
            files.clear_leftovers(self.inside("checkpoints"))
            files.clear_leftovers(self.inside("traces"))
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def is_training(self) -> bool:
        """Whether a process holds `lock`."""
        return files.is_locked(self.inside("lock"))

    # ------------------------------------------------------------------------------------------------------ tokenizers

    def save_tokenizers(self, write: Callable[[Path], None]) -> None:
        """Make tokenizer/ of what ``write`` puts into the directory that it is given."""
        path = self.inside("tokenizer")
        with files.user_errors(path), files.new_directory(path) as folder:
            write(folder)

    def _check_tokenizer(self) -> None:
        """Nothing in tokenizer/ but regular files of a sane size. Their readers check what is in them."""
        if os.path.lexists(folder := self.inside("tokenizer")):
            files.plain_files(folder, LARGEST_TOKENIZER)

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def checkpoints(self) -> list[int]:
        """The updates after which a checkpoint was saved, ascending; damaged ones too."""
        return self._updates("checkpoints", "")

    def _updates(self, part: str, ending: str) -> list[int]:
        """The updates by which the entries of a directory of the run are named, ascending."""
        folder = self.inside(part)
        with files.user_errors(folder, "read"):
            names = os.listdir(folder) if os.path.lexists(folder) else []
        found = (
            re.fullmatch(rf"(0|[1-9][0-9]{{0,17}}){re.escape(ending)}", name) for name in names
        )
        return sorted(int(match[1]) for match in found if match)

    def save_checkpoint(
        self, update: int, model: Tensors, tensors: Tensors, state: dict[str, Any]
    ) -> None:
        """Save where training is after ``update``; a checkpoint of the same update is replaced.

        Raises UserError where the disk does not take it; the earlier checkpoints are untouched.
        """
        final = self._folder(update)
        earlier = [each for each in self.checkpoints() if each != update]
        try:
            if os.path.lexists(self.path / "log.jsonl"):
                files.sync(self.inside("log.jsonl"))  # ``state`` says how long it is
            final.parent.mkdir(exist_ok=True)
            files.sync(self.path)
            with files.new_directory(final, replace=True) as folder:
                checkpoints.write(folder, Checkpoint(update, model, tensors, state))
        except OSError as error:
            kept = f"that of update {earlier[-1]} is untouched" if earlier else "there is no other"
            raise UserError(
                f"{final}: the checkpoint could not be written: {files.reason(error)}. Nothing of it is left, and "
                f"{kept}. Fix this, then run the same command again to continue."
            ) from error
        self._intact.add(update)

    def load_checkpoint(
        self, which: str | int, *, training: bool, model: nn.Module | None = None
    ) -> Checkpoint:
        """Read an intact checkpoint onto the CPU; without ``training`` only its model.

        ``which``: best, last, or an update, as a number or in digits.
        A damaged last or best one is named in a warning, and the newest intact one is used. Raises UserError where
        nothing can be used or it does not fit ``model``, which may be on the meta device; changes nothing.
        """
        if which not in ("best", "last"):
            which = self._update(which)
            return checkpoints.read(self._folder(which), training, model)
        preferred = self._best_update() if which == "best" else None
        damaged: dict[int, str] = {}
        # Listed again each time: a training that is running may replace old checkpoints by newer ones.
        while untried := [update for update in self.checkpoints() if update not in damaged]:
            update = preferred if preferred in untried else untried[-1]
            try:
                found = checkpoints.read(self._folder(update), training, model)
            except Damaged as error:
                damaged[update] = str(error)
                continue
            for other in damaged.keys() & self.checkpoints():  # those still there
                log.warning(f"{damaged[other]} Checkpoint {update} is used instead.")
            return found
        if not damaged:
            raise UserError(f"{self.path} holds no checkpoint yet. Train it: mtcli train")
        first = f"No checkpoint of {self.path} can be used; nothing was changed."
        raise UserError("\n".join([first, *damaged.values()]))

    def _update(self, which: str | int) -> int:
        """The checkpoint of that number. Raises UserError where it is not there."""
        there = self.checkpoints()
        if not str(which).isascii() or not str(which).isdigit() or int(which) not in there:
            listed = ", ".join(map(str, there)) or "none"
            raise UserError(
                f"{self.path} has no checkpoint {str(which)[:40]!r}; choose best, last, or one of: {listed}."
            )
        return int(which)

    def _folder(self, update: int) -> Path:
        return self.inside("checkpoints") / str(update)

    def _best_update(self) -> int | None:
        """The best checkpoint, if it is there; where it should be and is not, a warning says so."""
        try:
            best = self.best
        except UserError as error:
            log.warning(f"{error} The newest checkpoint is used instead.")
            return None
        if best and best["update"] not in self.checkpoints():
            log.warning(
                f"{self.path}: the best checkpoint, {best['update']}, is gone. The newest is used instead."
            )
        return best["update"] if best else None

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest ``keep`` intact ones and the best."""
        try:
            best = self.best
        except UserError as error:
            log.warning(f"{error} No checkpoint is removed, since the best is not known.")
            return
        kept = 0
        for update in reversed(self.checkpoints()):
            if kept < keep and self._is_intact(update):
                kept += 1
            elif kept and not (best and best["update"] == update):
                try:
                    files.remove(self._folder(update))
                except OSError as error:
                    log.warning(f"{self._folder(update)} cannot be removed: {files.reason(error)}.")

    def _is_intact(self, update: int) -> bool:
        if update not in self._intact:
            try:
                checkpoints.verify(self._folder(update))
            except Damaged:
                return False
            self._intact.add(update)
        return True

    @property
    def best(self) -> dict[str, Any] | None:
        """``update``, ``metric`` and ``value`` of the best checkpoint; None before the first. Raises UserError."""
        path = self.inside("best.json")
        if not os.path.lexists(path):
            return None
        best = files.read_json(path)
        kinds = {name: type(value) for name, value in best.items()}
        if kinds.pop("data", str) is not str or kinds not in (
            {"update": int, "metric": str, "value": kind} for kind in (int, float)
        ):
            raise UserError(f"{path} does not hold an update, a metric and a value.")
        return best

    def set_best(self, best: dict[str, Any] | None) -> None:
        """Say which checkpoint is the best: its ``update``, the ``metric`` and ``value`` it is judged by, and on which
        ``data`` if that is known; None: none is.
        """
        if best is None:
            files.remove(self.inside("best.json"))
            return
        data = json.dumps(best, allow_nan=False).encode() + b"\n"
        files.replace_file(self.inside("best.json"), data)

    # ------------------------------------------------------------------------------------------------------------- log

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add a line to the log. A number that is not finite, which JSON does not have, becomes null."""
        finite = json.loads(json.dumps(entry), parse_constant=lambda name: None)
        # A lone surrogate becomes \udxxx, which is how JSON writes it.
        line = json.dumps(finite, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self._append("log.jsonl", line)

    def _append(self, name: str, data: bytes) -> None:
        path = self.inside(name)
        with files.user_errors(path), files.open_regular(path, "ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) < len(data):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def log_size(self) -> int:
        """Bytes of the log; 0 where there is none."""
        path = self.inside("log.jsonl")
        return os.path.getsize(path) if os.path.lexists(path) else 0

    def truncate_log(self, size: int) -> None:
        """Cut the log back to ``size`` bytes, as it was at a checkpoint, and in any case to a complete line."""
        path, content = self.inside("log.jsonl"), self._content("log.jsonl")
        if (lost := size - len(content)) > 0:
            log.warning(f"{path} lacks its last {lost} bytes; the lines in them are lost.")
        if content:
            with files.user_errors(path), files.open_regular(path, "r+b") as file:
                file.truncate(content.rfind(b"\n", 0, max(0, size)) + 1)
                os.fsync(file.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """The entries of the log; a last line that is still being written does not count. Raises UserError."""
        lines = self._content("log.jsonl").split(b"\n")[:-1]
        name = self.path / "log.jsonl"
        return [files.parse_json(line, f"{name}:{number}") for number, line in enumerate(lines, 1)]

    def _content(self, name: str) -> bytes:
        path = self.inside(name)
        return files.read_file(path, LARGEST_LOG) if os.path.lexists(path) else b""

    # ---------------------------------------------------------------------------------------------------------- traces

    def traces(self) -> list[int]:
        """The updates after which traces were kept, ascending."""
        return self._updates("traces", ".json")

    def save_traces(self, update: int, traces: dict[str, Any]) -> None:
        """Keep what is to be looked at later. Raises UserError."""
        path = self.inside("traces", f"{update}.json")
        with files.user_errors(path):
            path.parent.mkdir(exist_ok=True)
        data = json.dumps(traces, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        files.replace_file(path, data.encode("utf-8", "backslashreplace"))

    def load_traces(self, update: int) -> dict[str, Any]:
        """What was kept after an update. Raises UserError."""
        return files.read_json(self.inside("traces", f"{update}.json"))

    def drop_traces(self, after: int) -> None:
        """Remove those of updates after ``after``, which will be made again."""
        for update in self.traces():
            if update > after:
                files.remove(self.inside("traces", f"{update}.json"))

    # ----------------------------------------------------------------------------------------------------------- paths

    def inside(self, *parts: str) -> Path:
        """The path of a part of the run. Raises UserError for a link, which could lead anywhere, and where the run that
        this process holds is no longer there."""
        path = self.path
        if self._is_locked and not os.path.lexists(path / "lock"):
            raise UserError(
                f"{path} is gone: it was renamed or removed while this process worked on it. What was saved moved with "
                "it: to continue, name its new place with --run."
            )
        for part in parts:
            path = path / part
            files.refuse_link(path)
        return path

    def _read_text(self, name: str) -> str:
        path = self.inside(name)
        try:
            return files.read_file(path, LARGEST_YAML).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte {error.start + 1}).") from error


def _runs_in(root: Path) -> str:
    """The end of a message: which runs there are."""
    names = sorted(str(config.parent) for config in root.glob("*/config.yaml"))
    return f" There is: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}." if names else ""
