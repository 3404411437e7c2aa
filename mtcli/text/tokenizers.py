"""Text to tokens and back. Knows no ids and no models.

A new tokenizer is a class here, its options in config.py, and a line in TOKENIZERS.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, groupby, islice
from pathlib import Path
from random import Random

import sentencepiece

from ..config import Characters, Subwords, Words
from ..support.errors import UserError
from .segmentation import BPEDropout, UnigramSampling

log = logging.getLogger("mtcli")


class Tokenizer:
    """Cuts a line of text into tokens, and joins tokens to text.

    ``tokenize`` begins with ``normalize``. Tokens are never empty and hold no line end, and neither does joined text.
    """

    samples = False
    """Whether ``sample`` differs from ``tokenize``."""

    def __init__(self, config: Characters | Words | Subwords):
        self.config = config

    @classmethod
    def train(cls, config: Characters | Words | Subwords, lines: Iterable[str]) -> Tokenizer:
        """Learn from text what there is to learn (by default nothing; the lines are then not read)."""
        return cls(config)

    @classmethod
    def load(cls, config: Characters | Words | Subwords, path: Path) -> Tokenizer:
        """Read what ``save(path)`` wrote. Raises UserError where that is missing or damaged."""
        return cls(config)

    def save(self, path: Path) -> None:
        """Write what was learnt to files whose names begin with ``path``; a tokenizer that learns nothing has none."""

    def normalize(self, text: str) -> str:
        """NFKC and lower case, as configured. Raises UserError for half a surrogate pair, which no UTF-8 file holds."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"Character {error.start + 1} of the text is the lone surrogate U+{ord(text[error.start]):04X}: "
                "this is no text. Was it given in another encoding than UTF-8?"
            ) from None
        if self.config.normalization == "nfkc":
            text = unicodedata.normalize("NFKC", text)
        return text.lower() if self.config.lowercase else text

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a line."""
        raise NotImplementedError

    def tokenize_all(self, lines: Sequence[str]) -> list[list[str]]:
        """``tokenize`` of every line; faster than one by one where the tokenizer can use several threads."""
        return [self.tokenize(line) for line in lines]

    def sample(self, text: str) -> list[str]:
        """One of several ways to cut a line, at random (see `seed_sampling`); as ``tokenize`` where there is one."""
        return self.tokenize(text)

    def detokenize(self, tokens: Sequence[str]) -> str:
        """The text of tokens; never fails, whatever a model made them."""
        raise NotImplementedError

    def pieces(self) -> list[str] | None:
        """All tokens there can be, special ones first, where that is known: they are the vocabulary. Else None."""
        return None


class CharacterTokenizer(Tokenizer):
    """Every character (code point) is a token. Loses nothing."""

    def tokenize(self, text: str) -> list[str]:
        return list(self.normalize(text))

    def detokenize(self, tokens: Sequence[str]) -> str:
        return "".join(tokens)


JOINER = "\uffed"  # ￭
LOOKALIKE = "\u25a0"  # ■, what Unicode calls the joiner's full-width form

ZWNJ, ZWJ = 0x200C, 0x200D  # (non-)joiners, inside words of Persian and many Indian languages

# Scripts without white space between words: each character is a word.
IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"


@cache
def _word_pattern() -> re.Pattern[str]:
    """A word (group 1: letters, digits, marks; or one ideograph), or one character of another kind with its marks."""
    codes = chain(range(0x20000), range(0xE0100, 0xE01F0))  # there are no marks elsewhere
    marks = [
        code
        for code in codes
        if unicodedata.category(chr(code)).startswith("M") or code in (ZWNJ, ZWJ)
    ]
    runs = [
        [code for _, code in run]
        for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])
    ]
    marks = "".join(
        f"{chr(run[0])}-{chr(run[-1])}" for run in runs
    )  # ranges match 2.4 times as fast as a list
    return re.compile(
        rf"([{IDEOGRAPHS}][{marks}]*|(?:[^\W{IDEOGRAPHS}]+|[{marks}]+)+)|\S[{marks}]*"
    )


class WordTokenizer(Tokenizer):
    """Words and punctuation marks are tokens; runs of white space become one space.

    Where two tokens touch in the text, one carries a joiner: the right one, or the left one where only it is no word.
    So ``(red) apples.`` is ``(￭ red ￭) apples ￭.``, and ``apples .`` stays another text. A joiner in the text itself
    becomes ■.
    """

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = []
        end, after_word = -1, False  # of the token before
        for match in _word_pattern().finditer(self.normalize(text).replace(JOINER, LOOKALIKE)):
            token, is_word = match[0], match[1] is not None
            if match.start() == end:
                if is_word and not after_word:
                    tokens[-1] += JOINER
                else:
                    token = JOINER + token
            tokens.append(token)
            end, after_word = match.end(), is_word
        return tokens

    def detokenize(self, tokens: Sequence[str]) -> str:
        return (
            " ".join(tokens).replace(" " + JOINER, "").replace(JOINER + " ", "").replace(JOINER, "")
        )


class SubwordTokenizer(Tokenizer):
    """Pieces of words, learnt by sentencepiece; what has no piece is spelt in bytes. Loses nothing.

    bpe: Sennrich et al. 2016; unigram: Kudo 2018. sentencepiece writes a space as ▁ (U+2581), so a ▁ of the text is
    escaped before it (the escape character too).
    """

    SENTENCES = 500_000
    """Learning from more chunks of text than this changes little and takes memory: so many are drawn at random."""
    CHUNK = 1000
    """Characters that are learnt from at once: unigram learning fails on very long words."""
    THREADS = 4
    """Part of the result of unigram learning (order of sums), hence not the machine's own number."""

    def __init__(self, config: Subwords, processor: sentencepiece.SentencePieceProcessor):
        super().__init__(config)
        self.processor = processor
        self.samples = config.dropout > 0
        if self.samples:
            special = processor.is_control, processor.is_unknown, processor.is_byte
            ids = [id for id in range(len(processor)) if not any(kind(id) for kind in special)]
            self._pieces = {processor.id_to_piece(id): processor.get_score(id) for id in ids}
            sampler = {"bpe": BPEDropout, "unigram": UnigramSampling}[config.algorithm]
            self._segment = sampler(self._pieces, config.dropout)

    @classmethod
    def train(cls, config: Subwords, lines: Iterable[str]) -> SubwordTokenizer:
        """Learn pieces from text.

        Takes as many as there are where the text gives fewer than ``vocabulary_size``, with a warning. Raises
        UserError where it has more characters than that, or holds nothing.
        """
        model, failures = io.BytesIO(), []
        normalize = Tokenizer(config).normalize

        def chunks() -> Iterator[str]:
            try:
                for line in lines:
                    text = _escape(normalize(line))
                    yield from (
                        text[start : start + cls.CHUNK] for start in range(0, len(text), cls.CHUNK)
                    )
            except (
                Exception,
                KeyboardInterrupt,
            ) as error:  # sentencepiece would make it a RuntimeError of its own
                failures.append(error)
                raise

        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_draw(chunks(), cls.SENTENCES),
                model_writer=model,
                model_type=config.algorithm,
                vocab_size=config.vocabulary_size,
                hard_vocab_limit=False,
                character_coverage=config.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=2**30,  # bytes: none is left out
                num_threads=cls.THREADS,
                minloglevel=2,
                **{f"{name}_id": id for id, name in enumerate(SPECIAL)},
                **{f"{name}_piece": piece for name, piece in SPECIAL.items()},
            )
        except RuntimeError as error:
            raise failures[0] if failures else _training_error(config, str(error)) from None
        tokenizer = cls(config, _processor(model.getvalue()))
        if len(tokenizer.processor) < config.vocabulary_size:
            log.warning(
                f"tokenizer.vocabulary_size is {config.vocabulary_size}, but the text is small and gives "
                f"{len(tokenizer.processor)} pieces: going on with those."
            )
        return tokenizer

    @classmethod
    def load(cls, config: Subwords, path: Path) -> SubwordTokenizer:
        file = _model_file(path)
        try:
            return cls(config, _processor(file.read_bytes()))
        except OSError as error:
            raise UserError(
                f"{file}: the subword model cannot be read: {error.strerror}."
            ) from None
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{file}: not a subword model of ours, or damaged: {error}") from None

    def save(self, path: Path) -> None:
        _model_file(path).write_bytes(self.processor.serialized_model_proto())

    def tokenize(self, text: str) -> list[str]:
        return self.processor.encode(_escape(self.normalize(text)), out_type=str)

    def tokenize_all(self, lines: Sequence[str]) -> list[list[str]]:
        return self.processor.encode(
            [_escape(self.normalize(line)) for line in lines], out_type=str
        )

    def sample(self, text: str) -> list[str]:
        if not self.samples:
            return self.tokenize(text)
        tokens = []
        for word in _words(_escape(self.normalize(text))):
            for piece in self._segment(word, _random):
                tokens += (
                    [piece]
                    if piece in self._pieces
                    else [f"<0x{byte:02X}>" for byte in piece.encode()]
                )
        return tokens

    def detokenize(self, tokens: Sequence[str]) -> str:
        return _unescape(self.processor.decode(list(tokens))).replace(
            "\n", " "
        )  # bytes can spell a line end

    def pieces(self) -> list[str]:
        return [self.processor.id_to_piece(id) for id in range(len(self.processor))]


