"""Text to hypotheses with scores and attention: the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import config as configs
from ..config import Decoding
from ..support.errors import UserError, log
from ..text import codec
from ..text.codec import Codec
from ..text.vocab import EOS, UNK
from ..text.writing import has_letter, is_blank
from . import exported, pieces
from .alignment import Head, kept, usable, word_pairs
from .engine import Engine, Hypothesis, Request

if TYPE_CHECKING:
    from ..config import Config
    from ..text.corpus import Pair


POOL_LINES = 2048  # that are sorted by length together; the memory that a file takes

T = TypeVar("T")


@dataclass(frozen=True)
class Translation:
    """Of one line: at least one hypothesis, best first; of a blank line, the empty text. Those of a
    line that was split are sums over its pieces, without attention. What no model was asked for (a
    blank line, a line that was copied) is certain: its score is 0."""

    source: str
    hypotheses: list[Hypothesis]

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


@dataclass(frozen=True)
class Options:
    """How lines are translated."""

    request: Request
    """What is asked of every batch; its sources and keys are empty."""
    n_best: int
    attention: bool
    alignment: bool
    replace_unknown: bool


@dataclass
class Piece:
    """What is translated as one sentence: a line, or a part of one that is too long."""

    line: int
    number: int  # among the pieces of its line
    tokens: list[str]
    ids: list[int]  # EOS included
    hypotheses: list[Hypothesis] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


class Translator:
    """Translates with a trained model, or with several as an ensemble. Threads may share it.

    >>> translator = Translator.load("runs/toy_transformer")
    >>> translator.translate(["i like red apples ."])[0].text
    """

    def __init__(
        self,
        engine: Engine,
        codecs: tuple[Codec, Codec],
        config: Config,
        max_length: int | None = None,
        folder: Path | None = None,
    ):
        """max_length: source tokens of the longest line that is not split, by default the
        config's. No more than the model has positions. folder: of the run, or the first of several."""
        self.engine, self.codecs, self.config = engine, codecs, config
        self.name = engine.name
        self.folder = folder
        self.max_length = max_length or config.data.max_length
        self.alignment_head: Head | None = None
        """That aligns best; None: not known."""
        if engine.max_positions is not None:
            self.max_length = min(self.max_length, engine.max_positions - 1)

    @classmethod
    def load(
        cls,
        run: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        threads: int | None = None,
        processes: int | None = 1,
        checkpoint: str | int = "best",
    ) -> Translator:
        """The model of `run`, a run directory, or an exported one; None: the newest run.

        Several runs are an ensemble: the mean of their probabilities decides. Their vocabularies
        must be the same; the first one's config counts.
        threads: cores to use; by default all.
        processes: how many batches of lines are translated at the same time, by processes that are
            forked from this one (on Linux, on the CPU). 1: none is forked; None: one a thread.
        checkpoint: best, last, or the update after which it was saved.

        Raises UserError.
        """
        paths = [Path(run)] if isinstance(run, (str, Path)) else [Path(each) for each in run or []]
        for path in filter(exported.is_exported, paths):
            if len(paths) > 1:
                raise UserError(f"{path} is an exported model; an ensemble is of runs.")
            if checkpoint != "best":
                raise UserError(f"{path} is an exported model, of one checkpoint.")
            return cls(*exported.load(path, device, threads), folder=path)
        return cls._load_runs(paths, device, threads, processes, checkpoint)

    @classmethod
    def _load_runs(
        cls,
        paths: list[Path],
        device: str,
        threads: int | None,
        processes: int | None,
        checkpoint: str | int,
    ) -> Translator:
        import torch

        from ..run.directory import Run
        from ..support import devices
        from ..support.processes import cores
        from .torch_engine import TorchEngine

        # Batches shrink through the same sizes, all of which have kernels.
        chosen = devices.prepare(device, threads, kernels=256)
        runs = [Run.open(path) for path in paths] or [Run.latest()]
        codecs = [codec.load(each.path / "tokenizer", each.config) for each in runs]
        for other, theirs in zip(runs[1:], codecs[1:]):
            for name, one, two in zip(("source", "target"), codecs[0], theirs):
                if not one.agrees(two):
                    raise UserError(
                        f"{runs[0].path} and {other.path} have different {name} vocabularies or "
                        "tokenizers; only models over the same ones can be an ensemble."
                    )
        sizes = [len(side.vocabulary) for side in codecs[0]]
        processes = processes or min(torch.get_num_threads(), cores())
        engine = TorchEngine.load(runs, sizes, chosen, processes, checkpoint)
        max_length = min(each.config.data.max_length for each in runs)
        loaded = cls(engine, codecs[0], runs[0].config, max_length, runs[0].path)
        loaded.alignment_head = kept(runs[0]) if len(runs) == 1 else None
        return loaded

    def decoding(self, **changes: Any) -> Decoding:
        """The config's decoding section, with changes. Raises UserError for an impossible value."""
        return configs.replace(self.config.decoding, **changes)

    def translate(self, texts: Sequence[str], **options: Any) -> list[Translation]:
        """Translate sentences; `options` as for `stream`."""
        if isinstance(texts, str):
            raise TypeError("translate takes a list of sentences, not one string")
        return list(self.stream(texts, **options))

    def stream(
        self,
        lines: Iterable[str],
        decoding: Decoding | None = None,
        n_best: int = 1,
        attention: bool = False,
        alignment: bool = False,
        first_line: int = 1,
        prefix: str = "",
        replace_unknown: bool = False,
        ready: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Iterator[Translation]:
        """Translate lines as they come, one Translation a line; memory does not grow with them.

        n_best: hypotheses of each line, all different texts; fewer only where the beam holds fewer.
            With sampling: samples, also equal ones.
        alignment: say which words belong together, by the head that aligns best. Words are what is
            between spaces and, in scripts without spaces, each token.
        first_line: its number, for messages and for sampling, whose noise depends on the number of
            a line and not on what is translated beside it.
        prefix: text with which every translation begins.
        replace_unknown: write the most attended word of the source where the model writes UNK.
        ready: says whether the next line is here already; those that are get translated without
            waiting for it. By default some thousand lines are waited for, which is fast.
        changes: keys of the config's decoding section.

        A line of more than `max_length` tokens is translated in pieces, with a warning. Raises
        UserError for what is no line of text.
        """
        decoding = decoding or self.decoding(**changes)
        if decoding.sampling is None and n_best > decoding.beam_size:
            raise UserError(
                f"n_best is {n_best}, but beam_size only {decoding.beam_size}: raise beam_size."
            )
        if replace_unknown and self.codecs[1].tokenizer.pieces() is not None:
            log.warning("There are no unknown words to replace: this model spells every word.")
            replace_unknown = False
        if replace_unknown:
            decoding = configs.replace(decoding, generate_unknown=True)
        request = Request(
            sources=[],
            decoding=decoding,
            # All of the beam, since some of it may be the same text.
            n_best=decoding.beam_size if n_best > 1 and not decoding.sampling else n_best,
            prefix=self._prefix(prefix),
            attention=attention or replace_unknown,
        )
        options = Options(request, n_best, attention, alignment, replace_unknown)
        for pool in _pools(lines, ready):
            yield from self._pool(pool, first_line, options)
            first_line += len(pool)

    def _pool(self, lines: list[str], first_line: int, options: Options) -> Iterator[Translation]:
        # A translation that must begin with something is none that could be copied.
        copies = options.request.decoding.copy_symbols and not options.request.prefix
        by_line = self._pieces(lines, first_line, copies)
        batches = self._batches([piece for parts in by_line for piece in parts], options.request)
        results = self.engine.search_all(request for _, request in batches)
        for (batch, _), answers in zip(batches, results):
            for piece, answer in zip(batch, answers):
                piece.hypotheses = [self._with_text(each, piece, options) for each in answer]
            if options.alignment:
                self._align(batch)
        for line, parts in zip(lines, by_line):
            found = [piece.hypotheses for piece in parts]
            hypotheses = pieces.join_hypotheses(found) if found else [self._copied(line)]
            if not options.request.decoding.sampling:  # the best one of each text
                best = {each.text: each for each in reversed(hypotheses)}
                hypotheses = [each for each in hypotheses if best[each.text] is each]
            yield Translation(line, hypotheses[: options.n_best])

    def _batches(self, waiting: list[Piece], request: Request) -> list[tuple[list[Piece], Request]]:
        """Pieces of similar lengths, longest first, and the request for them."""
        tokens = request.decoding.batch_tokens or self.engine.batch_tokens
        batches = []
        # Only the first piece of a line begins with the prefix.
        for prefix in dict.fromkeys([request.prefix, ()]):
            group = [each for each in waiting if prefix == (() if each.number else request.prefix)]
            group.sort(key=len, reverse=True)
            for batch in _shared_batches(group, len, tokens, self.engine.parallel):
                sources = [piece.ids for piece in batch]
                keys = tuple(piece.line + (piece.number << 40) for piece in batch)
                batches.append((batch, replace(request, sources=sources, prefix=prefix, keys=keys)))
        return batches

    # -------------------------------------------------------------------------------------- texts

    def _tokens(self, side: int, text: str, place: str) -> list[str]:
        """Tokens of a line of the source (0) or the target (1); `place` is for messages."""
        if not isinstance(text, str):
            raise TypeError(f"{place} is of type {type(text).__name__}, not a text")
        if "\n" in text:
            raise UserError(f"{place} holds a line end; give one sentence at a time.")
        try:
            return self.codecs[side].tokenize(text)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def _all_tokens(self, lines: list[str], first_line: int) -> list[list[str]]:
        """Tokens of source lines: all at once, which is fast, or one by one where one is wrong."""
        with suppress(UserError):
            if len(lines) > 1 and all(isinstance(line, str) and "\n" not in line for line in lines):
                return self.codecs[0].tokenize_all(lines)
        numbered = enumerate(lines, first_line)
        return [self._tokens(0, line, f"Line {number}") for number, line in numbered]

    def _prefix(self, text: str) -> tuple[int, ...]:
        """The ids with which every translation is to begin."""
        tokens = self._tokens(1, text.strip(), "The prefix")
        ids = self.codecs[1].vocabulary.encode(tokens)
        if UNK in ids:
            unknown = tokens[ids.index(UNK)]
            raise UserError(f"The prefix holds {unknown!r}, which is not in the target vocabulary.")
        return tuple(ids)

    def _copied(self, line: str) -> Hypothesis:
        """The translation of a line that is not translated: itself, or nothing if it is blank."""
        text = "" if is_blank(line) else self.codecs[0].clean(line)
        tokens = self.codecs[1].tokenizer.tokenize(text)
        ids = [*self.codecs[1].vocabulary.encode(tokens), EOS]
        return Hypothesis(ids, 0.0, 0.0, text=text, tokens=tokens)

    def _pieces(self, lines: list[str], first_line: int, copies: bool) -> list[list[Piece]]:
        """What is translated of each line: nothing of one that is blank or (`copies`) has no letter,
        several pieces of a long one."""
        side, found = self.codecs[0], []
        all_tokens = self._all_tokens(lines, first_line)
        for line, (text, tokens) in enumerate(zip(lines, all_tokens), first_line):
            parts = [] if is_blank(text) or copies and not has_letter(text) else [tokens]
            if parts and len(tokens) > self.max_length:
                parts = pieces.cut(text, side.tokenize, self.max_length)
                log.warning(
                    f"Line {line} has {len(tokens)} tokens; the model has seen no sentence of more "
                    f"than {self.max_length} (data.max_length, model.max_positions). It is "
                    f"translated in {len(parts)} pieces."
                )
            ids = [[*side.vocabulary.encode(part), EOS] for part in parts]
            numbered = enumerate(zip(parts, ids))
            found.append([Piece(line, number, *part) for number, part in numbered])
        return found

    def _with_text(self, found: Hypothesis, piece: Piece, options: Options) -> Hypothesis:
        """A hypothesis with its tokens and its text, in which unknown words may be replaced."""
        side = self.codecs[1]
        tokens = side.vocabulary.decode(found.ids)
        words = list(tokens)
        if options.replace_unknown:
            if found.attention is None:
                raise UserError(
                    "Unknown words are replaced by what the model attended to, and this model has "
                    "no attention."
                )
            for place, row in enumerate(found.attention[:-1]):
                if found.ids[place] == UNK and piece.tokens:
                    most_attended = max(range(len(piece.tokens)), key=row.__getitem__)
                    words[place] = self._source_word(piece.tokens, most_attended)
        text = side.tokenizer.detokenize(words)
        attention = found.attention if options.attention else None
        return replace(found, text=text, tokens=tokens, attention=attention)

    def _source_word(self, tokens: list[str], place: int) -> str:
        """The source word of a token: itself, or in subwords what is between two spaces."""
        tokenizer, own = self.codecs[0].tokenizer, [tokens[place]]
        if tokenizer.pieces() is not None:
            words = tokenizer.words(tokens)
            own = [token for token, word in zip(tokens, words) if word == words[place]]
        return tokenizer.detokenize(own).strip()

    def _align(self, batch: list[Piece]) -> None:
        """Say of all hypotheses which words belong together."""
        source, target = (side.tokenizer.words for side in self.codecs)
        found = [(piece, each) for piece in batch for each in piece.hypotheses]
        ids = [piece.ids for piece, _ in found], [each.ids for _, each in found]
        for (piece, each), maps in zip(found, self.engine.maps(*ids)):
            words = [*source(piece.tokens), None], [*target(each.tokens), None]
            head = usable(self.alignment_head, maps)
            pairs = word_pairs(maps, head, *words) if head else None
            piece.hypotheses[piece.hypotheses.index(each)] = replace(each, alignment=pairs)

    # ------------------------------------------------------------------------------------ scoring

    def score(
        self, pairs: Iterable[Pair | tuple[str, str | Sequence[str]]], warn: bool = True
    ) -> Iterator[list[float]]:
        """Log-probability of every target token, EOS included, of given translations (forced
        decoding), as they come.

        A translation is a text, which is tokenized, or a list of tokens, such as a hypothesis's own.
        A pair longer than any in training is scored; `warn` says with a warning. Raises UserError
        for what is no line of text, or longer than the model has positions.
        """
        first = 1
        for pool in _pools(pairs):
            sources, targets = [], []
            for number, pair in enumerate(pool, first):
                place = pair[2] if len(pair) > 2 else f"Pair {number}"
                sources.append(self.encode(0, pair[0], place, warn))
                targets.append(self.encode(1, pair[1], place, warn))
            order = sorted(range(len(pool)), key=lambda i: (len(targets[i]), len(sources[i])))
            sizes = [max(map(len, pair)) for pair in zip(sources, targets)]
            scores: dict[int, list[float]] = {}
            tokens = self.config.decoding.batch_tokens or self.engine.batch_tokens
            for batch in _batches(order, sizes.__getitem__, tokens):
                found = self.engine.score([sources[i] for i in batch], [targets[i] for i in batch])
                scores.update(zip(batch, found))
            yield from (scores[index] for index in range(len(pool)))
            first += len(pool)

    def encode(
        self, side: int, text: str | Sequence[str], place: str, warn: bool = True
    ) -> list[int]:
        """The ids of a pair's source (0) or target (1), EOS included."""
        place = f"{place}: the {('source', 'target')[side]}"
        tokens = self._tokens(side, text, place) if isinstance(text, str) else text
        limit = self.engine.max_positions
        if limit is not None and len(tokens) >= limit:
            raise UserError(
                f"{place} has {len(tokens)} tokens; the model has positions for {limit - 1} "
                "(model.max_positions)."
            )
        if warn and len(tokens) > self.max_length:
            log.warning(
                f"{place} has {len(tokens)} tokens; the model has seen no sentence of more than "
                f"{self.max_length} (data.max_length). Do not rely on its score."
            )
        return [*self.codecs[side].vocabulary.encode(tokens), EOS]


def _pools(items: Iterable[T], ready: Callable[[], bool] | None = None) -> Iterator[list[T]]:
    """Lines or pairs that are worked on together: POOL_LINES, or fewer where the next is not ready."""
    pool = []
    for item in items:
        pool.append(item)
        if len(pool) == POOL_LINES or ready and not ready():
            yield pool
            pool = []
    if pool:
        yield pool


def _shared_batches(
    items: Sequence[T], size: Callable[[T], int], tokens: int, parallel: int
) -> Iterator[list[T]]:
    """As `_batches`; if there are several, a multiple of `parallel`, of about as many tokens each,
    so that no process waits for the others."""
    ends = list(accumulate(map(size, items)))
    count = -(-ends[-1] // tokens) if ends else 0
    if count > 1:
        count = -(-count // parallel) * parallel
    for _, share in groupby(zip(items, ends), key=lambda each: (each[1] - 1) * count // ends[-1]):
        # A share has at most that many tokens; the rest is for its padding.
        yield from _batches([item for item, _ in share], size, tokens * 5 // 4)


def _batches(items: Sequence[T], size: Callable[[T], int], tokens: int) -> Iterator[list[T]]:
    """Items, sorted by size, in batches of at most that many padded tokens."""
    batch: list[T] = []
    longest = 0
    for item in items:
        if batch and (len(batch) + 1) * max(longest, size(item)) > tokens:
            yield batch
            batch, longest = [], 0
        batch.append(item)
        longest = max(longest, size(item))
    if batch:
        yield batch
