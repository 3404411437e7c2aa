"""Sentence pairs to padded batches. Knows ids and lengths; the order of batches is a function of seed and epoch."""

# B rows, S source, T target

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import cache
from .codec import Codec
from .config import TSV, Plain
from .tokenizers import seed_sampling
from .vocab import BOS, PAD


@dataclass(frozen=True)
class Batch:
    """One padded micro-batch on one device. Source rows end in EOS; masks say True = real token."""

    source: Tensor  # (B, S) ids
    source_mask: Tensor  # (B, S)
    target_in: Tensor  # (B, T) BOS, then the target
    target_out: Tensor  # (B, T) the target, then EOS
    target_mask: Tensor  # (B, T)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


class Sequences:
    """Many sequences of numbers in one array, in memory or in a file that is mapped into it."""

    def __init__(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray):
        self.values = values
        self.starts = starts  # of each sequence in ``values``
        self.lengths = lengths

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Sequences:
        values, lengths = array("i"), array("i")
        for sequence in sequences:
            values.extend(sequence)
            lengths.append(len(sequence))
        return cls.end_to_end(np.array(values, np.int32), np.cumsum([0, *lengths]))

    @classmethod
    def end_to_end(cls, values: np.ndarray, starts: np.ndarray) -> Sequences:
        """``starts`` has one more than there are sequences: the end of the last one."""
        return cls(values, starts[:-1], np.diff(starts).astype(np.int32))

    def take(self, rows: np.ndarray) -> Sequences:
        """Some of the sequences, or some of them several times; their values are not copied."""
        return Sequences(self.values, self.starts[rows], self.lengths[rows])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index] + self.lengths[index]]

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chosen sequences as (B, longest), filled up with PAD, and the mask of what is real."""
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max())
        mask = steps < lengths[:, None]
        places = np.where(mask, self.starts[rows][:, None] + steps, 0)
        return np.where(mask, self.values[places], PAD).astype(np.int64), mask


class ParallelData:
    """Sentence pairs as ids; with subword sampling also as text, to be segmented anew at every use."""

    def __init__(
        self, source: Sequences, target: Sequences, codecs: tuple[Codec, Codec], texts: list[Sequences | None]
    ):
        self.source, self.target = source, target
        self.codecs = codecs
        self.texts = texts  # per side: UTF-8 bytes, or None where the segmentation is always the same
        self.source_lengths, self.target_lengths = source.lengths, target.lengths

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def build(
        cls, corpora: Sequence[TSV | Plain], codecs: tuple[Codec, Codec], max_length: int, folder: Path
    ) -> ParallelData:
        """The pairs of all corpora, each as often as its weight says; ids are kept in files in ``folder``.

        See `cache.load` for what is skipped and what is raised.
        """
        arrays = cache.load(folder, corpora, codecs, max_length)
        rows = None
        if any(corpus.weight > 1 for corpus in corpora):
            ends = np.cumsum(arrays["pairs"])
            parts = [np.arange(end - count, end, dtype=np.int32) for end, count in zip(ends, arrays["pairs"])]
            rows = np.concatenate([part for part, corpus in zip(parts, corpora) for _ in range(corpus.weight)])

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
        (source, source_mask), (target, target_mask) = (
            self._side(side, rows, sampling_seed is not None) for side in (0, 1)
        )
        target_in = np.full_like(target, PAD)
        target_in[:, 0] = BOS
        target_in[:, 1:] = np.where(target_mask[:, 1:], target[:, :-1], PAD)
        return Batch(*map(torch.from_numpy, (source, source_mask, target_in, target, target_mask)))

    def _side(self, side: int, rows: np.ndarray, sample: bool) -> tuple[np.ndarray, np.ndarray]:
        texts = self.texts[side]
        if not sample or texts is None:
            return (self.source, self.target)[side].padded(rows)
        codec = self.codecs[side]
        drawn = Sequences.of(codec.encode(texts[row].tobytes().decode(errors="replace"), sample=True) for row in rows)
        return drawn.padded(np.arange(len(rows)))


def plan_epoch(
    source_lengths: np.ndarray, target_lengths: np.ndarray, size: int, by: str, seed: int, epoch: int
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
        longest = sum(np.maximum.accumulate(lengths[rows]) for lengths in (source_lengths, target_lengths))
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
