"""Which Chinese characters say which English words, as far as the lexicon alone decides it.

A link is sure where a word and its Chinese stand in the pair once each. What has no word in the other language (*the*,
了, measure words), what the grammar says in its own way (question words, 会), and words that stand there twice have no
gold: characters without a link are not judged.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from lexicon import (
    ACTIONS,
    ADJECTIVES,
    DETERMINERS,
    DISPOSALS,
    NOUNS,
    PLACES,
    PRONOUNS,
    SENSES,
    TIMES,
    VERBS,
)


def _said() -> dict[str, set[str]]:
    """Every English word or fixed phrase, and what it may be in Chinese."""
    said = defaultdict(set)
    for noun in NOUNS.values():
        for english in {noun.one, noun.many} - {""}:
            said[english].add(noun.chinese)
    for row in ADJECTIVES:
        for english in {row.english, row.comparative} - {""}:
            said[english].add(row.chinese)
    for pronoun in PRONOUNS:
        for english in {pronoun.subject, pronoun.object, pronoun.possessive}:
            said[english].add(pronoun.chinese)
    for row in [*SENSES, *ACTIONS, *DISPOSALS]:
        for english in set(VERBS[row.verb]) - {"", "-"}:
            said[english].add(row.chinese)
    for place in PLACES.values():
        said[place.name.removeprefix("the ")].add(place.chinese)
    for english, chinese in [pair for times in TIMES.values() for pair in times]:
        said[english].add(chinese)
    for english, chinese in [*DETERMINERS["n"], *DETERMINERS["m"]]:
        said[english].add(chinese)
    return {**said, ",": {"，"}, ".": {"。"}, "?": {"？"}}


SAID = _said()
CHINESE = {chinese for forms in SAID.values() for chinese in forms} | {"怎么样", "什么", "为什么"}


class Gold(NamedTuple):
    """Links (English token, Chinese character); only the characters that are in some link are judged."""

    sure: set[tuple[int, int]]
    possible: set[tuple[int, int]]
    """The sure ones too; all of a phrase of several words with all of its Chinese."""


def _cut(text: str, entries: set[str], form: str = "{}") -> list[tuple[int, int]]:
    """Where the longest entries stand in a text, from left to right."""
    pattern = form.format("|".join(map(re.escape, sorted(entries, key=len, reverse=True))))
    return [match.span() for match in re.finditer(pattern, text)]


def align(english: str, chinese: str) -> Gold:
    """The links of one pair of the corpus."""
    starts = {match.start(): number for number, match in enumerate(re.finditer(r"\S+", english))}
    phrases = [
        (english[start:end], [starts[at] for at in range(start, end) if at in starts])
        for start, end in _cut(english, set(SAID), r"(?<!\S)(?:{})(?!\S)")
    ]
    spans = [(chinese[start:end], range(start, end)) for start, end in _cut(chinese, CHINESE)]
    gold = Gold(set(), set())
    for phrase, words in phrases:
        rivals = [each for each, _ in phrases if SAID[each] & SAID[phrase]]
        found = [places for form, places in spans if form in SAID[phrase]]
        if len(rivals) == len(found) == 1:
            links = {(word, place) for word in words for place in found[0]}
            gold.possible.update(links)
            if len(words) == 1:
                gold.sure.update(links)
    return gold
