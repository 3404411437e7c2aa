"""A line that is too long for a model: cut into pieces, whose translations are joined."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from ..text.writing import IDEOGRAPHS, UNSPACED as WITHOUT_SPACES
from .engine import Hypothesis

_U = WITHOUT_SPACES.pattern[1:-1]
_LEADING = "\u0e40-\u0e44\u0ec0-\u0ec4"  # vowels of Thai and Lao, written before their consonant
_OPENING = "「『（【《〈“‘"
_NEVER_FIRST = "々〻ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー・ゝゞヽヾ"
# Where a text may be cut, best first: after sentences, after clauses, between words, between what
# may be words in scripts without spaces, between letters. In these scripts sentences and clauses
# end at the sign itself, words at a zero width space or (Tibetan) a tsheg.
BREAKS = [
    re.compile(
        r"""(?:(?<=[.!?…؟۔।॥།။។៕])|(?<=[.!?…]["'”’»)\]]))\s+(?![a-zß-öø-ÿ])"""
        r"|(?<=[。！？｡།။។៕])(?![。！？｡།။។៕”’」』）\s])|(?<=[。！？｡][”’」』）])"
    ),
    re.compile(r"(?<=[,;:،؛–—])\s+|(?<=[，、；：၊])(?!\s)"),
    re.compile(r"[^\S\u00a0\u202f]+"),
    re.compile(r"\u200b+|(?<=་)"),
    re.compile(
        rf"\s+|(?<![{_OPENING}])(?=[{IDEOGRAPHS}])(?!(?<=[ァ-ー])[ァ-ー]|[{_NEVER_FIRST}])"
        rf"|(?<![{_LEADING}])(?=[{_LEADING}])|(?<=[ๆฯໆ])"  # Thai, Lao
        r"|(?<!\u1039)(?=[\u1000-\u102a\u103f](?!\u1037?[\u1039\u103a]))"  # Burmese
        rf"|(?<=[{_U}])(?=[^\W{_U}])|(?<=[^\W{_U}])(?=[{_U}])"
    ),
    re.compile(rf"(?<![{_LEADING}\u17d2\u1039\u200d])(?=\w)"),
]
# Letters and signs (Chinese, Japanese) beside which there is no space between sentences.
UNSPACED = re.compile(f"[{IDEOGRAPHS}\u3000-\u303f\uff00-\uffef]")

Tokenize = Callable[[str], list[str]]


def cut(text: str, tokenize: Tokenize, limit: int, level: int = 0) -> list[list[str]]:
    """The tokens of parts of a text, at most `limit` each.

    Every sentence is a part. One that is too long is cut at the next level of BREAKS, as seldom
    as possible; what has no break at all, such as a word that is too long, is cut anywhere.
    """
    tokens = tokenize(text)
    if len(tokens) <= limit or level == len(BREAKS):
        return [tokens[start : start + limit] for start in range(0, len(tokens), limit)]
    ends = [match.end() for match in BREAKS[level].finditer(text)]
    parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]
    if level > 0:
        parts = _filled(parts, tokenize, limit)
    return [
        piece
        for part in parts
        if part.strip()
        for piece in cut(part.strip(), tokenize, limit, level + 1)
    ]


def _filled(parts: Sequence[str], tokenize: Tokenize, limit: int) -> list[str]:
    """Neighbouring parts joined, as many as have at most `limit` tokens together."""
    filled, start = [], 0

    def size(end: int) -> int:
        return len(tokenize("".join(parts[start:end])))

    while start < len(parts):
        step = 1
        while start + step < len(parts) and size(start + step) <= limit:
            step *= 2
        ends = range(start + max(1, step // 2), min(start + step, len(parts)) + 1)
        end = ends[max(0, bisect_right(ends, limit, key=size) - 1)]
        filled.append("".join(parts[start:end]))
        start = end
    return filled


def join(texts: Sequence[str]) -> str:
    """Texts as one, with spaces between them where their scripts write spaces."""
    joined = ""
    for text in texts:
        spaced = joined and text and not UNSPACED.match(joined[-1]) and not UNSPACED.match(text[0])
        joined += f" {text}" if spaced else text
    return joined


def join_hypotheses(parts: list[list[Hypothesis]]) -> list[Hypothesis]:
    """The hypotheses of a line from those of its pieces: the best of each, the second best, …"""
    if len(parts) == 1:
        return parts[0]
    joined = []
    for rank in range(max(map(len, parts), default=0)):
        chosen = [hypotheses[min(rank, len(hypotheses) - 1)] for hypotheses in parts]
        joined.append(
            Hypothesis(
                ids=[id for each in chosen for id in each.ids],
                log_probability=sum(each.log_probability for each in chosen),
                score=sum(each.score for each in chosen),
                text=join([each.text for each in chosen]),
                tokens=[token for each in chosen for token in each.tokens],
            )
        )
    return joined
