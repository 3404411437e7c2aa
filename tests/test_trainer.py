"""The training loop: exact resume, micro-batches, stopping, and what went wrong."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path

import pytest
import tiny
import torch

from mtcli import config as configs
from mtcli.run.checkpoint import to_tensors
from mtcli.run.directory import Run
from mtcli.support import devices
from mtcli.support.errors import UserError
from mtcli.support.signals import Interrupted
from mtcli.training import average, defaults, trainer as training_module
from mtcli.training.ahead import Ahead
from mtcli.training.state import NEWER, optimizer_tensors
from mtcli.training.trainer import Trainer

CPU = torch.device("cpu")
SAMPLING = {"type": "subword", "vocabulary_size": 300, "dropout": 0.2}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainer(folder: Path, name: str = "run", settings: list[str] = [], **options) -> Trainer:
    if not (folder / "train.tsv").exists():
        tiny.write(folder)
    path = tiny.write_config(folder, **options)
    run = Run.create(folder / name, path.read_text(), configs.load(path, settings))
    return Trainer(run, CPU)


def without_clock(run: Run) -> list[dict]:
    return [
        {key: value for key, value in entry.items() if key != "clock"} for entry in run.read_log()
    ]


def stop_at(job: Trainer, update: int) -> None:
    """As if SIGTERM came while this update was computed."""
    original = job._update

    def update_and_stop(rows):
        original(rows)
        if job.progress.update == update:
            signal.raise_signal(signal.SIGTERM)

    job._update = update_and_stop


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        ("gru", {}),
        (
            "transformer",
            {"training": {"optimizer": "muon", "schedule": "plateau", "micro_batch_tokens": 60}},
        ),
        ("transformer", {"tokenizer": SAMPLING, "training": {"precision": "bf16"}}),
    ],
)
def test_resume_after_signal_is_bit_identical(tmp_path, model, sections):
    complete = trainer(tmp_path, "complete", model=model, **sections)
    complete.train()
    for update in (3, 7, 12):
        job = trainer(tmp_path, "stopped", model=model, **sections)
        stop_at(job, update)
        with pytest.raises(Interrupted) as stop:
            job.train()
        assert stop.value.signal == signal.SIGTERM
        assert job.run.checkpoints()[-1] == update
    last = trainer(tmp_path, "stopped", model=model, **sections)
    last.train()
    assert last.progress.update == complete.progress.update == 20
    for name, tensor in to_tensors(complete.model).items():
        assert torch.equal(tensor, to_tensors(last.model)[name]), name
    assert without_clock(last.run) == without_clock(complete.run)
    assert last.run.best == complete.run.best


@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_micro_batches_give_the_same_weights_as_one_batch(tmp_path, double, model):
    weights = {}
    for limit in (None, 40):
        still = {**tiny.MODELS[model], "dropout": 0.0}
        job = trainer(
            tmp_path,
            f"run{limit}",
            model=model,
            training={"max_updates": 5, "micro_batch_tokens": limit},
        )
        job = Trainer(
            Run.create(
                tmp_path / f"still{limit}",
                "",
                job.config.model_copy(
                    update={"model": type(job.config.model).model_validate(still)}
                ),
            ),
            CPU,
        )
        parts = [list(job.plan.micro_batches(rows, 0)) for rows in job.plan.epoch(0)]
        assert all(len(each) > 1 for each in parts) == (limit is not None)
        job.train()
        weights[limit] = to_tensors(job.model)
    for name, tensor in weights[None].items():
        torch.testing.assert_close(tensor, weights[40][name], rtol=0, atol=1e-9)


def test_gradient_is_that_of_the_mean_loss_per_target_token(tmp_path, double):
    job = trainer(tmp_path, training={"max_gradient_norm": None, "label_smoothing": 0.0})
    job.model.eval()
    rows = job.plan.epoch(0)[0]
    batch = job.data.batch(rows)
    logits = job.model.project(job.model(batch.source, batch.source_mask, batch.target_in))
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.target_out.flatten(), ignore_index=0
    )
    expected = torch.autograd.grad(loss, list(job.model.parameters()))
    job.step(batch)[0].backward()
    job._finish_gradients(len(batch.target_places))
    for gradient, parameter in zip(expected, job.model.parameters()):
        torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_are_clipped_to_max_gradient_norm(tmp_path):
    job = trainer(tmp_path, training={"max_gradient_norm": 0.01})
    batch = job.data.batch(job.plan.epoch(0)[0])
    job.step(batch)[0].backward()
    before = job._finish_gradients(len(batch.target_places))
    after = torch.nn.utils.get_total_norm([parameter.grad for parameter in job.model.parameters()])
    assert float(before) > 0.01 and float(after) == pytest.approx(0.01, rel=1e-4)


def test_loss_falls_and_validation_loss_has_no_label_smoothing(tmp_path):
    job = trainer(
        tmp_path, training={"max_updates": 60, "validate_every": 20, "label_smoothing": 0.5}
    )
    job.train()
    entries = [entry["validation"] for entry in job.run.read_log() if "validation" in entry]
    assert entries[-1]["loss"] < entries[0]["loss"]
    for entry in entries:
        assert entry["perplexity"] == pytest.approx(math.exp(entry["loss"]))
    likelihoods = [
        each for scores in job.translator.score(tiny.pairs(8, seed=1)) for each in scores
    ]
    job.model.eval()
    assert entries[-1]["loss"] == pytest.approx(-sum(likelihoods) / len(likelihoods), rel=0.2)


def test_without_validation_metrics_only_the_examples_are_translated(tmp_path):
    settings = {"validation_metrics": [], "best_by": "loss", "max_updates": 7, "examples": 2}
    job = trainer(tmp_path, training=settings)
    job.train()
    (entry,) = (entry for entry in job.run.read_log() if "validation" in entry)
    assert set(entry["validation"]) == {"loss", "perplexity"} and len(entry["examples"]) == 2


def test_training_stops_when_patience_runs_out_and_keeps_the_best(tmp_path):
    settings = {"max_updates": 500, "validate_every": 2, "patience": 2, "schedule": "constant"}
    job = trainer(
        tmp_path, training={**settings, "optimizer": {"type": "adam", "learning_rate": 0.2}}
    )
    job.train()
    values = [entry["validation"]["loss"] for entry in job.run.read_log() if "validation" in entry]
    assert job.progress.update < 500
    best = min(values)
    assert values[-3] == best and job.run.best["value"] == best
    assert job.run.best["update"] == job.progress.update - 4
    assert job.run.best["update"] in job.run.checkpoints(), "the best checkpoint is kept"


def test_training_a_finished_run_changes_no_file(tmp_path):
    job = trainer(tmp_path)
    job.train()
    files = {path: path.read_bytes() for path in job.run.path.rglob("*") if path.is_file()}
    trainer(tmp_path).train()
    assert {path: path.read_bytes() for path in job.run.path.rglob("*") if path.is_file()} == files


def test_config_can_be_changed_before_the_first_checkpoint(tmp_path):
    with pytest.raises(UserError, match="nowhere.tsv"):
        trainer(tmp_path, data={"validation": "nowhere.tsv"})
    before = trainer(tmp_path, tokenizer={"type": "word"})
    after = trainer(tmp_path)
    assert len(after.codecs[0].vocabulary) < len(before.codecs[0].vocabulary), (
        "the vocabulary is built again"
    )


def test_resume_with_another_config_is_refused_with_the_changes(tmp_path):
    trainer(tmp_path).train()
    with pytest.raises(
        UserError, match=r"(?s)made with another config:.*training.batch_tokens: 80 -> 90"
    ):
        trainer(tmp_path, training={"batch_tokens": 90})


def test_larger_max_updates_continues_a_finished_run(tmp_path):
    trainer(tmp_path).train()
    job = trainer(tmp_path, training={"max_updates": 30})
    job.train()
    assert job.progress.update == 30


def spoil_outputs(job: Trainer, updates: range) -> None:
    """As if a module's output overflowed while these updates are computed, and when they are computed again."""
    module = next(each for each in job.model.modules() if type(each).__name__ == "Linear")
    update, again = job._update, job._find_not_finite

    def spoiling(compute, when):
        def spoilt(*arguments):
            handle = module.register_forward_hook(
                lambda *_: _[2] * (math.inf if when(*arguments) in updates else 1)
            )
            try:
                return compute(*arguments)
            finally:
                handle.remove()

        return spoilt

    job._update = spoiling(update, lambda rows: job.progress.update)
    job._find_not_finite = spoiling(again, lambda rows, number: number)


