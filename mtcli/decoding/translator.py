"""Text to hypotheses with scores and attention: the Python API, and what `translate`, `eval` and validation share."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as configs
from ..config import Config, Decoding
from ..support.errors import UserError
from ..text import codec
from ..text.codec import Codec
from ..text.tokenizers import SPACE
from ..text.vocab import EOS, UNK
from . import engines
from .engines import learned_positions

if TYPE_CHECKING:
    from ..text.corpus import Pair
    from .engines import CTranslate2Engine, Found
    from .torch_engine import ModelEngine

log = logging.getLogger("mtcli")

POOL_LINES = (
    2048  # lines that are sorted by length together; the memory that translating a file takes
)


@dataclass(frozen=True)
class Hypothesis:
    """One translation. ``log_probability`` sums over target tokens, EOS included; ``score`` is that over the length
    penalty; ``attention`` has a row for each token and one for EOS, a column for each source token and one for EOS.

    Of a line that was split, log-probabilities and scores are the sums over its pieces, and attention is None.
    """

    text: str
    score: float
    log_probability: float
    tokens: list[str]
    attention: list[list[float]] | None = None


@dataclass(frozen=True)
class Translation:
    """What became of one line: hypotheses, best first, at least one. A blank line has one, the empty text."""

    source: str
    hypotheses: list[Hypothesis]

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


BLANK = [Hypothesis("", 0.0, 0.0, [])]


@dataclass(frozen=True)
class Piece:
    """What is translated at once: a line, or a part of one that is too long."""

    line: int
    number: int  # among the pieces of its line
    tokens: list[str]


class Translator:
    """Translates with a trained model, or with several as an ensemble.

    >>> translator = Translator.load("runs/toy_transformer")
    >>> translator.translate(["i like red apples ."])[0].text
    """

    def __init__(
        self,
        engine: ModelEngine | CTranslate2Engine,
        codecs: tuple[Codec, Codec],
        config: Config,
        max_length: int | None = None,
        name: str = "",
    ):
        """``max_length``: source tokens of the longest sentence that is not split; by default the config's.
        ``name``: which weights these are, for those who must know them again."""
        self.engine, self.codecs, self.config, self.name = engine, codecs, config, name
        self.max_length = max_length or _max_length(config)

    @classmethod
    def load(
        cls,
        run: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> Translator:
        """The best checkpoint of ``run``, a run directory; None is the run trained last.

        Several runs are an ensemble: the mean of their probabilities decides. Their vocabularies must be the same;
        the first one's config counts. ``threads``: how many cores to use, by default all; on Linux, more than one batch
        of lines is translated by as many processes, forked from this one. Raises UserError.
        """
        paths = [Path(run)] if isinstance(run, (str, Path)) else [Path(each) for each in run or []]
        for path in paths:
            if engines.is_exported(path):
                if len(paths) > 1:
                    raise UserError(f"{path} is an exported model; an ensemble is of runs.")
                return cls._load_exported(path, device, threads)
        from ..run.directory import Run
        from ..support import devices
        from .torch_engine import ModelEngine

        chosen = devices.prepare(
            device, threads, kernels=256
        )  # batches shrink through the same sizes, all of them
        runs = [Run.open(path) for path in paths] or [Run.latest()]
        codecs = [codec.load(each.path / "tokenizer", each.config) for each in runs]
        for other, theirs in zip(runs[1:], codecs[1:]):
            for name, one, two in zip(("source", "target"), codecs[0], theirs):
                if not _same_codec(one, two):
                    raise UserError(
                        f"{runs[0].path} and {other.path} have different {name} vocabularies or tokenizers; only "
                        "models over the same ones can be an ensemble."
                    )
        engine = ModelEngine.load(runs, [len(side.vocabulary) for side in codecs[0]], chosen)
        return cls(
            engine,
            codecs[0],
            runs[0].config,
            min(_max_length(each.config) for each in runs),
            engine.name,
        )

    @classmethod
    def _load_exported(cls, path: Path, device: str, threads: int | None) -> Translator:
        """A model in a directory that `mtcli export` wrote; CTranslate2 runs it without PyTorch."""
        config = configs.load(path / "config.yaml", unknown="ignore")
        codecs = codec.load(path / "tokenizer", config)
        if engines.read_manifest(path)["format"] == "ctranslate2":
            engine = engines.CTranslate2Engine(path, config, codecs, device, threads)
        else:
            from ..support import devices
            from .torch_engine import ModelEngine

            if device not in ("auto", "cpu"):
                raise UserError(f"--device is '{device}'; exported to ONNX, a model runs on cpu.")
            engine = ModelEngine(engines.OnnxModel(path, config, threads), devices.choose("cpu"))
        return cls(engine, codecs, config, name=str(path.resolve()))

    def decoding(self, **changes: Any) -> Decoding:
        """The run's way of decoding, with some values changed. Raises UserError for an impossible one."""
        return configs.replace(self.config.decoding, **changes)

    def translate(self, texts: Sequence[str], **options: Any) -> list[Translation]:
        """Translate sentences; ``options`` as for `stream`."""
        if isinstance(texts, str):
            raise TypeError("translate takes a list of sentences, not one string")
        return list(self.stream(texts, **options))

    def stream(
        self,
        lines: Iterable[str],
        decoding: Decoding | None = None,
        n_best: int = 1,
        attention: bool = False,
        first_line: int = 1,
        prefix: str = "",
        replace_unknown: bool = False,
        ready: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Iterator[Translation]:
        """Translate lines as they come, in order, one Translation a line; memory does not grow with their number.

        n_best: hypotheses of each line, all different texts; fewer only where the beam holds fewer. With sampling,
            that many samples, as they fall.
        first_line: the number of the first line, for messages and for sampling, whose noise depends on the line's
            number and not on what is translated beside it.
        prefix: text with which every translation begins.
        replace_unknown: write the most attended word of the source where the model writes UNK.
        ready: says whether the next line is here already; those that are get translated without waiting for it. By
            default some thousand lines are waited for, which are then translated together: that is fast.
        changes: keys of the config's decoding section.

        A line of more than ``max_length`` tokens is translated in pieces, with a warning. Raises UserError for what is
        no line of text.
        """
        decoding = decoding or self.decoding(**changes)
        if decoding.sampling is None and n_best > decoding.beam_size:
            raise UserError(
                f"n_best is {n_best}, but beam_size {decoding.beam_size} finds no more than that; raise beam_size."
            )
        if replace_unknown and self.codecs[1].tokenizer.pieces() is not None:
            log.warning(
                "There are no unknown words to replace: this model spells every word, in subwords."
            )
            replace_unknown = False
        if replace_unknown:
            decoding = configs.replace(decoding, generate_unknown=True)
        start = self._prefix(prefix)
        for pool in _pools(lines, ready):
            yield from self._pool(
                pool, first_line, decoding, n_best, attention, start, replace_unknown
            )
            first_line += len(pool)

    def _pool(
        self,
        lines: list[str],
        first_line: int,
        decoding: Decoding,
        n_best: int,
        attention: bool,
        prefix: list[int],
        replace_unknown: bool,
    ) -> Iterator[Translation]:
        pieces = [
            piece
            for number, (line, tokens) in enumerate(
                zip(lines, self._all_tokens(lines, first_line)), first_line
            )
            for piece in self._pieces(line, number, tokens)
        ]
        sources = [[*self.codecs[0].vocabulary.encode(piece.tokens), EOS] for piece in pieces]
        longest_first = sorted(
            range(len(pieces)), key=lambda index: len(sources[index]), reverse=True
        )
        found: dict[int, list[Hypothesis]] = {}
        differ = n_best > 1 and decoding.sampling is None
        batches: list[list[int]] = []
        arguments: list[dict[str, Any]] = []
        for begins in (
            (True, False) if prefix else (None,)
        ):  # only what begins a line begins with the prefix
            order = [
                index
                for index in longest_first
                if begins is None or begins == (pieces[index].number == 0)
            ]
            for batch in _shared(order, sources, decoding.batch_tokens, self.engine.processes):
                batches.append(batch)
                arguments.append({
                    "sources": [sources[index] for index in batch],
                    "decoding": decoding,
                    # Several token sequences can spell the same text: of all in the beam, some are left that differ.
                    "n_best": decoding.beam_size if differ else n_best,
                    "attention": attention or replace_unknown,
                    "keys": [pieces[index].line + (pieces[index].number << 40) for index in batch],
                    "prefix": prefix if begins else (),
                })  # fmt: skip
        for batch, results in zip(batches, self.engine.search_all(arguments)):
            for index, hypotheses in zip(batch, results):
                found[index] = [
                    self._hypothesis(each, pieces[index], attention, replace_unknown)
                    for each in hypotheses
                ]
        by_line = {
            line: [found[index] for index in group]
            for line, group in groupby(range(len(pieces)), key=lambda index: pieces[index].line)
        }
        for number, line in enumerate(lines, first_line):
            hypotheses = _joined(by_line[number]) if number in by_line else BLANK
            if differ:
                best = {}
                for each in hypotheses:
                    best.setdefault(each.text, each)
                hypotheses = list(best.values())
            yield Translation(line, hypotheses[:n_best])

    # ----------------------------------------------------------------------------------------------------------- texts

    def _tokens(self, side: int, text: str, place: str) -> list[str]:
        """The tokens of a line, by the source's tokenizer (0) or the target's (1); ``place`` is for messages."""
        if not isinstance(text, str):
            raise TypeError(f"{place} is of type {type(text).__name__}, not a text")
        if "\n" in text:
            raise UserError(f"{place} holds a line end; give one sentence at a time.")
        try:
            return self.codecs[side].tokenizer.tokenize(text)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def _all_tokens(self, lines: list[str], first_line: int) -> list[list[str]]:
        """The tokens of source lines: of many at once in half the time, one by one where one of them is none."""
        if len(lines) > 1 and all(isinstance(line, str) and "\n" not in line for line in lines):
            try:
                return self.codecs[0].tokenizer.tokenize_all(lines)
            except UserError:
                pass
        return [
            self._tokens(0, line, f"Line {number}") for number, line in enumerate(lines, first_line)
        ]

    def _prefix(self, text: str) -> list[int]:
        """The ids with which every translation is to begin."""
        tokens = self._tokens(1, text.strip(), "The prefix")
        ids = self.codecs[1].vocabulary.encode(tokens)
        if UNK in ids:
            raise UserError(
                f"The prefix holds {tokens[ids.index(UNK)]!r}, which is not in the target vocabulary."
            )
        return ids

    def _pieces(self, text: str, line: int, tokens: list[str]) -> Iterator[Piece]:
        """What is translated of a line: nothing if it is blank, several pieces if it is too long."""
        if not text.strip():
            return
        parts = [tokens]
        if len(tokens) > self.max_length:
            parts = self._cut(text)
            log.warning(
                f"Line {line} has {len(tokens)} tokens; the model has seen no sentence of more than {self.max_length} "
                f"(data.max_length, model.max_positions). It is translated in {len(parts)} pieces, each by itself."
            )
        yield from (Piece(line, number, part) for number, part in enumerate(parts))

    def _cut(self, text: str, level: int = 0) -> list[list[str]]:
        """The tokens of parts of a text, none of more than ``max_length``.

        Sentences stand alone. One that is still too long is cut behind commas and the like, else between words, as
        seldom as possible, and what has no such place anywhere.
        """
        tokens, limit = self.codecs[0].tokenizer.tokenize(text), self.max_length
        if len(tokens) <= limit or level == len(BREAKS):
            return [tokens[start : start + limit] for start in range(0, len(tokens), limit)]
        ends = [match.end() for match in BREAKS[level].finditer(text)]
        parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]
        if level > 0:
            parts = self._filled(parts)
        return [
            piece for part in parts if part.strip() for piece in self._cut(part.strip(), level + 1)
        ]

    def _filled(self, parts: list[str]) -> list[str]:
        """Neighbouring parts joined as long as they have about ``max_length`` tokens."""
        filled, size = [""], 0
        for part in parts:
            count = len(self.codecs[0].tokenizer.tokenize(part))
            if size and size + count > self.max_length:
                filled.append("")
                size = 0
            filled[-1] += part
            size += count
        return filled

    def _hypothesis(
        self, found: Found, piece: Piece, attention: bool, replace_unknown: bool
    ) -> Hypothesis:
        side = self.codecs[1]
        tokens = side.vocabulary.decode(found.tokens)
        words = list(tokens)
        if replace_unknown:
            if found.attention is None:
                raise UserError(
                    "Unknown words are replaced by what the model attended to, and this model has no attention."
                )
            for place, row in enumerate(found.attention[:-1]):
                if found.tokens[place] == UNK and piece.tokens:
                    words[place] = self._source_word(
                        piece.tokens, max(range(len(piece.tokens)), key=row.__getitem__)
                    )
        weights = found.attention if attention else None
        return Hypothesis(
            side.tokenizer.detokenize(words), found.score, found.log_probability, tokens, weights
        )

    def _source_word(self, tokens: list[str], place: int) -> str:
        """The source word that a token is of: the token itself, or in subwords what lies between two spaces."""
        start, end = place, place + 1
        if self.codecs[0].tokenizer.pieces() is not None:
            while start > 0 and not tokens[start].startswith(SPACE):
                start -= 1
            while end < len(tokens) and not tokens[end].startswith(SPACE):
                end += 1
        return self.codecs[0].tokenizer.detokenize(tokens[start:end]).strip()

    # --------------------------------------------------------------------------------------------------------- scoring

    def score(
        self, pairs: Iterable[Pair | tuple[str, str | Sequence[str]]], warn: bool = True
    ) -> Iterator[list[float]]:
        """Log-probability of every target token, EOS included, of given translations (forced decoding), as they come.

        A translation is a text, which is tokenized, or a list of tokens: a hypothesis's own may be cut otherwise. A
        pair longer than any in training is scored as it is, with a warning unless ``warn`` is false. Messages name the
        place of a Pair, else its number. Raises UserError for what is no line of text, or longer than the model has
        positions.
        """
        pairs, first = iter(pairs), 1
        while pool := list(islice(pairs, POOL_LINES)):
            places = [
                pair[2] if len(pair) > 2 else f"Pair {number}"
                for number, pair in enumerate(pool, first)
            ]
            ids = [
                [self._ids(side, pair[side], place, warn) for side in (0, 1)]
                for pair, place in zip(pool, places)
            ]
            sources, targets = zip(*ids)
            order = sorted(
                range(len(pool)), key=lambda index: (len(targets[index]), len(sources[index]))
            )
            lengths = [max(len(source), len(target)) for source, target in zip(sources, targets)]
            done: dict[int, list[float]] = {}
            for batch in _batches(order, lengths, self.config.decoding.batch_tokens):
                done.update(
                    zip(
                        batch,
                        self.engine.score([sources[i] for i in batch], [targets[i] for i in batch]),
                    )
                )
            yield from (done[index] for index in range(len(pool)))
            first += len(pool)

    def _ids(self, side: int, text: str | Sequence[str], place: str, warn: bool) -> list[int]:
        """The ids of a pair's source (0) or target (1), EOS included."""
        place = f"{place}: the {('source', 'target')[side]}"
        tokens = self._tokens(side, text, place) if isinstance(text, str) else text
        limit = self.engine.positions
        if limit is not None and len(tokens) >= limit:
            raise UserError(
                f"{place} has {len(tokens)} tokens; the model has positions for {limit - 1} (model.max_positions)."
            )
        if warn and len(tokens) > self.max_length:
            log.warning(
                f"{place} has {len(tokens)} tokens; the model has seen no sentence of more than {self.max_length} "
                "(data.max_length). It is scored as it is; do not rely on it."
            )
        return [*self.codecs[side].vocabulary.encode(tokens), EOS]


