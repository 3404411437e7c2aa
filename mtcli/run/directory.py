"""A run on disk: saved atomically, read safely. Knows files, not what a model or training is.

    config.yaml       every value, also the chosen defaults
    requested.yaml    what the user asked for
    tokenizer/        tokenizers and vocabularies
    log.jsonl         one object a line
    checkpoints/N/    after update N: model.safetensors, state.safetensors, state.json, manifest.json
    best.json         which checkpoint is best, by what
    lock              held by the process that trains

Whatever is written appears whole or not at all: it is written aside under a name with a leading dot, flushed to the
disk, and renamed. Whatever is read may come from a stranger or a failing disk: nothing that runs, no links that lead out of the
run, no size that is believed before it is checked.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import mmap
import os
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .. import config as configs
from ..config import Config
from ..support.errors import UserError

log = logging.getLogger("mtcli")

MODEL, TENSORS, STATE, MANIFEST = (
    "model.safetensors",
    "state.safetensors",
    "state.json",
    "manifest.json",
)
FILES = (MODEL, TENSORS, STATE)  # what a manifest lists

LARGEST_YAML = 1 << 20  # bytes, like all of these: more than an honest file of its kind ever has
LARGEST_JSON = 10 << 20
LARGEST_HEADER = 10 << 20  # of a safetensors file
LARGEST_TOKENIZER = 64 << 20
LARGEST_LOG = 256 << 20

MOST_DIFFERENCES = 5  # shown when a model does not fit


class Damaged(UserError):
    """A checkpoint that must not be used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an update; ``tensors`` and ``state`` are empty unless read for training."""

    update: int
    model: dict[str, Tensor]
    tensors: dict[str, Tensor]
    state: dict[str, Any]


# -------------------------------------------------------------------------------------------------- modules and tensors


def to_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, not copied; of several names (tied weights) only the first."""
    state = module.state_dict(keep_vars=True)  # keeps tied tensors the same object
    first: dict[int, str] = {}
    for name in sorted(state):
        first.setdefault(id(state[name]), name)
    return {name: state[name].detach() for name in first.values()}