@pytest.mark.parametrize("model", ["gru", "transformer"])
@pytest.mark.parametrize("every", [1, 10])
def test_not_finite_gradient_stops_training_and_saves_nothing_spoilt(tmp_path, model, every):
    """Also where the device is looked at only every ten updates and at log points, as on a GPU."""
    job = trainer(tmp_path, model=model, training={"optimizer": "muon"})
    job.look_every = every
    spoil_outputs(job, range(9, 10))
    guilty = job.data.batch(
        job.plan.epoch(9 // job.plan.updates_per_epoch)[9 % job.plan.updates_per_epoch]
    )
    first = job.codecs[0].decode(guilty.source[0][guilty.source_mask[0]].tolist())
    message = r"(?s)Update 10: .*first output that is not finite.*\(Linear\).*non_finite=skip"
    with pytest.raises(UserError, match=message) as error:
        job.train()
    assert f"  {first}  |||  {first[::-1].upper()}" in str(error.value)
    assert job.run.checkpoints() == [7, 9]
    again = trainer(tmp_path, model=model, training={"optimizer": "muon"})
    again.train()
    complete = trainer(tmp_path, "complete", model=model, training={"optimizer": "muon"})
    complete.train()
    assert without_clock(again.run) == without_clock(complete.run)
    for name, tensor in to_tensors(complete.model).items():
        assert torch.equal(tensor, to_tensors(again.model)[name]), name


def test_non_finite_skip_leaves_updates_out_and_counts_them(tmp_path):
    job = trainer(tmp_path, training={"non_finite": "skip"})
    spoil_outputs(job, range(5, 11))
    job.train()
    entries = [entry for entry in job.run.read_log() if "loss" in entry]
    assert {entry["update"]: entry["skipped"] for entry in entries} == {
        4: 0,
        8: 3,
        12: 3,
        16: 0,
        20: 0,
    }
    assert all(
        math.isfinite(entry["loss"]) and math.isfinite(entry["gradient_norm"]) for entry in entries
    )
    assert all(tensor.isfinite().all() for tensor in to_tensors(job.model).values())


def test_an_overflow_of_fp16_leaves_out_the_steps_of_all_optimizers(tmp_path):
    """Only Muon's matrices get a gradient that is not finite."""
    training = {"precision": "fp16", "optimizer": "muon", "max_updates": 6}
    job = trainer(tmp_path, training=training)
    matrix, seen, update = job.optimizers[0].param_groups[0]["params"][0], [], job._update
    matrix.register_hook(lambda gradient: gradient * (math.inf if 2 <= len(seen) <= 4 else 1))

    def noted(rows):
        update(rows)
        state = to_tensors(job.model) | optimizer_tensors(job.model, job.optimizers)
        seen.append({name: tensor.clone() for name, tensor in state.items()})

    job._update = noted
    job.train()
    for number, (before, after) in enumerate(zip(seen, seen[1:])):
        changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
        assert bool(changed) == (number not in (1, 2, 3))
        assert all(tensor.isfinite().all() for tensor in after.values())
    assert job.scaler.get_scale() == 16 / 2**3


def test_fp16_that_overflows_at_every_scale_stops_and_names_bf16(tmp_path):
    job = trainer(tmp_path, training={"precision": "fp16", "max_updates": 100})
    before = {name: tensor.clone() for name, tensor in to_tensors(job.model).items()}
    spoil_outputs(job, range(100))
    with pytest.raises(UserError, match="Update 19: gradients overflow fp16.* to bf16"):
        job.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in to_tensors(job.model).items())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    job = trainer(tmp_path)
    save = job._save

    def spoil():
        if job.progress.update == 14:
            with torch.no_grad():
                next(job.model.parameters()).fill_(math.nan)
        save()

    job._save = spoil
    with pytest.raises(UserError, match="Update 14: weights of the model are not finite"):
        job.train()
    assert job.run.checkpoints() == [7]