# Where a text may be cut, best first: behind sentences, behind clauses, between words. In scripts that write no spaces
# between sentences, behind the sign itself.
BREAKS = [
    re.compile(
        r"""(?:(?<=[.!?…؟۔।॥።။។])|(?<=[.!?…]["'”’»)\]]))\s+(?![a-zß-öø-ÿ])"""
        "|(?<=[。！？｡])(?![。！？｡”’」』）])|(?<=[。！？｡][”’」』）])"
    ),
    re.compile(r"(?<=[,;:،؛–—])\s+|(?<=[，、；：])"),
    re.compile(r"\s+"),
]
# Letters and signs (Chinese, Japanese) beside which there is no space between sentences.
UNSPACED = re.compile(
    "[\u3000-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)


def _pools(lines: Iterable[str], ready: Callable[[], bool] | None) -> Iterator[list[str]]:
    """Lines that are translated together: POOL_LINES, or fewer where the next one is not ready, or where they end."""
    pool = []
    for line in lines:
        pool.append(line)
        if len(pool) == POOL_LINES or ready and not ready():
            yield pool
            pool = []
    if pool:
        yield pool


def _joined(parts: list[list[Hypothesis]]) -> list[Hypothesis]:
    """The hypotheses of a line from those of its pieces: the best of each, the second best of each, and so on."""
    if len(parts) == 1:
        return parts[0]
    whole = []
    for rank in range(max(map(len, parts))):
        chosen = [hypotheses[min(rank, len(hypotheses) - 1)] for hypotheses in parts]
        text = ""
        for each in chosen:
            touch = (
                not text
                or not each.text
                or UNSPACED.match(text[-1])
                or UNSPACED.match(each.text[0])
            )
            text += each.text if touch else f" {each.text}"
        scores, log_probabilities = (
            sum(each.score for each in chosen),
            sum(each.log_probability for each in chosen),
        )
        whole.append(
            Hypothesis(
                text, scores, log_probabilities, [token for each in chosen for token in each.tokens]
            )
        )
    return whole


def _max_length(config: Config) -> int:
    """Source tokens of the longest sentence that a model can read, or has seen in training."""
    positions = learned_positions(config)
    return (
        config.data.max_length if positions is None else min(config.data.max_length, positions - 1)
    )


def _same_codec(one: Codec, two: Codec) -> bool:
    """Whether two codecs make the same ids of the same text."""
    forms = [
        {
            key: getattr(side.tokenizer.config, key, None)
            for key in ("type", "algorithm", "lowercase", "normalization")
        }
        for side in (one, two)
    ]
    return forms[0] == forms[1] and one.vocabulary.tokens == two.vocabulary.tokens


def _shared(
    order: list[int], sources: Sequence[list[int]], tokens: int, processes: int
) -> Iterator[list[int]]:
    """As `_batches`, but several are as many for each process, of as many tokens, so that none waits for the others."""
    ends = list(accumulate(len(sources[index]) for index in order))
    count = -(-ends[-1] // tokens) if ends else 0
    if count > 1:
        count = -(-count // processes) * processes
    for _, share in groupby(zip(order, ends), key=lambda each: (each[1] - 1) * count // ends[-1]):
        yield from _batches(
            [index for index, _ in share], sources, tokens * 5 // 4
        )  # with its padding


def _batches(order: list[int], items: Sequence, tokens: int) -> Iterator[list[int]]:
    """Cut indices, sorted by the size of their items (a list or a number), into batches of so many padded tokens."""
    batch: list[int] = []
    longest = 0
    for index in order:
        size = items[index] if isinstance(items[index], int) else len(items[index])
        if batch and (len(batch) + 1) * max(longest, size) > tokens:
            yield batch
            batch, longest = [], 0
        batch.append(index)
        longest = max(longest, size)
    if batch:
        yield batch
