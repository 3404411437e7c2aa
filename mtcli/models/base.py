"""The contract of a sequence-to-sequence model: everything that other rooms use of one."""

# B sentences, R = B·K rows (K hypotheses of each sentence), S source, T target, H hidden,
# V vocabulary, A attention heads

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor, nn

Maps = dict[str, Tensor]
"""Attention weights by name ("cross.0", "encoder.0", "decoder.0": kind and layer), (B, A, T, S)."""

SomeRows = TypeVar("SomeRows", bound="Rows")


@dataclass
class Rows:
    """Tensors whose first dimension is the row, and numbers that are the same for all rows.

    A subclass's fields are tensors, Rows, lists of these, numbers or None.
    """

    def select(self: SomeRows, rows: Tensor) -> SomeRows:
        """The rows of these indices (repeats allowed)."""
        return replace(self, **{f.name: _select(getattr(self, f.name), rows) for f in fields(self)})


def _select(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(0, rows)
    if isinstance(value, Rows):
        return value.select(rows)
    return [_select(each, rows) for each in value] if isinstance(value, list) else value


def named_tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in Rows, by names such as "keys.0"."""
    if isinstance(value, Tensor):
        return {name: value}
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, Rows):
        parts = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, list):
        parts = list(enumerate(value))
    return {
        key: tensor
        for part, each in parts
        for key, tensor in named_tensors(each, f"{name}.{part}" if name else str(part)).items()
    }


def with_tensors(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """The same Rows with other tensors, named as by `named_tensors`."""
    if isinstance(value, Tensor):
        return tensors[name]
    prefix = f"{name}." if name else ""
    if isinstance(value, Rows):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        return replace(
            value, **{k: with_tensors(v, tensors, f"{prefix}{k}") for k, v in parts.items()}
        )
    if isinstance(value, list):
        return [with_tensors(v, tensors, f"{prefix}{index}") for index, v in enumerate(value)]
    return value


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
        raise NotImplementedError

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

    def attention_maps(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Maps:
        """The weights of every layer and head, by teacher forcing: arguments as of `forward`."""
        maps: Maps = {}
        self(source, source_mask, target_in, maps)
        return maps

    def alignment(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor | None:
        """What each position looks at: the mean over heads of the last layer's attention to the
        source, (B, T, S); None for a model without. Arguments as of `forward`."""
        maps = self.attention_maps(source, source_mask, target_in)
        cross = [name for name in maps if name.startswith("cross.")]
        return maps[cross[-1]].mean(1) if cross else None
