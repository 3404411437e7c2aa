"""Optimizers, and the schedules of their learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import config as c
from ..models.base import Seq2Seq
from ..support.devices import has_bfloat16


def _adam(model: Seq2Seq, config: c.Adam, options: dict[str, Any]) -> list[Optimizer]:
    return [torch.optim.Adam(model.parameters(), **options)]


def _adamw(model: Seq2Seq, config: c.AdamW, options: dict[str, Any]) -> list[Optimizer]:
    """Weight decay on matrices only: norms and biases have nothing to gain from being small."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, weight_decay=config.weight_decay, **options)]


def _muon(model: Seq2Seq, config: c.Muon, options: dict[str, Any]) -> list[Optimizer]:
    """Muon for the matrices that map one hidden space to another, Adam for all other parameters.

    Embeddings and the projection are tables of vectors, not such maps.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    tables.add(model.projection.weight)
    matrices = [p for p in model.parameters() if p.ndim == 2 and p not in tables]
    others = [p for p in model.parameters() if p.ndim != 2 or p in tables]
    muon = Muon(matrices, config.matrix_learning_rate, config.momentum, config.weight_decay)
    return [muon, torch.optim.Adam(others, **options)]


class Muon(Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024). ``parameters`` are matrices.

    The update is scaled to the size of one by Adam, by 0.2·√max(rows, columns) (Liu et al. 2025,
    eq. 4). Matrices of one shape are worked on together.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ):
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for p in parameters:
            by_shape[p.shape].append(p)
        groups = [{"params": together} for together in by_shape.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Where ``found_inf`` is 1, as PyTorch's fused optimizers have it, nothing changes."""
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters, rate, momentum = group["params"], group["lr"], group["momentum"]
            for p in parameters:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            gradients = torch.stack([p.grad for p in parameters])
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            taken = 1.0
            if found_inf is not None:
                taken = (1 - found_inf).to(gradients)
                gradients = torch.where(found_inf == 0, gradients, 0)  # 0 * nan would be nan
            share = (1 - momentum) * taken
            torch._foreach_mul_(buffers, 1 - share)
            torch._foreach_add_(buffers, (gradients * share).unbind(0))
            updates = gradients.lerp_(torch.stack(buffers), momentum)  # Nesterov's
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"] * taken)
            orthogonal = orthogonalize(updates)
            orthogonal.mul_(-rate * 0.2 * math.sqrt(max(parameters[0].shape)) * taken)
            torch._foreach_add_(parameters, orthogonal.unbind(0))


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ (N, rows, columns), by five Newton-Schulz iterations.

    In bfloat16 where the processor has it, else in float32, since emulated bfloat16 is slow.
    """
    x = matrices.to(torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


OPTIMIZERS: dict[str, Callable] = {"adam": _adam, "adamw": _adamw, "muon": _muon}


# One pass over all parameters, which can be told on the device to change nothing.
FUSED = ("cuda", "cpu")


def build(model: Seq2Seq, config: c.Adam | c.AdamW | c.Muon) -> list[Optimizer]:
    """Optimizers that together update every parameter once. Each group remembers its ``peak_lr``."""
    fused = next(model.parameters()).device.type in FUSED
    options = dict(lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=fused)
    optimizers = OPTIMIZERS[config.type](model, config, options)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[Optimizer], factor: float) -> None:
    """Every group's learning rate becomes ``factor`` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def step(optimizers: list[Optimizer], finite: Tensor) -> None:
    """A step of every optimizer, or, where ``finite`` (a bool) is false, of none.

    The device decides that by itself; only one without fused optimizers is waited for.
    """
    if finite.is_mps and not finite:
        return
    found_inf = (~finite).float() if finite.device.type in FUSED else None
    for optimizer in optimizers:
        vars(optimizer)["found_inf"] = found_inf
        optimizer.step()


WARMUP_AGAIN = 0.1  # of what is added to a training that had ended


class Schedule:
    """Which share of the peak learning rate an update uses. This one is constant after warm-up.

    ``update`` counts from 0; ``progress`` is the share of training that is done, 0 to 1. The first
    ``warmup_updates`` use (update + 1) / warmup_updates of what they otherwise would.
    """

    ends = False  # whether it falls to an end, to which it comes first where patience runs out

    def __init__(self, config: Any):
        self.config = config
        self.state: dict[str, Any] = {}  # JSON: what has to be saved to resume

    def factor(self, update: int, progress: float, again: bool = False) -> float:
        """The share; ``again``: of a schedule that was restarted; its warm-up is at most a tenth of it."""
        warmup = self.config.warmup_updates
        warm = min(1.0, (update + 1) / warmup) if warmup else 1.0
        if again:
            warm = max(warm, min(1.0, progress / WARMUP_AGAIN))
        return warm * self.after_warmup(update, progress)

    def after_warmup(self, update: int, progress: float) -> float:
        return 1.0

    def validated(self, better: bool) -> None:
        """Told after every validation whether it was the best so far."""


class InverseSquareRootSchedule(Schedule):
    """√(warmup / update) after warm-up; Vaswani et al. 2017, eq. 3, scaled to peak at 1."""

    def after_warmup(self, update: int, progress: float) -> float:
        return math.sqrt(self.config.warmup_updates / max(update + 1, self.config.warmup_updates))


class LinearSchedule(Schedule):
    ends = True

    def after_warmup(self, update: int, progress: float) -> float:
        return 1 - (1 - self.config.final_fraction) * progress


class CosineSchedule(Schedule):
    """Loshchilov and Hutter 2017, eq. 5, without restarts."""

    ends = True

    def after_warmup(self, update: int, progress: float) -> float:
        final = self.config.final_fraction
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


class PlateauSchedule(Schedule):
    def __init__(self, config: c.Plateau):
        super().__init__(config)
        self.state = {"fraction": 1.0, "waited": 0}  # of the peak; validations since the best

    def after_warmup(self, update: int, progress: float) -> float:
        return self.state["fraction"]

    def validated(self, better: bool) -> None:
        state, config = self.state, self.config
        state["waited"] = 0 if better else state["waited"] + 1
        if state["waited"] > config.patience:
            state["fraction"] = max(state["fraction"] * config.factor, config.min_fraction)
            state["waited"] = 0


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "inverse_sqrt": InverseSquareRootSchedule,
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
    "plateau": PlateauSchedule,
}
