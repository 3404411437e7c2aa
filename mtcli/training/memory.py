"""Running out of memory: what to tell, and which micro-batches fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..support import distributed
from ..support.errors import UserError, is_out_of_memory, log
from .plan import MicroBatch, Plan


class OutOfMemory(UserError):
    """There is no room for a batch."""


@contextmanager
def guard(update: int, micro_batches: Sequence[MicroBatch]) -> Iterator[None]:
    """Within this, losing another process raises UserError, and running out of memory OutOfMemory.

    ``update`` counts from 1.
    """
    with distributed.contact():
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            sizes = [(*b.source.shape, b.target_out.shape[1]) for _, _, b in micro_batches]
            sentences, source, target = max(sizes, key=lambda size: size[0] * (size[1] + size[2]))
            tokens = sentences * (source + target)
            less = (
                f"Set training.micro_batch_tokens to less than {tokens:,}, which keeps the result, and continue; if that is "
                "not enough, a new run needs"
            )
            raise OutOfMemory(
                f"Update {update}: out of memory. Its largest micro-batch is of {sentences:,} sentences × {source} "
                f"source and {target} target tokens, padding counted. {less if sentences > 1 else 'A new run needs'} a "
                "lower data.max_length or a smaller model."
            ) from None


def fit(plan: Plan, model: nn.Module, compute: Callable[[list[MicroBatch]], Any]) -> int | None:
    """Try the largest micro-batches, at first complete updates, until they fit. Returns the limit of the ``plan``.

    ``compute`` adds gradients to the model's. Raises OutOfMemory where one pair does not fit.
    """
    room = [torch.empty_like(p) for p in model.parameters() for _ in "12"]  # for the optimizers
    fits = False
    while not fits:
        parts = plan.largest()
        try:
            with guard(1, parts):
                compute(parts)
            fits = True
        except OutOfMemory:
            if not plan.halve(parts):
                raise
        model.zero_grad()
    del room
    plan.limit = min(distributed.gather_json(plan.limit), key=lambda limit: limit or math.inf)
    if plan.limit is not None:
        log.info(f"micro-batches of {plan.limit:,} tokens fit into memory")
    return plan.limit


def smaller(plan: Plan, update: int, micro_batches: Sequence[MicroBatch]) -> bool:
    """After memory ran out in an ``update``, whether its micro-batches can be smaller; they are from now on."""
    if not plan.halve(micro_batches):
        return False
    log.warning(
        f"Update {update:,}: out of memory. It is computed again in micro-batches of at most {plan.limit:,} tokens, as "
        "all are from now on."
    )
    return True