def _draw(items: Iterator[str], count: int) -> Iterator[str]:
    """``count`` of the items at random, each as likely as any other, or all in order if there are no more; always the
    same ones, which sentencepiece's own sampling does not promise (Vitter 1985, algorithm R)."""
    drawn, random = list(islice(items, count)), Random(0)
    for number, item in enumerate(items, count + 1):
        if (place := random.randrange(number)) < count:
            drawn[place] = item
    yield from drawn


def seed_sampling(seed: int) -> None:
    """Seed what `SubwordTokenizer.sample` draws from: the same segmentations follow, in every process."""
    _random.seed(seed)


_random = Random()


SPECIAL = {
    "pad": "<pad>",
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
}  # ids 0 to 3, as in every vocabulary
SPACE = "\u2581"  # ▁, sentencepiece's sign for a space
ESCAPE = "\x1b"


def _words(text: str) -> list[str]:
    """Escaped text as sentencepiece cuts it before it looks for pieces: at every space, which begins a word."""
    return re.findall(f"{SPACE}[^{SPACE}]*", SPACE + text.replace(" ", SPACE)) if text else []


def _escape(text: str) -> str:
    return text.replace(ESCAPE, ESCAPE + "0").replace(SPACE, ESCAPE + "1")


def _unescape(text: str) -> str:
    return text.replace(ESCAPE + "1", SPACE).replace(ESCAPE + "0", ESCAPE)


