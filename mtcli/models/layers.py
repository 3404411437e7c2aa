"""Layers that several models use and that PyTorch lacks or does slowly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type in which autocast computes on the device of ``x``; None where it is off."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def autocast_off(x: Tensor) -> AbstractContextManager:
    """A context without autocast on the device of ``x``."""
    on = autocast_type(x) is not None
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with a mask that is cheap to draw on the CPU.

    PyTorch draws one Bernoulli variable at a time there. Here four 16-bit numbers are cut from each
    64-bit one, so the probability is a multiple of 1/65536; values are scaled by exactly the
    inverse of the share that is kept.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability
        self.dropped = round(probability * 65536)  # of the 65536 values of 16 bits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 32768
        return x * kept.to(x.dtype).mul_(65536 / (65536 - self.dropped))

    def extra_repr(self) -> str:
        return f"{self.probability}"


class MetaFriendly:
    """Leaves parameters on the meta device alone: PyTorch would load its compiler to fill them."""

    def reset_parameters(self) -> None:
        if not next(self.parameters()).is_meta:  # type: ignore[attr-defined]
            super().reset_parameters()  # type: ignore[misc]


class Linear(MetaFriendly, nn.Linear):
    """A linear layer that adds its bias last for many rows, which is faster on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        usual = x.device.type != "cpu" or self.bias is None or torch.compiler.is_compiling()
        if usual or x.numel() < 8 * self.in_features:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight).add_(self.bias)


class Embedding(MetaFriendly, nn.Embedding):
    """A table of vectors."""