def load_into(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy what `to_tensors` gave into a module of the same form. UserError where names, shapes or types differ."""
    own = to_tensors(module)
    check_forms(own, tensors, "What was saved")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def check_forms(expected: dict[str, Tensor], found: dict[str, Tensor], what: str) -> None:
    """Raises UserError where names, shapes or types of ``found`` differ from those expected."""
    _compare(_forms(expected), _forms(found), what)


SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip

Form = tuple[str, tuple[int, ...]]  # type and shape


def _forms(tensors: dict[str, Tensor]) -> dict[str, Form]:
    return {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}


def _header_forms(path: Path) -> dict[str, Form]:
    """What the header of a safetensors file declares; safetensors holds it against the size of the file."""
    with _regular(path) as file:
        size = file.read(8)
    if len(size) < 8 or struct.unpack("<Q", size)[0] > LARGEST_HEADER:
        raise UserError(f"{path} declares a header of an impossible size.")
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {
            name: (
                str(SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype())),
                tuple(part.get_shape()),
            )
            for name, part in slices.items()
        }


def _compare(expected: dict[str, Form], found: dict[str, Form], what: str) -> None:
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = (
            _shown(forms[name]) if name in forms else "nothing" for forms in (expected, found)
        )
        if wanted != got:
            differences.append(f"  {name[:100]!r}: there is {got}, expected {wanted}")
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        lines = differences[:MOST_DIFFERENCES] + ([f"  … and {more} more"] if more > 0 else [])
        raise UserError(
            "\n".join(
                [f"{what} is not of the model that the config and vocabularies describe:", *lines]
            )
        )


def _shown(form: Form) -> str:
    return f"{form[0].removeprefix('torch.')} {' × '.join(map(str, form[1])) or 'scalar'}"


# --------------------------------------------------------------------------------------------------------------- a run


class Run:
    """A run directory. Making one from a path touches nothing; only the process that holds `lock` may write."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._known_whole: set[int] = set()  # checkpoints that this process has written or verified

    @classmethod
    def create(cls, path: str | Path, requested_text: str, config: Config) -> Run:
        """The run for a config: new, or the one that is there if it can be continued with this config.

        Raises UserError where it was trained with another config, another training uses it, or it cannot be written.
        """
        run = cls(path)
        with run.lock():
            if os.path.lexists(run.path / "config.yaml"):
                run._check_tokenizer()
                changes = configs.changes(run.config, config, configs.free_on_resume(run.config))
                if changes and run.checkpoints():
                    raise UserError(
                        "\n".join(
                            [
                                f"{run.path} was made with another config:",
                                *(f"  {change}" for change in changes),
                            ]
                        )
                        + "\nSuch a run cannot be continued. Name another directory with --run to train anew."
                    )
                if changes and os.path.lexists(run.path / "tokenizer"):
                    shutil.rmtree(
                        run.path / "tokenizer"
                    )  # nothing was trained, and the other config may have erred
            if not os.path.lexists(run.path / "config.yaml") or run.config != config:
                _replace(run.inside("requested.yaml"), requested_text.encode("utf-8"))
                _replace(
                    run.inside("config.yaml"), configs.dump(config).encode("utf-8")
                )  # last: makes it a run
        run.config = config
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run to read from. Raises UserError, which says what is missing."""
        run = cls(path)
        parts = ("config.yaml", "tokenizer", "checkpoints")
        missing = [part for part in parts if not os.path.lexists(run.path / part)]
        if "config.yaml" in missing:
            lack = (
                f"it lacks {', '.join(missing)}"
                if os.path.isdir(run.path)
                else "there is no such directory"
            )
            raise UserError(f"{run.path} is no run directory: {lack}.{_runs_in(run.path.parent)}")
        if missing:
            raise UserError(
                f"{run.path} holds no model yet: it lacks {', '.join(missing)}. Train it: mtcli train"
            )
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
        name = os.fsdecode(_read(marker, LARGEST_YAML).removesuffix(b"\n"))
        if not os.path.isdir(root / name):
            raise UserError(
                f"{marker} names the run {name!r}, which is gone. Name another with --run.{_runs_in(root)}"
            )
        return cls.open(root / name)

    def mark_latest(self, root: Path = Path("runs")) -> None:
        """Make this the run that `latest` opens."""
        own, root = self.path.resolve(), root.resolve()
        name = own.relative_to(root) if own.is_relative_to(root) else own
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root} cannot be made: {_reason(error)}.") from error
        _replace(root / "latest", os.fsencode(name) + b"\n")

    @cached_property
    def config(self) -> Config:
        """What the run was made with, every default resolved. Raises UserError."""
        text, name = self._read_text("config.yaml"), str(self.path / "config.yaml")
        return configs.loads(text, name, unknown="ignore")

    @property
    def requested(self) -> str:
        """The YAML that the user wrote."""
        return self._read_text("requested.yaml")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one that writes here, and clear away what a killed process left half-written.

        Raises UserError where another process is at it. A process that dies, however, holds nothing.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.inside("lock"), "a+b", buffering=0, opener=_without_links)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be used as a run directory: {_reason(error)}."
            ) from error
        with file:  # closing it gives the lock up
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            except OSError as error:
                if error.errno not in (
                    errno.EACCES,
                    errno.EAGAIN,
                ):  # such as a network disk that cannot lock
                    raise UserError(
                        f"{self.path / 'lock'} cannot be locked: {_reason(error)}."
                    ) from error
                file.seek(0)
                holder = file.read(20)
                by = f" (process {int(holder)})" if holder.isdigit() else ""
                raise UserError(f"Another training is running on {self.path}{by}.") from None
            self._clear_leftovers()
            yield

    # ------------------------------------------------------------------------------------------------------ tokenizers

    def save_tokenizers(self, write: Callable[[Path], None]) -> None:
        """Make tokenizer/ of what ``write`` puts into the folder that it is given."""
        aside = _aside(self.path / "tokenizer")
        try:
            aside.mkdir()
            write(aside)
            for path in aside.iterdir():
                _sync(path)
            _sync(aside)
            os.rename(aside, self.inside("tokenizer"))
            _sync(self.path)
        except OSError as error:
            raise UserError(
                f"{self.path / 'tokenizer'} cannot be written: {_reason(error)}."
            ) from error
        finally:
            self._clear_leftovers()

    def _check_tokenizer(self) -> None:
        """Nothing in tokenizer/ but plain files of a sane size. Whether they make sense is for their readers to say."""
        folder = self.inside("tokenizer")
        try:
            entries = list(os.scandir(folder)) if os.path.lexists(folder) else []
            for entry in entries:
                self.inside("tokenizer", entry.name)
                if (
                    not entry.is_file(follow_symlinks=False)
                    or entry.stat().st_size > LARGEST_TOKENIZER
                ):
                    raise UserError(
                        f"{entry.path} is no tokenizer: not a file, or over {LARGEST_TOKENIZER >> 20} MiB."
                    )
        except OSError as error:
            raise UserError(f"{folder} cannot be read: {_reason(error)}.") from error

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def checkpoints(self) -> list[int]:
        """The updates after which a checkpoint was saved, ascending; damaged ones too."""
        try:
            names = os.listdir(self.inside("checkpoints"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"{self.path / 'checkpoints'} cannot be read: {_reason(error)}."
            ) from error
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,17}", name))

    def save_checkpoint(
        self,
        update: int,
        model: dict[str, Tensor],
        tensors: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Save what stands after ``update``; one of the same update is replaced. ``state`` is finite JSON.

        Raises UserError where the disk does not take it; the earlier checkpoints are as they were.
        """
        text = json.dumps(state, allow_nan=False).encode()
        assert len(text) <= LARGEST_JSON
        folder = self.inside("checkpoints")
        final, replaced = folder / str(update), folder / f".{update}.replaced"
        aside = _aside(final)
        earlier = [each for each in self.checkpoints() if each != update]
        try:
            if os.path.lexists(self.path / "log.jsonl"):
                _sync(
                    self.inside("log.jsonl")
                )  # the log must not fall behind what ``state`` says of it
            folder.mkdir(exist_ok=True)
            aside.mkdir()
            files = {}
            for name, content in ((MODEL, model), (TENSORS, tensors), (STATE, text)):
                data = content if isinstance(content, bytes) else _serialized(content)
                _write(aside / name, data)
                files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            _write(
                aside / MANIFEST, json.dumps({"update": update, "files": files}, indent=1).encode()
            )
            _sync(aside)
            if os.path.lexists(final):
                os.rename(final, replaced)
            os.rename(aside, final)
            _sync(folder)
            _sync(self.path)
        except OSError as error:
            kept = (
                f"that of update {earlier[-1]} is untouched"
                if earlier
                else "there is no earlier one"
            )
            raise UserError(
                f"{final}: the checkpoint could not be written: {_reason(error)}. Nothing of it is left, and {kept}. "
                "Mend this, then run the same command again to continue."
            ) from error
        finally:
            self._clear_leftovers()
        self._known_whole.add(update)

    def load_checkpoint(
        self,
        which: Literal["newest", "best"] | int,
        *,
        training: bool,
        model: nn.Module | None = None,
    ) -> Checkpoint:
        """Read a checkpoint that is whole, on the CPU; without ``training`` only its model.

        A damaged newest or best one is named in a warning, and the newest whole one is used. What the file declares is
        held against ``model`` (which may be on the meta device) before it is read. Raises UserError where nothing can
        be used, and changes nothing.
        """
        names = FILES if training else (MODEL,)
        if isinstance(which, int):
            return self._load(which, names, model)
        preferred = self._best_update() if which == "best" else None
        tried: dict[int, str] = {}
        # Looked up anew each time: a training that runs meanwhile may replace old checkpoints by newer ones.
        while untried := [update for update in self.checkpoints() if update not in tried]:
            update = preferred if preferred in untried else untried[-1]
            try:
                found = self._load(update, names, model)
            except Damaged as error:
                tried[update] = str(error)
                continue
            for other in set(tried) & set(self.checkpoints()):  # those still there
                log.warning(f"{tried[other]} Checkpoint {update} is used instead.")
            return found
        if tried:
            first = f"No checkpoint of {self.path} can be used; nothing was changed."
            raise UserError("\n".join([first, *tried.values()]))
        raise UserError(f"{self.path} holds no checkpoint yet. Train it: mtcli train")

    def _best_update(self) -> int | None:
        """The best checkpoint, if it is there; where it should be and is not, a warning says so."""
        try:
            best = self.best
        except UserError as error:
            log.warning(f"{error} The newest checkpoint is used instead.")
            return None
        if best is None:
            return None
        if best["update"] not in self.checkpoints():
            log.warning(
                f"{self.path}: the best checkpoint, {best['update']}, is gone. The newest is used instead."
            )
        return best["update"]

    def _load(self, update: int, names: tuple[str, ...], model: nn.Module | None) -> Checkpoint:
        folder = self._verified(update, names)
        try:
            found = _header_forms(folder / MODEL)
        except Exception as error:  # whatever a hostile header makes the library say
            raise Damaged(f"{folder / MODEL} is damaged: {error}.") from error
        if model is not None:
            _compare(_forms(to_tensors(model)), found, str(folder / MODEL))
        try:
            tensors = {name: load_file(folder / name) for name in names if name != STATE}
            state = (
                _parsed(_read(folder / STATE, LARGEST_JSON), folder / STATE)
                if STATE in names
                else {}
            )
        except UserError as error:
            raise Damaged(str(error)) from error
        except Exception as error:
            raise Damaged(f"{folder} is damaged: {error}.") from error
        return Checkpoint(update, tensors[MODEL], tensors.get(TENSORS, {}), state)

    def _verified(self, update: int, names: tuple[str, ...] = FILES) -> Path:
        """The folder of a checkpoint whose files are those that were written. Raises Damaged."""
        try:
            path = self.inside("checkpoints", str(update), MANIFEST)
            manifest = _parsed(_read(path, LARGEST_JSON), path)
            files = manifest.get("files")
            if (
                manifest.get("update") != update
                or not isinstance(files, dict)
                or set(files) != set(FILES)
            ):
                raise UserError(f"{path} does not list the files of checkpoint {update}")
            for name in names:
                path = self.inside("checkpoints", str(update), name)
                with _regular(path) as file:
                    size = os.fstat(file.fileno()).st_size
                    wanted = files[name].get("bytes") if isinstance(files[name], dict) else None
                    if size != wanted:
                        raise UserError(f"{path} has {size} bytes instead of {wanted}")
                    if _sha256(file) != files[name].get("sha256"):
                        raise UserError(f"{path} is not what {MANIFEST} says (its SHA-256 differs)")
        except UserError as error:
            raise Damaged(f"Checkpoint {update} is damaged: {str(error).rstrip('.')}.") from error
        except OSError as error:
            raise Damaged(
                f"Checkpoint {update} is damaged: {error.filename}: {_reason(error)}."
            ) from error
        return path.parent

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest ``keep`` whole ones and the best."""
        try:
            best = self.best
        except UserError as error:
            log.warning(f"{error} No checkpoint is removed, since the best is not known.")
            return
        kept = 0
        for update in reversed(self.checkpoints()):
            if kept < keep and self._is_whole(update):
                kept += 1
            elif kept and not (best and best["update"] == update):
                path = self.inside("checkpoints") / str(update)
                try:
                    os.rename(path, _aside(path))  # at once: a kill leaves no half of it
                except OSError as error:
                    log.warning(f"{path} cannot be removed: {_reason(error)}.")
        self._clear_leftovers()

    def _is_whole(self, update: int) -> bool:
        if update not in self._known_whole:
            try:
                self._verified(update)
            except Damaged:
                return False
            self._known_whole.add(update)
        return True

    def _clear_leftovers(self) -> None:
        """Remove what was written aside. A checkpoint moved away for a new one that never came is moved back."""
        folder = self.inside("checkpoints")
        for path in folder.glob(".*.replaced"):
            original = path.with_name(path.name.split(".")[1])
            with suppress(OSError):
                if os.path.lexists(original):
                    _remove(path)
                else:
                    os.rename(path, original)
        for path in (*self.path.glob(".*.aside"), *folder.glob(".*.aside")):
            with suppress(OSError):
                _remove(path)

    # ------------------------------------------------------------------------------------------------------------ best

    @property
    def best(self) -> dict[str, Any] | None:
        """``update``, ``metric`` and ``value`` of the best checkpoint; None before the first. Raises UserError."""
        path = self.inside("best.json")
        if not os.path.lexists(path):
            return None
        best = _parsed(_read(path, LARGEST_JSON), path)
        kinds = {"update": int, "metric": str, "value": (int, float)}
        if set(best) != set(kinds) or not all(
            isinstance(best[name], kind) for name, kind in kinds.items()
        ):
            raise UserError(f"{path} does not hold an update, a metric and a value.")
        return best

    def set_best(self, best: dict[str, Any]) -> None:
        """Say which checkpoint is the best: its ``update``, and the ``metric`` and ``value`` it is judged by."""
        _replace(self.inside("best.json"), json.dumps(best, allow_nan=False).encode() + b"\n")

    # ------------------------------------------------------------------------------------------------------------- log

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add a line to the log. A number that is not finite, which JSON does not have, becomes null."""
        path = self.inside("log.jsonl")
        line = json.dumps(_finite(entry), allow_nan=False, ensure_ascii=False)
        # A lone surrogate becomes \udxxx, which is how JSON writes it.
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            with open(path, "ab", buffering=0, opener=_without_links) as file:
                before = file.tell()
                try:
                    _write_all(file, data)
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise UserError(f"{path} cannot be written: {_reason(error)}.") from error

    def log_size(self) -> int:
        """Bytes of the log; 0 where there is none."""
        path = self.inside("log.jsonl")
        return os.path.getsize(path) if os.path.lexists(path) else 0

    def truncate_log(self, size: int) -> None:
        """Cut the log back to ``size`` bytes, as it was at a checkpoint, and to a whole line at any rate."""
        path = self.inside("log.jsonl")
        there = self.log_size()
        if there < size:
            log.warning(f"{path} lacks its last {size - there} bytes; the lines in them are lost.")
        if there == 0:
            return
        try:
            with open(path, "r+b", opener=_without_links) as file:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    whole = content.rfind(b"\n", 0, max(0, min(size, there))) + 1
                file.truncate(whole)
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {_reason(error)}.") from error

    def read_log(self) -> list[dict[str, Any]]:
        """The entries of the log; a last line that is still being written does not count. Raises UserError."""
        path = self.inside("log.jsonl")
        lines = _read(path, LARGEST_LOG).split(b"\n")[:-1] if os.path.lexists(path) else []
        return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]

    # ----------------------------------------------------------------------------------------------------------- paths

    def inside(self, *parts: str) -> Path:
        """The path of a part of the run. Raises UserError for a link, which could lead anywhere."""
        path = self.path
        for part in parts:
            path = path / part
            if path.is_symlink():
                raise UserError(
                    f"{path} is a link; a run holds its files itself. It was not followed."
                )
        return path

    def _read_text(self, name: str) -> str:
        path = self.inside(name)
        try:
            return _read(path, LARGEST_YAML).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte {error.start + 1}).") from error