@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_finite_model_has_no_module_that_is_not_finite(tmp_path, model):
    job = trainer(tmp_path, model=model)
    assert job._find_not_finite(job.plan.epoch(0)[0], 0)[0] is None


ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]


def without_memory(job: Trainer, when) -> list[int]:
    """As if memory ran out in batches of which ``when`` is true -> the sizes of all batches, padding counted."""
    sizes: list[int] = []
    forward = job.train_step.forward

    def full(batch):
        sizes.append(batch.source.numel() + batch.target_in.numel())
        if when(batch, sizes[-1]):
            raise ERRORS[len(sizes) % 2]
        return forward(batch)

    job.train_step.forward = full
    return sizes


def test_an_update_that_is_out_of_memory_is_made_in_smaller_micro_batches(tmp_path, double, caplog):
    whole = trainer(tmp_path, "whole", ["model.dropout=0.0"])
    whole.train()
    job = trainer(tmp_path, "smaller", ["model.dropout=0.0"])
    failed = []
    sizes = without_memory(
        job,
        lambda batch, size: job.progress.update == 10 and not failed and not failed.append(size),
    )
    job.train()
    assert len(failed) == 1 and max(sizes[11:]) <= failed[0] // 2
    assert "Update 11: out of memory. It is computed again in micro-batches" in caplog.text
    for name, tensor in to_tensors(whole.model).items():
        torch.testing.assert_close(tensor, to_tensors(job.model)[name], rtol=0, atol=1e-9)
    saved = job.run.load_checkpoint("last", training=True)
    assert saved.state["micro_batch_tokens"] == job.plan.limit == failed[0] // 2


