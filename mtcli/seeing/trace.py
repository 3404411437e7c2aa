"""What happened when a sentence was translated, as plain data: what all pictures show.

The dataclasses are the contract; docs/trace.schema.json is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..config import LengthPenalty
from ..decoding import alignment
from ..decoding.alignment import Head
from ..decoding.engine import Hypothesis as Found, Inside, Request
from ..decoding.translator import Translator
from ..support.errors import UserError
from ..text.codec import Codec
from ..text.vocab import EOS, SPECIAL
from ..text.writing import is_blank

if TYPE_CHECKING:
    from ..decoding.search import Step as SearchStep

NEVER = float("-inf")  # the log-probability of what may not be
End = Literal["finished", "width", "stop"] | None


@dataclass(frozen=True)
class Side:
    """A text, its tokens (the last one is EOS), and the words that they spell."""

    text: str
    tokens: list[str]
    words: list[str]
    word_of: list[int | None]
    """Of each token; None: it belongs to no word, such as EOS."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have come."""

    token: str
    log_probability: float


@dataclass(frozen=True)
class Step:
    """How one target token was predicted from those before it. None, []: the engine cannot tell."""

    token: str
    log_probability: float
    rank: int | None
    """1: the most probable of all."""
    entropy: float | None
    """Of the distribution, in nats."""
    alternatives: list[Alternative]
    """The most probable tokens, best first, with the one that came if it is among them."""


@dataclass(frozen=True)
class Hypothesis:
    """A translation that the search found."""

    text: str
    tokens: list[str]
    log_probability: float
    score: float


@dataclass(frozen=True)
class Node:
    """A hypothesis of the search, complete or not: the tokens from the root to here."""

    parent: int
    """Its place in the tree; -1: this is the root."""
    step: int
    """Tokens so far, BOS not counted."""
    token: str
    log_probability: float
    score: float
    end: End
    """finished: with EOS. width: not among the best of its step. stop: still there when the search
    ended, since it could not win any more. None: it went on."""


@dataclass(frozen=True)
class Trace:
    """One translation, from inside. Numbers are rounded: attention to 4 places, all others to 6."""

    model: str
    source: Side
    target: Side
    """Of the best hypothesis or, if `forced`, of the translation that was given."""
    forced: bool
    log_probability: float
    score: float
    """`log_probability` over the length penalty."""
    steps: list[Step]
    """One for each target token."""
    hypotheses: list[Hypothesis]
    """What the search found, best first."""
    tree: list[Node]
    """The search; empty where it was not asked for."""
    attention: dict[str, list[list[list[float]]]]
    """By kind and layer (cross.0, encoder.0, decoder.0; cross.mean: the mean over heads of the last
    layer, where nothing else is known): head, row, column. Row t is the step that predicts target
    token t; its input is token t - 1."""
    alignment: list[tuple[int, int]]
    """Source word, target word."""
    alignment_from: Head | None
    """None: the model has no attention."""
    format: Literal[1] = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def trace(
    translator: Translator,
    text: str,
    *,
    reference: str | Sequence[str] | None = None,
    n_best: int = 1,
    tree: bool = False,
    alternatives: int = 5,
    **decoding: Any,
) -> Trace:
    """Translate a sentence and look inside; what is found is what `translate` finds.

    reference: a translation, or its tokens, to look at instead of the best one.
    tree: keep the search's tree. alternatives: how many of each step.
    decoding: changes to the config's decoding section.

    Raises UserError for what is no sentence, and where the engine cannot do it.
    """
    if is_blank(text):
        raise UserError("The sentence is empty; there is nothing to look at.")
    options = translator.decoding(**{"sampling": None, **decoding})
    if n_best > options.beam_size:
        raise UserError(f"n_best is {n_best}, but beam_size only {options.beam_size}: raise it.")
    from_codec, codec = translator.codecs
    ids = translator.encode(0, text, "The sentence")
    # All of the beam, since some of it may be the same text.
    request = Request([ids], options, n_best=options.beam_size if n_best > 1 else 1)
    trail: list[SearchStep] | None = [] if tree else None
    found = translator.engine.search(request, trail)[0]
    source = side(from_codec, from_codec.tokenize(text), text)
    if reference is None:
        output = found[0].ids
        target = side(codec, codec.vocabulary.decode(output))
    else:
        output = translator.encode(1, reference, "The reference")
        is_text = isinstance(reference, str)
        tokens = codec.tokenize(str(reference)) if is_text else list(reference)
        target = side(codec, tokens, str(reference) if is_text else None)
    inside = translator.engine.inside(ids, output, alternatives)
    return of_inside(
        translator.name,
        (source, target),
        inside,
        codec.vocabulary.tokens,
        translator.alignment_head,
        options.length_penalty,
        forced=reference is not None,
        hypotheses=_hypotheses(found, codec, n_best),
        tree=_tree(trail or [], codec.vocabulary.tokens, options.length_penalty),
    )


