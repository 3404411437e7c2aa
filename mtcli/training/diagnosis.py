"""What went wrong with an update, in words: numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from ..config import Training
from ..models.base import named_tensors
from ..models.batches import Batch
from ..support.errors import UserError
from ..text.codec import Codec
from ..text.vocab import PAD
from .plan import MicroBatch

SHOWN = 3  # pairs of a batch
SHOWN_CHARACTERS = 200  # of a sentence
SMALLEST_SCALE = 2.0**-14  # of losses in fp16, which loses small gradients there


def is_finite(module: nn.Module) -> bool:
    """Whether all parameters are finite numbers."""
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())


def find_not_finite(
    model: nn.Module,
    micro_batches: Iterable[MicroBatch],
    compute: Callable[[MicroBatch], Any],
    codecs: Sequence[Codec],
) -> tuple[str | None, str]:
    """The first module that gives a number that is not finite, and pairs of its micro-batch.

    Where none does, None and pairs of the last micro-batch.
    """
    found: list[str] = []

    def look(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in named_tensors(output).values()):
            found.append(f"{name or 'the model'} ({type(module).__name__})")

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(look, name)))
        for part in micro_batches:
            compute(part)
            if found:
                break
    return next(iter(found), None), _pairs(part.batch, codecs)


def not_finite(
    update: int, reports: Sequence[tuple[str | None, str]], learning_rate: float
) -> UserError:
    """What to tell of an update (from 1) by what `find_not_finite` found on every process."""
    where, pairs = next((report for report in reports if report[0]), reports[0])
    cause = "The output of every module is finite; what is not is the gradient."
    if where:
        cause = f"The first output that is not finite is that of {where}."
    return UserError(
        f"Update {update}: the gradient is not finite. Nothing that it spoilt was saved. {cause} The micro-batch:\n"
        f"{pairs}\nLower training.optimizer.learning_rate (it is {learning_rate}) or lengthen warm-up, in a new run; "
        "or leave such updates out, in this one: --set training.non_finite=skip."
    )


def overflows(update: int, scale: float) -> UserError:
    """What to tell where fp16 overflowed until the scale of the loss was too small."""
    return UserError(
        f"Update {update}: gradients overflow fp16 even where losses are scaled by {scale:.1g}, at which small gradients "
        "become 0. Updates that overflowed were left out, and nothing was spoilt. Set training.precision to bf16, which has "
        "the range of float32, or to float32, and name a new run with --run; or lower training.optimizer.learning_rate."
    )


def diverged(loss: float, vocabulary: int, settings: Training) -> str:
    """What to tell of a training that has become worse than guessing; ``loss`` is that of the validation."""
    rates = settings.optimizer.model_dump(include={"learning_rate", "matrix_learning_rate"})
    named = " and ".join(
        f"training.optimizer.{key} (it is {rate:g})" for key, rate in rates.items()
    )
    return (
        f"The loss, {loss:.4g}, is above {math.log(vocabulary):.4g}, that of a guess among {vocabulary:,} tokens: this "
        f"training has diverged, and no checkpoint of it counts as the best. Lower {named}, or lengthen "
        f"training.schedule.warmup_updates (it is {settings.schedule.warmup_updates}), in a new run."
    )


def _pairs(batch: Batch, codecs: Sequence[Codec]) -> str:
    """The text of the first few pairs, one a line, and how many more there are."""
    lines = []
    for row in range(min(SHOWN, len(batch.source))):
        source = codecs[0].decode(batch.source[row][batch.source_mask[row]].tolist())
        target = codecs[1].decode([id for id in batch.target_out[row].tolist() if id != PAD])
        lines.append(f"  {source[:SHOWN_CHARACTERS]}  |||  {target[:SHOWN_CHARACTERS]}")
    more = len(batch.source) - len(lines)
    return "\n".join([*lines, *([f"  … and {more:,} more"] if more else [])])