@pytest.mark.slow
def test_a_pair_that_does_not_fit_says_so_and_what_was_done_is_saved(tmp_path):
    job = trainer(tmp_path)
    without_memory(job, lambda batch, size: job.progress.update == 10)
    message = r"(?s)Update 11: out of memory. Its largest micro-batch is of 1 sentences × \d+ source.*max_length"
    with pytest.raises(UserError, match=message):
        job.train()
    assert job.run.checkpoints() == [7, 10]
    again = trainer(tmp_path)
    again.train()
    assert again.progress.update == 20


@pytest.mark.slow
def test_micro_batches_are_fitted_to_memory_once_by_trying_the_largest_first(tmp_path):
    """As off the CPU."""
    job = trainer(tmp_path, training={"optimizer": "muon"})
    largest = max(
        part.batch.source.numel() + part.batch.target_in.numel()
        for rows in job.plan.epoch(0)
        for part in job.plan.micro_batches(rows, 0)
    )
    job.fits_memory = True
    before = {name: tensor.clone() for name, tensor in to_tensors(job.model).items()}
    sizes = without_memory(job, lambda batch, size: size > 0.6 * largest)
    stop_at(job, 5)
    tried = []
    update = job._update

    def noted(rows):
        if not tried:
            tried.extend(sizes)
            for name, tensor in to_tensors(job.model).items():
                assert torch.equal(tensor, before[name])
            assert all(parameter.grad is None for parameter in job.model.parameters())
        update(rows)

    job._update = noted
    with pytest.raises(Interrupted):
        job.train()
    assert tried[0] == largest and max(sizes[len(tried) :]) <= largest // 2 == job.plan.limit
    again = trainer(tmp_path, training={"optimizer": "muon"})
    again.fits_memory = True
    sizes = without_memory(again, lambda batch, size: False)
    again.train()
    assert max(sizes) <= largest // 2, "nothing is tried again"


@pytest.mark.parametrize("micro_batch_tokens", [None, 60])
@pytest.mark.slow
def test_batches_that_are_made_ahead_in_one_buffer_change_nothing(tmp_path, micro_batch_tokens):
    """As off the CPU, with segmentations that are sampled; also where a run is stopped and continued."""
    options = {
        "tokenizer": SAMPLING,
        "training": {"micro_batch_tokens": micro_batch_tokens, "max_updates": 15},
    }
    complete = trainer(tmp_path, "complete", **options)
    complete.train()
    for update in (4, 9, None):
        job = trainer(tmp_path, "ahead", **options)
        job.batches = Ahead(job.plan, torch.device("meta"))
        if update:
            stop_at(job, update)
            with pytest.raises(Interrupted):
                job.train()
    job.train()
    for name, tensor in to_tensors(complete.model).items():
        assert torch.equal(tensor, to_tensors(job.model)[name]), name
    assert without_clock(job.run) == without_clock(complete.run)


@pytest.mark.slow
def test_saving_by_the_clock_does_not_change_the_result(tmp_path):
    jobs = []
    for name, minutes in (("often", 1e-9), ("never", None)):
        jobs.append(
            trainer(
                tmp_path,
                name,
                training={"save_minutes": minutes, "patience": 2, "schedule": "plateau"},
            )
        )
        jobs[-1].train()
    assert without_clock(jobs[0].run) == without_clock(jobs[1].run)
    for name, tensor in to_tensors(jobs[0].model).items():
        assert torch.equal(tensor, to_tensors(jobs[1].model)[name]), name
    job = trainer(tmp_path, "between", training={"save_minutes": 1e-9})
    saved, save = [], job.run.save_checkpoint
    job.run.save_checkpoint = lambda update, *rest: (saved.append(update), save(update, *rest))
    job.train()
    assert saved == list(range(1, 21))


def test_validation_stopped_by_a_signal_is_repeated_on_resume(tmp_path):
    complete = trainer(tmp_path, "complete")
    complete.train()
    for update in (7, 20):
        job = trainer(tmp_path, "stopped")
        stream = job.translator.stream

        def stop(*arguments):
            if job.progress.update == update:
                signal.raise_signal(signal.SIGINT)
                raise AssertionError("the signal did not interrupt")
            return stream(*arguments)

        job.translator.stream = stop
        with pytest.raises(Interrupted) as stopped:
            job.train()
        assert stopped.value.signal == signal.SIGINT
        assert job.run.checkpoints()[-1] == update and not job.finished()
    last = trainer(tmp_path, "stopped")
    last.train()
    assert without_clock(last.run) == without_clock(complete.run)
    assert last.run.best == complete.run.best


