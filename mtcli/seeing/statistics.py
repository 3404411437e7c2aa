"""Corpora in numbers, and translations in groups: by length, by words that training has and lacks.

Lengths are in tokens of the run's own tokenizers. Words are letters and digits between spaces and punctuation marks, or
single ideographs; upper case does not count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from ..text import metrics
from ..text.codec import Codec
from ..text.tokenizers import split_words
from ..text.vocab import UNK

LENGTHS = (5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200)  # tokens, at most, of a group
FREQUENCIES = {0: "unseen", 9: "1–9 times", 99: "10–99 times", 999: "100–999 times"}  # at most
OFTEN = "1,000 times and more"
SENTENCE = "chrf"  # the score of sentences and groups of them: it says something even of one


@dataclass
class Seen:
    """What occurs in training data; sources and pairs by their hashes."""

    pairs: set[int] = field(default_factory=set)
    sources: set[int] = field(default_factory=set)
    words: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))


class Answers(NamedTuple):
    """A test set, and what a run makes of it."""

    sources: list[str]
    references: list[list[str]]
    hypotheses: list[str]
    metrics: Sequence[str]
    options: metrics.Options


def summary(
    name: str,
    pairs: Iterable[tuple[str, str]],
    codecs: tuple[Codec, Codec],
    seen: Seen,
    training: bool = False,
) -> dict[str, Any]:
    """What is in a corpus, which is added to ``seen`` if it is the training data."""
    lengths: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    known: set[int] = set()
    in_train, unknown, items = 0, 0, iter(pairs)
    while pool := list(islice(items, 1000)):
        for number, texts in enumerate(zip(*pool)):
            for ids in codecs[number].encode_all(texts):
                lengths[number][len(ids) - 1] += 1
                unknown += ids.count(UNK)
            if training:
                seen.words[number].update(word for text in texts for word in _words(text))
        in_train += sum(hash(source) in seen.sources for source, _ in pool)
        known.update(map(hash, pool))
        if training:
            seen.sources.update(hash(source) for source, _ in pool)
    if training:
        seen.pairs = known
    count = lengths[0].total()
    tokens = [sum(length * times for length, times in each.items()) for each in lengths]
    return {
        "name": name,
        "pairs": count,
        "source_tokens": tokens[0],
        "target_tokens": tokens[1],
        "duplicates": count - len(known),
        "in_train": in_train if seen.pairs and not training else None,
        "unknown": round(unknown / max(1, sum(tokens)), 6),
        "lengths": dict(zip(("source", "target"), map(_histogram, lengths))),
    }


def _histogram(lengths: Counter[int]) -> list[tuple[int, int]]:
    """(tokens, at most; sentences) up to the longest."""
    ends = [*LENGTHS, max(lengths)]
    groups: Counter[int] = Counter()
    for length, times in lengths.items():
        groups[bisect_left(LENGTHS, length)] += times
    return [(ends[place], groups[place]) for place in range(max(groups) + 1)]


def _words(text: str) -> list[str]:
    return split_words(text.casefold())


def buckets(own: Answers, source: Codec, seen: Seen | None) -> list[dict[str, Any]]:
    """Scores of groups of sentences, and of words."""
    lengths = [len(ids) - 1 for ids in source.encode_all(own.sources)]
    labels = [f"{low + 1}–{end}" for low, end in zip((0, *LENGTHS), LENGTHS)]
    labels.append(f"over {LENGTHS[-1]}")
    found = _groups(
        "source tokens (chrF)",
        [labels[bisect_left(LENGTHS, length)] for length in lengths],
        labels,
        own,
    )
    if seen:
        known = seen.words[0].keys()
        both = ["all in training", "some not in training"]
        chosen = [both[not known >= set(_words(text))] for text in own.sources]
        found += _groups("source words (chrF)", chosen, both, own)
        found += _by_frequency(own, seen.words[1])
    return found


def _groups(by: str, chosen: list[str], labels: list[str], own: Answers) -> list[dict[str, Any]]:
    found = []
    for label in labels:
        rows = [row for row, each in enumerate(chosen) if each == label]
        if rows:
            texts = [own.hypotheses[row] for row in rows], [own.references[row] for row in rows]
            score = metrics.score([SENTENCE], *texts, own.options)[SENTENCE].value
            found.append(
                {"by": by, "label": label, "sentences": len(rows), "score": round(score, 2)}
            )
    return found


def _by_frequency(own: Answers, known: Counter[str]) -> list[dict[str, Any]]:
    """How well target words come out that are rare or frequent in training: the F-measure of words of
    hypotheses against those of references."""
    labels, ends = [*FREQUENCIES.values(), OFTEN], list(FREQUENCIES)
    hits, total, sentences = Counter[str](), Counter[str](), Counter[str]()
    for hypothesis, references in zip(own.hypotheses, own.references):
        ours, theirs = Counter(_words(hypothesis)), Counter(_words(references[0]))
        of = {word: labels[bisect_left(ends, known[word])] for word in ours | theirs}
        for word, label in of.items():
            hits[label] += 2 * min(ours[word], theirs[word])
            total[label] += ours[word] + theirs[word]
        sentences.update({of[word] for word in theirs})
    by = "target words by their number in training (F1)"
    return [
        {
            "by": by,
            "label": label,
            "sentences": sentences[label],
            "score": round(100 * hits[label] / total[label], 2),
        }
        for label in labels
        if sentences[label]
    ]
