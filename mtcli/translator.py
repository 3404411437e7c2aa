"""Text to hypotheses with scores and attention: the Python API, and what `translate`, `eval` and validation share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import codec
from . import config as configs
from .codec import Codec
from .config import Config, Decoding
from .errors import UserError

if TYPE_CHECKING:
    from .inference import Found, ModelEngine

log = logging.getLogger("mtcli")

POOL_LINES = 2048  # lines that are sorted by length together; the memory that translating a file takes


@dataclass(frozen=True)
class Hypothesis:
    """One translation. ``log_probability`` sums over target tokens, EOS included; ``score`` is that over the length
    penalty; ``attention`` has a row for each token and one for EOS, a column for each source token and one for EOS."""

    text: str
    score: float
    log_probability: float
    tokens: list[str]
    attention: list[list[float]] | None = None


@dataclass(frozen=True)
class Translation:
    """What became of one line: hypotheses, best first. A blank line has one, the empty text."""

    source: str
    hypotheses: list[Hypothesis]

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


BLANK = [Hypothesis("", 0.0, 0.0, [])]


class Translator:
    """Translates with one trained model.

    >>> translator = Translator.load("runs/toy_transformer")
    >>> translator.translate(["i like red apples ."])[0].text
    """

    def __init__(self, engine: ModelEngine, codecs: tuple[Codec, Codec], config: Config):
        self.engine, self.codecs, self.config = engine, codecs, config

    @classmethod
    def load(cls, run: str | Path | None = None, device: str = "auto", threads: int | None = None) -> Translator:
        """The best checkpoint of ``run``, a run directory; None is the run trained last. Raises UserError."""
        from . import devices
        from .checkpoint import Run
        from .inference import ModelEngine

        devices.keep_freed_memory()
        devices.set_threads(threads)
        chosen = devices.choose(device)
        place = Run.open(Path(run)) if run is not None else Run.latest()
        config = place.config
        codecs = codec.load(place.path / "tokenizer", config)
        engine = ModelEngine.load(place, [len(side.vocabulary) for side in codecs], chosen)
        return cls(engine, codecs, config)

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
        **changes: Any,
    ) -> Iterator[Translation]:
        """Translate lines as they come, in order, one Translation a line; memory does not grow with their number.

        ``changes`` are keys of the config's decoding section. ``first_line`` numbers the lines, for warnings and for
        sampling, whose noise depends on the line's number and not on what is translated beside it.
        """
        decoding = decoding or self.decoding(**changes)
        if decoding.sampling is None and n_best > decoding.beam_size:
            raise UserError(f"n_best is {n_best}, but beam_size {decoding.beam_size} finds no more than that; raise beam_size.")
        lines = iter(lines)
        while pool := list(islice(lines, POOL_LINES)):
            yield from self._pool(pool, decoding, n_best, attention, first_line)
            first_line += len(pool)

    def _pool(
        self, lines: list[str], decoding: Decoding, n_best: int, attention: bool, first_line: int
    ) -> Iterator[Translation]:
        sources = [self.codecs[0].encode(line) for line in lines]
        waiting = [index for index, line in enumerate(lines) if line.strip()]
        waiting.sort(key=lambda index: len(sources[index]), reverse=True)
        done: dict[int, list[Hypothesis]] = {}
        limit = self.config.data.max_length
        for index in sorted(waiting):
            if len(sources[index]) > limit + 1:
                log.warning(
                    f"Line {first_line + index} has {len(sources[index]) - 1} tokens; the model has seen no sentence of "
                    f"more than {limit} (data.max_length). Shorter sentences translate better."
                )
        for batch in _batches(waiting, sources, decoding.batch_tokens):
            found = self.engine.search(
                [sources[index] for index in batch],
                decoding,
                n_best=n_best,
                attention=attention,
                keys=[first_line + index for index in batch],
            )
            done.update((index, [self._hypothesis(each) for each in best]) for index, best in zip(batch, found))
        for index, line in enumerate(lines):
            yield Translation(line, done.get(index, BLANK))

    def _hypothesis(self, found: Found) -> Hypothesis:
        side = self.codecs[1]
        tokens = side.vocabulary.decode(found.tokens)
        return Hypothesis(side.decode(found.tokens), found.score, found.log_probability, tokens, found.attention)

    def score(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[float]]:
        """Log-probability of every target token, EOS included, of given translations (forced decoding)."""
        pairs = iter(pairs)
        while pool := list(islice(pairs, POOL_LINES)):
            sources, targets = ([side.encode(pair[n]) for pair in pool] for n, side in enumerate(self.codecs))
            order = sorted(range(len(pool)), key=lambda index: (len(targets[index]), len(sources[index])))
            lengths = [max(len(source), len(target)) for source, target in zip(sources, targets)]
            done: dict[int, list[float]] = {}
            for batch in _batches(order, lengths, self.config.decoding.batch_tokens):
                done.update(zip(batch, self.engine.score([sources[i] for i in batch], [targets[i] for i in batch])))
            yield from (done[index] for index in range(len(pool)))


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
