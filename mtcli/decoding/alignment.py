"""Which word of the source a word of the target comes from, by the attention of one head."""

# T target, S source

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..support import files
from ..support.errors import UserError
from .engine import Engine, Maps

if TYPE_CHECKING:
    from ..run.directory import Run

BATCH_PAIRS = 20
UNKNOWN = (
    "Which head aligns best is not known here: alignments are from the mean over heads of the last "
    "layer. A run finds it at the end of training (an older one if the same mtcli train is run again); "
    "exported models and ensembles do without."
)

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


def usable(known: Head | None, maps: Maps) -> Head | None:
    """The head that is known to align best, if these maps have it; else the mean over heads of the
    last layer. None for a model without attention."""
    if known is not None and known.map in maps and (known.head or 0) < len(maps[known.map]):
        return known
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


# ------------------------------------------------------------------------------ which head


def find(engine: Engine, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Head | None:
    """The head that aligns best on pairs of ids, each with EOS; None for a model without attention.

    Needs no alignments to compare with. Of each head, or mean over heads of a layer, shifted or not,
    every target token is linked to the source token that it looks at most. What is right is also
    regular: the best head is the one whose links predict the target tokens best.
    """
    ordered = sorted(pairs, key=lambda pair: len(pair[1]))
    found: dict[Head, list[tuple[int, int]]] = defaultdict(list)
    for start in range(0, len(ordered), BATCH_PAIRS):
        sources, targets = zip(*ordered[start : start + BATCH_PAIRS])
        for source, target, maps in zip(sources, targets, engine.maps(sources, targets)):
            for head in every_head(maps):
                found[head] += links(head, maps, source, target)
    return max(found, key=lambda head: regularity(found[head]), default=None)


def every_head(maps: Maps) -> list[Head]:
    """All heads that look at the source and their means, the last layer first, shifted or not."""
    names = [name for name in maps if name.startswith("cross.")]
    return [
        Head(name, head, shifted)
        for name in reversed(names)
        for head in (None, *range(len(maps[name])))
        for shifted in (False, True)
    ]


def links(
    head: Head, maps: Maps, source: Sequence[int], target: Sequence[int]
) -> list[tuple[int, int]]:
    """(source id, target id): what each target token but EOS looks at most."""
    best = head.read(maps).argmax(1).tolist()
    return [(source[place], token) for place, token in zip(best, target)]


def regularity(links: Sequence[tuple[int, int]]) -> float:
    """How much links (source, target) say of their targets: the mean of
    log p(target | source) / p(target), in nats, where the conditional probability is counted without
    the link itself, so that what comes once says nothing."""
    count, pairs = len(links), Counter(links)
    sources, targets = (
        Counter(source for source, _ in links),
        Counter(target for _, target in links),
    )
    return sum(
        math.log((pairs[link] - 1 + prior) / sources[link[0]] / prior)
        for link in links
        if (prior := targets[link[1]] / count)
    ) / max(1, count)


def keep(run: Run, head: Head) -> None:
    """Write into a run which head aligns best."""
    files.replace_file(run.inside("alignment.json"), json.dumps(asdict(head)).encode() + b"\n")


def kept(run: Run) -> Head | None:
    """The head that a run says; None where it says none."""
    path = run.inside("alignment.json")
    if not os.path.lexists(path):
        return None
    found = files.read_json(path)
    name, head, shifted = found.get("map"), found.get("head"), found.get("shifted")
    of_source = isinstance(name, str) and name.startswith("cross.")
    if (
        of_source
        and isinstance(shifted, bool)
        and (head is None or type(head) is int and head >= 0)
    ):
        return Head(str(name), head, shifted)
    raise UserError(f"{path} does not hold a map, a head and whether it is shifted. Remove it.")
