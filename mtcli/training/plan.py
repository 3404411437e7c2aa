"""Which sentence pairs make an update, and how processes and micro-batches share them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..config import Training
from ..models.batches import Batch
from ..support import distributed
from .data import ParallelData


class MicroBatch(NamedTuple):
    seed: int  # for dropout, and for subword sampling
    weight: float  # 0: only there so that this process takes part
    batch: Batch


class Plan:
    """The updates of each epoch, and this process's micro-batches of each update."""

    def __init__(self, data: ParallelData, settings: Training):
        self.data, self.seed = data, settings.seed
        self.limit = settings.micro_batch_tokens  # padded tokens of a micro-batch; None: none
        self.lengths = data.source.lengths, data.target.lengths
        by = "sentences" if settings.batch_sentences else "tokens"
        size = settings.batch_sentences or settings.batch_tokens or 0
        self.epoch = lru_cache(2)(  # epoch -> for each update, the rows of its pairs
            lambda number: plan_epoch(*self.lengths, size, by, settings.seed, number)
        )
        self.updates_per_epoch = len(self.epoch(0))

    def micro_batches(self, rows: np.ndarray, update: int) -> Iterator[MicroBatch]:
        """This process's micro-batches of an update; ``update`` counts from 0.

        Each process has a run of pairs with about the same number of tokens. Where there are too
        few pairs it has one of weight 0, since the others wait for its gradients.
        """
        rank, processes = distributed.rank(), distributed.world_size()
        own = self._share(rows)
        parts = cut(own, *self.lengths, self.limit)
        for number, part in enumerate(parts or [rows[:1]]):
            mixed = np.random.SeedSequence((self.seed, update, number * processes + rank))
            seed = int(mixed.generate_state(1)[0])
            yield MicroBatch(seed, float(len(own) > 0), self.data.batch(part, sampling_seed=seed))

    def _share(self, rows: np.ndarray) -> np.ndarray:
        sizes = sum(lengths[rows].astype(np.int64) for lengths in self.lengths)
        owners = (np.cumsum(sizes) - sizes / 2) * distributed.world_size() // sizes.sum()
        return rows[owners == distributed.rank()]

    def largest(self) -> list[MicroBatch]:
        """This process's micro-batches of the first epoch with the most tokens and with the largest maps of attention."""
        shares = [self._share(rows) for rows in self.epoch(0)]
        parts = [part for share in shares for part in cut(share, *self.lengths, self.limit)]
        parts = parts or [self.epoch(0)[0][:1]]
        longest = [[int(lengths[part].max()) for lengths in self.lengths] for part in parts]
        tokens = [len(part) * sum(sides) for part, sides in zip(parts, longest)]
        maps = [len(part) * max(sides) ** 2 for part, sides in zip(parts, longest)]
        chosen = dict.fromkeys(int(np.argmax(needs)) for needs in (tokens, maps))
        return [MicroBatch(0, 1.0, self.data.batch(parts[number])) for number in chosen]

    def halve(self, micro_batches: Sequence[MicroBatch]) -> bool:
        """Cut updates to half the size of the largest of these from now on. False if each is of one pair."""
        if all(len(part.batch.source) == 1 for part in micro_batches):
            return False
        batches = [part.batch for part in micro_batches]
        self.limit = max(each.source.numel() + each.target_in.numel() for each in batches) // 2
        return True

    def padding(self) -> list[float]:
        """Share of padding on the source and on the target side, in the first epoch."""
        parts = [part for rows in self.epoch(0) for part in cut(rows, *self.lengths, self.limit)]
        return [padding(parts, lengths) for lengths in self.lengths]


def plan_epoch(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    size: int,
    by: str,
    seed: int,
    epoch: int,
) -> list[np.ndarray]:
    """The updates of one epoch: for each, the rows of its pairs, shortest targets first.

    Pairs of similar lengths come together: they are sorted by target length, then by source length
    (rising and falling in turn, so that neighbours are similar there too), ties in random order. The
    sorted pairs are cut into equal updates of about ``size`` target tokens (``by`` = tokens) or
    pairs (``by`` = sentences), which are then shuffled.
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
    batches = np.split(order, np.flatnonzero(np.diff(part)) + 1)
    return [batches[index] for index in generator.permutation(len(batches))]


def cut(
    rows: np.ndarray, source_lengths: np.ndarray, target_lengths: np.ndarray, limit: int | None
) -> list[np.ndarray]:
    """Rows as micro-batches of at most ``limit`` padded source and target tokens, if given, or of one pair."""
    micro_batches = []
    while len(rows):
        source = np.maximum.accumulate(source_lengths[rows])  # the longest of the first N rows
        target = np.maximum.accumulate(target_lengths[rows])
        fits = np.arange(1, len(rows) + 1) * (source + target) <= (limit or math.inf)
        count = max(1, np.count_nonzero(fits))
        micro_batches.append(rows[:count])
        rows = rows[count:]
    return micro_batches


def padding(batches: Sequence[np.ndarray], lengths: np.ndarray) -> float:
    """Share of positions that hold padding when sequences of ``lengths`` are padded in batches."""
    real = sum(int(lengths[rows].sum()) for rows in batches)
    return 1 - real / sum(len(rows) * int(lengths[rows].max()) for rows in batches)
