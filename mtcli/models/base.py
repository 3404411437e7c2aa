"""The contract of a sequence-to-sequence model: everything that other rooms use of one."""

# B sentences, R = B·K rows (K hypotheses of each sentence), S source, T target, H hidden,
# V vocabulary, A attention heads

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor, nn

Maps = dict[str, Tensor]
"""Attention weights by name ("cross.0", "encoder.0", "decoder.0": kind and layer), (B, A, T, S). Where
nothing else is known: "cross.mean", the mean over heads of the last layer, as one head."""

SomeRows = TypeVar("SomeRows", bound="Rows")


@dataclass
class Rows:
    """Tensors whose first dimension is the row, and numbers that are the same for all rows.

    A subclass's fields are tensors, Rows, lists of these, numbers or None.
    """

    def select(self: SomeRows, rows: Tensor) -> SomeRows:
        """The rows of these indices (repeats allowed)."""
        return map_tensors(self, lambda _, tensor: tensor.index_select(0, rows))


def map_tensors(value: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """The same Rows with every tensor changed, given its name, such as "keys.0"."""
    if isinstance(value, Tensor):
        return change(name, value)
    prefix = f"{name}." if name else ""
    if isinstance(value, Rows):
        names = [field.name for field in fields(value)]
        return replace(
            value, **{n: map_tensors(getattr(value, n), change, prefix + n) for n in names}
        )
    if isinstance(value, (list, tuple)):
        return [map_tensors(each, change, f"{prefix}{n}") for n, each in enumerate(value)]
    return value


def named_tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in Rows, or in lists and tuples of them."""
    found: dict[str, Tensor] = {}
    map_tensors(value, found.setdefault, name)
    return found


def with_tensors(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """The same Rows with other tensors, named as by `named_tensors`."""
    return map_tensors(value, lambda key, _: tensors[key], name)


@dataclass
class Memory(Rows):
    """What the encoder says of B sentences; constant while they are decoded."""

    mask: Tensor
    """(B, S) bool, True = real token."""


@dataclass
class State(Rows):
    """Where the decoder is; a row is a hypothesis. Those of a sentence are adjacent rows."""

    position: int
    """Tokens read so far."""


class Seq2Seq(nn.Module):
    """A source-to-target model that can be taught (`forward`) and stepped (`encode`,
    `init_state`, `decode_step`). Nothing of the encoder is copied per hypothesis."""

    projection: nn.Linear
    """From decoder states to logits; the last layer."""
    max_positions: int | None = None
    """Tokens of the longest sentence that it can read or write, EOS included; None: no limit."""

    def forward(
        self, source: Tensor, source_mask: Tensor, target_in: Tensor, maps: Maps | None = None
    ) -> Tensor:
        """Teacher forcing: decoder states for every prefix of the target.

        source (B, S) ids, source_mask (B, S) bool, target_in (B, T) ids that begin with BOS ->
        (B, T, H). Attention weights are put into ``maps``, where it is given.
        """
        raise NotImplementedError

    def project(self, states: Tensor) -> Tensor:
        """Logits of the next token: (…, H) -> (…, V)."""
        return self.projection(states)

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        """source (B, S) ids, source_mask (B, S) bool -> Memory of B sentences."""
        raise NotImplementedError

    def init_state(self, memory: Memory) -> State:
        """The State before the first step: one hypothesis a sentence."""
        raise NotImplementedError

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, maps: Maps | None = None
    ) -> tuple[Tensor, State]:
        """One step: tokens (R,), State of R hypotheses, Memory of B sentences -> logits (R, V), State.

        Attention weights (R, A, 1, S) are put into ``maps``, where it is given. May write into the
        State that it is given: the caller uses the one that it gets back.
        """
        raise NotImplementedError

    def alignment(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor | None:
        """What each position looks at: the mean over heads of the last layer's attention to the
        source, (B, T, S); None for a model without. Arguments as of `forward`."""
        maps: Maps = {}
        self(source, source_mask, target_in, maps)
        return mean_attention(maps)


def mean_attention(maps: Maps) -> Tensor | None:
    """The mean over heads of the last layer's attention to the source, (B, T, S); None: there is none."""
    cross = [name for name in maps if name.startswith("cross.")]
    return maps[cross[-1]].mean(1) if cross else None