def of_inside(
    model: str,
    sides: tuple[Side, Side],
    inside: Inside,
    vocabulary: list[str],
    head: Head | None,
    penalty: LengthPenalty,
    forced: bool = False,
    hypotheses: Sequence[Hypothesis] = (),
    tree: Sequence[Node] = (),
) -> Trace:
    """The trace of a pair by what is known of it; ``head`` aligns, if it is among the maps."""
    source, target = sides
    head = alignment.usable(head, inside.maps)
    log_probability = sum(inside.log_probabilities)
    words = source.word_of, target.word_of
    return Trace(
        model=model,
        source=source,
        target=target,
        forced=forced,
        log_probability=round(log_probability, 6),
        score=round(log_probability / penalty.divisor(len(target.tokens)), 6),
        steps=_steps(inside, target.tokens, vocabulary),
        hypotheses=list(hypotheses),
        tree=list(tree),
        attention={name: _rounded(weights) for name, weights in inside.maps.items()},
        alignment=alignment.word_pairs(inside.maps, head, *words) if head else [],
        alignment_from=head,
    )


def side(codec: Codec, tokens: list[str], text: str | None = None) -> Side:
    """A side of a trace; without a text, that which the tokens spell."""
    tokenizer, word_of = codec.tokenizer, codec.tokenizer.words(tokens)
    spelt: dict[int, list[str]] = {}
    for token, word in zip(tokens, word_of):
        if word is not None:
            spelt.setdefault(word, []).append(token)
    words = [tokenizer.detokenize(each).strip() for each in spelt.values()]
    text = tokenizer.detokenize(tokens) if text is None else text
    return Side(text, [*tokens, SPECIAL[EOS]], words, [*word_of, None])


def _steps(inside: Inside, tokens: list[str], vocabulary: list[str]) -> list[Step]:
    unknown = [None] * len(tokens)
    return [
        Step(
            token=token,
            log_probability=round(log_probability, 6),
            rank=rank,
            entropy=None if entropy is None else round(entropy, 6),
            alternatives=[Alternative(vocabulary[id], round(each, 6)) for id, each in best],
        )
        for token, log_probability, rank, entropy, best in zip(
            tokens,
            inside.log_probabilities,
            inside.ranks or unknown,
            inside.entropies or unknown,
            inside.best or [[]] * len(tokens),
        )
    ]


def _hypotheses(found: list[Found], codec: Codec, n_best: int) -> list[Hypothesis]:
    """The best one of each text."""
    chosen: dict[str, Hypothesis] = {}
    for each in found:
        tokens = codec.vocabulary.decode(each.ids)
        text = codec.tokenizer.detokenize(tokens)
        numbers = round(each.log_probability, 6), round(each.score, 6)
        chosen.setdefault(text, Hypothesis(text, tokens, *numbers))
    return list(chosen.values())[:n_best]


def _rounded(weights: np.ndarray) -> list[list[list[float]]]:
    return weights.astype(float).round(4).tolist()


def _tree(trail: list[SearchStep], vocabulary: list[str], penalty: LengthPenalty) -> list[Node]:
    """The trail of one sentence's search as a tree; a node comes after its parent."""
    nodes: list[Node] = []
    rows: list[int] = []  # the node of each hypothesis of a step
    for step, each in enumerate(trail):
        length, above = step + 1, rows  # of what the step makes

        def add(parent: int, length: int, token: int, log_probability: float, end: End) -> int:
            score = log_probability / penalty.divisor(max(1, length))
            numbers = round(log_probability, 6), round(score, 6)
            nodes.append(Node(parent, length, vocabulary[token], *numbers, end))
            return len(nodes) - 1

        columns = each.tokens.tolist(), each.parents.tolist(), each.live.tolist()
        rows = [
            add(above[parent] if above else -1, step, token, live, None) if live > NEVER else -1
            for token, parent, live in zip(*columns)
        ]
        for row, ended in enumerate(each.ended.tolist()):
            if ended > NEVER:
                add(rows[row], length, EOS, ended, "finished")
        if (pruned := each.pruned) is not None:
            for row, ended in enumerate(pruned.ended[0].tolist()):
                if ended > NEVER:
                    add(rows[row], length, EOS, ended, "width")
            parts = pruned.live[0], pruned.parents[0], pruned.tokens[0]
            for live, row, token in zip(*(part.tolist() for part in parts)):
                if live > NEVER:
                    add(rows[row], length, token, live, "width")
    parents, last = {node.parent for node in nodes}, len(trail) - 1
    return [
        replace(node, end="stop" if node.step == last else "width")
        if node.end is None and place not in parents
        else node
        for place, node in enumerate(nodes)
    ]