def test_resume_records_the_best_where_a_kill_came_before(tmp_path):
    job = trainer(tmp_path)
    job.run.set_best = lambda best: None  # as if killed just before
    with pytest.raises(RuntimeError):
        job.run.prune = lambda keep: (_ for _ in ()).throw(RuntimeError)
        job.train()
    assert job.run.best is None
    again = trainer(tmp_path, training={"max_updates": 20})
    again.resume()
    assert again.run.best["update"] == 7


def resigned(run: Run, update: int, change) -> None:
    """A checkpoint with another state or other tensors and a manifest that agrees with them, as a stranger can make."""
    saved = run.load_checkpoint(update, training=True)
    state, tensors = dict(saved.state), dict(saved.tensors)
    change(state, tensors)
    run.save_checkpoint(update, saved.model, tensors, state)


def drop(place: dict, key: str) -> None:
    del place[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, tensors: drop(state, "epoch"), "its state.json is not ours"),
        (lambda state, tensors: state.update(more=1), "its state.json is not ours"),
        (lambda state, tensors: state.clear(), "its state.json is not ours"),
        (lambda state, tensors: state.update(update=19), "its state.json is not ours"),
        (lambda state, tensors: state.update(epoch=-1), "its state.json is not ours"),
        (lambda state, tensors: state.update(index=1.0), "its state.json is not ours"),
        (lambda state, tensors: state.update(waited=True), "its state.json is not ours"),
        (lambda state, tensors: state.update(log_size=10**400), "its state.json is not ours"),
        (lambda state, tensors: state.update(seconds="1"), "its state.json is not ours"),
        (lambda state, tensors: state.update(best=[]), "its state.json is not ours"),
        (lambda state, tensors: state.update(tally=[]), "its state.json is not ours"),
        (
            lambda state, tensors: state.update(tally=[[1, 2, 3, 4, None]]),
            "its state.json is not ours",
        ),
        (
            lambda state, tensors: state.update(schedule={"fraction": 1.0}),
            "its state.json is not ours",
        ),
        (lambda state, tensors: state.update(schedule=[1]), "its state.json is not ours"),
        (lambda state, tensors: state.update(scaler={"scale": 1.0}), "its state.json is not ours"),
        (
            lambda state, tensors: state.update(index=10**6),
            "update 1000000 of its epoch is not in data.train",
        ),
        (
            lambda state, tensors: tensors.update(nowhere=torch.ones(2)),
            "'nowhere': there is float32 2",
        ),
        (
            lambda state, tensors: drop(tensors, sorted(tensors)[0]),
            "there is nothing, expected float32",
        ),
        (
            lambda state, tensors: tensors.update({sorted(tensors)[0]: torch.ones(2, 2, 2)}),
            "there is float32 2 × 2 × 2, expected",
        ),
    ],
)
def test_a_strangers_checkpoint_is_refused(tmp_path, change, message):
    options = {"training": {"max_updates": 3, "schedule": "plateau"}}
    job = trainer(tmp_path, **options)
    job.train()
    resigned(job.run, 3, change)
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, **options).train()


def test_a_run_of_an_earlier_version_resumes(tmp_path):
    complete = trainer(tmp_path, "complete")
    complete.train()
    job = trainer(tmp_path, "older")
    stop_at(job, 9)
    with pytest.raises(Interrupted):
        job.train()
    resigned(job.run, 9, lambda state, _: [drop(state, key) for key in NEWER])
    (job.run.path / "data.json").unlink()
    again = trainer(tmp_path, "older")
    again.train()
    assert without_clock(again.run) == without_clock(complete.run)


def test_max_epochs_and_max_minutes_end_training(tmp_path):
    job = trainer(
        tmp_path,
        "epochs",
        training={"max_updates": None, "max_epochs": 1.5, "validate_every": "epoch"},
    )
    job.train()
    assert job.progress.update == round(1.5 * job.plan.updates_per_epoch)
    assert [entry["update"] for entry in job.run.read_log() if "validation" in entry] == [
        job.plan.updates_per_epoch,
        job.progress.update,
    ]
    job = trainer(tmp_path, "minutes", training={"max_updates": None, "max_minutes": 1e-4})
    job.train()
    assert job.progress.update >= 1


def test_corpus_weight_repeats_its_pairs_in_every_epoch(tmp_path):
    tiny.write(tmp_path)
    path = str(tmp_path / "train.tsv")
    job = trainer(tmp_path, data={"train": [path, {"path": path, "weight": 2}]})
    assert len(job.data) == 3 * 60