def _model_file(path: Path) -> Path:
    return path.with_name(path.name + ".model")


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Raises RuntimeError where sentencepiece cannot read the model, ValueError where it is not one of ours."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    ids = processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()
    found = [processor.id_to_piece(id) for id in range(min(len(SPECIAL), len(processor)))]
    if ids != (0, 1, 2, 3) or found != list(SPECIAL.values()):
        raise ValueError(
            f"its special pieces are not {', '.join(SPECIAL.values())}, in this order."
        )
    return processor


def _training_error(config: Subwords, message: str) -> UserError:
    """What sentencepiece says, in words that help."""
    too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if too_small:
        return UserError(
            f"tokenizer.vocabulary_size is {config.vocabulary_size}, but the text's characters, the 256 bytes and the "
            f"special tokens alone are {too_small[1]}. Make it larger than that, or character_coverage (now "
            f"{config.character_coverage}) smaller."
        )
    if "sentences_.empty()" in message:
        return UserError("There is no text to learn subwords from: every line is blank.")
    return UserError(
        f"sentencepiece could not learn tokenizer.algorithm {config.algorithm} from the text: {message}"
    )


TOKENIZERS: dict[str, type[Tokenizer]] = {
    "char": CharacterTokenizer,
    "word": WordTokenizer,
    "subword": SubwordTokenizer,
}
