"""Text to tokens and back."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Generic, TypeVar

import sentencepiece

from ..config import Characters, Subwords, Words
from ..support.errors import UserError, log
from ..support.files import reason
from .segmentation import BPEDropout, UnigramSampling
from .vocab import BOS, EOS, IMPOSSIBLE, PAD, SPECIAL, UNK
from .writing import ALONE, IDEOGRAPHS

Section = TypeVar("Section", Characters, Words, Subwords)


class Tokenizer(Generic[Section]):
    """Cuts a line of text into tokens that are not empty, and joins tokens to a line of text."""

    samples = False  # whether a text has several segmentations

    def __init__(self, config: Section):
        self.config: Section = config

    @classmethod
    def train(cls, config: Section, lines: Iterable[str]) -> Tokenizer:
        """Learn from text; by default there is nothing to learn, and the lines are not read."""
        return cls(config)

    @classmethod
    def load(cls, config: Section, path: Path) -> Tokenizer:
        """Read what ``save(path)`` wrote. Raises UserError where that is missing or damaged."""
        return cls(config)

    def save(self, path: Path) -> None:
        """Write what was learnt, if anything, to files whose names begin with ``path``."""

    def normalize(self, text: str) -> str:
        """NFKC and lower case, as configured. Raises UserError for half a surrogate pair, which no UTF-8 file holds."""
        if lone := re.search("[\ud800-\udfff]", text):
            raise UserError(
                f"Character {lone.start() + 1} of the text is the lone surrogate U+{ord(lone[0]):04X}: "
                "the text is not UTF-8."
            )
        if self.config.normalization == "nfkc":
            text = unicodedata.normalize("NFKC", text)
        return text.lower() if self.config.lowercase else text

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a line, which is normalized first."""
        raise NotImplementedError

    def tokenize_all(self, lines: Sequence[str]) -> list[list[str]]:
        """``tokenize`` of every line; may use several threads."""
        return [self.tokenize(line) for line in lines]

    def resample(self, tokens: Sequence[str]) -> list[str]:
        """A random segmentation of the text of ``tokens`` (see `seed_sampling`); they themselves if it has only one."""
        return list(tokens)

    def detokenize(self, tokens: Sequence[str]) -> str:
        """The text of tokens; never fails, whatever a model wrote."""
        raise NotImplementedError

    def spelling(self, token: str, before: str) -> str:
        """What a token adds to the text after the token ``before``, with a space for every space."""
        return token

    def words(self, tokens: Sequence[str]) -> list[int | None]:
        """Which word each token belongs to; None: none, as a space at the end.

        A word is what is between two spaces and, in scripts without spaces, each token. The spaces
        before a word are its own.
        """
        found: list[int | None] = []
        word, last = -1, " "  # the last character
        for before, token in zip(["", *tokens], tokens):
            spelt = self.spelling(token, before)
            if not (text := spelt.strip()):
                found.append(None)
                last = " " if spelt else last
                continue
            mark = unicodedata.category(text[0])[0] == "M"
            touches = spelt[0] != " " and last != " "
            apart = not mark and (ALONE.match(last) or ALONE.match(text[0]))
            word += not touches or bool(apart)
            found.append(word)
            last = spelt[-1]
        for place in range(len(found) - 2, -1, -1):
            found[place] = found[place + 1] if found[place] is None else found[place]
        return found

    def pieces(self) -> list[str] | None:
        """All possible tokens, special ones first, where they are known: they are the vocabulary. Else None."""
        return None


class CharacterTokenizer(Tokenizer[Characters]):
    """Every character (code point) is a token. Lossless."""

    def tokenize(self, text: str) -> list[str]:
        return list(self.normalize(text))

    def detokenize(self, tokens: Sequence[str]) -> str:
        return "".join(tokens)


JOINER = "\uffed"  # ￭
LOOKALIKE = "\u25a0"  # ■, what Unicode calls the joiner's full-width form


