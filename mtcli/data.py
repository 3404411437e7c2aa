"""Sentence pairs to padded batches. Knows ids and lengths; the order of batches is a function of seed and epoch."""

# B rows, S source, T target

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .codec import Codec
from .corpus import Pair
from .errors import UserError
from .tokenizers import seed_sampling
from .vocab import BOS, PAD

log = logging.getLogger("mtcli")


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
    """Many sequences of numbers, end to end in one array."""

    def __init__(self, values: np.ndarray, starts: np.ndarray):
        self.values = values
        self.starts = starts  # one more than there are sequences

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]], typecode: str = "i") -> Sequences:
        values, starts = array(typecode), array("q", [0])
        for sequence in sequences:
            values.extend(sequence)
            starts.append(len(values))
        return cls(np.frombuffer(values, dtype=typecode) if values else np.zeros(0, typecode), np.asarray(starts))

    @classmethod
    def join(cls, parts: Sequence[Sequences]) -> Sequences:
        """The sequences of all parts, one part after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chosen sequences as (B, longest), filled up with PAD, and the mask of what is real."""
        starts, ends = self.starts[rows], self.starts[rows + 1]
        places = starts[:, None] + np.arange((ends - starts).max())
        mask = places < ends[:, None]
        return np.where(mask, self.values[np.minimum(places, len(self.values) - 1)], PAD).astype(np.int64), mask


class ParallelData:
    """Sentence pairs as ids, in memory; with subword sampling also as text, to be segmented anew at every use."""

    def __init__(self, source: Sequences, target: Sequences, codecs: tuple[Codec, Codec], texts: list[Sequences | None]):
        self.source, self.target = source, target
        self.codecs = codecs
        self.texts = texts  # per side: UTF-8 bytes, or None where the segmentation is always the same
        self.source_lengths, self.target_lengths = source.lengths, target.lengths

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def build(cls, pairs: Iterable[Pair], codecs: tuple[Codec, Codec], max_length: int | None, name: str) -> ParallelData:
        """Encode ``pairs``. Those with more than ``max_length`` tokens on a side, EOS not counted, are skipped and
        counted in one warning; none at all is a UserError."""
        kept: list[tuple[list[int], list[int], str, str]] = []
        skipped, first = 0, ""
        for pair in pairs:
            source, target = codecs[0].encode(pair.source), codecs[1].encode(pair.target)
            if max_length is not None and max(len(source), len(target)) > max_length + 1:
                first = first or pair.place
                skipped += 1
                continue
            kept.append((source, target, pair.source, pair.target))
        if skipped:
            log.warning(
                f"{name}: skipped {skipped:,} of {skipped + len(kept):,} pairs with more than {max_length} tokens on a side, "
                f"the first at {first} (data.max_length)."
            )
        if not kept:
            raise UserError(f"{name} holds no usable sentence pair.")
        texts = [
            Sequences.of((row[side + 2].encode() for row in kept), "B") if codec.tokenizer.samples else None
            for side, codec in enumerate(codecs)
        ]
        return cls(Sequences.of(row[0] for row in kept), Sequences.of((row[1] for row in kept)), codecs, texts)

    @classmethod
    def join(cls, parts: Sequence[ParallelData]) -> ParallelData:
        """Several corpora as one."""
        if len(parts) == 1:
            return parts[0]
        texts = [None if (side := [part.texts[n] for part in parts])[0] is None else Sequences.join(side) for n in (0, 1)]
        source, target = (Sequences.join([getattr(part, name) for part in parts]) for name in ("source", "target"))
        return cls(source, target, parts[0].codecs, texts)

    @property
    def samples(self) -> bool:
        """Whether a pair's segmentation differs from use to use."""
        return any(texts is not None for texts in self.texts)

    def batch(self, rows: np.ndarray, sampling_seed: int | None = None) -> Batch:
        """The pairs of ``rows``, padded. With a ``sampling_seed`` and a tokenizer that samples, by random segmentation."""
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
        drawn = Sequences.of(codec.encode(texts[row].tobytes().decode(), sample=True) for row in rows)
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
    ties = generator.permutation(len(target_lengths))
    snake = np.where(target_lengths % 2, source_lengths, -source_lengths)
    order = np.lexsort((ties, snake, target_lengths))
    sizes = target_lengths[order] if by == "tokens" else np.ones(len(order), dtype=np.int64)
    total = np.cumsum(sizes)
    updates = max(1, round(total[-1] / size))
    # A pair belongs to the update in which its middle lies.
    part = ((total - sizes / 2) * (updates / total[-1])).astype(np.int64)
    cuts = np.flatnonzero(np.diff(part)) + 1
    batches = np.split(order, cuts)
    return [batches[index] for index in generator.permutation(len(batches))]


def cut(rows: np.ndarray, source_lengths: np.ndarray, target_lengths: np.ndarray, padded_tokens: int) -> list[np.ndarray]:
    """An update's rows as micro-batches of at most ``padded_tokens`` source and target tokens, padding counted.

    A pair that is longer by itself stands alone.
    """
    micro_batches, start = [], 0
    source_longest = target_longest = 0
    for index, row in enumerate(rows):
        source_longest = max(source_longest, int(source_lengths[row]))
        target_longest = max(target_longest, int(target_lengths[row]))
        if index > start and (index + 1 - start) * (source_longest + target_longest) > padded_tokens:
            micro_batches.append(rows[start:index])
            start, source_longest, target_longest = index, int(source_lengths[row]), int(target_lengths[row])
    return [*micro_batches, rows[start:]]


def padding(batches: Iterable[np.ndarray], lengths: np.ndarray) -> float:
    """Share of positions that hold padding when ``batches`` of sequences with ``lengths`` are padded."""
    real = total = 0
    for rows in batches:
        real += int(lengths[rows].sum())
        total += len(rows) * int(lengths[rows].max())
    return 1 - real / max(total, 1)
