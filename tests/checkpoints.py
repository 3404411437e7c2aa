"""A run with checkpoints whose contents every test knows."""

from __future__ import annotations

from pathlib import Path

import torch

from mtcli import config as configs
from mtcli.run.directory import Run

YAML = """
data: {train: train.tsv, validation: validation.tsv}
tokenizer: char
model: {type: gru, hidden_size: 8}
training: {max_updates: 10, schedule: inverse_sqrt}
"""


def config(text: str = YAML) -> configs.Config:
    return configs.loads(text, "test.yaml")


def contents(update: int) -> tuple[dict, dict, dict]:
    """What tests save after an update: recognisable everywhere."""
    model = {"weight": torch.full((4, 3), float(update)), "bias": torch.full((4,), float(update))}
    return model, {"weight/step": torch.tensor(update)}, {"update": update, "log_size": 0}


def make_run(path: Path) -> Run:
    """A run with a tokenizer and the checkpoints 1 and 2, of which 1 is the best."""
    run = Run.create(path, YAML, config())
    run.save_tokenizers(lambda folder: (folder / "shared.vocabulary.json").write_text("[]"))
    for update in (1, 2):
        run.append_log({"update": update})
        run.save_checkpoint(update, *contents(update))
    run.set_best({"update": 1, "metric": "loss", "value": 0.5})
    return run


def intact(checkpoint, update: int) -> bool:
    model, tensors, state = contents(update)
    assert (checkpoint.update, checkpoint.state) == (update, state)
    for saved, wanted in ((checkpoint.model, model), (checkpoint.tensors, tensors)):
        assert saved.keys() == wanted.keys() and all(
            torch.equal(saved[name], wanted[name]) for name in wanted
        )
    return True


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