@cache
def _word_pattern() -> re.Pattern[str]:
    """A word (group 1: letters, digits, marks; or one ideograph), or one character of another kind with its marks."""
    # Marks, and the (non-)joiners inside words of Persian and many Indian languages, as ranges.
    planes = map(chr, chain(range(0x20000), range(0xE0100, 0xE01F0)))  # those that have marks
    kept = (c if unicodedata.category(c)[0] == "M" or c in "\u200c\u200d" else " " for c in planes)
    marks = "".join(f"{run[0]}-{run[-1]}" for run in "".join(kept).split())
    return re.compile(
        rf"([{IDEOGRAPHS}][{marks}]*|(?:[^\W{IDEOGRAPHS}]+|[{marks}]+)+)|\S[{marks}]*"
    )


def split_words(text: str) -> list[str]:
    """The words of a text, without punctuation marks; of ideographs, each one."""
    return [match[1] for match in _word_pattern().finditer(text) if match[1]]


class WordTokenizer(Tokenizer[Words]):
    """Words and punctuation marks are tokens; runs of white space become one space.

    Where two tokens touch, one carries a joiner: the left one if only the right one is a word, else the right one.
    ``(red) apples.`` is ``(￭ red ￭) apples ￭.``. A joiner in the text becomes ■.
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
        text = " ".join(tokens)
        return text.replace(" " + JOINER, "").replace(JOINER + " ", "").replace(JOINER, "")

    def spelling(self, token: str, before: str) -> str:
        joined = before.endswith(JOINER) or token.startswith(JOINER)
        return (" " * (not joined)) + token.replace(JOINER, "")


SPACE = "\u2581"  # ▁, sentencepiece's sign for a space
ESCAPE = "\x1b"
CHUNK = 1000  # characters of text that are learnt from in one: unigram fails on very long words
CHUNKS = 500_000  # drawn at random to learn from: more change little and take memory
THREADS = 4  # a constant, because the result of unigram learning depends on it (order of sums)

_random = Random()


def seed_sampling(seed: int) -> None:
    """Seed the generator of `Tokenizer.resample`: a seed gives the same segmentations in every process."""
    _random.seed(seed)


class SubwordTokenizer(Tokenizer[Subwords]):
    """Pieces of words, learnt by sentencepiece; a character without a piece is spelt in bytes. Lossless.

    bpe: Sennrich et al. 2016; unigram: Kudo 2018. sentencepiece writes a space as ▁, so a ▁ of the text is escaped
    (and so is the escape character).
    """

    def __init__(self, config: Subwords, processor: sentencepiece.SentencePieceProcessor):
        super().__init__(config)
        self.processor = processor
        self.samples = config.dropout > 0
        if self.samples:
            spelt = [id for id in range(len(SPECIAL), len(processor)) if not processor.is_byte(id)]
            self._scores = {processor.id_to_piece(id): processor.get_score(id) for id in spelt}
            sampler = BPEDropout if config.algorithm == "bpe" else UnigramSampling
            self._segment = sampler(self._scores, config.dropout)

    @classmethod
    def train(cls, config: Subwords, lines: Iterable[str]) -> SubwordTokenizer:
        """Learn pieces from text; a small text gives fewer than ``vocabulary_size``, with a warning.

        Raises UserError where the text has more distinct characters than that, or is empty.
        """
        normalize = Tokenizer(config).normalize
        # What no token may hold is never learnt: it is spelt in bytes.
        texts = (IMPOSSIBLE.sub(" ", normalize(line).replace(SPACE, " ")) for line in lines)
        chunks = (text[i : i + CHUNK] for text in texts for i in range(0, len(text), CHUNK))
        drawn, model = iter(_draw(chunks, CHUNKS)), io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=drawn,
                model_writer=model,
                model_type=config.algorithm,
                vocab_size=config.vocabulary_size,
                hard_vocab_limit=False,
                character_coverage=config.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=2**30,  # bytes: none is left out
                num_threads=THREADS,
                minloglevel=2,
                pad_id=PAD,
                unk_id=UNK,
                bos_id=BOS,
                eos_id=EOS,
            )
        except RuntimeError as error:
            raise _training_error(config, str(error)) from None
        tokenizer = cls(config, _processor(model.getvalue()))
        if len(tokenizer.processor) < config.vocabulary_size:
            log.warning(
                f"tokenizer.vocabulary_size is {config.vocabulary_size}, but the text is small and gives "
                f"{len(tokenizer.processor)} pieces: going on with those."
            )
        return tokenizer

    @classmethod
    def load(cls, config: Subwords, path: Path) -> SubwordTokenizer:
        file = Path(f"{path}.model")
        try:
            return cls(config, _processor(file.read_bytes()))
        except OSError as error:
            raise UserError(f"{file}: the subword model cannot be read: {reason(error)}.") from None
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{file}: not a subword model of ours, or damaged: {error}") from None

    def save(self, path: Path) -> None:
        Path(f"{path}.model").write_bytes(self.processor.serialized_model_proto())

    def tokenize(self, text: str) -> list[str]:
        return self.processor.encode(_escape(self.normalize(text)), out_type=str)

    def tokenize_all(self, lines: Sequence[str]) -> list[list[str]]:
        texts = [_escape(self.normalize(line)) for line in lines]
        return self.processor.encode(texts, out_type=str)

    def resample(self, tokens: Sequence[str]) -> list[str]:
        if not self.samples:
            return list(tokens)
        drawn = []
        for word in _words(self.processor.decode(list(tokens))):
            for piece in self._segment(word, _random):
                known = piece in self._scores
                drawn += [piece] if known else [f"<0x{byte:02X}>" for byte in piece.encode()]
        return drawn

    def detokenize(self, tokens: Sequence[str]) -> str:
        text = self.processor.decode(list(tokens)).replace(ESCAPE + "1", SPACE)
        return text.replace(ESCAPE + "0", ESCAPE).replace("\n", " ")  # bytes can spell a line end

    def spelling(self, token: str, before: str) -> str:
        is_byte = re.compile("<0x[0-9A-F]{2}>").fullmatch
        if is_byte(token):  # of a character whose bytes stay together
            return "\u0300" if is_byte(before) else "x"
        return token.replace(SPACE, " ")

    def pieces(self) -> list[str]:
        return [self.processor.id_to_piece(id) for id in range(len(self.processor))]


def _draw(items: Iterator[str], count: int) -> list[str]:
    """``count`` items at random, always the same ones, unlike sentencepiece's own (Vitter 1985, algorithm R)."""
    drawn, random = list(islice(items, count)), Random(0)
    for number, item in enumerate(items, count + 1):
        if (place := random.randrange(number)) < count:
            drawn[place] = item
    return drawn