def test_weights_depend_on_the_seed_alone(tmp_path):
    runs = {}
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        job = trainer(tmp_path, name, training={"seed": seed, "max_updates": 3})
        job.train()
        runs[name] = torch.cat([tensor.flatten() for tensor in to_tensors(job.model).values()])
    assert torch.equal(runs["a"], runs["b"])
    assert not torch.equal(runs["a"], runs["c"])


def fine_tuned(folder: Path, name: str, model: dict | None = None) -> Trainer:
    """A trainer on other pairs, from the run `general`, by a config that says little of tokenizer and model."""
    (folder / "domain").mkdir(exist_ok=True)
    tiny.write(folder / "domain")
    values = {**tiny.config(folder / "domain"), "init_from": str(folder / "general")}
    del values["tokenizer"], values["model"]
    config = configs.loads(json.dumps(values | ({"model": model} if model else {})), "domain.yaml")
    return Trainer(
        Run.create(folder / name, "", defaults.fit(config, Run.open(folder / "general").config)),
        CPU,
    )


@pytest.mark.slow
def test_fine_tuning_starts_from_the_best_weights_and_the_vocabulary_of_another_run(tmp_path):
    general = trainer(tmp_path, "general", model="transformer", tokenizer=SAMPLING)
    general.train()
    job = fine_tuned(tmp_path, "domain run")
    best = general.run.load_checkpoint("best", training=False).model
    for name, tensor in to_tensors(job.model).items():
        assert torch.equal(tensor, best[name]), name
    assert (job.config.model, job.config.tokenizer) == (
        general.config.model,
        general.config.tokenizer,
    )
    assert [each.vocabulary.tokens for each in job.codecs] == [
        each.vocabulary.tokens for each in general.codecs
    ]
    job.train()
    shutil.rmtree(tmp_path / "general")
    again = Trainer(job.run, CPU)
    again.train()
    assert again.progress.update == 20, "it no longer needs the other run"


def test_fine_tuning_can_change_dropout_only(tmp_path):
    trainer(tmp_path, "general", model="transformer", training={"max_updates": 1}).train()
    job = fine_tuned(tmp_path, "softer", {"type": "transformer", "dropout": 0.4})
    assert (job.config.model.dropout, job.config.model.hidden_size) == (0.4, 16)
    with pytest.raises(UserError) as error:
        fine_tuned(tmp_path, "wider", {"type": "transformer", "hidden_size": 32})
    assert "which init_from names, differs" in str(
        error.value
    ) and "model.hidden_size: 16 -> 32" in str(error.value)


def stalled(job: Trainer, after: int) -> list[float]:
    """Train with a validation loss that stops falling after N validations. Returns all learning rates."""
    rates, losses = [], iter([*(9.0 - number for number in range(after)), *[9.0] * 1000])
    score, update = training_module.evaluation.score, job._update

    def worse(*arguments):
        result = score(*arguments)
        return training_module.evaluation.Result(result.hypotheses, next(losses), result.scores)

    def noted(rows):
        update(rows)
        rates.append(job.optimizers[0].param_groups[0]["lr"])

    job._update = noted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module.evaluation, "score", worse)
        job.train()
    return rates


def test_patience_brings_a_falling_schedule_to_its_end_first(tmp_path):
    training = {
        "max_updates": 1000,
        "validate_every": 5,
        "patience": 3,
        "schedule": {"type": "linear", "warmup_updates": 0},
    }
    job = trainer(tmp_path, training=training)
    rates = stalled(job, after=5)
    assert (
        job.progress.cooling_from == 40 and len(rates) == 44
    )  # 25 + 3 validations of 5; a tenth of that more
    assert rates[39] > 0.9 * rates[0] and rates[43] < 0.3 * rates[39]
    again = Trainer(Run.open(tmp_path / "run"), CPU)
    again.train()
    assert again.progress.update == 44  # finished, and known to be


def test_patience_stops_a_schedule_without_an_end_at_once(tmp_path):
    job = trainer(
        tmp_path,
        training={"max_updates": 1000, "validate_every": 5, "patience": 3, "schedule": "constant"},
    )
    assert len(stalled(job, after=5)) == 40


@pytest.mark.parametrize("patience", [None, 3])
def test_remaining_minutes_are_shown_after_twenty_updates(tmp_path, caplog, patience):
    caplog.set_level("INFO", "mtcli")
    settings = {"max_updates": 10**6, "validate_every": 10**6, "log_every": 100}
    job = trainer(tmp_path, training={**settings, "patience": patience})
    stop_at(job, 25)
    with pytest.raises(Interrupted):
        job.train()
    assert (
        "minutes to go on this machine" in caplog.text
        and "--set training.max_minutes=" in caplog.text
    )
    assert ("if validation keeps getting better" in caplog.text) == bool(patience)
    bounded = trainer(
        tmp_path, settings=["training.max_minutes=0.001"], training={"max_updates": 10**6}
    )
    bounded.train()
    assert bounded.share_done() == 1


