"""The contract between a translator and what computes: ids in, hypotheses out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..config import Decoding
from ..support.errors import UserError

Ids = Sequence[Sequence[int]]  # of sentences, EOS included


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence. A search fills in the first four, a translator the rest."""

    ids: list[int]
    """Target ids, EOS included."""
    log_probability: float
    """The sum over `ids` by the model's own softmax: no constraint on the search changes it."""
    score: float
    """`log_probability` over the length penalty."""
    attention: list[list[float]] | None = None
    """A row for each id, a column for each source id, EOS included. None: not asked for, or the
    model has none."""
    alignment: list[tuple[int, int]] | None = None
    """(source word, target word), counted from 0; None as for `attention`."""
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    """The target tokens of `ids`, without EOS."""


@dataclass(frozen=True)
class Request:
    """Sentences to translate as one batch, and how."""

    sources: list[list[int]]
    """Source ids, EOS included."""
    decoding: Decoding
    n_best: int = 1
    """Hypotheses of each sentence; with sampling, samples."""
    prefix: tuple[int, ...] = ()
    """Target ids with which every hypothesis begins."""
    keys: tuple[int, ...] = ()
    """Who each sentence is (such as its line number): its sampling noise follows from that, not from
    its batch. Empty: its place in the batch."""
    attention: bool = False
    """Whether hypotheses carry their attention."""

    def lengths(self, max_positions: int | None) -> list[tuple[int, int]]:
        """Least and most target tokens of each source, EOS not counted, for a model of that many
        positions. The most is at least the prefix. Raises UserError where the model cannot write
        the prefix.
        """
        prefix, longest = len(self.prefix), math.inf if max_positions is None else max_positions - 1
        if prefix > longest:
            raise UserError(f"The prefix has {prefix} tokens; the model writes {longest}.")
        limits = []
        for source in self.sources:
            least, most = self.decoding.lengths(len(source) - 1)
            most = int(min(most, longest))
            limits.append((min(least, most), max(most, prefix)))
        return limits


Maps = dict[str, np.ndarray]
"""Attention of one pair, (heads, target, source), by the names of `models.base.Maps`."""


@dataclass(frozen=True)
class Inside:
    """What a model says and looks at while it is made to write a given translation: for each of its
    ids, EOS included."""

    log_probabilities: list[float]
    maps: Maps
    ranks: list[int] | None = None
    """1: the most probable of all. None, here and below: the engine cannot tell."""
    entropies: list[float] | None = None
    """In nats, of all that could come."""
    best: list[list[tuple[int, float]]] | None = None
    """The most probable ids and their log-probabilities."""


class Engine(Protocol):
    """A model that translates. All methods may be called from several threads at once."""

    name: str
    """Which weights these are, for those who must know them again."""
    max_positions: int | None
    """Tokens of the longest sentence that it can read or write, EOS included; None: no limit."""
    batch_tokens: int
    """Padded source tokens of a batch, where `decoding.batch_tokens` does not say."""
    parallel: int
    """Requests that `search_all` works on at the same time."""

    def search(self, request: Request, trail: list[Any] | None = None) -> list[list[Hypothesis]]:
        """The `n_best` best hypotheses of each source, best first; fewer only where fewer exist.

        ``trail`` is filled with all steps of the search, where it is given (see `search.Step`).

        Raises UserError where the engine cannot do what is asked for.
        """
        ...

    def search_all(self, requests: Iterable[Request]) -> Iterator[list[list[Hypothesis]]]:
        """`search` of every request, in order."""
        return map(self.search, requests)

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        """Log-probability of every id of each target (EOS included), all pairs as one batch."""
        ...

    def maps(self, sources: Ids, targets: Ids) -> list[Maps]:
        """The attention inside the model for each pair, all as one batch; empty for a model without."""
        ...

    def inside(self, source: Sequence[int], target: Sequence[int], best: int) -> Inside:
        """All that can be known of one pair, with the `best` most probable ids of each step."""
        return Inside(self.score([source], [target])[0], self.maps([source], [target])[0])
