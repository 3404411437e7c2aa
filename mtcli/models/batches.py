"""Sentences of ids as padded tensors with masks: what goes into a model."""

# B rows, S source, T target, N real target tokens

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..text.vocab import BOS, PAD


@dataclass(frozen=True)
class Batch:
    """One padded micro-batch on one device. Source rows end in EOS."""

    source: Tensor  # (B, S) ids
    source_mask: Tensor  # (B, S) True = real token
    target_in: Tensor  # (B, T) BOS, then the target
    target_out: Tensor  # (B, T) the target, then EOS
    target_places: Tensor  # (N,) of the real tokens among all B·T

    def of_targets(self, tensor: Tensor) -> Tensor:
        """What is there for each real target token: (B, T, …) -> (N, …). A GPU is not waited for, as
        it is where a mask is the index."""
        return tensor.flatten(0, 1).index_select(0, self.target_places)

    buffer: Tensor | None = None  # bytes: if `packed`, all of these are parts of it

    def packed(self, pinned: bool) -> Batch:
        """The same in one buffer, so that one copy takes it to a device; a GPU is not waited for if it is pinned."""
        tensors = self._tensors()
        size = sum(_room(tensor) for tensor in tensors)
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        parts = _parts(buffer, tensors)
        for part, tensor in zip(parts, tensors):
            part.copy_(tensor)
        return replace(Batch(*parts), buffer=buffer)

    def to(self, device: torch.device) -> Batch:
        if self.buffer is None:
            return Batch(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()))
        return Batch(*_parts(self.buffer.to(device, non_blocking=True), self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [tensor for name, tensor in vars(self).items() if name != "buffer"]


def _room(tensor: Tensor) -> int:
    """Bytes in a buffer in which every tensor begins at a multiple of 8."""
    return -(-tensor.nbytes // 8) * 8


def _parts(buffer: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Tensors of these types and shapes, one after the other in a buffer of bytes."""
    pieces = buffer.split([_room(tensor) for tensor in like])
    return [p[: t.nbytes].view(t.dtype).view(t.shape) for p, t in zip(pieces, like)]


@dataclass(frozen=True)
class Sequences:
    """Many sequences of numbers in one array, in memory or in a file that is mapped into it."""

    values: np.ndarray
    starts: np.ndarray  # of each sequence in ``values``
    lengths: np.ndarray

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

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """The sequences as (B, longest), filled up with PAD, and the mask of what is real."""
        steps = np.arange(self.lengths.max())
        mask = steps < self.lengths[:, None]
        places = np.where(mask, self.starts[:, None] + steps, 0)
        return np.where(mask, self.values[places], PAD).astype(np.int64), mask


def padded_batch(source: Sequences, target: Sequences) -> Batch:
    """Pairs as one batch; every sequence ends in EOS."""
    (source_ids, source_mask), (target_ids, target_mask) = source.padded(), target.padded()
    target_in = np.where(target_mask, np.roll(target_ids, 1, axis=1), PAD)
    target_in[:, 0] = BOS
    places = np.flatnonzero(target_mask)
    arrays = source_ids, source_mask, target_in, target_ids, places
    return Batch(*map(torch.from_numpy, arrays))
