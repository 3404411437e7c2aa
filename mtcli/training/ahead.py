"""Batches that are made in a thread, while a device computes the update before."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from .plan import MicroBatch, Plan


class Ahead:
    """This process's micro-batches of each update, the same ones as `Plan.micro_batches` gives.

    Off the CPU, those of the next update are made meanwhile, each in one buffer, which is copied to the device in one
    go. On the CPU a thread would only take time from the update.
    """

    def __init__(self, plan: Plan, device: torch.device):
        self.plan, self.pinned = plan, device.type == "cuda"
        self.thread = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self.key: tuple = ()
        self.made: Future[list[MicroBatch]] = Future()
        self.made.set_result([])

    def take(self, epoch: int, index: int, update: int) -> list[MicroBatch]:
        """Those of an update: of its epoch, at its index there, after ``update`` others."""
        made, key = self.made.result(), (epoch, index, update, self.plan.limit)
        if key != self.key:
            made = self._make(epoch, index, update)
        if self.thread is not None:
            last = index + 1 == self.plan.updates_per_epoch
            following = (epoch + 1, 0) if last else (epoch, index + 1)
            self.key = (*following, update + 1, self.plan.limit)
            self.made = self.thread.submit(self._make, *following, update + 1)
        return made

    def _make(self, epoch: int, index: int, update: int) -> list[MicroBatch]:
        parts = self.plan.micro_batches(self.plan.epoch(epoch)[index], update)
        if self.thread is None:
            return list(parts)
        return [part._replace(batch=part.batch.packed(self.pinned)) for part in parts]
