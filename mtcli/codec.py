"""Text to ids and back, for one side: a tokenizer and its vocabulary. Knows no files but its own, and no model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .config import Config
from .errors import UserError
from .tokenizers import TOKENIZERS, Tokenizer
from .vocab import EOS, UNK, Vocabulary

log = logging.getLogger("mtcli")

LARGE_VOCABULARY = 50_000  # tokens; past this, embeddings and softmax cost more than the rest of a small model


class Codec:
    """Text ⇄ ids of one side. Ids never hold PAD or BOS; they end in EOS where ``encode`` made them."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary

    def encode(self, text: str, sample: bool = False) -> list[int]:
        """Ids of ``text``, EOS at the end; with ``sample`` by a random segmentation, where the tokenizer has them."""
        tokens = self.tokenizer.sample(text) if sample else self.tokenizer.tokenize(text)
        return [*self.vocabulary.encode(tokens), EOS]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; PAD, BOS and EOS leave no trace."""
        return self.tokenizer.detokenize(self.vocabulary.decode(ids))


def learn(config: Config, pairs: Iterable[tuple[str, str]]) -> tuple[Codec, Codec]:
    """Train tokenizers and count vocabularies, source and target, on training pairs (held in memory)."""
    sides = [list(side) for side in zip(*((pair[0], pair[1]) for pair in pairs))]
    if not sides:
        raise UserError("There is no training pair to build a vocabulary from: data.train holds none.")
    if config.shared_vocabulary:
        codec = _learn(config.tokenizers[0], sides[0] + sides[1])
        return codec, codec
    source, target = (_learn(part, lines) for part, lines in zip(config.tokenizers, sides))
    return source, target


def _learn(config, lines: list[str]) -> Codec:
    tokenizer = TOKENIZERS[config.type].train(config, lines)
    pieces = tokenizer.pieces()
    if pieces is not None:
        return Codec(tokenizer, Vocabulary(pieces))
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(tokenizer.tokenize(line))
    vocabulary = Vocabulary.build(counts, config.min_count, config.max_size)
    if len(vocabulary) > LARGE_VOCABULARY:
        log.warning(
            f"The {config.type} vocabulary has {len(vocabulary):,} tokens, most of them rare: the model will be large "
            "and know little about them. `tokenizer: subword` needs a few thousand; or set tokenizer.max_size."
        )
    return Codec(tokenizer, vocabulary)


def report(codec: Codec, lines: Iterable[str]) -> dict[str, float]:
    """Size of a codec's vocabulary, and over ``lines``: tokens, tokens a line, share of UNK, share of the vocabulary used."""
    tokens = unknown = count = 0
    seen: set[int] = set()
    for line in lines:
        ids = codec.encode(line)[:-1]  # without EOS
        tokens += len(ids)
        unknown += ids.count(UNK)
        count += 1
        seen.update(ids)
    return {
        "size": len(codec.vocabulary),
        "tokens": tokens,
        "tokens_per_line": tokens / max(count, 1),
        "unknown_rate": unknown / max(tokens, 1),
        "used": len(seen) / len(codec.vocabulary),
    }


def save(folder: Path, source: Codec, target: Codec) -> None:
    """Write both sides into ``folder`` (which must exist); a shared codec is written once."""
    for name, codec in {"shared": source}.items() if source is target else {"source": source, "target": target}.items():
        codec.tokenizer.save(folder / name)
        codec.vocabulary.save(folder / f"{name}.vocabulary.json")


def load(folder: Path, config: Config) -> tuple[Codec, Codec]:
    """Read both sides back. Raises UserError where a file is missing or damaged."""
    if config.shared_vocabulary:
        codec = _load(folder, "shared", config.tokenizers[0])
        return codec, codec
    source, target = (_load(folder, name, part) for name, part in zip(("source", "target"), config.tokenizers))
    return source, target


def _load(folder: Path, name: str, config) -> Codec:
    tokenizer = TOKENIZERS[config.type].load(config, folder / name)
    vocabulary = Vocabulary.load(folder / f"{name}.vocabulary.json")
    if tokenizer.pieces() not in (None, vocabulary.tokens):
        raise UserError(f"{folder / name}.vocabulary.json is not the vocabulary of the tokenizer beside it.")
    return Codec(tokenizer, vocabulary)
