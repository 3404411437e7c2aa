"""Schedules by their formulas; optimizers by what they must do to parameters."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mtcli import config as c
from mtcli.models import build_model
from mtcli.training import optim

MODEL = c.Transformer(
    hidden_size=8, feed_forward_size=16, heads=2, encoder_layers=1, decoder_layers=1
)


@given(st.integers(0, 5000), st.floats(0, 1))
def test_schedules_follow_their_formulas(update, progress):
    warm = min(1, (update + 1) / 100)
    for config, expected in [
        (c.Constant(warmup_updates=100), warm),
        (
            c.InverseSquareRoot(warmup_updates=100),
            min((update + 1) / 100, math.sqrt(100 / (update + 1))),
        ),
        (c.Linear(warmup_updates=100, final_fraction=0.1), warm * (1 - 0.9 * progress)),
        (c.Cosine(warmup_updates=100), warm * (1 + math.cos(math.pi * progress)) / 2),
        (c.Plateau(warmup_updates=100), warm),
    ]:
        assert optim.SCHEDULES[config.type](config).factor(update, progress) == pytest.approx(
            expected, abs=1e-12
        )


def test_plateau_falls_after_its_patience_and_restores_its_state():
    schedule = optim.PlateauSchedule(c.Plateau(factor=0.5, patience=1, min_fraction=0.2))
    factors = []
    for better in [True, False, False, True, False, False, False, False]:
        schedule.validated(better)
        again = optim.PlateauSchedule(schedule.config)
        again.state = schedule.state
        schedule = again
        factors.append(schedule.factor(10, 0.5))
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]


@pytest.mark.parametrize("config", [c.Adam(), c.AdamW(), c.Muon()], ids=lambda config: config.type)
def test_every_parameter_is_updated_by_one_optimizer(config):
    torch.manual_seed(0)
    model = build_model(MODEL, 11, 12)
    optimizers = optim.build(model, config)
    held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optim.set_learning_rate(optimizers, 0.5)
    for optimizer in optimizers:
        assert all(group["lr"] == group["peak_lr"] / 2 for group in optimizer.param_groups)
        optimizer.step()
    for name, p in model.named_parameters():
        assert (p != before[name]).any(), name


def test_muon_updates_only_the_matrices_inside_layers():
    model = build_model(MODEL, 11, 12)
    muon, adam = optim.build(model, c.Muon())
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert matrices and all(name.startswith(("encoder.", "decoder.")) for name in matrices)
    rest = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert {"source_embedding.weight", "target_embedding.weight"} <= rest


def test_registries_hold_what_the_config_names():
    for registry, options in [
        (optim.OPTIMIZERS, (c.Adam, c.AdamW, c.Muon)),
        (optim.SCHEDULES, (c.Constant, c.InverseSquareRoot, c.Linear, c.Cosine, c.Plateau)),
    ]:
        assert set(registry) == {option().type for option in options}


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_muon_agrees_with_pytorch(shape, monkeypatch):
    """Three matrices of one shape together do what torch.optim.Muon, which iterates in bfloat16, does to each."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = (
        optim.Muon(ours, **options),
        torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # bfloat16


def test_orthogonalized_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in [(3, 16, 16), (2, 40, 8), (1, 8, 40)]:
        values = torch.linalg.svdvals(optim.orthogonalize(torch.randn(shape)))
        assert 0.3 < values.min() and values.max() < 1.3
