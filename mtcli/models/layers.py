"""Layers that several models use and that PyTorch lacks or does slowly. Knows no model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with a mask that is cheap to draw on the CPU.

    PyTorch draws one Bernoulli variable at a time there. Here four 16-bit numbers are cut from each 64-bit one, so the
    probability is a multiple of 1/65536; values are scaled by exactly the inverse of the share that is kept.
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


class Linear(nn.Linear):
    """A linear layer that adds its bias last.

    PyTorch's, on the CPU, fills the result with the bias and multiplies on top of that: 1.1 times the time, for 64 to
    3,000 rows of a small Transformer, and as much for a forward and a backward pass through all its layers.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (…, in), weight (out, in), bias (out,) -> (…, out)"""
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(x, weight).add_(bias)


def plain(
    module: nn.Module, product: Callable[[Tensor, Tensor, Tensor], Tensor] = linear
) -> Callable[[Tensor], Tensor]:
    """What a linear layer (by ``product``), a norm or an identity computes, as a function of its own.

    To call a module, and to look up its parts, takes as long as to multiply a row by its weights: a step of a
    Transformer of 4 layers and 128 units takes 0.28 ms for one row without, 0.53 ms with.
    """
    if isinstance(module, nn.Identity):
        return lambda x: x
    weight, bias = module.weight, getattr(module, "bias", None)
    if isinstance(module, Linear):
        return lambda x: product(x, weight, bias)
    shape, eps = module.normalized_shape, module.eps
    if isinstance(module, nn.LayerNorm):
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    if isinstance(module, nn.RMSNorm):
        return lambda x: torch.rms_norm(x, shape, weight, eps)
    raise TypeError(f"{type(module).__name__} has no plain form")


class kernels_for:
    """Within, products of matrices of so many rows are made by those of PyTorch's kernels that are fast for them.

    `devices.choose_products` hands all to oneDNN, which is slow where matrices have few rows: 50 µs, not 8, for a row
    times 128 x 384; 150 µs, not 62, for 1,280 times a row times 32 x 16; equal at 24 rows. To choose costs 0.1 µs.
    ``few``: rows from which on oneDNN is as fast; less for very large matrices. May stand within another.
    """

    usual: str | None = None  # the precision outside of all

    def __init__(self, rows: int, few: int = 24):
        self.few = rows < few

    def __enter__(self) -> None:
        self.before, self.outer = torch.get_float32_matmul_precision(), kernels_for.usual
        kernels_for.usual = self.outer or self.before
        torch.set_float32_matmul_precision("highest" if self.few else kernels_for.usual)

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self.before)
        kernels_for.usual = self.outer