# ------------------------------------------------------------------------------------------------------------- writing


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is there whole, old or new, whenever the process dies. Raises UserError."""
    aside = _aside(path)
    try:
        aside.unlink(missing_ok=True)
        try:
            _write(aside, data)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {_reason(error)}.") from error


def _aside(path: Path) -> Path:
    """Where a thing stands, in the same directory, before it is whole or while it is removed."""
    return path.with_name(f".{path.name}.{os.getpid()}.aside")


def _write(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with open(path, "xb", buffering=0) as file:
        _write_all(file, data)
        os.fsync(file.fileno())


def _write_all(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync(path: Path) -> None:
    """Flush a file, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for directories
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _serialized(tensors: dict[str, Tensor]) -> bytes:
    return save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {"format": "pt"},
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------------------------------------------------- reading


def _without_links(name: str, flags: int) -> int:
    return os.open(
        name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666
    )  # NONBLOCK: a named pipe would never open


def _regular(path: Path) -> BinaryIO:
    """Open for reading what is a file and nothing else. Raises OSError."""
    file = open(path, "rb", opener=_without_links)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a file", str(path))
    return file


def _read(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes. Raises UserError."""
    try:
        with _regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.") from error
    if len(data) > limit:
        raise UserError(f"{path} is larger than {limit >> 20} MiB, so it is not what it should be.")
    return data


def _parsed(data: bytes, place: str | Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{place} does not hold a JSON object.")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _runs_in(root: Path) -> str:
    """The end of a message: which runs there are."""
    names = sorted(str(config.parent) for config in root.glob("*/config.yaml"))
    return f" There is: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}." if names else ""
