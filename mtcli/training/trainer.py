"""The training loop: update, log, validate, keep the best, stop early, resume. Knows no kind of model.

Several processes (torchrun) run the same loop: each takes its share of every update's pairs and of every validation,
all come to the same decisions, and only the main one writes.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import config as configs
from ..config import Config
from ..decoding import evaluation
from ..decoding.torch_engine import TorchEngine, describe
from ..decoding.translator import Translator
from ..models import build_model
from ..models.base import Seq2Seq
from ..models.batches import Batch
from ..models.loss import cross_entropy
from ..run.checkpoint import Checkpoint, check_forms, load_into, to_tensors
from ..run.directory import Run
from ..support import devices, distributed
from ..support.errors import UserError
from ..support.progress import Bar
from ..support.signals import Interrupted, Signals, run_interruptibly
from ..text import codec, corpus
from . import diagnosis, optim
from .plan import ParallelData, cut, padding, plan_epoch
from .state import Progress, Tally

log = logging.getLogger("mtcli")

COOLING = (
    0.1  # of the updates done when patience runs out: in so many more the schedule comes to its end
)
PACE = (
    5,
    20,
)  # updates, counted from the start of the process, between which the pace of training is taken
CONFER_EVERY = {
    "cpu": 1,
    "cuda": 10,
}  # updates after which several processes ask each other whether to stop or save


class TrainStep(nn.Module):
    """A batch to its summed loss: what is wrapped for several processes."""

    def __init__(self, model: Seq2Seq, label_smoothing: float):
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed smoothed loss and summed negative log-likelihood over the real target tokens only."""
        states = self.model(batch.source, batch.source_mask, batch.target_in)[
            batch.target_mask
        ]  # (N, H)
        targets = batch.target_out[batch.target_mask]
        weight, bias = self.model.projection.weight, self.model.projection.bias
        return cross_entropy(states, weight, bias, targets, self.label_smoothing)


def prepare(config: Config, run: Run) -> tuple[codec.Codec, codec.Codec]:
    """The run's tokenizers and vocabularies: read, or written: those of `init_from` or learnt from the corpora."""
    folder = run.path / "tokenizer"
    if folder.is_dir():
        return codec.load(folder, config)
    if config.init_from is not None:
        codecs = codec.load(Run.open(config.init_from).path / "tokenizer", config)
    else:
        codecs = run_interruptibly(lambda: codec.learn(config, lambda: training_pairs(config)))
    run.save_tokenizers(lambda place: codec.save(place, *codecs))
    return codecs


def training_pairs(config: Config):
    """Every training pair once, whatever its corpus's weight; pairs with a blank side are left out."""
    for part in config.data.train:
        yield from corpus.read_pairs(part, skip_blank=True, warn=False)  # the data will


