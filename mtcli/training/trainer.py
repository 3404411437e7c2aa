"""The training loop: update, validate, save, resume. Each of several processes (torchrun) runs it on its share."""

from __future__ import annotations

import math
import os
import time
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import config as configs
from ..decoding import alignment, evaluation
from ..decoding.torch_engine import TorchEngine, describe
from ..decoding.translator import Translator
from ..models import build_model
from ..run.checkpoint import load_into, to_tensors
from ..run.directory import Run
from ..support import devices, distributed
from ..support.errors import UserError, log
from ..support.progress import Bar
from ..support.signals import Interrupted, Signals
from ..text import corpus
from . import diagnosis, memory, optim, traces
from .ahead import Ahead
from .data import ParallelData, prepare, warn_of_unknown
from .logbook import Logbook
from .plan import MicroBatch, Plan
from .state import Progress, Tally, load_optimizers, optimizer_tensors
from .step import TrainStep, average_and_clip
from .validation import answer_share, keep_alignment, merge

LOOK_EVERY = 10  # updates between two looks at a device that is not the CPU; several processes agree there on how to go on


class Trainer:
    """Trains one run to its end, from its newest checkpoint if it has one.

    With several processes, each makes one with the same arguments; only the main one writes.
    """

    def __init__(self, run: Run, device: torch.device, signals: Signals | None = None):
        config = self.config = run.config
        self.run, self.device, self.settings = run, device, config.training
        self.signals = signals or Signals()
        self.is_main, self.world_size = distributed.is_main(), distributed.world_size()
        if self.settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
            torch.use_deterministic_algorithms(True)
        devices.choose_products(device)
        with distributed.main_first():
            self.codecs = prepare(config, run)
            self._read_data()
            if self.is_main:
                run.record_data()
                run.record_versions(devices.versions(device))
        self.data_digests = run.record.digests()
        self._build_model()
        self.optimizers = optim.build(self.model, self.settings.optimizer)
        self.schedule = optim.SCHEDULES[self.settings.schedule.type](self.settings.schedule)
        self.autocast, dtype = devices.autocast(device, self.settings.precision)
        fp16 = dtype is torch.float16
        # Losses are summed, not averaged, so half precision starts from a small scale.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=16.0, enabled=fp16)
        # Whether all updates so far are sound, or where bad ones are skipped, the last one. Read at a look.
        self.sound = torch.ones((), dtype=torch.bool, device=device)
        self.fits_memory = device.type != "cpu" and self.settings.micro_batch_tokens is None
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY
        self.skips = fp16 or self.settings.non_finite == "skip"
        engine = TorchEngine(self.model, device, self.autocast)
        self.translator = Translator(engine, self.codecs, config)
        self.progress, self.tally = Progress(data=self.data_digests), Tally(device)
        self.limits = [
            self.settings.max_updates,
            self.settings.max_epochs,
            self.settings.max_minutes,
        ]
        self.resumed = self.save_due = False
        self.stop = 0  # the signal on which all processes agreed

    def _read_data(self) -> None:
        config, folder = self.config, self.run.path / "cache"
        self.data = ParallelData(config.data.train, self.codecs, config.data.max_length, folder)
        self.sources, self.references = corpus.read_evaluation(config.data.validation)
        if not self.sources:
            name = configs.name_of(config.data.validation)
            raise UserError(f"{name} is empty; validation needs at least one pair.")
        self.plan = Plan(self.data, self.settings)
        self.batches = Ahead(self.plan, self.device)
        source_padding, target_padding = self.plan.padding()
        log.info(
            f"{len(self.data):,} training pairs, {int(self.data.target.lengths.sum()):,} target tokens, "
            f"{len(self.sources):,} validation pairs; {self.plan.updates_per_epoch:,} updates an epoch; "
            f"padding {source_padding:.1%} of source and {target_padding:.1%} of target positions"
        )
        warn_of_unknown(config, self.data, (self.sources, self.references))

    def _build_model(self) -> None:
        sizes = [len(side.vocabulary) for side in self.codecs]
        self.form = describe(self.config.model, sizes)
        torch.manual_seed(self.settings.seed)
        self.model = build_model(self.config.model, *sizes).to(self.device)
        if self.config.init_from is not None and not self.run.checkpoints():
            other = Run.open(self.config.init_from)
            start = other.load_checkpoint("best", training=False, model=self.form)
            load_into(self.model, start.model)
            log.info(f"starting from {self.config.init_from} after {start.update:,} updates")
        self.train_step = TrainStep(self.model, self.settings.label_smoothing)
        self.step: Any = self.train_step
        if self.world_size > 1:
            with distributed.contact():
                self.step = DistributedDataParallel(self.train_step, gradient_as_bucket_view=True)

    def resume(self) -> None:
        """Restore the newest checkpoint that is not damaged, if there is one. Done once; `train` does it too."""
        if not self.resumed:
            with self.signals, self.signals.held():
                self._resume()
            self.resumed = True

    def train(self) -> None:
        """Run to the end. Where a signal asks to stop, save and raise Interrupted."""
        self.resume()
        try:
            with self.signals, self.signals.held():
                if not self.finished():
                    if self.fits_memory and not self.progress.update:
                        compute = partial(self._add_gradients, self.train_step)
                        found = memory.fit(self.plan, self.model, compute)
                        self.progress.micro_batch_tokens = found
                    with Bar(self.share_done()) as bar:
                        updates = self.plan.updates_per_epoch
                        self.logbook = Logbook(self.run, self.settings, bar, self.progress, updates)
                        with closing(self.logbook):
                            self._loop()
                elif not self.progress.ended:  # saved by a version that did not note it
                    self._write_checkpoint()
                elif alignment.kept(self.run):
                    return
                keep_alignment(self.run, self.codecs, self.sources, self.references, self.device)
        finally:
            self.step = self.train_step  # DistributedDataParallel would keep the process group

    def _loop(self) -> None:
        progress = self.progress
        self.model.train()
        self.saved_at = time.perf_counter()
        if progress.due:
            self._validate_and_save()
        while not self.finished():
            updates = self.plan.epoch(progress.epoch)
            if progress.index < len(updates):
                self._update(updates[progress.index])
                self._after_update(last_of_epoch=progress.index == len(updates))
            else:
                progress.epoch, progress.index = progress.epoch + 1, 0

    def _update(self, rows: np.ndarray) -> None:
        """One optimizer step on the pairs of ``rows``."""
        started, progress = time.perf_counter(), self.progress
        devices.choose_products(self.device)  # a validation may have chosen otherwise
        first = progress.start
        factor = self.schedule.factor(progress.update - first, self.share_done(), again=first > 0)
        optim.set_learning_rate(self.optimizers, factor)
        self.model.zero_grad()
        while True:
            micro_batches = self.batches.take(progress.epoch, progress.index, progress.update)
            guard = partial(memory.guard, progress.update + 1, micro_batches)
            try:
                with guard():
                    sums = self._add_gradients(self.step, micro_batches)
                break
            except memory.OutOfMemory:
                if not self._make_room(micro_batches):
                    raise
        tokens = self._count_tokens(rows, micro_batches)
        norm = self._finish_gradients(tokens)
        self.sound = norm.isfinite() if self.skips else norm.isfinite() & self.sound
        with guard():  # optimizers take memory at their first step
            optim.step(self.optimizers, self.sound)
            self.scaler.update()
        progress.update += 1
        progress.index += 1
        progress.seconds += time.perf_counter() - started
        self.tally.add(sums, norm, tokens, self.sound)

    def _make_room(self, micro_batches: list[MicroBatch]) -> bool:
        """After memory ran out: whether the update can be made in smaller micro-batches. If not, save what there is."""
        progress = self.progress
        self.model.zero_grad()
        if self.world_size > 1:  # the others wait for gradients; they could not join in
            return False
        smaller = memory.smaller(self.plan, progress.update + 1, micro_batches)
        progress.micro_batch_tokens = self.plan.limit
        if progress.update and not smaller:
            self._save()
        return smaller

    def _count_tokens(self, rows: np.ndarray, micro_batches: list[MicroBatch]) -> int:
        """Target tokens of an update, of all processes; sampled segmentations have to be counted."""
        if not self.data.samples:
            return int(self.data.target.lengths[rows].sum())
        own = sum(len(part.batch.target_places) for part in micro_batches if part.weight)
        return sum(distributed.gather_json(own))

    def _add_gradients(self, step: nn.Module, micro_batches: list[MicroBatch]) -> Tensor:
        """Sum the gradients of all micro-batches. Returns the summed loss and likelihood, (2,)."""
        sums = []
        for part in micro_batches:
            # With the last one, DistributedDataParallel exchanges the gradients of all.
            vars(step)["require_backward_grad_sync"] = part is micro_batches[-1]
            loss, likelihood = self._forward(step, part)
            self.scaler.scale(loss * part.weight).backward()
            sums.append(torch.stack([loss.detach(), likelihood]) * part.weight)
        return torch.stack(sums).sum(0)

    def _forward(self, step: nn.Module, part: MicroBatch) -> tuple[Tensor, Tensor]:
        torch.manual_seed(part.seed)
        with self.autocast():
            return step(part.batch.to(self.device))

    def _finish_gradients(self, tokens: int) -> Tensor:
        """Divide the summed gradients by the target tokens, then clip. Returns their norm before."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        divisor = tokens / self.world_size  # DistributedDataParallel has averaged over processes
        return average_and_clip(gradients, divisor, self.settings.max_gradient_norm)

    def _after_update(self, last_of_epoch: bool) -> None:
        progress, settings = self.progress, self.settings
        look = progress.update % self.look_every == 0
        if look:
            self._check_finite()
        if look or self.world_size == 1 or settings.max_minutes is not None:
            self._synchronize()
        done = self.share_done()
        self.logbook.advance(done)
        if progress.update % settings.log_every == 0 or done >= 1:
            self._log_training()
        every = settings.validate_every
        progress.due = last_of_epoch if every == "epoch" else progress.update % every == 0
        progress.due |= done >= 1
        if progress.due or self.stop or self.save_due:
            self._validate_and_save()

    def _synchronize(self) -> None:
        """All processes agree on whether to stop or to save, and on the main one's clock."""
        minutes = (time.perf_counter() - self.saved_at) / 60
        save_due = self.settings.save_minutes is not None and minutes >= self.settings.save_minutes
        states = distributed.gather_json([self.signals.asked, self.progress.seconds, save_due])
        self.stop = max(asked for asked, _, _ in states)
        _, self.progress.seconds, self.save_due = states[0]

    def _validate_and_save(self) -> None:
        """Validate if that is due and nobody asked to stop; save; stop if somebody did."""
        if self.progress.due and not self.stop:
            self._validate()
        self._save()
        if self.stop and not self.finished():
            raise Interrupted(self.stop)

    def _log_training(self) -> None:
        self._check_finite()
        means, rate = self.tally.means(), self.optimizers[-1].param_groups[0]["lr"]
        self.progress.guessing = self._is_guess(means)
        if self.is_main:
            self.logbook.training(rate, means, self.share_done())
        self.tally = Tally(self.device)

    def share_done(self) -> float:
        return self.progress.share_done(self.settings, self.plan.updates_per_epoch)

    def finished(self) -> bool:
        """Whether no validation is due and training is at its end; without one, patience ends it."""
        stalled = self._out_of_patience() and not self.schedule.ends
        return not self.progress.due and (self.share_done() >= 1 or stalled)

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.progress.waited >= self.settings.patience

    def _validate(self) -> None:
        """Score the model on the validation data. Where a signal interrupts this, it stays due."""
        self._check_finite()
        started, progress, settings = time.perf_counter(), self.progress, self.settings
        self.model.eval()
        with suppress(Interrupted), self.signals.interruptible():
            own = answer_share(self.translator, self.sources, self.references, settings)
            kept = self._keep_traces() if self.is_main else None
        self.model.train()
        self._synchronize()
        if self.stop:
            return
        answers, values = merge(own), None
        if self.is_main:
            names = settings.validation_metrics
            values = evaluation.score(self.translator, answers, self.references, names).values()
        values, seconds = distributed.broadcast_json([values, time.perf_counter() - started])
        progress.due = False
        better = self._compare(values)
        progress.seconds += seconds
        if self.is_main:
            shown = zip(self.sources, answers.hypotheses, self.references)
            examples = [
                {"source": source, "hypothesis": hypothesis, "reference": references[0]}
                for source, hypothesis, references in islice(shown, settings.examples)
            ]
            self.logbook.validation(values, better, examples, seconds)
            if kept is not None:
                self.run.save_traces(progress.update, kept.model_dump())

    def _keep_traces(self) -> traces.Traces | None:
        """The examples from inside, if there are to be any; draws no random numbers."""
        shown = self.sources[: self.settings.examples if self.settings.traces else 0]
        beam_size = self.settings.validation_beam_size
        return traces.keep(self.translator, shown, beam_size) if shown else None

    def _is_guess(self, values: dict[str, float]) -> bool:
        """Whether the model is worse than all tokens being equally probable, though warm-up is over."""
        vocabulary = len(self.codecs[1].vocabulary)
        return self.progress.warm(self.settings) and values["perplexity"] > vocabulary

    def _compare(self, values: dict[str, float]) -> bool:
        """Whether a validation is the best so far; one of a diverged training is not. Without a new best, patience
        runs out."""
        progress, value = self.progress, values[self.settings.best_by]
        guessing = self._is_guess(self.tally.means()) if self.tally.updates else progress.guessing
        if guessing and self._is_guess(values):
            value = math.nan
            size = len(self.codecs[1].vocabulary)
            log.warning(diagnosis.diverged(values["loss"], size, self.settings))
        better = progress.compare(value, self.settings.best_by in evaluation.LOWER_IS_BETTER)
        if self._out_of_patience() and self.schedule.ends and not progress.cooling_from:
            progress.cooling_share, progress.cooling_from = self.share_done(), progress.update
            log.info(f"no new best in {progress.waited} validations: the rate now falls to its end")
        self.schedule.validated(better)
        return better

    def _save(self) -> None:
        """Save a checkpoint. Raises UserError where the weights are spoilt or it cannot be written."""
        self._check_finite()
        if not diagnosis.is_finite(self.model):
            raise UserError(
                f"Update {self.progress.update}: weights of the model are not finite; they were not saved."
            )
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        progress = self.progress
        progress.ended = self.limits if self.finished() else []
        progress.schedule = self.schedule.state
        progress.scaler = self.scaler.state_dict()
        progress.tally = distributed.gather_json(self.tally.sums.tolist())
        progress.tally_updates = self.tally.updates
        if self.is_main:
            progress.log_size = self.run.log_size()
            tensors = optimizer_tensors(self.model, self.optimizers)
            model, state = to_tensors(self.model), progress.model_dump()
            self.run.save_checkpoint(progress.update, model, tensors, state)
            self._record_best()
            self.run.prune(self.settings.keep_checkpoints)
        distributed.meet()
        self.saved_at, self.save_due = time.perf_counter(), False

    def _record_best(self) -> None:
        self.run.set_best(self.progress.describe_best(self.settings.best_by))

    def _resume(self) -> None:
        load = partial(self.run.load_checkpoint, training=True, model=self.form)
        saved = load("last") if self.is_main and self.run.checkpoints() else None
        update = distributed.broadcast_json(saved and saved.update)
        if update is None:
            if self.is_main:
                self.run.truncate_log(0)
                self.run.drop_traces(-1)
            return
        saved = saved or load(update)
        progress = Progress.restore(saved, self.schedule.state, self.scaler.state_dict())
        self.progress = progress
        self.plan.limit = self.settings.micro_batch_tokens or progress.micro_batch_tokens
        changed = progress.change_data(self.data_digests)
        if longer := self.schedule.ends and progress.ended not in ([], self.limits):
            progress.restart()
        if progress.index > len(self.plan.epoch(progress.epoch)):
            told = f"Checkpoint {saved.update}: update {progress.index} of its epoch is not in data.train"
            raise UserError(f"{told}, which is not what it was. Name another directory with --run.")
        load_into(self.model, saved.model)
        if saved.tensors:  # none before the first step
            config = self.settings.optimizer
            load_optimizers(self.model, self.optimizers, saved, self.form, config)
        self.tally = Tally.restore(self.device, progress)
        self.schedule.state = progress.schedule
        self.scaler.load_state_dict(progress.scaler)
        if self.is_main:
            self._record_best()  # a kill may have come between the checkpoint and this
            self.run.truncate_log(progress.log_size)
            self.run.drop_traces(progress.update)
            if changed:
                self.run.append_log({"update": progress.update, "changed_data": changed})
        if not self.finished():
            log.info(
                f"continuing from update {progress.update:,}{', with a new schedule' * longer}"
            )

    def _check_finite(self) -> None:
        """Look at the device. Raises UserError at a gradient that is not finite, or at too many that fp16 cannot hold."""
        if self.scaler.is_enabled():
            if (scale := self.scaler.get_scale()) < diagnosis.SMALLEST_SCALE:
                raise diagnosis.overflows(self.progress.update, scale)
        elif not self.skips and (lost := self.tally.updates - self.tally.finite_updates()):
            self._stop_not_finite(lost)

    def _stop_not_finite(self, lost: int) -> NoReturn:
        """Go back to before the updates that were left out; save; raise UserError that says what was wrong in the first."""
        progress = self.progress
        progress.go_back(lost, self.plan.updates_per_epoch)
        self.tally.updates -= lost
        if diagnosis.is_finite(self.model):
            if progress.update:
                self._write_checkpoint()
        elif self.run.checkpoints():  # earlier weights are the best there are to look at
            saved = self.run.load_checkpoint("last", training=False, model=self.form)
            load_into(self.model, saved.model)
        rows = self.plan.epoch(progress.epoch)[progress.index]
        reports = distributed.gather_json(self._find_not_finite(rows, progress.update))
        rate = self.settings.optimizer.learning_rate
        raise diagnosis.not_finite(progress.update + 1, reports, rate)

    def _find_not_finite(self, rows: np.ndarray, update: int) -> tuple[str | None, str]:
        micro_batches = self.plan.micro_batches(rows, update)
        compute = partial(self._forward, self.train_step)
        return diagnosis.find_not_finite(self.model, micro_batches, compute, self.codecs)