def test_precision_auto_is_float32_on_the_cpu_and_validation_uses_precision(tmp_path):
    contexts = {name: devices.autocast(CPU, name) for name in ("auto", "float32", "bf16")}
    assert [dtype for _, dtype in contexts.values()] == [None, None, torch.bfloat16]
    job = trainer(tmp_path, training={"precision": "bf16", "max_updates": 2})
    with job.translator.engine.autocast():
        assert torch.is_autocast_enabled("cpu")
    job.train()


def test_products_of_tf32_are_made_on_a_gpu_only_where_precision_says_so():
    places = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = [place.fp32_precision for place in places]
    try:
        for precision, products in {"tf32": "tf32", "float32": "ieee"}.items():
            _, dtype = devices.autocast(torch.device("cuda"), precision)
            assert dtype is None
            assert [place.fp32_precision for place in places] == [products] * 2
    finally:
        for place, value in zip(places, before):
            place.fp32_precision = value


@pytest.mark.parametrize(
    ("name", "found"), [("auto", "cpu"), ("cuda", None), ("cuda:1", None), ("gpu", None)]
)
def test_device_is_chosen_by_name(name, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    if found:
        assert devices.choose(name).type == found
    else:
        with pytest.raises(UserError, match="there is: auto, cpu"):
            devices.choose(name)


def test_device_auto_is_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(devices.choose(name)) for name in ("auto", "cuda:1")] == ["cuda", "cuda:1"]


# ------------------------------------------------------------------------------------------------------- other data


def change(path: Path, keep: int, seed: int) -> None:
    """Other pairs at the same path."""
    pairs = tiny.pairs(keep, seed)
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")


def continued(folder: Path, updates: int, accept: bool = False, **options) -> Trainer:
    path = tiny.write_config(folder, **options)
    config = configs.load(path, [f"training.max_updates={updates}"])
    return Trainer(Run.create(folder / "run", path.read_text(), config, accept), CPU)


def test_other_validation_data_are_refused_by_name_and_where_accepted_the_old_best_is_dropped(
    tmp_path, caplog
):
    options = {"training": {"max_updates": 14, "keep_checkpoints": 9, "validate_every": 7}}
    job = trainer(tmp_path, **options)
    job.train()
    resigned(job.run, 14, lambda state, _: state.update(best=-1e9, best_update=7, waited=5))
    old, before = job.run.record.digests(), (tmp_path / "run/config.yaml").read_bytes()
    change(tmp_path / "validation.tsv", 9, seed=5)
    message = r"other data than there is now:\n  data.validation, .*validation.tsv: [\d,]+ bytes when .*, [\d,]+ now\n"
    with pytest.raises(UserError, match=message):
        continued(tmp_path, 28, **options)
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    continued(tmp_path, 28, accept=True, **options).resume()  # and is killed before it saves
    job = continued(tmp_path, 28, **options)
    assert "no longer one experiment" in caplog.text
    job.resume()
    assert (job.progress.best, job.progress.waited, job.progress.due) == (None, 0, True)
    assert job.run.best is None and job.run.read_log()[-1] == {"update": 14, "changed_data": ["validation"]}  # fmt: skip
    job.train()
    best, new = job.run.best, job.run.record.digests()
    assert best["update"] >= 14 and best["value"] > 0 and best["data"] == new["validation"]
    assert new["train"] == old["train"] and new["validation"] != old["validation"]
    assert 7 in job.run.checkpoints(), "its score is on other data, so it is none of the best"
    assert average.choose(job.run, best=3) == [14, 21, 28]
    with pytest.raises(UserError, match="holds 3 checkpoints with a validation loss"):
        average.choose(job.run, best=4)


def test_other_training_data_are_refused_and_where_accepted_begin_an_epoch(tmp_path):
    job = trainer(tmp_path, training={"max_updates": 11})
    job.train()
    best, epoch = job.run.best, job.progress.epoch
    assert job.progress.index > 0
    change(tmp_path / "train.tsv", 8, seed=5)
    with pytest.raises(UserError, match="data.train, .*train.tsv.*\n.*\n.*init_from=.*\n.*accept"):
        continued(tmp_path, 14)
    job = continued(tmp_path, 14, accept=True)
    job.resume()
    assert (job.progress.epoch, job.progress.index) == (epoch + 1, 0)
    assert job.run.best == best, "scores are on the same validation data"
    job.train()
    assert job.progress.update == 14
    continued(tmp_path, 15).train()


