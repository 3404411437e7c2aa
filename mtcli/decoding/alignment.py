"""Which word of the source a word of the target comes from, by the attention of one head."""

# T target, S source

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .engine import Maps

Words = Sequence[int | None]  # the word of each token; None: of none, such as EOS


@dataclass(frozen=True)
class Head:
    """Where an alignment is read."""

    map: str
    """Such as "cross.1"."""
    head: int | None
    """None: the mean of all."""
    shifted: bool
    """What a token looks at is read at the step where it is the decoder's input (Chen et al. 2020,
    section 3.1), not at the one that predicts it."""

    def read(self, maps: Maps) -> np.ndarray:
        """What each target token but EOS looks at: (T - 1, S)."""
        weights = maps[self.map]
        table = weights.mean(0) if self.head is None else weights[self.head]
        return table[1:] if self.shifted else table[:-1]


def last_layer(maps: Iterable[str]) -> Head | None:
    """The mean over heads of the last layer; None for a model without attention."""
    names = [name for name in maps if name.startswith("cross.")]
    return Head(names[-1], None, shifted=False) if names else None


def by_words(table: np.ndarray, rows: Words, columns: Words) -> np.ndarray:
    """Attention between words: the sum over the tokens that are looked at, the mean over those that
    look. Tokens of no word, such as EOS, share one more column, the last, and have no row."""
    height, width = (
        max((w for w in side if w is not None), default=-1) + 1 for side in (rows, columns)
    )
    found, sizes = np.zeros((height, width + 1)), Counter(rows)
    places = [width if word is None else word for word in columns]
    for word, row in zip(rows, table):
        if word is not None:
            np.add.at(found[word], places, row / sizes[word])
    return found


def word_pairs(maps: Maps, head: Head, source: Words, target: Words) -> list[tuple[int, int]]:
    """(source word, target word) for every target word: the source word that it looks at most. None
    for one that looks most at EOS."""
    table = by_words(head.read(maps), target[:-1], source)
    best = table.argmax(1).tolist() if table.size else []
    return sorted((word, row) for row, word in enumerate(best) if word < table.shape[1] - 1)