class Trainer:
    """Trains one run from where it stands to its end; of several processes, each makes one with the same arguments."""

    def __init__(self, run: Run, device: torch.device, signals: Signals | None = None):
        config = self.config = run.config
        self.run, self.device, self.settings = run, device, config.training
        self.signals = signals or Signals()
        self.is_main, self.rank, self.world_size = (
            distributed.is_main(),
            distributed.rank(),
            distributed.world_size(),
        )
        if self.settings.deterministic:
            os.environ.setdefault(
                "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
            )  # read when CUDA's matrix library starts
            torch.use_deterministic_algorithms(True)
        with distributed.main_first():
            self.codecs = prepare(config, run)
        sizes = [len(side.vocabulary) for side in self.codecs]
        self.form = describe(config.model, sizes)
        self.saved = self._newest_checkpoint()
        with distributed.main_first():
            self._read_data()
        torch.manual_seed(self.settings.seed)
        model = self.model = build_model(config.model, *sizes).to(device)
        if self.saved is None and config.init_from is not None:
            start = Run.open(config.init_from).load_checkpoint(
                "best", training=False, model=self.form
            )
            load_into(model, start.model)
            log.info(f"starting from {config.init_from} after {start.update:,} updates")
        self.step = self.train_step = TrainStep(model, self.settings.label_smoothing)
        if self.world_size > 1:
            self.step = DistributedDataParallel(self.step, gradient_as_bucket_view=True)
        self.optimizers = optim.build(model, self.settings.optimizer)
        self.schedule = optim.build_schedule(self.settings.schedule)
        self.autocast, dtype = devices.autocast(device, self.settings.precision)
        # Losses are summed, not averaged, so half precision starts from a small scale.
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=16.0, enabled=dtype is torch.float16
        )
        # Whether each update's norm is looked at before it is used. On a GPU that would wait for it every time.
        self.watches = not self.scaler.is_enabled() and (
            device.type == "cpu" or self.settings.non_finite == "skip"
        )
        self.translator = Translator(TorchEngine(model, device, self.autocast), self.codecs, config)
        self.progress, self.tally = Progress(), Tally(device)
        self.board = None
        self.own_updates = 0  # of this process
        self.paced: tuple[float, float] | None = (
            None  # the clock and the share done, when the pace began to be taken
        )
        self.stop = 0  # the signal upon which all processes agreed to stop
        self.save_due = False

    # ------------------------------------------------------------------------------------------------------------ data

    def _read_data(self) -> None:
        config = self.config
        self.data = ParallelData.build(
            config.data.train, self.codecs, config.data.max_length, self.run.path / "cache"
        )
        sources, references = corpus.read_evaluation(config.data.validation)
        if not sources:
            raise UserError(
                f"{configs.name_of(config.data.validation)} is empty; validation needs at least one pair."
            )
        self.sources, self.references = sources, references
        lengths = self.data.source_lengths, self.data.target_lengths
        by, self.batch_size = (
            ("sentences", self.settings.batch_sentences)
            if self.settings.batch_sentences
            else ("tokens", self.settings.batch_tokens)
        )
        self.plan = lru_cache(1)(
            lambda epoch: plan_epoch(*lengths, self.batch_size, by, self.settings.seed, epoch)
        )
        first = self.plan(0)
        self.updates_per_epoch = len(first)
        limit = self.settings.micro_batch_tokens or (None if self.device.type == "cpu" else 16_384)
        self.cut = lambda rows: [rows] if limit is None else cut(rows, *lengths, limit)
        micro_batches = [part for rows in first for part in self.cut(rows)]
        log.info(
            f"{len(self.data):,} training pairs, {int(lengths[1].sum()):,} target tokens, {len(sources):,} validation "
            f"pairs; {self.updates_per_epoch:,} updates an epoch; padding {padding(micro_batches, lengths[0]):.1%} of "
            f"source and {padding(micro_batches, lengths[1]):.1%} of target positions"
        )

    def _micro_batches(self, rows: np.ndarray, update: int) -> Iterator[tuple[int, float, Batch]]:
        """(seed, weight, batch) of each of this process's micro-batches of the step after ``update``.

        The rows are dealt out in pieces of about equal tokens. Of all micro-batches this process has every
        world_size-th; where there are too few pairs it has one of weight 0, since the others wait for its gradients.
        """
        sizes = self.data.source_lengths[rows] + self.data.target_lengths[rows].astype(np.int64)
        owners = (np.cumsum(sizes) - sizes / 2) * self.world_size // sizes.sum()
        share = rows[owners == self.rank]
        weight = float(len(share) > 0)
        for number, part in enumerate(self.cut(share) if weight else [rows[:1]]):
            seed = seed_of(self.settings.seed, update, number * self.world_size + self.rank)
            yield seed, weight, self.data.batch(part, sampling_seed=seed)

    # ------------------------------------------------------------------------------------------------------------ loop

    def train(self) -> None:
        """Run to the end. Raises Interrupted when a signal asked to stop, after saving."""
        try:
            self._train()
        finally:
            self.step = (
                self.train_step
            )  # DistributedDataParallel would hold the process group, which is to end

    def _train(self) -> None:
        with self.signals, self.signals.held():
            self._resume()
            if self.finished():
                return
            self.model.train()
            self.log_started = self.saved_at = time.perf_counter()
            if self.settings.tensorboard and self.is_main:
                self.board = _tensorboard(self.run, self.progress.update)
            with Bar(self.share_done()) as self.bar:
                if self.progress.due:
                    self._validate_or_save()
                while not self.finished():
                    rows_of_updates = self.plan(self.progress.epoch)
                    while self.progress.index < len(rows_of_updates) and not self.finished():
                        self._update(rows_of_updates[self.progress.index])
                        self._after_update(
                            last_of_epoch=self.progress.index == len(rows_of_updates)
                        )
                    if self.progress.index == len(rows_of_updates):
                        self.progress.epoch, self.progress.index = self.progress.epoch + 1, 0

    def _update(self, rows: np.ndarray) -> None:
        """One optimizer step on the pairs of ``rows``, by way of micro-batches whose gradients are summed."""
        started = time.perf_counter()
        progress = self.progress
        optim.set_learning_rate(
            self.optimizers, self.schedule.factor(progress.update, self.share_done())
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        batches = list(self._micro_batches(rows, progress.update))
        tokens = int(self.data.target_lengths[rows].sum())
        if self.data.samples:
            own = sum(int(weight) * batch.target_mask.sum() for _, weight, batch in batches)
            tokens = int(distributed.all_reduce_sum(own))
        losses = []
        for number, (seed, weight, batch) in enumerate(batches, 1):
            alone = self.world_size == 1 or number == len(
                batches
            )  # else the gradients wait for the last one's
            with nullcontext() if alone else self.step.no_sync(), self._guarded(batch):
                torch.manual_seed(seed)
                with self.autocast():
                    loss, likelihood = self.step(batch.to(self.device))
                if not weight:
                    loss = loss * 0
                self.scaler.scale(loss).backward()
                losses.append(torch.stack([loss.detach(), likelihood * weight]))
        norm = self._finish_gradients(tokens)
        finite = norm.isfinite()
        if not self.watches or finite:
            with self._guarded(
                batch, continuable=False
            ):  # optimizers take memory at their first step
                for optimizer in self.optimizers:
                    self.scaler.step(optimizer)
                self.scaler.update()
        elif self.settings.non_finite == "stop":
            self._stop_not_finite(progress.update)
        progress.update += 1
        progress.index += 1
        progress.seconds += time.perf_counter() - started
        self.tally.add(*torch.stack(losses).sum(0), norm, tokens, finite)

    def _finish_gradients(self, tokens: int) -> Tensor:
        """Divide the summed gradients by the update's target tokens, then clip. Returns their norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        each = (
            tokens / self.world_size
        )  # DistributedDataParallel makes means over the processes of what are sums
        norm = torch.nn.utils.get_total_norm(gradients) / each
        scale = torch.full_like(norm, 1 / each)
        if self.settings.max_gradient_norm is not None:
            scale *= (self.settings.max_gradient_norm / (norm + 1e-9)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        return norm

    def share_done(self) -> float:
        """How much of training is done, 0 to 1: by updates, epochs or minutes, whichever ends first.

        From where patience ran out, the rest of it is done in a tenth of the updates that it took till then.
        """
        settings, progress = self.settings, self.progress
        shares = [0.0]
        if settings.max_updates:
            shares.append(progress.update / settings.max_updates)
        if settings.max_epochs:
            shares.append(
                progress.update / max(1, round(settings.max_epochs * self.updates_per_epoch))
            )
        if settings.max_minutes:
            shares.append(progress.seconds / 60 / settings.max_minutes)
        if progress.cooling_from:
            rest = (progress.update - progress.cooling_from) / max(
                1, round(progress.cooling_from * COOLING)
            )
            shares.append(progress.cooling_share + (1 - progress.cooling_share) * rest)
        return min(1.0, max(shares))

    def finished(self) -> bool:
        """Whether the end is reached, or patience is out with a schedule that has no end, and no validation is due."""
        stalled = self.out_of_patience() and not self.schedule.ends
        return not self.progress.due and (self.share_done() >= 1 or stalled)

    def out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.progress.waited >= self.settings.patience

    def _after_update(self, last_of_epoch: bool) -> None:
        progress, settings = self.progress, self.settings
        self._confer()
        self._tell_pace()
        self.bar.advance(self.share_done())
        at_end = self.share_done() >= 1
        if progress.update % settings.log_every == 0 or at_end:
            self._log_training()
        every = settings.validate_every
        progress.due = (
            last_of_epoch if every == "epoch" else progress.update % every == 0
        ) or at_end
        if progress.due or self.stop or self.save_due:
            self._validate_or_save()

    def _tell_pace(self) -> None:
        """After a few updates: how long this will take here, and how to bound it."""
        self.own_updates += 1
        begin, end = PACE
        if self.own_updates == begin:
            self.paced = time.perf_counter(), self.share_done()
        elif self.own_updates == end and self.paced and self.settings.max_minutes is None:
            seconds, share = time.perf_counter() - self.paced[0], self.share_done() - self.paced[1]
            minutes = seconds / max(share, 1e-9) * (1 - self.share_done()) / 60
            if minutes >= 1:
                self.bar.write(
                    f"about {minutes:,.0f} minutes to go on this machine, validations not counted, if validation keeps "
                    f"getting better; to bound it: --set training.max_minutes={max(1, round(minutes / 2))}"
                )

    def _confer(self) -> None:
        """All processes learn of each other's signals, and of the main one's clock."""
        every = (
            1
            if self.world_size == 1 or self.settings.max_minutes
            else CONFER_EVERY[self.device.type]
        )
        if self.progress.update % every:
            return
        minutes = (time.perf_counter() - self.saved_at) / 60
        save_due = self.settings.save_minutes is not None and minutes >= self.settings.save_minutes
        told = distributed.gather_json([self.signals.asked, self.progress.seconds, save_due])
        self.stop = max(asked for asked, _, _ in told)
        _, self.progress.seconds, self.save_due = told[0]

    def _validate_or_save(self) -> None:
        """Validate if that is due and nobody asked to stop; save; stop if somebody did."""
        if self.progress.due and not self.stop:
            self._validate()
        self._save()
        if self.stop and not self.finished():
            raise Interrupted(self.stop)

    # ------------------------------------------------------------------------------------------------------ validation

    def _validate(self) -> None:
        """Score the model on validation data; remember whether it is the best so far and whether to stop.

        A signal ends it early: then it stays due.
        """
        started = time.perf_counter()
        self.model.eval()
        answers = self._answers()
        self.model.train()
        if answers is None:
            return
        progress, settings = self.progress, self.settings
        values = None
        if self.is_main:
            names = settings.validation_metrics
            values = evaluation.score(self.translator, answers, self.references, names).values()
        values, seconds = distributed.broadcast_json([values, time.perf_counter() - started])
        value = values[settings.best_by]
        better = math.isfinite(value) and (
            progress.best is None
            or (
                value < progress.best
                if settings.best_by in evaluation.LOWER_IS_BETTER
                else value > progress.best
            )
        )
        if better:
            progress.best, progress.best_update, progress.waited = value, progress.update, 0
        else:
            progress.waited += 1
        progress.due = False
        if self.out_of_patience() and self.schedule.ends and not progress.cooling_from:
            progress.cooling_share, progress.cooling_from = self.share_done(), progress.update
            log.info(
                f"no new best in {progress.waited} validations: the learning rate now falls to its end"
            )
        self.schedule.validated(better)
        progress.seconds += seconds
        self.log_started += seconds
        if not self.is_main:
            return
        examples = [
            {"source": source, "hypothesis": hypothesis, "reference": references[0]}
            for source, hypothesis, references in zip(
                self.sources, answers.hypotheses[: settings.examples], self.references
            )
        ]
        entry = {
            "update": progress.update,
            "epoch": self.epochs_done(),
            "validation": values,
            "best": better,
            "examples": examples,
            "clock": {
                "seconds": round(progress.seconds, 2),
                "validation_seconds": round(seconds, 2),
            },
        }
        self._log(entry)
        shown = "  ".join(f"{name} {number:.4g}" for name, number in values.items())
        self.bar.write(
            f"update {progress.update:,}  validation  {shown}" + ("  best so far" if better else "")
        )
        for example in examples:
            self.bar.write(
                "".join(f"    {name:<10} {text}\n" for name, text in example.items()).rstrip("\n")
            )

    def _answers(self) -> evaluation.Answers | None:
        """What the model makes of the validation data; every process does its share, and all get the whole.

        A signal to any of them becomes that of all, in ``stop``, and there is no answer.
        """
        settings, rank, world_size = self.settings, self.rank, self.world_size
        decoding = self.translator.decoding(beam_size=settings.validation_beam_size, sampling=None)
        wanted = (
            len(self.sources)
            if settings.validation_metrics
            else min(settings.examples, len(self.sources))
        )
        sources, references = self.sources[rank::world_size], self.references[rank::world_size]
        limit = len(range(rank, wanted, world_size))
        asked, own = 0, None
        try:
            with self.signals.interruptible():
                own = vars(evaluation.answer(self.translator, sources, references, decoding, limit))
        except Interrupted as stop:
            asked = stop.signal
        told = distributed.gather_json([asked, own])
        self.stop = max(asked for asked, _ in told)
        if self.stop:
            return None
        return evaluation.Answers(
            **{name: _interleaved([part[name] for _, part in told]) for name in told[0][1]}
        )

    # ----------------------------------------------------------------------------------------------- saving, resuming

    def _save(self) -> None:
        """Save where training stands. Raises UserError where that is spoilt or cannot be written."""
        self._check_finite()
        if not diagnosis.is_finite(self.model):
            raise UserError(
                f"Update {self.progress.update}: weights of the model are not finite; they were not saved."
            )
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        progress = self.progress
        progress.schedule = self.schedule.state()
        progress.scaler = self.scaler.state_dict()
        progress.tally = distributed.gather_json(self.tally.sums.tolist())
        progress.tally_updates = self.tally.updates
        if self.is_main:
            progress.log_size = self.run.log_size()
            tensors = _optimizer_tensors(self.model, self.optimizers)
            self.run.save_checkpoint(
                progress.update, to_tensors(self.model), tensors, asdict(progress)
            )
            if progress.best_update == progress.update:
                self._tell_best()
            self.run.prune(self.settings.keep_checkpoints)
        self.saved_at, self.save_due = time.perf_counter(), False

    def _tell_best(self) -> None:
        progress = self.progress
        if progress.best is not None:
            self.run.set_best(
                {
                    "update": progress.best_update,
                    "metric": self.settings.best_by,
                    "value": progress.best,
                }
            )

    def _newest_checkpoint(self) -> Checkpoint | None:
        """The newest whole one, the same on all processes, held against the model's form before it is read."""
        saved = None
        if self.is_main and self.run.checkpoints():
            saved = self.run.load_checkpoint("newest", training=True, model=self.form)
        update = distributed.broadcast_json(saved and saved.update)
        if update is not None and not self.is_main:
            saved = self.run.load_checkpoint(update, training=True, model=self.form)
        return saved

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        saved, self.saved = self.saved, None
        if saved is None:
            if self.is_main:
                self.run.truncate_log(0)
            return
        tally = [self.tally.sums.tolist()]
        form = Progress(
            tally=tally, schedule=self.schedule.state(), scaler=self.scaler.state_dict()
        )
        progress = self.progress = Progress.of(saved, form)
        if progress.index > len(self.plan(progress.epoch)):
            raise UserError(
                f"Checkpoint {saved.update} stands at update {progress.index} of an epoch that has only "
                f"{len(self.plan(progress.epoch))}: data.train is not what it was. Name another directory with --run."
            )
        load_into(self.model, saved.model)
        if saved.tensors:  # none before the first step
            check_forms(
                self._optimizer_form(),
                saved.tensors,
                f"What the optimizers kept at update {saved.update}",
            )
            self._load_optimizer_tensors(saved.tensors)
        tallies = progress.tally
        if len(tallies) != self.world_size:  # saved by another number of processes
            own = [sum(column) for column in zip(*tallies)][:2] if self.is_main else [0.0, 0.0]
            tallies = [[*own, *tallies[0][2:]]] * self.world_size
        self.tally = Tally(self.device, tallies[self.rank], progress.tally_updates)
        self.schedule.load_state(progress.schedule)
        self.scaler.load_state_dict(progress.scaler)
        if self.is_main:
            self._tell_best()  # a kill may have come between the checkpoint and this
            self.run.truncate_log(progress.log_size)
        if not self.finished():
            log.info(f"continuing from update {progress.update:,}")

    def _optimizer_form(self) -> dict[str, Tensor]:
        """Names and forms of what the optimizers keep, found by a step that takes no memory."""
        optimizers = optim.build(self.form, self.settings.optimizer)
        for parameter in self.form.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        return _optimizer_tensors(self.form, optimizers)

    def _load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        owners = {
            id(p): (o, group)
            for o in self.optimizers
            for group in o.param_groups
            for p in group["params"]
        }
        for name, tensor in tensors.items():
            parameter_name, key = name.rsplit("/", 1)
            parameter = parameters[parameter_name]
            optimizer, group = owners[id(parameter)]
            # Adam counts its steps on the CPU unless it is fused.
            device = parameter.device if key != "step" or group.get("fused") else "cpu"
            optimizer.state[parameter][key] = tensor.to(device)

    # ---------------------------------------------------------------------------------------------------- going wrong

    @contextmanager
    def _guarded(self, batch: Batch, continuable: bool = True) -> Iterator[None]:
        """Within this, running out of memory on ``batch`` and losing the other processes raise UserError.

        What stands is saved first if it is ``continuable`` and there are no others, who could not join in.
        """
        try:
            with distributed.contact() if self.world_size > 1 else nullcontext():
                with diagnosis.memory(
                    self.progress.update + 1, batch, self.settings.micro_batch_tokens
                ):
                    yield
        except diagnosis.OutOfMemory:
            if continuable and self.world_size == 1 and self.progress.update:
                for optimizer in self.optimizers:
                    optimizer.zero_grad(set_to_none=True)
                self._save()
            raise

    def _check_finite(self) -> None:
        """Raise UserError if an update since the last log point was not finite, where nobody looked at each."""
        if not self.watches and not self.scaler.is_enabled():
            finite = int(self.tally.sums[-1])
            if finite < self.tally.updates:
                self._stop_not_finite(self.progress.update - self.tally.updates + finite)

    def _stop_not_finite(self, update: int) -> NoReturn:
        """Save what stands, if nothing spoilt it, and raise UserError: what was wrong in the step after ``update``."""
        progress, settings = self.progress, self.settings
        if diagnosis.is_finite(self.model):
            if progress.update:
                self._write_checkpoint()
        elif (
            not self.watches and self.run.checkpoints()
        ):  # the weights of before are the best there is to look at
            load_into(
                self.model,
                self.run.load_checkpoint("newest", training=False, model=self.form).model,
            )
        offset = progress.index - (progress.update - update)
        rows = self.plan(progress.epoch if offset >= 0 else progress.epoch - 1)[offset]
        reports = distributed.gather_json(self._where_not_finite(rows, update))
        if not self.is_main:
            raise SystemExit(1)  # the main process speaks for all
        where, pairs = next((report for report in reports if report[0]), reports[0])
        cause = (
            f"The first output that is not finite is that of {where}."
            if where
            else "The output of every module is finite; what is not is the gradient."
        )
        raise UserError(
            f"Update {update + 1}: the gradient is not finite. Nothing that it spoilt was saved. {cause} The "
            f"micro-batch:\n{pairs}\nLower training.optimizer.learning_rate (it is {settings.optimizer.learning_rate}) "
            "or lengthen warm-up, in a new run; or leave such updates out, in this one: --set training.non_finite=skip."
        )

    def _where_not_finite(self, rows: np.ndarray, update: int) -> tuple[str | None, str]:
        """The first module whose output is not finite on this process's share of an update, and some of the pairs."""
        first = ""
        for seed, _, batch in self._micro_batches(rows, update):
            on_device, pairs = batch.to(self.device), diagnosis.pairs(batch, self.codecs)

            def compute() -> None:
                torch.manual_seed(seed)
                with self.autocast():
                    self.train_step(on_device)

            if where := diagnosis.first_not_finite(self.model, compute):
                return where, pairs
            first = first or pairs
        return None, first

    # --------------------------------------------------------------------------------------------------------- telling

    def epochs_done(self) -> float:
        return round(self.progress.update / self.updates_per_epoch, 3)

    def _log_training(self) -> None:
        self._check_finite()
        parts, progress = distributed.gather_json(self.tally.sums.tolist()), self.progress
        loss, likelihood = (sum(part[number] for part in parts) for number in (0, 1))
        _, _, norm, tokens, updates = parts[0]
        each = tokens or math.nan  # where no update was finite there is nothing to tell
        seconds = time.perf_counter() - self.log_started
        if self.is_main:
            entry = {
                "update": progress.update,
                "epoch": self.epochs_done(),
                "loss": loss / each,
                "perplexity": math.exp(min(likelihood / each, 700)),
                "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
                "gradient_norm": norm / (updates or math.nan),
                "target_tokens": int(tokens),
                "skipped": self.tally.updates - int(updates),
                "clock": {
                    "seconds": round(progress.seconds, 2),
                    "tokens_per_second": round(tokens / seconds),
                },
            }
            self._log(entry)
            self.bar.report(entry, self.share_done())
        self.tally, self.log_started = Tally(self.device), time.perf_counter()

    def _log(self, entry: dict[str, Any]) -> None:
        self.run.append_log(entry)
        if self.board is not None:
            kind, numbers = (
                ("validation", entry["validation"])
                if "validation" in entry
                else ("training", entry)
            )
            for name, value in {**numbers, **entry["clock"]}.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{kind}/{name}", value, self.progress.update)


def seed_of(*numbers: int) -> int:
    """One well-mixed number from several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _interleaved(parts: list[list]) -> list:
    """What was dealt out in turn, in its old order."""
    whole: list = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def _optimizer_tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The state of all optimizers as ``parameter/key`` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _tensorboard(run: Run, update: int):
    """A writer of TensorBoard files that forgets what an interrupted run wrote after ``update``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "training.tensorboard needs TensorBoard: pip install 'mtcli[tensorboard]'."
        ) from None
    return SummaryWriter(str(run.inside("tensorboard")), purge_step=update)
