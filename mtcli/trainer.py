"""The training loop: update, log, validate, keep the best, stop early, resume. Knows no kind of model."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import codec, config as configs, corpus, devices, metrics, optim
from .checkpoint import Run, load_into, to_tensors
from .config import Config
from .data import Batch, ParallelData, cut, padding, plan_epoch
from .errors import UserError
from .evaluation import evaluate
from .inference import ModelEngine
from .loss import cross_entropy
from .models import build_model
from .models.base import Seq2Seq
from .translator import Translator

log = logging.getLogger("mtcli")

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LOWER_IS_BETTER = {"loss", *metrics.LOWER_IS_BETTER}


class Interrupted(Exception):
    """A signal asked training to stop; everything has been saved. ``signal`` is its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


class TrainStep(nn.Module):
    """A batch to its summed loss: what is wrapped for several processes."""

    def __init__(self, model: Seq2Seq, label_smoothing: float):
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed smoothed loss and summed negative log-likelihood over the real target tokens only."""
        states = self.model(batch.source, batch.source_mask, batch.target_in)  # (B, T, H)
        projection = self.model.projection
        return cross_entropy(
            states[batch.target_mask],  # (N, H)
            projection.weight,
            projection.bias,
            batch.target_out[batch.target_mask],
            self.label_smoothing,
        )


@dataclass
class Tally:
    """What was summed up since the last line of the log; read from the device only there."""

    loss: Tensor | float = 0.0
    likelihood: Tensor | float = 0.0
    norm: Tensor | float = 0.0
    tokens: int = 0
    updates: int = 0


@dataclass
class Progress:
    """Where training stands: everything that decides what comes next, beside weights and optimizers."""

    update: int = 0
    epoch: int = 0
    index: int = 0  # updates done in this epoch
    seconds: float = 0.0
    best: float | None = None
    best_update: int = 0
    waited: int = 0  # validations since the best
    log_size: int = 0
    tally: dict[str, float] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def prepare(config: Config, run: Run) -> tuple[codec.Codec, codec.Codec]:
    """The run's tokenizers and vocabularies: read, or learnt from the training corpora and written."""
    folder = run.path / "tokenizer"
    if folder.is_dir():
        return codec.load(folder, config)
    codecs = codec.learn(config, training_pairs(config))
    run.save_tokenizers(lambda place: codec.save(place, *codecs))
    return codecs


def training_pairs(config: Config):
    """Every training pair once, whatever its corpus's weight; pairs with a blank side are left out and counted."""
    for part in config.data.train:
        yield from corpus.read_pairs(part, skip_blank=True)