def _words(text: str) -> list[str]:
    """Escaped text as sentencepiece cuts it before it looks for pieces: at every space, which begins a word."""
    return re.findall(f"{SPACE}[^{SPACE}]*", SPACE + text.replace(" ", SPACE)) if text else []


def _escape(text: str) -> str:
    return text.replace(ESCAPE, ESCAPE + "0").replace(SPACE, ESCAPE + "1")


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Raises RuntimeError where sentencepiece cannot read the model, ValueError where it is not one of ours."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    ids = processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()
    found = [processor.id_to_piece(id) for id in range(min(len(SPECIAL), len(processor)))]
    if ids != (PAD, UNK, BOS, EOS) or found != list(SPECIAL):
        raise ValueError(f"its special pieces are not {', '.join(SPECIAL)}, in this order.")
    return processor


def _training_error(config: Subwords, message: str) -> UserError:
    """sentencepiece's message, in words that help."""
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"tokenizer.vocabulary_size is {config.vocabulary_size}, but the text's characters, the 256 bytes and the special "
            f"tokens alone are {too_small[1]}. Make it larger, or character_coverage (now {config.character_coverage}) smaller."
        )
    if "sentences_.empty()" in message:
        return UserError("There is no text to learn subwords from: every line is blank.")
    return UserError(f"sentencepiece could not learn {config.algorithm} from the text: {message}")


TOKENIZERS: dict[str, type[Tokenizer]] = {
    "char": CharacterTokenizer,
    "word": WordTokenizer,
    "subword": SubwordTokenizer,
}
