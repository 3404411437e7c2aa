"""How a Transformer knows where a token is: a registry."""

# R rows, T positions, H hidden, D size of a head

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from ..config import Transformer as TransformerConfig
from ..support.errors import UserError
from .layers import Embedding

KEPT = 256  # positions of sinusoids that are made at once and kept


class Positions(nn.Module):
    """How a model knows where a token is: by vectors that are added to embeddings, by a rotation of
    queries and keys in self-attention, or both."""

    def table(self, start: int, length: int, like: Tensor) -> Tensor | None:
        """The vectors that are added, (length, H)."""
        return None

    def add(self, x: Tensor, start: int) -> Tensor:
        """x (R, T, H) at positions from ``start``, with what is added."""
        table = self.table(start, x.shape[1], x)
        return x if table is None else x + table

    def rotation(self, start: int, length: int, like: Tensor) -> Rotation | None:
        return None


class SinusoidalPositions(Positions):
    """sin and cos of geometrically spaced frequencies; Vaswani et al. 2017, section 3.5. The sines
    are before the cosines, an order that the embeddings do not care about."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.size = config.hidden_size

    def table(self, start: int, length: int, like: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return _sinusoids(start, length, self.size, like)
        end = -(-(start + length) // KEPT) * KEPT
        return _kept_sinusoids(end, self.size, like.dtype, like.device)[start : start + length]


def _sinusoids(start: int, length: int, size: int, like: Tensor) -> Tensor:
    angles = _angles(start, length, (size + 1) // 2, like)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :size].to(like.dtype)


@lru_cache(8)
def _kept_sinusoids(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training, too, uses what a translation made
        return _sinusoids(0, length, size, torch.empty(0, dtype=dtype, device=device))


class LearnedPositions(Positions):
    """A learned vector for each position (Gehring et al. 2017)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.embedding = Embedding(config.max_positions, config.hidden_size)
        if not self.embedding.weight.is_meta:
            nn.init.normal_(self.embedding.weight, std=config.hidden_size**-0.5)

    def table(self, start: int, length: int, like: Tensor) -> Tensor:
        if start + length > self.embedding.num_embeddings:
            raise UserError(
                f"A sentence of {start + length} tokens is longer than the "
                f"{self.embedding.num_embeddings} positions that this model has learned; split it, "
                "or train with a larger model.max_positions."
            )
        return self.embedding.weight[start : start + length]


class RotaryPositions(Positions):
    """Queries and keys of self-attention are rotated by their position (Su et al. 2021)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.size = config.hidden_size // config.heads

    def rotation(self, start: int, length: int, like: Tensor) -> Rotation:
        return Rotation(_angles(start, length, self.size // 2, like), like.dtype)


class Rotation:
    """Rotates the pairs (i, i + D/2) of every vector by angles (T, D/2)."""

    def __init__(self, angles: Tensor, dtype: torch.dtype):
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, T, D) -> the same, rotated"""
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            [first * self.cos - second * self.sin, second * self.cos + first * self.sin], dim=-1
        )


def _angles(start: int, length: int, frequencies: int, like: Tensor) -> Tensor:
    """position · 10000^(-i / frequencies): (length, frequencies)"""
    dtype = torch.promote_types(like.dtype, torch.float32)
    positions = torch.arange(start, start + length, device=like.device, dtype=dtype)
    powers = torch.arange(frequencies, device=like.device, dtype=dtype) / frequencies
    return positions[:, None] * 10000.0**-powers


POSITIONS: dict[str, type[Positions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}