class Trainer:
    """Trains one run from where it stands to its end."""

    def __init__(self, run: Run, device: torch.device):
        config = self.config = run.config
        self.run, self.device, self.settings = run, device, config.training
        self.codecs = prepare(config, run)
        self._read_data()
        torch.manual_seed(self.settings.seed)
        model = build_model(config.model, *(len(side.vocabulary) for side in self.codecs)).to(device)
        self.model = model
        self.step = TrainStep(model, self.settings.label_smoothing)
        self.optimizers = optim.build(model, self.settings.optimizer)
        self.schedule = optim.build_schedule(self.settings.schedule)
        dtype = PRECISIONS[self.settings.precision]
        self.autocast = (lambda: torch.autocast(device.type, dtype)) if dtype else nullcontext
        # Losses are summed, not averaged, so half precision starts from a small scale.
        self.exact = torch.float32 if device.type == "mps" else torch.float64  # of sums for the log
        self.scaler = torch.amp.GradScaler(device.type, init_scale=16.0, enabled=dtype is torch.float16)
        self.translator = Translator(ModelEngine(model, device), self.codecs, config)
        self.progress, self.tally = Progress(), Tally()
        self.stop_signal = 0

    # ------------------------------------------------------------------------------------------------------------ data

    def _read_data(self) -> None:
        config = self.config
        corpora = []
        for part in config.data.train:
            pairs = tqdm(
                corpus.read_pairs(part, skip_blank=True), "encoding", unit=" pairs", leave=False, disable=not _terminal()
            )
            corpora += [ParallelData.build(pairs, self.codecs, config.data.max_length, configs.name_of(part))] * part.weight
        self.data = ParallelData.join(corpora)
        sources, references = corpus.read_evaluation(config.data.validation)
        if not sources:
            raise UserError(f"{configs.name_of(config.data.validation)} is empty; validation needs at least one pair.")
        self.sources, self.references = sources, references
        lengths = self.data.source_lengths, self.data.target_lengths
        by, self.batch_size = ("sentences", self.settings.batch_sentences) if self.settings.batch_sentences else (
            "tokens", self.settings.batch_tokens)
        self.plan = lambda epoch: plan_epoch(*lengths, self.batch_size, by, self.settings.seed, epoch)
        first = self.plan(0)
        self.updates_per_epoch = len(first)
        limit = self.settings.micro_batch_tokens or (None if self.device.type == "cpu" else 16_384)
        self.cut = lambda rows: [rows] if limit is None else cut(rows, *lengths, limit)
        micro_batches = [part for rows in first for part in self.cut(rows)]
        log.info(
            f"{len(self.data):,} training pairs, {int(lengths[1].sum()):,} target tokens, {len(sources):,} validation pairs; "
            f"{self.updates_per_epoch:,} updates an epoch; padding {padding(micro_batches, lengths[0]):.1%} of source and "
            f"{padding(micro_batches, lengths[1]):.1%} of target positions"
        )

    # ------------------------------------------------------------------------------------------------------------ loop

    def train(self) -> None:
        """Run to the end. Raises Interrupted when a signal asked to stop, after saving."""
        self._resume()
        if self.finished():
            return
        self.model.train()
        self.log_started = time.perf_counter()
        self.board = _tensorboard(self.run, self.progress.update) if self.settings.tensorboard else None
        with self._signals(), self._bar() as self.bar:
            while not self.finished():
                rows_of_updates = self.plan(self.progress.epoch)
                while self.progress.index < len(rows_of_updates) and not self.finished():
                    self._update(rows_of_updates[self.progress.index])
                    self._after_update(last_of_epoch=self.progress.index == len(rows_of_updates))
                if self.progress.index == len(rows_of_updates):
                    self.progress.epoch, self.progress.index = self.progress.epoch + 1, 0

    def _update(self, rows: np.ndarray) -> None:
        """One optimizer step on the pairs of ``rows``, by way of micro-batches whose gradients are summed."""
        started = time.perf_counter()
        progress, tally = self.progress, self.tally
        optim.set_learning_rate(self.optimizers, self.schedule.factor(progress.update, self.share_done()))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        tokens = int(self.data.target_lengths[rows].sum())
        for number, part in enumerate(self.cut(rows)):
            seed = seed_of(self.settings.seed, progress.update, number)
            batch = self.data.batch(part, sampling_seed=seed)
            if self.data.samples:
                tokens += int(batch.target_mask.sum()) - int(self.data.target_lengths[part].sum())
            torch.manual_seed(seed)
            with self.autocast():
                loss, likelihood = self.step(batch.to(self.device))
            self.scaler.scale(loss).backward()
            tally.loss += loss.detach().to(self.exact)
            tally.likelihood += likelihood.to(self.exact)
        norm = self._finish_gradients(tokens)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        progress.update += 1
        progress.index += 1
        progress.seconds += time.perf_counter() - started
        tally.tokens += tokens
        tally.norm += norm.to(self.exact)
        tally.updates += 1

    def _finish_gradients(self, tokens: int) -> Tensor:
        """Divide the summed gradients by the update's target tokens, then clip. Returns their norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / tokens
        scale = torch.full_like(norm, 1 / tokens)
        if self.settings.max_gradient_norm is not None:
            scale *= (self.settings.max_gradient_norm / (norm + 1e-9)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        if self.device.type == "cpu" and not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise UserError(
                f"Update {self.progress.update + 1}: the gradient is not finite (norm {float(norm)}), so the loss has "
                f"diverged. Nothing of it was saved. Lower training.optimizer.learning_rate (it is "
                f"{self.settings.optimizer.learning_rate}), or lengthen warm-up."
            )
        return norm

    def share_done(self) -> float:
        """How much of training is done, 0 to 1: by updates, epochs or minutes, whichever ends first."""
        settings, progress = self.settings, self.progress
        shares = [0.0]
        if settings.max_updates:
            shares.append(progress.update / settings.max_updates)
        if settings.max_epochs:
            shares.append(progress.update / max(1, round(settings.max_epochs * self.updates_per_epoch)))
        if settings.max_minutes:
            shares.append(progress.seconds / 60 / settings.max_minutes)
        return min(1.0, max(shares))

    def finished(self) -> bool:
        """Whether the end is reached, or patience is out."""
        patience = self.settings.patience
        return self.share_done() >= 1 or (patience is not None and self.progress.waited >= patience)

    def _after_update(self, last_of_epoch: bool) -> None:
        progress, settings = self.progress, self.settings
        self.bar.advance(progress, self.tally)
        if progress.update % settings.log_every == 0 or self.finished():
            self._log_training()
        every = settings.validate_every
        if (last_of_epoch if every == "epoch" else progress.update % every == 0) or self.finished():
            self._validate()
            self._save()
        elif self.stop_signal:
            self._save()
        if self.stop_signal and not self.finished():
            raise Interrupted(self.stop_signal)

    # ------------------------------------------------------------------------------------------------------ validation

    def _validate(self) -> None:
        """Score the model on validation data; remember whether it is the best so far and whether to stop."""
        started = time.perf_counter()
        self.model.eval()
        values, examples = self.evaluate()
        self.model.train()
        progress, settings = self.progress, self.settings
        value = values[settings.best_by]
        better = progress.best is None or (
            value < progress.best if settings.best_by in LOWER_IS_BETTER else value > progress.best
        )
        if better:
            progress.best, progress.best_update, progress.waited = value, progress.update, 0
        else:
            progress.waited += 1
        self.schedule.validated(better)
        seconds = time.perf_counter() - started
        progress.seconds += seconds
        self.log_started += seconds
        entry = {
            "update": progress.update,
            "epoch": self.epochs_done(),
            "validation": values,
            "best": better,
            "examples": examples,
            "clock": {"seconds": round(progress.seconds, 2), "validation_seconds": round(seconds, 2)},
        }
        self._log(entry)
        shown = "  ".join(f"{name} {number:.4g}" for name, number in values.items())
        self.bar.write(f"update {progress.update:,}  validation  {shown}" + ("  best so far" if better else ""))
        for example in examples:
            self.bar.write("".join(f"    {name:<10} {text}\n" for name, text in example.items()).rstrip("\n"))

    def evaluate(self) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Loss (label smoothing left out), perplexity and text metrics on validation data, and examples to show."""
        settings = self.settings
        decoding = self.translator.decoding(beam_size=settings.validation_beam_size, sampling=None)
        result = evaluate(
            self.translator, self.sources, self.references, settings.validation_metrics, decoding, settings.examples
        )
        examples = [
            {"source": source, "hypothesis": hypothesis, "reference": references[0]}
            for source, hypothesis, references in zip(self.sources, result.hypotheses, self.references)
        ]
        return result.values(), examples[: settings.examples]

    # ----------------------------------------------------------------------------------------------- saving, resuming

    def _save(self) -> None:
        progress = self.progress
        progress.schedule = self.schedule.state()
        progress.scaler = self.scaler.state_dict()
        progress.tally = {key: float(value) for key, value in vars(self.tally).items()}
        progress.log_size = self.run.log_size()
        self.run.save_checkpoint(progress.update, to_tensors(self.model), self._optimizer_tensors(), asdict(progress))
        if progress.best_update == progress.update:
            self.run.set_best({"update": progress.update, "metric": self.settings.best_by, "value": progress.best})
        self.run.prune(self.settings.keep_checkpoints)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        if not self.run.checkpoints():
            self.run.truncate_log(0)
            return
        saved = self.run.load_checkpoint("newest", training=True, model=self.model)
        load_into(self.model, saved.model)
        self._load_optimizer_tensors(saved.tensors)
        self.progress = Progress(**saved.state)
        self.tally = Tally(**self.progress.tally)
        self.schedule.load_state(self.progress.schedule)
        self.scaler.load_state_dict(self.progress.scaler)
        self.run.truncate_log(self.progress.log_size)
        if not self.finished():
            log.info(f"continuing from update {self.progress.update:,}")

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """The state of all optimizers as ``parameter/key`` -> tensor."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[id(parameter)]}/{key}": value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def _load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            parameter, key = name.rsplit("/", 1)
            states.setdefault(parameter, {})[key] = tensor
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    for key, tensor in states.get(names[id(parameter)], {}).items():
                        # Adam counts its steps on the CPU unless it is fused.
                        device = parameter.device if key != "step" or group.get("fused") else "cpu"
                        optimizer.state[parameter][key] = tensor.to(device)

    # --------------------------------------------------------------------------------------------------------- telling

    def epochs_done(self) -> float:
        return round(self.progress.update / self.updates_per_epoch, 3)

    def _log_training(self) -> None:
        tally, progress = self.tally, self.progress
        seconds = time.perf_counter() - self.log_started
        nll = float(tally.likelihood) / tally.tokens
        entry = {
            "update": progress.update,
            "epoch": self.epochs_done(),
            "loss": float(tally.loss) / tally.tokens,
            "perplexity": math.exp(min(nll, 700)),
            "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
            "gradient_norm": float(tally.norm) / tally.updates,
            "target_tokens": int(tally.tokens),
            "clock": {"seconds": round(progress.seconds, 2), "tokens_per_second": round(tally.tokens / seconds)},
        }
        if self.device.type == "cpu":
            entry["clock"]["matmul_gflops"] = round(devices.matmul_gflops(), 1)
        self._log(entry)
        self.bar.report(entry)
        self.tally, self.log_started = Tally(), time.perf_counter()

    def _log(self, entry: dict[str, Any]) -> None:
        self.run.append_log(entry)
        if self.board is not None:
            kind, numbers = ("validation", entry["validation"]) if "validation" in entry else ("training", entry)
            for name, value in {**numbers, **entry["clock"]}.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{kind}/{name}", value, self.progress.update)

    def _bar(self) -> Bar:
        return Bar(self)

    @contextmanager
    def _signals(self):
        """The first Ctrl-C or SIGTERM asks the loop to save and stop; a second one stops at once."""

        def ask(number, frame):
            if self.stop_signal:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.stop_signal = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Bar:
    """The progress line on stderr; where that is no terminal, plain lines at every log point."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.live = _terminal()
        self.bar = tqdm(
            total=100.0,
            initial=100 * trainer.share_done(),
            disable=not self.live,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}",
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def advance(self, progress: Progress, tally: Tally) -> None:
        self.bar.update(100 * self.trainer.share_done() - self.bar.n)

    def report(self, entry: dict[str, Any]) -> None:
        text = (
            f"update {entry['update']:,}  epoch {entry['epoch']:.2f}  loss {entry['loss']:.3f}  perplexity "
            f"{entry['perplexity']:.4g}  lr {entry['learning_rate']:.2e}  norm {entry['gradient_norm']:.2f}  "
            f"{entry['clock']['tokens_per_second']:,} tokens/s"
        )
        if self.live:
            self.bar.set_postfix_str(text)
        else:
            log.info(f"{text}  {self.time_left()} left")

    def time_left(self) -> str:
        done = self.trainer.share_done()
        return tqdm.format_interval(self.trainer.progress.seconds * (1 - done) / done) if done else "?"

    def write(self, text: str) -> None:
        if self.live:
            self.bar.clear()
        for line in text.split("\n"):
            log.info(line)
        if self.live:
            self.bar.refresh()


def seed_of(*numbers: int) -> int:
    """One well-mixed number from several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _tensorboard(run: Run, update: int):
    """A writer of TensorBoard files that forgets what an interrupted run wrote after ``update``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("training.tensorboard needs TensorBoard: pip install 'mtcli[tensorboard]'.") from None
    return SummaryWriter(str(run.path / "tensorboard"), purge_step=update)


def _terminal() -> bool:
    return sys.stderr.isatty()
