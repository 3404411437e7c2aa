"""A line that is too long for a model: cut into pieces, whose translations are joined."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..text.tokenizers import IDEOGRAPHS

# Where a text may be cut, best first: after sentences, after clauses, between words. In scripts
# without spaces between sentences, after the sign itself.
BREAKS = [
    re.compile(
        r"""(?:(?<=[.!?…؟۔।॥።။។])|(?<=[.!?…]["'”’»)\]]))\s+(?![a-zß-öø-ÿ])"""
        "|(?<=[。！？｡])(?![。！？｡”’」』）])|(?<=[。！？｡][”’」』）])"
    ),
    re.compile(r"(?<=[,;:،؛–—])\s+|(?<=[，、；：])"),
    re.compile(r"\s+"),
]
# Letters and signs (Chinese, Japanese) beside which there is no space between sentences.
UNSPACED = re.compile(f"[{IDEOGRAPHS}\u3000-\u303f\uff00-\uffef]")

Tokenize = Callable[[str], list[str]]


def cut(text: str, tokenize: Tokenize, limit: int, level: int = 0) -> list[list[str]]:
    """The tokens of parts of a text, at most `limit` each.

    Every sentence is a part. One that is too long is cut at the next level of BREAKS, as seldom
    as possible; what has no break at all is cut anywhere.
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
    """Neighbouring parts joined while they have about `limit` tokens."""
    filled, size = [""], 0
    for part in parts:
        count = len(tokenize(part))
        if size and size + count > limit:
            filled.append("")
            size = 0
        filled[-1] += part
        size += count
    return filled


def join(texts: Sequence[str]) -> str:
    """Texts as one, with spaces between them where their scripts write spaces."""
    joined = ""
    for text in texts:
        spaced = joined and text and not UNSPACED.match(joined[-1]) and not UNSPACED.match(text[0])
        joined += f" {text}" if spaced else text
    return joined
