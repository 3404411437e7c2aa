"""A checkpoint comes back exactly; a damaged or hostile one is named and not used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from checkpoints import YAML, config, contents, intact, make_run, snapshot
from torch import nn

from mtcli.run import checkpoint
from mtcli.run.checkpoint import FILES, MANIFEST, MODEL, STATE, TENSORS, load_into, to_tensors
from mtcli.run.directory import Run
from mtcli.support.errors import UserError


@pytest.fixture
def run(tmp_path) -> Run:
    return make_run(tmp_path / "run")


def sign(folder: Path) -> None:
    """Make the manifest of a checkpoint agree with whatever its files hold, as a stranger can."""
    files = {}
    for name in FILES:
        data = (folder / name).read_bytes()
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"update": int(folder.name), "files": files}))


# -------------------------------------------------------------------------------------------- what was saved comes back


def test_every_kind_of_tensor_comes_back_exactly(run):
    model = {
        "float32": torch.tensor([0.1, -0.0, float("inf"), float("nan")]),
        "bf16": torch.randn(5, 7).to(torch.bfloat16),
        "float64": torch.randn(3, dtype=torch.float64),
        "transposed": torch.randn(3, 4).t(),
    }
    tensors = {
        "scalar": torch.tensor(3.0),
        "int64": torch.tensor(2**62 + 1),
        "empty": torch.zeros(0, 4),
    }
    run.save_checkpoint(3, model, tensors, {"ä": [1, 0.1 + 0.2, None, "\ud800"]})
    saved = run.load_checkpoint("last", training=True)
    for there, wanted in ((saved.model, model), (saved.tensors, tensors)):
        for name, tensor in wanted.items():
            assert there[name].dtype == tensor.dtype and there[name].shape == tensor.shape
            assert (
                there[name].contiguous().view(-1).tolist().__repr__()
                == tensor.reshape(-1).tolist().__repr__()
            )
    assert saved.state == {"ä": [1, 0.1 + 0.2, None, "\ud800"]}


class Tied(nn.Module):
    def __init__(self, size: int = 5):
        super().__init__()
        self.embedding = nn.Embedding(size, 4)
        self.projection = nn.Linear(4, size)
        self.projection.weight = self.embedding.weight
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


def test_tied_weights_are_saved_once_and_stay_tied(run):
    model, other = Tied(), Tied()
    assert set(to_tensors(model)) == {"embedding.weight", "projection.bias", "count"}
    run.save_checkpoint(3, to_tensors(model), {}, {})
    load_into(other, run.load_checkpoint(3, training=False, model=other).model)
    assert other.projection.weight is other.embedding.weight
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values())
    )


def test_a_model_of_another_form_is_refused_without_a_substitute(run):
    run.save_checkpoint(3, to_tensors(Tied(5)), {}, {})
    with torch.device("meta"):
        form = Tied(6)
    with pytest.raises(
        UserError, match=r"'embedding.weight': there is float32 5 × 4, expected float32 6 × 4"
    ):
        run.load_checkpoint("last", training=False, model=form)
    with pytest.raises(UserError, match="expected float64 5 × 4"):
        run.load_checkpoint("last", training=False, model=Tied(5).double())
    with pytest.raises(UserError, match="'count': there is nothing, expected int64 scalar"):
        load_into(
            Tied(), {name: tensor for name, tensor in to_tensors(Tied()).items() if name != "count"}
        )


def test_reading_for_translation_needs_the_model_only(run):
    (run.path / "checkpoints/2" / TENSORS).unlink()
    found = run.load_checkpoint("last", training=False)
    assert found.update == 2 and found.tensors == {} and found.state == {}
    assert run.load_checkpoint("last", training=True).update == 1


def test_the_same_update_can_be_saved_again(run):
    model, tensors, state = contents(2)
    run.save_checkpoint(2, model, tensors, {**state, "again": True})
    assert run.load_checkpoint(2, training=True).state["again"]
    assert sorted(os.listdir(run.path / "checkpoints")) == ["1", "2"]


# --------------------------------------------------------------------------------------------------------------- damage


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    at = len(data) * 2 // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", [cut, flip, lambda data: data + b" x", lambda data: b"", None])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, caplog, name, damage):
    path = run.path / "checkpoints/2" / name
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    assert intact(run.load_checkpoint("last", training=True), 1)
    (warning,) = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert (
        warning.startswith("Checkpoint 2 is damaged")
        and name in warning
        and "Checkpoint 1 is used" in warning
    )
    with pytest.raises(UserError, match="Checkpoint 2 is damaged"):
        run.load_checkpoint(2, training=True)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_no_flipped_bit_goes_unnoticed(run, name):
    path = run.path / "checkpoints/2" / name
    data = path.read_bytes()
    for bit in range(0, len(data) * 8, 31):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = run.load_checkpoint("last", training=True)
        assert intact(found, found.update)
        assert found.update == 1 or name == MANIFEST and json.loads(flipped) == json.loads(data)


def test_where_no_checkpoint_is_intact_nothing_is_touched(run):
    for update in (1, 2):
        (run.path / f"checkpoints/{update}" / MODEL).write_bytes(b"")
    before = snapshot(run.path)
    with pytest.raises(
        UserError, match="No checkpoint of .*run can be used; nothing was changed.\n.*2 .*\n.*1 "
    ):
        run.load_checkpoint("last", training=True)
    run.prune(1)
    assert snapshot(run.path) == before


def test_the_best_is_preferred_and_replaced_when_it_cannot_be_used(run, caplog):
    assert run.load_checkpoint("best", training=False).update == 1
    best = run.path / "checkpoints/1"
    (best / MODEL).write_bytes(b"")
    assert run.load_checkpoint("best", training=False).update == 2
    shutil.rmtree(best)
    assert run.load_checkpoint("best", training=False).update == 2
    (run.path / "best.json").write_text('{"update": "1"}')
    assert run.load_checkpoint("best", training=False).update == 2
    messages = [record.getMessage() for record in caplog.records]
    assert (
        len(messages) == 3
        and "damaged" in messages[0]
        and "gone" in messages[1]
        and "best.json" in messages[2]
    )
    (run.path / "best.json").unlink()
    assert run.load_checkpoint("best", training=False).update == 2 and run.best is None


def test_a_run_without_checkpoints_says_so(tmp_path):
    run = Run.create(tmp_path / "run", YAML, config())
    assert run.checkpoints() == []
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        run.load_checkpoint("best", training=False)


def test_a_checkpoint_that_training_removes_meanwhile_is_no_damage(run, caplog, monkeypatch):
    verify = checkpoint.verify

    def removed_meanwhile(folder, names):
        if folder.name == "2":
            run.save_checkpoint(3, *contents(3))
            shutil.rmtree(folder)
        verify(folder, names)

    monkeypatch.setattr(checkpoint, "verify", removed_meanwhile)
    assert intact(run.load_checkpoint("last", training=True), 3)
    assert not caplog.records


def test_pruning_keeps_the_newest_intact_ones_and_the_best(run):
    for update in (3, 4, 5, 6):
        run.save_checkpoint(update, *contents(update))
    (run.path / "checkpoints/5" / STATE).write_bytes(b"{}")
    run = Run(run.path)  # a new process knows nothing yet
    run.prune(2)
    assert run.checkpoints() == [1, 4, 6]
    (run.path / "checkpoints/6" / STATE).write_bytes(b"{}")
    Run(run.path).prune(1)
    assert run.checkpoints() == [1, 4, 6]  # what is damaged goes once there is a newer intact one
    (run.path / "best.json").write_text("{")
    run.prune(1)
    assert run.checkpoints() == [1, 4, 6]  # the best one is not known


# -------------------------------------------------------------------------------------------------- hostile checkpoints


def header(declared: dict, data: bytes = b"") -> bytes:
    text = json.dumps(declared).encode()
    return struct.pack("<Q", len(text)) + text + data


HUGE = {"weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}


@pytest.mark.parametrize(
    "name, data",
    [
        (MODEL, header(HUGE)),
        (
            MODEL,
            header({"weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 4]}}, b"1234"),
        ),
        (
            MODEL,
            header({"weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}),
        ),
        (
            MODEL,
            header({"weight": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        ),
        (MODEL, struct.pack("<Q", 2**63) + b"{}"),
        (MODEL, struct.pack("<Q", 2**40) + b"{}"),
        (MODEL, b"\x80\x04\x95"),
        (TENSORS, header(HUGE)),
        (TENSORS, b""),
        (STATE, b"[" * 1_000_000),
        (STATE, b'{"a":' * 100_000),
        (STATE, b'{"a": NaN}'),
        (STATE, b'{"a": 1e999}'),
        (STATE, b'{"a": ' + b"9" * 100_000 + b"}"),
        (STATE, b"[]"),
        (STATE, b"\xff"),
        (STATE, b" " * (10 << 20) + b"{}"),
    ],
)
def test_signed_nonsense_is_refused(run, name, data):
    folder = run.path / "checkpoints/2"
    (folder / name).write_bytes(data)
    sign(folder)
    with pytest.raises(UserError, match=f"{folder}.*"):
        run.load_checkpoint(2, training=True)
    assert intact(run.load_checkpoint("last", training=True), 1)


@pytest.mark.parametrize(
    "manifest",
    [
        {"update": 2, "files": {"../../../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"update": 2, "files": {name: [] for name in FILES}},
        {"update": 2, "files": {name: {"bytes": 2**60, "sha256": "0"} for name in FILES}},
        {"update": 2, "files": [1]},
        {"update": [2]},
        [],
    ],
)
def test_a_hostile_manifest_is_refused(run, manifest):
    (run.path / "checkpoints/2" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="Checkpoint 2 is damaged"):
        run.load_checkpoint(2, training=True)


def test_foreign_names_among_checkpoints_are_no_checkpoints(run):
    for name in ("../3", "..", "٣", "03", "3 ", "-3", "3.0", "9" * 30, ".3.1.aside"):
        (run.path / "checkpoints" / name).mkdir(exist_ok=True)
    (run.path / "checkpoints/7").write_text("no directory")
    assert run.checkpoints() == [1, 2, 7]
    assert intact(run.load_checkpoint("last", training=True), 2)
