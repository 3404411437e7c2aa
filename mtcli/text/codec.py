"""Text to ids and back, for one side: a tokenizer and its vocabulary. Knows no files but its own, and no model."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config import Characters, Config, Subwords, Words
from ..support.errors import UserError
from .tokenizers import TOKENIZERS, Tokenizer
from .vocab import EOS, UNK, Vocabulary

log = logging.getLogger("mtcli")

LARGE_VOCABULARY = (
    50_000  # tokens; past this, embeddings and softmax cost more than the rest of a small model
)


class Codec:
    """Text ⇄ ids of one side. Ids never hold PAD or BOS; they end in EOS where ``encode`` made them."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary

    def encode(self, text: str, sample: bool = False) -> list[int]:
        """Ids of ``text``, EOS at the end; with ``sample`` by a random segmentation, where the tokenizer has them."""
        tokens = self.tokenizer.sample(text) if sample else self.tokenizer.tokenize(text)
        return [*self.vocabulary.encode(tokens), EOS]

    def encode_all(self, lines: Sequence[str]) -> list[list[int]]:
        """``encode`` of every line; faster than one by one."""
        return [
            [*self.vocabulary.encode(tokens), EOS] for tokens in self.tokenizer.tokenize_all(lines)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; PAD, BOS and EOS leave no trace."""
        return self.tokenizer.detokenize(self.vocabulary.decode(ids))


def learn(config: Config, read: Callable[[], Iterable[tuple[str, ...]]]) -> tuple[Codec, Codec]:
    """Train tokenizers and count vocabularies, source and target, on training pairs.

    ``read`` begins to read the pairs (source, target, …) anew whenever it is called; none of them is kept.
    """
    if next(iter(read()), None) is None:
        raise UserError(
            "There is no training pair to build a vocabulary from: data.train holds none."
        )
    if config.shared_vocabulary:
        codec = _learn(config.tokenizers[0], lambda: (text for pair in read() for text in pair[:2]))
        return codec, codec
    source = _learn(config.tokenizers[0], lambda: (pair[0] for pair in read()))
    return source, _learn(config.tokenizers[1], lambda: (pair[1] for pair in read()))


def _learn(config, read: Callable[[], Iterable[str]]) -> Codec:
    tokenizer = TOKENIZERS[config.type].train(config, read())
    pieces = tokenizer.pieces()
    if pieces is not None:
        return Codec(tokenizer, Vocabulary(pieces))
    counts: Counter[str] = Counter()
    for line in read():
        counts.update(tokenizer.tokenize(line))
    vocabulary = Vocabulary.build(counts, config.min_count, config.max_size)
    if len(vocabulary) > LARGE_VOCABULARY:
        log.warning(
            f"The {config.type} vocabulary has {len(vocabulary):,} tokens, most of them rare: the model will be large "
            "and know little about them. `tokenizer: subword` needs a few thousand; or set tokenizer.max_size."
        )
    return Codec(tokenizer, vocabulary)


def report(codec: Codec, lines: Iterable[str]) -> dict[str, float]:
    """Size of a vocabulary, and over ``lines``: tokens, tokens a line, share of UNK, share of the vocabulary used."""
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
    for name, codec in (
        {"shared": source}.items()
        if source is target
        else {"source": source, "target": target}.items()
    ):
        codec.tokenizer.save(folder / name)
        codec.vocabulary.save(folder / f"{name}.vocabulary.json")


def fingerprint(source: Codec, target: Codec) -> str:
    """A number, in hexadecimal, that differs where any text could have other ids."""
    digest = hashlib.sha256()
    for codec in (source, target):
        digest.update(codec.tokenizer.config.model_dump_json().encode() + b"\0")
    with TemporaryDirectory() as folder:
        save(Path(folder), source, target)
        for path in sorted(Path(folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def load(folder: Path, config: Config) -> tuple[Codec, Codec]:
    """Read both sides back. Raises UserError where a file is missing or damaged."""
    return restore(folder, config.tokenizers, config.shared_vocabulary)


def restore(
    folder: Path, tokenizers: Sequence[Characters | Words | Subwords], shared: bool
) -> tuple[Codec, Codec]:
    """As `load`, by nothing but the sections of the config that are the tokenizers'."""
    if shared:
        codec = _load(folder, "shared", tokenizers[0])
        return codec, codec
    source, target = (
        _load(folder, name, part) for name, part in zip(("source", "target"), tokenizers)
    )
    return source, target


def _load(folder: Path, name: str, config) -> Codec:
    tokenizer = TOKENIZERS[config.type].load(config, folder / name)
    vocabulary = Vocabulary.load(folder / f"{name}.vocabulary.json")
    if tokenizer.pieces() not in (None, vocabulary.tokens):
        raise UserError(
            f"{folder / name}.vocabulary.json is not the vocabulary of the tokenizer beside it."
        )
    return Codec(tokenizer, vocabulary)
