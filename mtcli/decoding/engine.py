"""The contract between a translator and what computes: ids in, hypotheses out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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


class Engine(Protocol):
    """A model that translates. All methods may be called from several threads at once."""

    name: str
    """Which weights these are, for those who must know them again."""
    max_positions: int | None
    """Tokens of the longest sentence that it can read or write, EOS included; None: no limit."""
    parallel: int
    """Requests that `search_all` works on at the same time."""

    def search(self, request: Request) -> list[list[Hypothesis]]:
        """The `n_best` best hypotheses of each source, best first; fewer only where fewer exist.

        Raises UserError where the engine cannot do what is asked for.
        """
        ...

    def search_all(self, requests: Iterable[Request]) -> Iterator[list[list[Hypothesis]]]:
        """`search` of every request, in order."""
        return map(self.search, requests)

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        """Log-probability of every id of each target (EOS included), all pairs as one batch."""
        ...
