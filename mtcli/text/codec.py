"""Text to ids and back, for one side: a tokenizer and its vocabulary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config import Config, Subwords
from ..config.schema import OneTokenizer
from ..support.errors import UserError, log
from . import writing
from .tokenizers import TOKENIZERS, Tokenizer
from .vocab import EOS, UNK, Vocabulary

# Tokens; with more, embeddings and softmax cost more than the rest of a small model.
LARGE_VOCABULARY = 50_000


@dataclass(frozen=True)
class Codec:
    """Text ⇄ ids of one side. Ids never hold PAD or BOS; ``encode`` puts EOS at the end.

    The codecs of two sides with one vocabulary differ in how text is cleaned.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    language: str | None = None
    is_source: bool = False

    def clean(self, text: str) -> str:
        """A text as the tokenizer gets it: the same for all that look the same, unless the config says otherwise."""
        return _clean(text, self.tokenizer.config, self.language, self.is_source)

    def tokenize(self, text: str) -> list[str]:
        return self.tokenizer.tokenize(self.clean(text))

    def tokenize_all(self, lines: Sequence[str]) -> list[list[str]]:
        """``tokenize`` of every line; faster than one by one."""
        return self.tokenizer.tokenize_all(list(map(self.clean, lines)))

    def encode(self, text: str) -> list[int]:
        return [*self.vocabulary.encode(self.tokenize(text)), EOS]

    def encode_all(self, lines: Sequence[str]) -> list[list[int]]:
        """``encode`` of every line; faster than one by one."""
        return [[*self.vocabulary.encode(each), EOS] for each in self.tokenize_all(lines)]

    def resample(self, ids: Sequence[int]) -> list[int]:
        """Ids of a random segmentation of the text of ``ids``, if the tokenizer has several."""
        return [*self.vocabulary.encode(self.tokenizer.resample(self.vocabulary.decode(ids))), EOS]

    def agrees(self, other: Codec) -> bool:
        """Whether both make the same ids of the same text."""
        keys = ("type", "algorithm", "clean", "lowercase", "normalization")
        one, two = ([getattr(c.tokenizer.config, key, None) for key in keys] for c in (self, other))
        return one == two and self.vocabulary.tokens == other.vocabulary.tokens

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without PAD, BOS and EOS."""
        return self.tokenizer.detokenize(self.vocabulary.decode(ids))


def learn(config: Config, read: Callable[[], Iterable[tuple[str, ...]]]) -> tuple[Codec, Codec]:
    """Train tokenizers and build vocabularies. Each call of ``read`` reads all pairs (source, target, …) again."""

    languages = config.data.source_language, config.data.target_language

    def clean(text: str, side: int) -> str:
        return _clean(text, config.tokenizers[side], languages[side], side == 0)

    def texts(*sides: int) -> Callable[[], Iterable[str]]:
        return lambda: (clean(pair[side], side) for pair in read() for side in sides)

    source, target = config.tokenizers
    if config.shared_vocabulary:
        return _codecs(config, _learn(source, texts(0, 1)))
    return _codecs(config, _learn(source, texts(0)), _learn(target, texts(1)))


def _clean(text: str, config: OneTokenizer, language: str | None, is_source: bool) -> str:
    if config.clean:
        text = writing.clean(text, drop_invisible=is_source)
        if config.lowercase and writing.is_turkic(language):
            text = text.replace("İ", "i").replace("I", "ı")  # str.lower does the rest
    return text


Learnt = tuple[Tokenizer, Vocabulary]


def _codecs(config: Config, *learnt: Learnt) -> tuple[Codec, Codec]:
    """Of both sides, for which the same was learnt where they share a vocabulary."""
    return (
        Codec(*learnt[0], config.data.source_language, is_source=True),
        Codec(*learnt[-1], config.data.target_language),
    )


def _learn(config: OneTokenizer, read: Callable[[], Iterable[str]]) -> Learnt:
    """From text that is clean."""
    tokenizer = TOKENIZERS[config.type].train(config, read())
    if isinstance(config, Subwords):
        return tokenizer, Vocabulary(tokenizer.pieces() or [])
    counts: Counter[str] = Counter()
    for line in read():
        counts.update(tokenizer.tokenize(line))
    if not counts:
        raise UserError("There is no text to build a vocabulary from.")
    vocabulary = Vocabulary.build(counts, config.min_count, config.max_size)
    if len(vocabulary) > LARGE_VOCABULARY:
        log.warning(
            f"The {config.type} vocabulary has {len(vocabulary):,} tokens, most of them rare: the model will be large "
            "and know little about them. `tokenizer: subword` needs a few thousand; or set tokenizer.max_size."
        )
    return tokenizer, vocabulary


@dataclass(frozen=True)
class Coverage:
    """How well a vocabulary covers a text."""

    size: int  # of the vocabulary
    tokens: int
    tokens_per_line: float
    unknown_rate: float  # share of the tokens that are UNK
    used: float  # share of the vocabulary that occurs


def coverage(codec: Codec, lines: Iterable[str]) -> Coverage:
    """How well a vocabulary covers ``lines``; EOS is not counted."""
    counts = Counter(id for line in lines for id in codec.encode(line))
    number = counts.pop(EOS, 0)  # of lines
    size, tokens = len(codec.vocabulary), counts.total()
    unknown_rate = counts[UNK] / max(tokens, 1)
    return Coverage(size, tokens, tokens / max(number, 1), unknown_rate, len(counts) / size)


def save(folder: Path, source: Codec, target: Codec) -> None:
    """Write both sides into ``folder`` (which must exist); what they share is written once."""
    shared = source.tokenizer is target.tokenizer
    sides = {"shared": source} if shared else {"source": source, "target": target}
    for name, codec in sides.items():
        codec.tokenizer.save(folder / name)
        codec.vocabulary.save(folder / f"{name}.vocabulary.json")


def load(folder: Path, config: Config) -> tuple[Codec, Codec]:
    """Read both sides back. Raises UserError where a file is missing or damaged."""
    source, target = config.tokenizers
    if config.shared_vocabulary:
        return _codecs(config, _load(folder / "shared", source))
    return _codecs(config, _load(folder / "source", source), _load(folder / "target", target))


def _load(path: Path, config: OneTokenizer) -> Learnt:
    tokenizer = TOKENIZERS[config.type].load(config, path)
    file = Path(f"{path}.vocabulary.json")
    vocabulary = Vocabulary.load(file)
    if tokenizer.pieces() not in (None, vocabulary.tokens):
        raise UserError(f"{file} is not the vocabulary of the tokenizer beside it.")
    return tokenizer, vocabulary


def fingerprint(source: Codec, target: Codec) -> str:
    """A hexadecimal number that differs where any text could have other ids."""
    digest = hashlib.sha256()
    for codec in (source, target):
        form = codec.tokenizer.config.model_dump_json(), str(codec.language), str(codec.is_source)
        digest.update("\0".join(form).encode() + b"\0")
    with TemporaryDirectory() as folder:
        save(Path(folder), source, target)
        for path in sorted(Path(folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
