"""Several checkpoints of a run as one, the mean of their weights, in a run of its own. Knows no kind of model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..decoding import evaluation
from ..decoding.torch_engine import TorchEngine, describe
from ..decoding.translator import Translator
from ..models import build_model
from ..run.checkpoint import load_into
from ..run.directory import Run
from ..support import devices
from ..support.errors import UserError
from ..text import codec, corpus


def choose(run: Run, last: int | None = None, best: int | None = None) -> list[int]:
    """The updates of the ``last`` checkpoints, of the ``best`` ones by the run's own measure, or of all there are.

    A run keeps only its newest checkpoints and the best one. Raises UserError where there are fewer than asked for.
    """
    there, measure = run.checkpoints(), run.config.training.best_by
    if best is not None:
        values = {
            entry["update"]: entry["validation"].get(measure)
            for entry in run.read_log()
            if "validation" in entry
        }
        scored = [update for update in there if values.get(update) is not None]
        there = sorted(
            scored, key=values.__getitem__, reverse=measure not in evaluation.LOWER_IS_BETTER
        )
    else:
        there.reverse()
    wanted = last or best or len(there)
    if wanted > len(there) or len(there) < 2:
        which = f"checkpoints with a validation {measure}" if best else "checkpoints"
        raise UserError(
            f"{run.path} holds {len(there)} {which} ({', '.join(map(str, sorted(there))) or 'none'}); an average of "
            f"{max(wanted, 2)} needs more. A run keeps only the newest and the best: train with a larger "
            f"training.keep_checkpoints, which is {run.config.training.keep_checkpoints}."
        )
    return sorted(there[:wanted])


def average(run: Run, updates: Sequence[int]) -> dict[str, Tensor]:
    """The mean of the weights of some checkpoints, summed in float64 (as in Vaswani et al. 2017, section 6.1).

    Raises UserError where one is damaged.
    """
    form = describe(run.config.model, _sizes(run))
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for update in updates:
        for name, tensor in run.load_checkpoint(update, training=False, model=form).model.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
            types[name] = tensor.dtype
    return {name: (tensor / len(updates)).to(types[name]) for name, tensor in total.items()}


def write(run: Run, updates: Sequence[int], weights: dict[str, Tensor], output: Path) -> Run:
    """A new run at ``output``: as ``run`` stood after the last of ``updates``, but with these weights.

    Raises UserError where something is there already, or it cannot be written.
    """
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already; name a new directory with --output.")
    newest = run.load_checkpoint(max(updates), training=True)
    averaged = Run.create(output, run.requested, run.config)
    try:
        if os.path.lexists(run.path / "log.jsonl"):
            shutil.copyfile(run.path / "log.jsonl", output / "log.jsonl", follow_symlinks=False)
    except OSError as error:
        raise UserError(f"{output / 'log.jsonl'} cannot be written: {error.strerror}.") from None
    with averaged.lock():
        codecs = codec.load(run.path / "tokenizer", run.config)
        averaged.save_tokenizers(lambda place: codec.save(place, *codecs))
        averaged.save_checkpoint(newest.update, weights, newest.tensors, newest.state)
    return averaged


def validate(run: Run, weights: dict[str, Tensor], device: torch.device) -> dict[str, float]:
    """Loss, perplexity and the validation metrics of a run's model with other weights, as in training.

    Raises UserError where the validation data cannot be read.
    """
    config = run.config
    model = build_model(config.model, *_sizes(run))
    load_into(model, weights)
    translator = Translator(
        TorchEngine(
            model.to(device).eval(), device, devices.autocast(device, config.training.precision)[0]
        ),
        codec.load(run.path / "tokenizer", config),
        config,
    )
    sources, references = corpus.read_evaluation(config.data.validation)
    decoding = translator.decoding(beam_size=config.training.validation_beam_size, sampling=None)
    return evaluation.evaluate(
        translator, sources, references, config.training.validation_metrics, decoding
    ).values()


def _sizes(run: Run) -> list[int]:
    return [len(side.vocabulary) for side in codec.load(run.path / "tokenizer", run.config)]
