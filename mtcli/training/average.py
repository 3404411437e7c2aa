"""Several checkpoints of a run as one: the mean of their weights, in a new run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..decoding import evaluation
from ..decoding.torch_engine import describe
from ..decoding.translator import Translator
from ..run import record
from ..run.directory import Run
from ..support import files
from ..support.errors import UserError
from ..text import codec, corpus


def choose(run: Run, last: int | None = None, best: int | None = None) -> list[int]:
    """The updates of the ``last`` checkpoints, of the ``best`` by the run's own measure, or of all.

    A run keeps only its newest checkpoints and the best. Raises UserError where there are too few.
    """
    updates, measure = run.checkpoints()[::-1], run.config.training.best_by
    if best is not None:
        data = run.record.digests().get("validation")  # scores on other data do not compare
        validations = [
            e for e in run.read_log() if "validation" in e and (e.get("data") or data) == data
        ]
        scores = {entry["update"]: entry["validation"].get(measure) for entry in validations}
        updates = [update for update in updates[::-1] if scores.get(update) is not None]
        updates.sort(key=scores.__getitem__, reverse=measure not in evaluation.LOWER_IS_BETTER)
    wanted = last or best or len(updates)
    if wanted > len(updates) or len(updates) < 2:
        which = f"checkpoints with a validation {measure}" if best else "checkpoints"
        listed = ", ".join(map(str, sorted(updates))) or "none"
        raise UserError(
            f"{run.path} holds {len(updates)} {which} ({listed}); an average of {max(wanted, 2)} needs more. A run "
            "keeps only the newest and the best: train with a larger training.keep_checkpoints, which is "
            f"{run.config.training.keep_checkpoints}."
        )
    return sorted(updates[:wanted])


def average(run: Run, updates: Sequence[int]) -> dict[str, Tensor]:
    """The mean of the weights of some checkpoints, summed in float64 (Vaswani et al. 2017, section 6.1).

    Raises UserError where one is damaged.
    """
    codecs = codec.load(run.path / "tokenizer", run.config)
    form = describe(run.config.model, [len(side.vocabulary) for side in codecs])
    mean: dict[str, Tensor] = {}
    for update in updates:  # one after the other, so that two are in memory
        weights = run.load_checkpoint(update, training=False, model=form).model
        for name, tensor in weights.items():
            mean[name] = mean.get(name, 0) + tensor.double() / len(updates)
    return {name: tensor.to(weights[name].dtype) for name, tensor in mean.items()}


def write(run: Run, updates: Sequence[int], weights: dict[str, Tensor], output: Path) -> Run:
    """A new run at ``output``: ``run`` after the last of ``updates``, but with these weights.

    Raises UserError where something is there already, or it cannot be written.
    """
    output = files.follow(output, "directory")
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already; name a new directory with --output.")
    newest = run.load_checkpoint(max(updates), training=True)
    codecs = codec.load(run.path / "tokenizer", run.config)
    with files.user_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with files.claim(output), files.new_directory(output, replace=True) as folder:
            averaged = Run.create(folder, run.requested, run.config)
            record.write(folder, run.record)
            if run.log_size():
                shutil.copyfile(run.inside("log.jsonl"), folder / "log.jsonl")
            with averaged.lock():
                averaged.save_tokenizers(lambda place: codec.save(place, *codecs))
                averaged.save_checkpoint(newest.update, weights, newest.tensors, newest.state)
    return Run(output)


def validate(run: Run, device: torch.device) -> dict[str, float]:
    """Loss, perplexity and the validation metrics of a run's best checkpoint.

    Raises UserError where the validation data are not there, or not what they were.
    """
    settings, translator = run.config.training, Translator.load(run.path, str(device))
    [validation] = record.find(run.path, run.config.data, "validation")
    sources, references = corpus.read_evaluation(validation)
    decoding = translator.decoding(beam_size=settings.validation_beam_size, sampling=None)
    metrics = settings.validation_metrics
    return evaluation.evaluate(translator, sources, references, metrics, decoding).values()
