"""A GPU is never waited for inside an update or a decoding step.

Two ways to see that without one, which complement each other. The meta device takes the path of whatever is not a CPU and
raises where a value would have to be read. On the CPU, `waits` lists what would wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch
from kinds import VOCABULARY, build, kinds, parameters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtcli import Translator, config as configs
from mtcli.config import Decoding, Muon
from mtcli.decoding import search
from mtcli.decoding.engine import Hypothesis, Request
from mtcli.decoding.torch_engine import Ensemble, TorchEngine, describe
from mtcli.models.base import Seq2Seq
from mtcli.models.batches import Sequences, padded_batch
from mtcli.run.directory import Run
from mtcli.support import devices
from mtcli.text.vocab import EOS
from mtcli.training import optim
from mtcli.training.trainer import Trainer, TrainStep

CPU, META = torch.device("cpu"), torch.device("meta")
SOURCES = [[4, 5, 6, 7, EOS], [8, EOS], [9, 10, 11, EOS]]
TARGETS = [[5, 6, EOS], [7, 8, 9, 10, EOS], [EOS]]
READS = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2"}  # of operations
STEPS = 20


class Operations(TorchDispatchMode):
    """Lists the operations whose result, or its shape, a host would have to wait for."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        masks = [each for each in indices if each is not None and each.dtype is torch.bool]
        if name in READS or masks or function is torch.ops.aten.repeat_interleave.Tensor:
            self.found.append(name)
        return whole_or_parts(self, function, args, kwargs)


def whole_or_parts(mode: TorchDispatchMode, function: Any, args: Any, kwargs: Any) -> Any:
    """The result; the parts of what is composed are dispatched to the mode, also in inference."""
    with mode:
        result = function.decompose(*args, **(kwargs or {}))
    return function(*args, **(kwargs or {})) if result is NotImplemented else result


class Copies(TorchFunctionMode):
    """Lists the copies to the host: on a CPU they are no operations."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("tolist", "cpu", "numpy", "__array__"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    """What a GPU would have been waited for."""
    devices.choose_products(CPU)  # which measures this processor, once
    found: list[str] = []
    with Operations(found), Copies(found):
        yield found


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: int(x[0]),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu() + 1,
        lambda x: x.numpy(),
        lambda x: x.unique(),
    ],
)
def test_what_would_wait_for_a_gpu_is_found_in_both_ways(read: Any) -> None:
    for inference in (False, True):
        with torch.inference_mode(inference), waits() as found:
            read(torch.arange(3))
        assert found
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        read(torch.arange(3, device=META))


@pytest.fixture(params=[each for kind in kinds().values() for each in parameters(kind)])
def config(request: pytest.FixtureRequest) -> Any:
    return request.param


def models(config: Any) -> list[Seq2Seq]:
    """One on each device."""
    return [build(config).float(), describe(config, [VOCABULARY, VOCABULARY])]


def device_of(model: Seq2Seq) -> torch.device:
    return next(model.parameters()).device


def decode(monkeypatch: pytest.MonkeyPatch, model: Seq2Seq, **request: Any) -> int:
    """Decode for STEPS steps, as if one sentence were unfinished. Returns how often that was looked at."""
    looks, steps = [], []
    monkeypatch.setattr(search, "_count_unfinished", lambda done: looks.append(done) or 1)
    monkeypatch.setattr(search, "_harvest", lambda trail, *_: steps.extend(trail))
    request["decoding"] = {"max_length_offset": STEPS - 1, "max_length_ratio": 0} | request[
        "decoding"
    ]
    request["decoding"] = Decoding(**request["decoding"])
    TorchEngine(model, device_of(model)).search(Request(SOURCES, **request))
    assert len(steps) == STEPS
    return len(looks)


@pytest.fixture
def fused_meta(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As if the meta device had fused Adam, as a GPU has: call it once the optimizers are built."""
    fused = optim.FUSED

    def step(adam: torch.optim.Adam) -> None:
        if adam.param_groups[0]["params"][0].is_meta:
            return None
        return original(adam)

    original = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return lambda: monkeypatch.setattr(optim, "FUSED", (*fused, "meta"))


