"""What a report says of a run, and what training keeps for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mtcli import config as configs
from mtcli.run.directory import Run
from mtcli.support.errors import UserError
from mtcli.training import traces
from mtcli.training.trainer import Trainer


def trained(folder: Path, name: str = "run", model: str = "transformer", **training) -> Run:
    """A run of 20 updates, with validations after 7, 14 and 20."""
    if not (folder / "train.tsv").exists():
        tiny.write(folder)
    path = tiny.write_config(folder, f"{name}.yaml", model=model, training=training)
    run = Run.create(folder / name, path.read_text(), configs.load(path))
    with run.lock():
        Trainer(run, torch.device("cpu")).train()
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module", params=tiny.MODELS)
def run(request, folder) -> Run:
    return trained(folder, request.param, request.param, examples=3)


# ------------------------------------------------------------------------------ what training keeps


def test_each_validation_keeps_the_examples_from_inside(run):
    assert run.traces() == [7, 14, 20]
    lines = {entry["update"]: entry for entry in run.read_log() if "validation" in entry}
    codecs = Trainer(run, torch.device("cpu")).codecs
    for update in run.traces():
        kept = traces.load(run, update)
        shown = [(each["source"], each["hypothesis"]) for each in lines[update]["examples"]]
        spelt = [codecs[1].tokenizer.detokenize(each.tokens) for each in kept]
        assert list(zip([each.source for each in kept], spelt)) == shown
        for each in kept:
            assert each.attention and set(each.attention) == {"cross.0"}
            [weights] = each.inside().maps.values()
            assert weights.shape[1:] == (len(each.tokens) + 1, len(each.source) + 1)
            assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=0.06)


def test_kept_attention_is_bounded():
    maps = {f"cross.{layer}": np.full((8, 30, 20), 0.05) for layer in range(2)}
    maps["encoder.0"] = np.ones((8, 20, 20))
    shapes = [
        {name: np.shape(weights) for name, weights in traces._small(maps, room).items()}
        for room in (9600, 9599, 1199)
    ]
    assert shapes == [
        {"cross.0": (8, 30, 20), "cross.1": (8, 30, 20)},
        {"cross.0": (1, 30, 20), "cross.1": (1, 30, 20)},
        {},
    ]


def test_without_traces_nothing_is_kept_and_the_weights_are_the_same_bits(run, folder):
    other = trained(folder, f"off-{run.path.name}", run.path.name, examples=3, traces=False)
    assert other.traces() == [] and not (other.path / "traces").exists()
    ours, theirs = (each.load_checkpoint(20, training=True) for each in (run, other))
    for one, two in ((ours.model, theirs.model), (ours.tensors, theirs.tensors)):
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_resumed_run_has_the_traces_of_an_uninterrupted_one(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "killed")
    shutil.rmtree(path / "checkpoints/20")
    (path / "traces/20.json").write_text("{}")
    (path / "traces/99.json").write_text("{}")
    killed = Run.create(path, "", run.config)
    with killed.lock():
        Trainer(killed, torch.device("cpu")).train()
    assert killed.traces() == run.traces()
    for update in run.traces():
        assert killed.load_traces(update) == run.load_traces(update)


def test_traces_of_a_stranger_are_refused_in_words(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "strange")
    [first, *_] = json.loads((path / "traces/7.json").read_text())["traces"]
    for wrong in ({"tokens": ["a"] * 99}, {"attention": {"cross.0": [[[1.0]]]}}, {"ranks": "x"}):
        (path / "traces/7.json").write_text(json.dumps({"traces": [{**first, **wrong}]}))
        with pytest.raises(UserError, match="does not hold what a training keeps"):
            traces.load(Run(path), 7)
