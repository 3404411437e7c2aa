"""The average of checkpoints: the mean of their weights, in a run that can be used and resumed."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from mtcli import Translator, config as configs
from mtcli.run.directory import Run
from mtcli.support.errors import UserError
from mtcli.training import average
from mtcli.training.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("average")
    tiny.write(folder)
    return folder


def trained(folder, **training) -> Run:
    path = folder / "-".join(map(str, training.values()))
    if not path.exists():
        text = json.dumps(tiny.config(folder, "gru", training=training))
        Trainer(Run.create(path, text, configs.loads(text, "test")), torch.device("cpu")).train()
    return Run.open(path)


@pytest.mark.slow
def test_average_is_the_mean_of_weights_and_makes_a_run(folder, tmp_path):
    run = trained(folder, keep_checkpoints=5)
    updates = average.choose(run)
    assert updates == run.checkpoints() == [7, 14, 20] and average.choose(run, last=2) == [14, 20]
    weights = average.average(run, updates)
    for name, tensor in weights.items():
        parts = [run.load_checkpoint(update, training=False).model[name] for update in updates]
        assert torch.allclose(tensor, sum(parts) / 3, atol=1e-6) and tensor.dtype == parts[0].dtype
    (tmp_path / ".mean.123.aside").mkdir()  # of one that was killed
    made = average.write(run, updates, weights, tmp_path / "mean")
    assert [path.name for path in tmp_path.iterdir()] == ["mean"]
    translator = Translator.load(tmp_path / "mean", device="cpu")
    own = average.validate(made, torch.device("cpu"))
    pairs = tiny.pairs(8, seed=1)
    tokens = [each for scores in translator.score(pairs) for each in scores]
    assert own["loss"] == pytest.approx(-sum(tokens) / len(tokens), abs=1e-6) and "chrf" in own
    assert made.config == run.config
    with pytest.raises(UserError, match="is there already"):
        average.write(run, updates, weights, tmp_path / "mean")
    job = Trainer(made, torch.device("cpu"))
    job.train()  # where the run was: finished
    assert job.progress.update == 20 and torch.equal(
        job.model.state_dict()["readout.weight"], weights["readout.weight"]
    )


def test_best_checkpoints_are_chosen_by_best_by_and_too_few_are_refused(folder):
    run = trained(folder, keep_checkpoints=5)
    losses = {
        entry["update"]: entry["validation"]["loss"]
        for entry in run.read_log()
        if "validation" in entry
    }
    assert average.choose(run, best=2) == sorted(sorted(losses, key=losses.__getitem__)[:2])
    by_perplexity = configs.replace(run.config.training, best_by="perplexity")
    run.config = run.config.model_copy(update={"training": by_perplexity})
    assert average.choose(run, best=2) == sorted(sorted(losses, key=losses.__getitem__)[:2])
    with pytest.raises(
        UserError, match=r"3 checkpoints \(7, 14, 20\).*4 needs more.*keep_checkpoints, which is 5"
    ):
        average.choose(run, last=4)
    with pytest.raises(UserError, match="an average of 2 needs more"):
        average.choose(trained(folder, keep_checkpoints=1, validate_every=20))
