"""Two ways to translate without learning a grammar, which any model must beat: `python data/toy/baselines.py`.

Word by word looks each English word up in a dictionary learnt from train; the nearest sentence gives back the
translation of the train sentence most like the one asked for. Prints how many sentences of test and test_long each gets
exactly right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
LONGEST = 4  # Chinese characters of a dictionary entry
Pairs = list[tuple[str, str]]


def read(name: str) -> Pairs:
    """The pairs of one split."""
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [(english, chinese) for english, chinese in (line.split("\t") for line in lines)]


def word_by_word(train: Pairs) -> Callable[[str], str]:
    """Each word becomes the Chinese string it most often goes together with (Dice's coefficient); order stays English.

    Dice: 2 · sentences with both / (sentences with the word + sentences with the string). Below one half a word has no
    Chinese of its own and falls away, as *the* and *did* should; of equally good strings the longest wins.
    """
    words: Counter[str] = Counter()
    strings: Counter[str] = Counter()
    together: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for english, chinese in train:
        parts = {
            chinese[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(chinese) - n + 1)
        }
        strings.update(parts)
        for word in set(english.split()):
            words[word] += 1
            together[word].update(parts)
    dictionary = {}
    for word, counts in together.items():
        score, _, best = max(
            (2 * n / (words[word] + strings[part]), len(part), part) for part, n in counts.items()
        )
        dictionary[word] = best if score >= 0.5 else ""
    return lambda english: "".join(dictionary.get(word, "") for word in english.split())


def nearest_sentence(train: Pairs) -> Callable[[str], str]:
    """The Chinese of the train sentence that shares the largest part of its words and word pairs (Jaccard's index)."""

    def features(english: str) -> set[str]:
        words = english.split()
        return {*words, *map(" ".join, zip(words, words[1:]))}

    holding: defaultdict[str, list[int]] = defaultdict(list)
    sizes = []
    for number, (english, _) in enumerate(train):
        found = features(english)
        sizes.append(len(found))
        for feature in found:
            holding[feature].append(number)

    def translate(english: str) -> str:
        wanted = features(english)
        shared = Counter(number for feature in wanted for number in holding[feature])

        def likeness(number: int) -> tuple[float, int]:
            return shared[number] / (len(wanted) + sizes[number] - shared[number]), -number

        return train[max(shared, key=likeness)][1]

    return translate


BASELINES = {"word by word": word_by_word, "nearest train sentence": nearest_sentence}


def exact_match(translate: Callable[[str], str], pairs: Pairs) -> float:
    """Percent of sentences that come out exactly as the reference."""
    return 100 * sum(translate(english) == chinese for english, chinese in pairs) / len(pairs)


if __name__ == "__main__":
    train = read("train")
    print(f"{'exact match, %':24}{'test':>8}{'test_long':>12}")
    for name, learn in BASELINES.items():
        translate = learn(train)
        print(
            f"{name:24}{exact_match(translate, read('test')):8.1f}{exact_match(translate, read('test_long')):12.1f}"
        )