def test_data_may_move_and_be_touched(tmp_path):
    trainer(tmp_path, training={"max_updates": 3}).train()
    (tmp_path / "train.tsv").rename(tmp_path / "moved.tsv")
    (tmp_path / "validation.tsv").touch()
    job = continued(tmp_path, 4, data={"train": str(tmp_path / "moved.tsv")})
    job.train()
    assert job.progress.update == 4 and job.run.config.data.train[0].path.endswith("moved.tsv")


# ------------------------------------------------------------------------------------------------ longer than planned

FALLING = {"max_updates": 20, "schedule": {"type": "linear", "warmup_updates": 2}}


def rates_of(job: Trainer) -> list[float]:
    rates, update = [], job._update

    def noted(rows):
        update(rows)
        rates.append(job.optimizers[0].param_groups[0]["lr"])

    job._update = noted
    job.train()
    return rates


@pytest.mark.slow
def test_a_finished_run_is_trained_longer_by_a_new_schedule_bit_for_bit_when_stopped(tmp_path):
    ends = {}
    for name, stops in (("whole", []), ("stopped", [23, 30])):
        job = trainer(tmp_path, name, training=FALLING)
        first = rates_of(job)
        for stop in stops:
            part = trainer(tmp_path, name, ["training.max_updates=40"], training=FALLING)
            stop_at(part, stop)
            with pytest.raises(Interrupted):
                part.train()
        last = trainer(tmp_path, name, ["training.max_updates=40"], training=FALLING)
        ends[name] = rates_of(last), to_tensors(last.model), without_clock(last.run)
    rates = ends["whole"][0]
    assert rates == pytest.approx(first) and len(rates) == 20, "up again, and down to the end"
    assert rates[-10:] == ends["stopped"][0] and ends["whole"][2] == ends["stopped"][2]
    for name, tensor in ends["whole"][1].items():
        assert torch.equal(tensor, ends["stopped"][1][name]), name


def test_an_unfinished_run_with_a_falling_rate_keeps_its_length(tmp_path):
    job = trainer(tmp_path, training=FALLING)
    stop_at(job, 9)
    with pytest.raises(Interrupted):
        job.train()
    with pytest.raises(UserError, match="max_updates: 20 -> 40\nIts learning rate falls.*finish"):
        trainer(tmp_path, "run", ["training.max_updates=40"], training=FALLING)
    trainer(tmp_path, training=FALLING).train()
    longer = trainer(tmp_path, "run", ["training.max_updates=40"], training=FALLING)
    longer.train()
    assert longer.progress.update == 40


@pytest.mark.slow
def test_a_run_whose_patience_ran_out_is_trained_longer_with_new_patience(tmp_path):
    training = {**FALLING, "max_updates": 1000, "validate_every": 5, "patience": 3}
    job = trainer(tmp_path, training=training)
    stalled(job, after=1)
    ended = job.progress.update
    assert job.progress.ended and ended < 30
    job = trainer(tmp_path, "run", ["training.max_updates=1010"], training=training)
    assert len(stalled(job, after=2)) > 10 and job.progress.start == ended


# ------------------------------------------------------------------------------------------------------------- losses


def test_a_diverged_training_is_said_to_be_one_and_has_no_best(tmp_path, caplog):
    caplog.set_level("INFO", "mtcli")
    optimizer = {"type": "adam", "learning_rate": 100.0}
    training = {"optimizer": optimizer, "schedule": "constant", "max_updates": 28}
    job = trainer(tmp_path, training=training)
    job.train()
    assert "training has diverged" in caplog.text
    assert "Lower training.optimizer.learning_rate (it is 100)" in caplog.text
    late = [entry for entry in job.run.read_log() if "validation" in entry and entry["update"] > 7]
    assert len(late) == 3 and not any(entry["best"] for entry in late)


def test_unknown_words_are_counted_at_the_start_and_whose_vocabulary_it_is(tmp_path, caplog):
    words = {"type": "word"}
    trainer(tmp_path, "general", model="transformer", tokenizer=words).train()
    assert "UNK" not in caplog.text or "data.validation" in caplog.text
    caplog.clear()
    (tmp_path / "domain").mkdir()
    tiny.write(tmp_path / "domain")
    change(tmp_path / "domain/train.tsv", 60, seed=9)
    fine_tuned(tmp_path, "domain run")
    assert f"are not in the vocabulary of {tmp_path / 'general'} (UNK): " in caplog.text