def test_an_update_waits_for_nothing(config: Any, fused_meta: Any) -> None:
    every = [(model, optim.build(model.train(), Muon())) for model in models(config)]
    fused_meta()
    for model, optimizers in every:
        device = device_of(model)
        batch = padded_batch(Sequences.of(SOURCES), Sequences.of(TARGETS)).to(device)
        with waits() as found:
            loss, _ = TrainStep(model, 0.1)(batch)
            loss.backward()
            optim.step(optimizers, loss.isfinite())
        assert not found
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_decoding_steps_wait_for_nothing_but_a_look_at_who_has_finished(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, on_meta = (model.eval() for model in models(config))
    with waits() as found:
        assert decode(monkeypatch, on_cpu, decoding={"beam_size": 3}) == STEPS
    assert not found
    looks = decode(monkeypatch, on_meta, decoding={"beam_size": 3})
    assert looks == STEPS // search.CHECK_EVERY


@pytest.mark.parametrize(
    "request_options",
    [
        dict(decoding={}),
        dict(decoding={"beam_size": 4, "look_ahead": None}, n_best=2),
        dict(decoding={"no_repeat_ngram": 2, "beam_size": 2, "min_length_ratio": 0.0}),
        dict(
            decoding={"length_penalty": {"type": "gnmt"}, "generate_unknown": True}, prefix=(4, 5)
        ),
        dict(decoding={"sampling": {"seed": 3}}, n_best=3, keys=(7, 8, 9)),
        dict(decoding={"sampling": {"top_k": 3, "temperature": 0.5}}),
        dict(decoding={"sampling": {"top_p": 0.7}}),
    ],
)
def test_no_way_to_search_waits(
    request_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs.Transformer(**{**tiny.MODELS["transformer"], "positions": "rotary"})
    form = Ensemble([describe(config, [VOCABULARY] * 2) for _ in range(2)]).eval()
    on_cpu = Ensemble([build(config).float() for _ in range(2)]).eval()
    with waits() as found:
        decode(monkeypatch, on_cpu, **request_options)
    assert not found
    decode(monkeypatch, form, **request_options)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("model", sorted(tiny.MODELS))
def test_a_complete_update_of_a_training_waits_for_nothing(
    tmp_path, model, optimizer, fused_meta
) -> None:
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path, model=model, training={"optimizer": optimizer})
    run = Run.create(tmp_path / "run", path.read_text(), configs.load(path))
    job = Trainer(run, META)
    fused_meta()
    for rows in job.plan.epoch(0)[:2]:
        job._update(rows)
    assert job.progress.update == 2


@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"non_finite": "skip"}])
def test_whether_an_update_is_left_out_is_read_only_at_a_look_at_the_device(
    tmp_path, settings
) -> None:
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path, training={"optimizer": "muon", **settings})
    job = Trainer(Run.create(tmp_path / "run", path.read_text(), configs.load(path)), CPU)
    with waits() as found:
        for rows in job.plan.epoch(0)[:2]:
            job._update(rows)
    assert not found
    with waits() as found:
        job._check_finite()
        job.tally.means()
    assert found


def test_scores_and_attention_are_fetched_once_a_batch() -> None:
    """What follows is the host's own copy, which is cut up."""
    engine = TorchEngine(build(configs.Transformer(**tiny.MODELS["transformer"])).float(), CPU)
    with waits() as found:
        scores = engine.score(SOURCES, TARGETS)
    assert list(map(len, scores)) == list(map(len, TARGETS))
    assert found == ["cpu", *["tolist"] * len(TARGETS)]
    hypotheses = [[Hypothesis(ids, 0.0, 0.0)] for ids in TARGETS]
    with waits() as found:
        engine._with_attention(SOURCES, hypotheses)
    assert found == ["cpu", *["tolist"] * len(TARGETS)]
    with waits() as found:
        maps = engine.maps(SOURCES, TARGETS)
    assert found.count("cpu") == len(maps[0])


def test_weights_are_converted_to_bf16_once_a_search(tmp_path) -> None:
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path, training={"precision": "bf16", "max_updates": 1})
    run = Run.create(tmp_path / "run", path.read_text(), configs.load(path))
    Trainer(run, CPU).train()
    translator = Translator.load(run.path, device="cpu")
    converted: list[int] = []

    class Conversions(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                converted.append(args[0].data_ptr())
            return whole_or_parts(self, function, args, kwargs)

    with Conversions():
        translator.translate(["abcdef"], min_length_ratio=2.0)
    weights = {each.data_ptr() for each in translator.engine.model.parameters()}
    assert 0 < len(weights.intersection(converted))
    assert all(converted.count(weight) <= 1 for weight in weights)
