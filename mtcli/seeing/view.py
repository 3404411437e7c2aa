"""Which attention of a trace is shown, and between which words: what heatmaps of every kind begin with."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from ..decoding.alignment import Head, by_words
from ..support.errors import UserError, visible
from ..text.vocab import BOS, EOS, SPECIAL
from .trace import Trace

KINDS = {
    "cross": "what the translation looks at in the source",
    "encoder": "what the source looks at in itself",
    "decoder": "what the translation looks at in itself",
}


@dataclass(frozen=True)
class Choice:
    """What a user asks to see; None: what the trace's alignment is read from."""

    kind: str = "cross"
    layer: int | None = None
    head: int | None = None
    mean: bool = False
    shifted: bool | None = None

    def of(self, trace: Trace) -> Head | None:
        """None for a model without attention. Raises UserError for what a model with some lacks."""
        if not trace.attention:
            return None
        if self.kind not in KINDS:
            raise UserError(f"--kind is '{self.kind}'; choose {', '.join(KINDS)}.")
        there = {name: len(heads) for name, heads in trace.attention.items()}
        best = trace.alignment_from
        names = [name for name in there if name.startswith(f"{self.kind}.")]
        name = names[-1] if names else self.kind
        if self.layer is not None:
            name = f"{self.kind}.{self.layer}"
        elif best is not None and self.kind == "cross":
            name = best.map
        if name not in there or (self.head or 0) >= there[name]:
            listed = ", ".join(f"{each} ({count})" for each, count in there.items())
            asked = name if self.head is None else f"{name}, head {self.head}"
            raise UserError(
                f"{trace.model} does not show {asked}. Kinds, layers and their numbers of heads, each "
                f"counted from 0: {listed}."
            )
        if best is None or name != best.map or self.kind != "cross":
            best = Head(name, None, shifted=False)
        head = None if self.mean else best.head if self.head is None else self.head
        return Head(name, head, best.shifted if self.shifted is None else self.shifted)


@dataclass(frozen=True)
class Grid:
    """Attention between words: a row looks at the columns, and sums to one."""

    title: str
    rows: list[str]
    columns: list[str]
    weights: np.ndarray


def grid(trace: Trace, head: Head) -> Grid:
    """The attention of one head, or of the mean of all, between words."""
    kind, _, layer = head.map.partition(".")
    heads = {head.map: np.array(trace.attention[head.map])}
    source, target = trace.source, trace.target
    side = source if kind == "encoder" else target
    if kind == "cross":
        weights = by_words(head.read(heads), target.word_of, source.word_of)
        columns = [*source.words, SPECIAL[EOS]]
    else:
        table = heads[head.map].mean(0) if head.head is None else heads[head.map][head.head]
        seen = source.word_of if side is source else [None, *target.word_of[:-1]]
        weights = by_words(table, side.word_of, seen)
        columns = [*side.words, SPECIAL[EOS]]
        if side is target:  # its inputs begin with BOS
            weights, columns = np.roll(weights, 1, axis=1), [SPECIAL[BOS], *target.words]
    count = len(heads[head.map])
    which = f"head {head.head}" if head.head is not None else f"mean of {count} heads"
    place = f"layer {layer}" + (f", {which}" if count > 1 else "")
    if layer == "mean":
        place = "last layer, mean over heads"
    place += ", shifted" if head.shifted and kind == "cross" else ""
    return Grid(f"{KINDS[kind]}: {place}", side.words, columns, weights)


def label(text: str) -> str:
    """A text that does nothing to a terminal; a mark without a letter gets a dotted circle."""
    circle = "\u25cc" if unicodedata.category(text[:1] or " ")[0] == "M" else ""
    return circle + visible(text).replace("\t", "\\t")
