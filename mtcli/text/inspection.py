"""What looks wrong with a corpus: said before a model is trained on it, which may take hours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ..config import TSV, Plain
from ..config.messages import show
from ..support.errors import log
from .corpus import Pair, read_pairs
from .writing import has_letter

SAMPLE = 10_000  # pairs that are looked at
ENOUGH = 20  # pairs; not all may be the same
SIDES = ("source", "target")
HEADERS = set(
    "source target src trg tgt text texts sentence sentences original translation translations reference input output id "
    "arabic chinese dutch english french german hindi italian japanese korean polish portuguese russian spanish turkish "
    "ukrainian vietnamese".split()
)


def inspect(corpus: TSV | Plain, languages: Sequence[str | None]) -> None:
    """Show the first pair of a corpus, and warn of what a table of other things than sentences looks like.

    ``languages``: what the config calls those of the source and the target. Raises UserError as `read_pairs` does.
    """
    pairs = list(islice(read_pairs(corpus, skip_blank=True, warn=False), SAMPLE))
    first = pairs[0]
    log.info(f"{first.place}: {show(first.source)} is translated as {show(first.target)}")
    for problem in _problems(pairs, languages):
        log.warning(problem)


def _problems(pairs: Sequence[Pair], languages: Sequence[str | None]) -> Iterator[str]:
    (*fields, place), rest = pairs[0], pairs[1:]
    titles = HEADERS | {language.lower() for language in languages if language}
    if all(field.strip(' "').lower() in titles for field in fields):
        yield f"{place}: this looks like the header of a table. It is taken for a pair: remove it."
    for side, name in enumerate(SIDES):
        texts = [pair[side].strip() for pair in rest]
        if len(texts) > 1 and all(len(text) > 1 and text[0] == text[-1] == '"' for text in texts):
            yield f"{place}: every {name} is in quotes, as in CSV. They are learnt as part of the text: remove them."
        if len(texts) > 1 and not any(map(has_letter, texts)):
            yield f"{place}: no {name} has a letter: all are numbers or symbols. Is it the right column?"
        elif len(texts) >= ENOUGH and len(distinct := set(texts)) * ENOUGH <= len(texts):
            few = f"{len(distinct)} different {name}s" if len(distinct) > 1 else f"one {name}"
            yield (
                f"{place}: {len(texts) + 1:,} pairs have only {few}, such as {show(texts[0])}. Is it the right column?"
            )
