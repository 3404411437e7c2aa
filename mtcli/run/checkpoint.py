"""One checkpoint: what is in its directory, written, verified, and read without trust."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..support import files
from ..support.errors import UserError

MODEL = "model.safetensors"
TENSORS = "state.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"  # size and SHA-256 of the others
FILES = (MODEL, TENSORS, STATE)

MOST_DIFFERENCES = 5  # shown when a model does not fit

Tensors = dict[str, Tensor]  # by name


class Damaged(UserError):
    """A checkpoint that must not be used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an update; ``tensors`` and ``state`` are empty unless read for training."""

    update: int
    model: Tensors
    tensors: Tensors
    state: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a checkpoint into an empty directory. Its ``state`` is finite JSON. Raises OSError."""
    state = json.dumps(checkpoint.state, allow_nan=False).encode()
    assert len(state) <= files.LARGEST_JSON
    manifest = {}
    for name, content in ((MODEL, checkpoint.model), (TENSORS, checkpoint.tensors), (STATE, state)):
        if isinstance(content, dict):
            plain = {key: tensor.cpu().contiguous() for key, tensor in content.items()}
            content = save(plain, {"format": "pt"})
        (folder / name).write_bytes(content)
        manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps({"update": checkpoint.update, "files": manifest}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify(folder: Path, names: tuple[str, ...] = FILES) -> None:
    """Raises Damaged unless these files of the checkpoint are those that were written."""
    try:
        files.refuse_link(folder)
        manifest = files.read_json(folder / MANIFEST)
        sums: Any = manifest.get("files")
        known = isinstance(sums, dict) and set(sums) == set(FILES)
        if not known or manifest.get("update") != int(folder.name):
            raise UserError(f"{folder / MANIFEST} does not list the files of this checkpoint.")
        for name in names:
            files.verify(folder / name, sums[name], MANIFEST)
    except UserError as error:
        raise Damaged(f"Checkpoint {folder.name} is damaged: {error}") from error


def read(folder: Path, training: bool, model: nn.Module | None) -> Checkpoint:
    """Read a checkpoint onto the CPU; without ``training`` only its model. Tensors are mapped: memory comes with use.

    Raises Damaged, and UserError where it does not fit ``model``, which may be on the meta device.
    """
    verify(folder, FILES if training else (MODEL,))
    try:
        found = Checkpoint(
            int(folder.name),
            load_file(folder / MODEL),
            load_file(folder / TENSORS) if training else {},
            files.read_json(folder / STATE) if training else {},
        )
    except Exception as error:  # the library raises many kinds for a hostile file
        raise Damaged(f"{folder} is damaged: {str(error).rstrip('.')}.") from error
    if model is not None:
        check_forms(to_tensors(model), found.model, str(folder / MODEL))
    return found


def to_tensors(module: nn.Module) -> Tensors:
    """Parameters and persistent buffers by name, not copied; of several names (tied weights) only the first."""
    state = module.state_dict(keep_vars=True)  # keeps tied tensors the same object
    first: dict[int, str] = {}
    for name in sorted(state):
        first.setdefault(id(state[name]), name)
    return {name: state[name].detach() for name in first.values()}


def load_into(module: nn.Module, tensors: Tensors) -> None:
    """Copy what `to_tensors` gave into a module of the same form. UserError where names, shapes or types differ."""
    check_forms(to_tensors(module), tensors, "What was saved")
    module.load_state_dict(tensors, strict=False)  # which lack the other names of tied weights


def check_forms(expected: Tensors, found: Tensors, what: str) -> None:
    """Raises UserError where names, shapes or types of ``found`` differ from those expected."""
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        got, wanted = _form(found.get(name)), _form(expected.get(name))
        if got != wanted:
            differences.append(f"  {name[:100]!r}: there is {got}, expected {wanted}")
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        lines = differences[:MOST_DIFFERENCES] + ([f"  … and {more} more"] if more > 0 else [])
        first = f"{what} is not of the model that the config and vocabularies describe:"
        raise UserError("\n".join([first, *lines]))


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {' × '.join(map(str, tensor.shape)) or 'scalar'}"
