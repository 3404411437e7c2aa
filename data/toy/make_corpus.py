"""Writes train.tsv, validation.tsv, test.tsv and test_long.tsv beside itself: `python data/toy/make_corpus.py`.

The grammar (grammar.py) invents sentences; this file decides which of them a model may see. Some word pairs are *held
out*: no sentence of train or validation holds both words of such a pair, in any form, while every sentence of test
is built around one of them, and every sentence of test_long is longer than all that train has. So test asks for known
words in new company, and test_long for known phrases in longer sentences. The four files are the same bytes every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from grammar import Draw, Pair, Phrase, sentence
from lexicon import ACTIONS, ADJECTIVES, KIN, NOUNS, PEOPLE, SENSES, VERBS

FOLDER = Path(__file__).parent
SEED = 1
SIZES = {"train": 8000, "validation": 500, "test": 600, "test_long": 600}
MIN_WORDS, MAX_WORDS = (
    6,
    20,
)  # English tokens of a sentence of train, validation and test; the full stop is one
MAX_CHARACTERS = 28  # Chinese characters of the same
MAX_LONG_WORDS, MAX_LONG_CHARACTERS = (
    34,
    48,
)  # test_long lies above the former limits and within these, on both sides
CHAINS, LONG_CHAINS = (
    0.3,
    0.9,
)  # share of sentences with several coordinated clauses: two, in test_long up to three
HELD_OUT = 0.06  # share of the possible word pairs that train never shows together
MAX_HELD_OUT_OF_WORD = 0.25  # share of a word's partners that may be held out
MIN_COUNT = 20  # every word and character of test and test_long is in train at least so often


def possible_pairs() -> list[Pair]:
    """All pairs that the lexicon allows and whose translation is that of the two words.

    Left out are words that mean something else with each partner (*wear*, *play*, *old*): the pair alone shows which.
    """
    verbs = Counter(sense.verb for sense in SENSES)
    adjectives = Counter(adjective.english for adjective in ADJECTIVES)
    described = [
        (row.english, noun)
        for row in ADJECTIVES
        if adjectives[row.english] == 1
        for noun in row.nouns
    ]
    done = [(row.verb, noun) for row in SENSES if verbs[row.verb] == 1 for noun in row.objects]
    placed = [
        (row.verb, place) for row in SENSES + ACTIONS for place in row.places if row.verb != "do"
    ]
    doers = [
        (who, row.verb) for who in [*KIN, *PEOPLE] for row in SENSES + ACTIONS if row.verb != "do"
    ]
    return list(dict.fromkeys(described + done + placed + doers))


def held_out_pairs() -> list[Pair]:
    """The pairs that train never shows together: drawn at random, but leaving each word most of its partners."""
    pairs, draw = possible_pairs(), Draw(SEED)
    partners = Counter(word for pair in pairs for word in pair)
    chosen: list[Pair] = []
    taken: Counter[str] = Counter()
    while len(chosen) < HELD_OUT * len(pairs):
        pair = draw.one(pairs)
        if pair not in chosen and all(
            taken[word] + 1 <= MAX_HELD_OUT_OF_WORD * partners[word] for word in pair
        ):
            chosen.append(pair)
            taken.update(pair)
    return chosen


def forms() -> dict[str, set[str]]:
    """Every English form and the words it may belong to: books → book, wore → wear, newer → new."""
    found: dict[str, set[str]] = {}
    for noun in NOUNS.values():
        for form in f"{noun.one} {noun.many}".split():
            found.setdefault(form, set()).add(noun.name)
    for verb in VERBS.values():
        for form in verb:
            found.setdefault(form, set()).add(verb.base)
    for adjective in ADJECTIVES:
        for form in (adjective.english, adjective.comparative):
            found.setdefault(form, set()).add(adjective.english)
    return found


FORMS = forms()


def words_of(english: str) -> set[str]:
    """The dictionary words of a sentence."""
    return {word for form in english.split() for word in FORMS.get(form, {form})}


def touches(pairs: Iterable[Pair], english: str) -> bool:
    """Whether a sentence holds both words of one of the pairs, wherever they stand."""
    words = words_of(english)
    return any(first in words and second in words for first, second in pairs)


def fits(said: Phrase) -> bool:
    """Whether a sentence has the length of train, validation and test."""
    return (
        MIN_WORDS <= len(said.english.split()) <= MAX_WORDS and len(said.chinese) <= MAX_CHARACTERS
    )


def is_long(said: Phrase) -> bool:
    """Whether a sentence has the length of test_long."""
    words, characters = len(said.english.split()), len(said.chinese)
    return (
        MAX_WORDS < words <= MAX_LONG_WORDS and MAX_CHARACTERS < characters <= MAX_LONG_CHARACTERS
    )


class Source:
    """New sentences from the grammar, none twice."""

    def __init__(self, seed: int) -> None:
        self._draw = Draw(seed)
        self._said: dict[str, str] = {}

    def next(self, chains: float, clauses: int) -> Phrase:
        """A sentence that was not said before."""
        while True:
            said = sentence(self._draw, chains, clauses)
            known = self._said.get(said.english)
            assert known in (None, said.chinese), (
                f"two translations of {said.english!r}: {known} and {said.chinese}"
            )
            if known is None:
                self._said[said.english] = said.chinese
                return said


def corpus() -> dict[str, list[Phrase]]:
    """The four splits."""
    held_out, source = held_out_pairs(), Source(SEED + 1)
    seen: list[Phrase] = []  # for train and validation
    unseen: list[
        Phrase
    ] = []  # for test, and more than enough: some hold a word that turns out to be rare in train
    while len(seen) < SIZES["train"] + SIZES["validation"] or len(unseen) < 2 * SIZES["test"]:
        said = source.next(CHAINS, 2)
        if fits(said) and not touches(held_out, said.english):
            seen.append(said)
        elif fits(said) and not said.pairs.isdisjoint(held_out):
            unseen.append(said)
    validation, train = seen[: SIZES["validation"]], seen[SIZES["validation"] :][: SIZES["train"]]

    words = Counter(word for said in train for word in said.english.split())
    characters = Counter(character for said in train for character in said.chinese)

    def familiar(said: Phrase) -> bool:
        counts = [words[word] for word in said.english.split()] + [
            characters[character] for character in said.chinese
        ]
        return min(counts) >= MIN_COUNT

    test = [said for said in unseen if familiar(said)][: SIZES["test"]]
    test_long: list[Phrase] = []
    while len(test_long) < SIZES["test_long"]:
        said = source.next(LONG_CHAINS, 3)
        if is_long(said) and familiar(said) and not touches(held_out, said.english):
            test_long.append(said)
    return {"train": train, "validation": validation, "test": test, "test_long": test_long}


def files() -> dict[str, str]:
    """The name and content of each file: English, a tab, Chinese."""

    def rows(phrases: list[Phrase]) -> str:
        return "".join(f"{said.english}\t{said.chinese}\n" for said in phrases)

    return {f"{name}.tsv": rows(phrases) for name, phrases in corpus().items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_bytes(text.encode("utf-8"))
        print(f"{name}: {text.count(chr(10))} sentence pairs")
