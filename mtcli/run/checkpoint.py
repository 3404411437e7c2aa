"""One checkpoint: what is in its directory, written, verified, and read without trust."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..support import files
from ..support.errors import UserError

MODEL = "model.safetensors"
TENSORS = "state.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"  # size and SHA-256 of the others
FILES = (MODEL, TENSORS, STATE)

LARGEST_JSON = 10 << 20  # bytes, more than an honest file ever has
LARGEST_HEADER = 10 << 20  # of a safetensors file
MOST_DIFFERENCES = 5  # shown when a model does not fit

SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


class Damaged(UserError):
    """A checkpoint that must not be used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an update; ``tensors`` and ``state`` are empty unless read for training."""

    update: int
    model: dict[str, Tensor]
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a checkpoint into an empty directory. Its ``state`` is finite JSON. Raises OSError."""
    state = json.dumps(checkpoint.state, allow_nan=False).encode()
    assert len(state) <= LARGEST_JSON
    manifest = {}
    for name, content in ((MODEL, checkpoint.model), (TENSORS, checkpoint.tensors), (STATE, state)):
        data = content if isinstance(content, bytes) else save(_plain(content), {"format": "pt"})
        (folder / name).write_bytes(data)
        manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"update": checkpoint.update, "files": manifest}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify(folder: Path, names: tuple[str, ...] = FILES) -> None:
    """Raises Damaged unless these files of the checkpoint are those that were written."""
    try:
        for path in (folder, folder / MANIFEST):
            files.refuse_link(path)
        manifest = _read_json(folder / MANIFEST)
        sums = manifest.get("files")
        if (
            manifest.get("update") != int(folder.name)
            or not isinstance(sums, dict)
            or set(sums) != set(FILES)
            or not all(isinstance(each, dict) for each in sums.values())
        ):
            raise UserError(f"{folder / MANIFEST} does not list the files of this checkpoint")
        for name in names:
            path, wanted = folder / name, sums[name]
            files.refuse_link(path)
            with files.open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != wanted.get("bytes"):
                    raise UserError(f"{path} has {size} bytes instead of {wanted.get('bytes')}")
                if files.sha256(file) != wanted.get("sha256"):
                    raise UserError(f"{path} is not what {MANIFEST} says (its SHA-256 differs)")
    except (UserError, OSError) as error:
        told = f"{error.filename}: {files.reason(error)}" if isinstance(error, OSError) else error
        raise Damaged(f"Checkpoint {folder.name} is damaged: {str(told).rstrip('.')}.") from error


def read(folder: Path, training: bool, model: nn.Module | None) -> Checkpoint:
    """Read a checkpoint onto the CPU; without ``training`` only its model.

    What it declares is compared with ``model`` (which may be on the meta device) before it is read. Raises Damaged, and
    UserError where it is of another model.
    """
    verify(folder, FILES if training else (MODEL,))
    try:
        declared = _read_header(folder / MODEL)
    except Exception as error:  # the library raises many kinds for a hostile header
        raise Damaged(f"{folder / MODEL} is damaged: {error}.") from error
    if model is not None:
        _compare(_forms(to_tensors(model)), declared, str(folder / MODEL))
    try:
        return Checkpoint(
            int(folder.name),
            load_file(folder / MODEL),
            load_file(folder / TENSORS) if training else {},
            _read_json(folder / STATE) if training else {},
        )
    except Exception as error:
        raise Damaged(f"{folder} is damaged: {str(error).rstrip('.')}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    return files.parse_json(files.read_file(path, LARGEST_JSON), path)


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


def _forms(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: _form(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _form(dtype: torch.dtype | str, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {' × '.join(map(str, shape)) or 'scalar'}"


def _read_header(path: Path) -> dict[str, str]:
    """What the header of a safetensors file declares; safetensors compares it with the size of the file."""
    with files.open_regular(path) as file:
        size = file.read(8)
    if len(size) < 8 or struct.unpack("<Q", size)[0] > LARGEST_HEADER:
        raise UserError("it declares a header of an impossible size")
    forms = {}
    with safe_open(path, framework="pt") as opened:
        for name in opened.keys():
            part = opened.get_slice(name)
            dtype = SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype())
            forms[name] = _form(dtype, part.get_shape())
    return forms


def _compare(expected: dict[str, str], found: dict[str, str], what: str) -> None:
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        got, wanted = found.get(name, "nothing"), expected.get(name, "nothing")
        if got != wanted:
            differences.append(f"  {name[:100]!r}: there is {got}, expected {wanted}")
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        lines = differences[:MOST_DIFFERENCES] + ([f"  … and {more} more"] if more > 0 else [])
        first = f"{what} is not of the model that the config and vocabularies describe:"
        raise UserError("\n".join([first, *lines]))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: on the CPU, contiguous."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
