"""Which sentence pairs make an update. Knows ids and lengths; the order of batches is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..config import TSV, Plain
from ..models.batches import Batch, Sequences, padded_batch
from ..text.codec import Codec
from ..text.tokenizers import seed_sampling
from . import cache


class ParallelData:
    """Sentence pairs as ids; with subword sampling also as text, to be segmented anew at every use."""

    def __init__(
        self,
        source: Sequences,
        target: Sequences,
        codecs: tuple[Codec, Codec],
        texts: list[Sequences | None],
    ):
        self.source, self.target = source, target
        self.codecs = codecs
        self.texts = (
            texts  # per side: UTF-8 bytes, or None where the segmentation is always the same
        )
        self.source_lengths, self.target_lengths = source.lengths, target.lengths

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def build(
        cls,
        corpora: Sequence[TSV | Plain],
        codecs: tuple[Codec, Codec],
        max_length: int,
        folder: Path,
    ) -> ParallelData:
        """The pairs of all corpora, each as often as its weight says; ids are kept in files in ``folder``.

        See `cache.load` for what is skipped and what is raised.
        """
        arrays = cache.load(folder, corpora, codecs, max_length)
        rows = None
        if any(corpus.weight > 1 for corpus in corpora):
            ends = np.cumsum(arrays["pairs"])
            parts = [
                np.arange(end - count, end, dtype=np.int32)
                for end, count in zip(ends, arrays["pairs"])
            ]
            rows = np.concatenate(
                [part for part, corpus in zip(parts, corpora) for _ in range(corpus.weight)]
            )

        def sequences(name: str) -> Sequences | None:
            if f"{name}.values" not in arrays:
                return None
            whole = Sequences.end_to_end(arrays[f"{name}.values"], arrays[f"{name}.starts"])
            return whole if rows is None else whole.take(rows)

        texts = [sequences("source.text"), sequences("target.text")]
        return cls(sequences("source"), sequences("target"), codecs, texts)

    @property
    def samples(self) -> bool:
        """Whether a pair's segmentation differs from use to use."""
        return any(texts is not None for texts in self.texts)

    def batch(self, rows: np.ndarray, sampling_seed: int | None = None) -> Batch:
        """The pairs of ``rows``, padded. With a ``sampling_seed``, by random segmentation if the tokenizer samples."""
        if sampling_seed is not None and self.samples:
            seed_sampling(sampling_seed)
        return padded_batch(*(self._side(side, rows, sampling_seed is not None) for side in (0, 1)))

    def _side(self, side: int, rows: np.ndarray, sample: bool) -> Sequences:
        texts = self.texts[side]
        if not sample or texts is None:
            return (self.source, self.target)[side].take(rows)
        codec = self.codecs[side]
        return Sequences.of(
            codec.encode(texts[row].tobytes().decode(errors="replace"), sample=True) for row in rows
        )


def plan_epoch(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    size: int,
    by: str,
    seed: int,
    epoch: int,
) -> list[np.ndarray]:
    """The updates of one epoch: for each, the rows of its pairs, shortest targets first.

    Pairs of like lengths come together: sorted by target length, then by source length (falling and rising in turn, so
    that neighbours are alike there too), ties in random order. The sorted row is cut into equal updates of about
    ``size`` real target tokens (``by`` = tokens) or pairs (``by`` = sentences), which are then shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(target_lengths))
    target, source = target_lengths[shuffled], source_lengths[shuffled]
    order = shuffled[np.lexsort((np.where(target % 2, source, -source), target))].astype(np.int32)
    sizes = target_lengths[order] if by == "tokens" else np.ones(len(order), np.int32)
    total = np.cumsum(sizes)
    updates = max(1, round(total[-1] / size))
    # A pair belongs to the update in which its middle lies.
    part = ((total - sizes / 2) * (updates / total[-1])).astype(np.int32)
    cuts = np.flatnonzero(np.diff(part)) + 1
    batches = np.split(order, cuts)
    return [batches[index] for index in generator.permutation(len(batches))]


def cut(
    rows: np.ndarray, source_lengths: np.ndarray, target_lengths: np.ndarray, padded_tokens: int
) -> list[np.ndarray]:
    """An update's rows as micro-batches of at most ``padded_tokens`` source and target tokens, padding counted.

    A pair that is longer by itself stands alone.
    """
    micro_batches = []
    while len(rows):
        longest = sum(
            np.maximum.accumulate(lengths[rows]) for lengths in (source_lengths, target_lengths)
        )
        fitting = np.count_nonzero(np.arange(1, len(rows) + 1) * longest <= padded_tokens)
        micro_batches.append(rows[: max(1, fitting)])
        rows = rows[max(1, fitting) :]
    return micro_batches


def padding(batches: Iterable[np.ndarray], lengths: np.ndarray) -> float:
    """Share of positions that hold padding when ``batches`` of sequences with ``lengths`` are padded."""
    real = total = 0
    for rows in batches:
        real += int(lengths[rows].sum())
        total += len(rows) * int(lengths[rows].max())
    return 1 - real / max(total, 1)
