"""The fused cross-entropy against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mtcli.models import loss as losses
from mtcli.models.layers import Dropout


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_loss_and_gradients_are_those_of_pytorch(monkeypatch, smoothing, chunk):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    states, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(9, 4), (7, 4), (7,)]
    )
    targets = torch.randint(0, 7, (9,))

    ours, likelihood = losses.cross_entropy(states, weight, bias, targets, smoothing)
    logits = states @ weight.T + bias
    theirs = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")

    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(likelihood, F.cross_entropy(logits, targets, reduction="sum"))
    for got, expected in zip(
        *(torch.autograd.grad(3 * each, (states, weight, bias)) for each in (ours, theirs))
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("device", "products"), [("cpu", 3 * 4), ("meta", 3)])
def test_a_gpu_computes_in_few_large_chunks(device, products):
    """1,000 targets of a vocabulary of 8,000: a chunk has three products of matrices."""
    states = torch.empty(1000, 1, device=device, requires_grad=True)
    weight = torch.empty(8000, 1, device=device, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.long, device=device)
    found = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found.extend(name for name in ("mm", "addmm_") if f"aten.{name}." in str(function))
            return function(*args, **(kwargs or {}))

    with Products():
        losses.cross_entropy(states, weight, torch.empty(8000, device=device), targets)
    assert len(found) == products


def test_large_logits_do_not_overflow():
    states = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    loss, _ = losses.cross_entropy(
        states, torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([0, 0])
    )
    loss.backward()
    assert loss.item() == 2000 and states.grad.isfinite().all()


def test_autocast_agrees_to_its_precision():
    torch.manual_seed(0)
    states, weight, bias = (
        torch.randn(20, 16, requires_grad=True),
        torch.randn(30, 16),
        torch.randn(30),
    )
    targets = torch.randint(0, 30, (20,))
    exact, _ = losses.cross_entropy(states, weight, bias, targets, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = losses.cross_entropy(states, weight, bias, targets, 0.1)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


def test_dropout_keeps_the_right_share_and_the_mean():
    torch.manual_seed(0)
    dropout = Dropout(0.3)
    x = torch.ones(1000, 1001)
    y = dropout(x)
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(1 / 0.7, rel=1e-4)
    assert (y == 0).float().mean().item() == pytest.approx(
        0.3, abs=0.005
    )  # ten standard deviations
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert (dropout(x) != y).any(), "a new mask every time"
    assert dropout.eval()(x) is x
