"""What went wrong with a batch, in words: numbers that are not finite, memory that ran out. Knows no training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.batches import Batch
from ..support.errors import UserError
from ..text.codec import Codec

SHOWN = 3  # pairs of a batch
SHOWN_CHARACTERS = 200  # of a sentence


def is_finite(module: nn.Module) -> bool:
    """Whether all parameters are finite numbers."""
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())


def first_not_finite(module: nn.Module, compute: Callable[[], Any]) -> str | None:
    """The first module under ``module`` that gives a number that is not finite in ``compute()``; None: none does."""
    found: list[str] = []

    def look(name: str, kind: str):
        def hook(_module, _inputs, output) -> None:
            if not found and not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                found.append(f"{name or 'the model as a whole'} ({kind})")

        return hook

    handles = [
        each.register_forward_hook(look(name, type(each).__name__))
        for name, each in module.named_modules()
    ]
    try:
        with torch.no_grad():
            compute()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _tensors(each)


def pairs(batch: Batch, codecs: Sequence[Codec]) -> str:
    """How many pairs a batch holds, and the text of the first few, one a line."""
    sides = ((batch.source, batch.source_mask), (batch.target_out, batch.target_mask))
    texts = [
        [
            codec.decode(ids[mask].tolist())[:SHOWN_CHARACTERS]
            for ids, mask in zip(side[:SHOWN], real[:SHOWN])
        ]
        for codec, (side, real) in zip(codecs, sides)
    ]
    lines = [f"  {source}  |||  {target}" for source, target in zip(*texts)]
    rest = len(batch.source) - len(lines)
    return "\n".join([*lines, *([f"  … and {rest:,} more"] if rest else [])])


@contextmanager
def memory(update: int, batch: Batch, limit: int | None) -> Iterator[None]:
    """Within this, running out of memory on ``batch`` raises OutOfMemory, which says what to lower.

    ``limit`` is what training.micro_batch_tokens is now.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            if "can't allocate memory" not in str(error):  # how the CPU's allocator says it
                raise
        (sentences, source), target = batch.source.shape, batch.target_out.shape[1]
        padded = sentences * (source + target)
        raise OutOfMemory(
            f"Update {update}: out of memory on a micro-batch of {sentences:,} sentences × {source} source and "
            f"{target} target tokens, padding counted. Set training.micro_batch_tokens to less than {padded:,}"
            + (f" (it is {limit:,})" if limit else "")
            + ", which keeps the result, and continue; if that is not enough, a new run needs a lower data.max_length "
            "or training.batch_tokens, or a smaller model."
        ) from None


class OutOfMemory(UserError):
    """There is no room for a batch."""
