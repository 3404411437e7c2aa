"""What a checkpoint holds beside the weights: how far training is, and what its optimizers keep."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import Adam, AdamW, Muon, Training
from ..models.base import Seq2Seq
from ..run.checkpoint import Checkpoint, check_forms
from ..support import distributed
from ..support.errors import UserError
from . import optim

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int | float, Field(gt=-(2**63), lt=2**63)]
COOLING = 0.1  # after patience runs out, a schedule ends within this share of the updates so far
NEW_UPDATES = 10
NEWER = {  # what checkpoints of earlier versions lack
    *("cooling_from", "cooling_share", "micro_batch_tokens"),
    *("guessing", "ended", "start", "start_seconds", "data"),
}


class Progress(BaseModel):
    """How far training is: all that decides what comes next, beside weights and optimizers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    update: Count = 0
    epoch: Count = 0
    index: Count = 0  # updates done in this epoch
    due: bool = False  # a validation comes before the next update
    seconds: Annotated[Number, Field(ge=0)] = 0.0
    best: Number | None = None
    best_update: Count = 0
    waited: Count = 0  # validations since the best
    cooling_from: Count = 0  # the update at which patience ran out; 0: it has not
    cooling_share: Annotated[Number, Field(ge=0)] = 0.0  # of training, that was done then
    micro_batch_tokens: Count | None = None  # found to fit; None: all of an update does
    guessing: bool = False  # at the last line of the log the model was worse than any guess
    ended: list[Number | None] = []  # the limits that training had reached
    start: Count = 0  # the update and the seconds after which the present schedule began
    start_seconds: Annotated[Number, Field(ge=0)] = 0.0
    data: dict[str, str] = {}  # digests of the training and validation data
    log_size: Count = 0
    tally_updates: Count = 0
    tally: list[list[Number]] = []  # the sums of each process
    schedule: dict[str, Number] = {}
    scaler: dict[str, Number] = {}

    @classmethod
    def restore(
        cls, saved: Checkpoint, schedule: dict[str, Any], scaler: dict[str, Any]
    ) -> Progress:
        """What a checkpoint, perhaps a stranger's, says. Raises UserError where that makes no sense.

        ``schedule`` and ``scaler`` are such states as these have now.
        """
        try:
            progress = cls.model_validate(saved.state)
        except ValidationError:
            progress = cls(update=saved.update + 1)
        if (
            progress.update != saved.update
            or progress.start > progress.update
            or cls.model_fields.keys() - saved.state.keys() - NEWER
            or progress.schedule.keys() != schedule.keys()
            or progress.scaler.keys() != scaler.keys()
            or {len(sums) for sums in progress.tally} != {Tally.SUMS}
        ):
            raise UserError(f"Checkpoint {saved.update}: its state.json is not ours.")
        return progress

    def share_done(self, settings: Training, updates_per_epoch: int) -> float:
        """The share of training that is done, 0 to 1: by updates, epochs or minutes, whichever ends first.

        Of a training that was made longer after its end, the share of what was added. After patience runs out, the
        remaining share is done within COOLING of the updates so far.
        """
        updates, seconds = self.update - self.start, self.seconds - self.start_seconds
        epochs = max(1, round((settings.max_epochs or 0) * updates_per_epoch))  # in updates
        shares = [
            _share(updates, (settings.max_updates or math.inf) - self.start),
            _share(updates, (epochs if settings.max_epochs else math.inf) - self.start),
            _share(seconds, 60 * (settings.max_minutes or math.inf) - self.start_seconds),
        ]
        if self.cooling_from:
            cooled = (self.update - self.cooling_from) / max(1, round(self.cooling_from * COOLING))
            shares.append(self.cooling_share + (1 - self.cooling_share) * cooled)
        return min(1.0, max(shares))

    def go_back(self, updates: int, updates_per_epoch: int) -> None:
        """To before the last few updates, which were left out."""
        self.update, self.index = self.update - updates, self.index - updates
        if self.index < 0:
            self.epoch, self.index = self.epoch - 1, self.index + updates_per_epoch

    def warm(self, settings: Training) -> bool:
        """Whether warm-up is over, and a model no longer new: then it may be as bad as a guess."""
        return self.update - self.start > max(settings.schedule.warmup_updates, NEW_UPDATES)

    def describe_best(self, metric: str) -> dict[str, Any] | None:
        """What best.json says of the best validation by ``metric``; None before the first."""
        if self.best is None:
            return None
        data = self.data.get("validation", "")
        return {"update": self.best_update, "metric": metric, "value": self.best, "data": data}

    def restart(self) -> None:
        """Begin a new schedule here: training was at its end, and then its limits were changed."""
        self.start, self.start_seconds, self.ended = self.update, self.seconds, []
        self.waited, self.cooling_from, self.cooling_share = 0, 0, 0.0

    def change_data(self, digests: dict[str, str]) -> list[str]:
        """Take over the digests of the data that there are now. Returns which of them changed.

        Other training data begin a new epoch. On other validation data there is no best yet, and patience begins again.
        """
        changed = [
            role for role, digest in digests.items() if self.data.get(role, digest) != digest
        ]
        self.data = digests
        if "train" in changed:
            self.epoch, self.index = self.epoch + (self.index > 0), 0
        if "validation" in changed:
            self.best, self.best_update, self.waited, self.due = None, 0, 0, True
            if "waited" in self.schedule:
                self.schedule["waited"] = 0
            if not self.ended:
                self.cooling_from, self.cooling_share = 0, 0.0
        return changed

    def compare(self, value: float, lower_is_better: bool) -> bool:
        """Whether the score of a validation is the best so far, which is remembered."""
        sign = -1 if lower_is_better else 1
        better = self.best is None or sign * value > sign * self.best
        if better and math.isfinite(value):
            self.best, self.best_update, self.waited = value, self.update, 0
            return True
        self.waited += 1
        return False


def _share(done: float, all: float) -> float:
    return done / all if all > 0 else 1.0


class Tally:
    """Sums since the last line of the log. They are read from the device only there.

    ``sums`` are of updates with a finite gradient: loss and likelihood of this process's share;
    gradient norm, target tokens and number of updates of all processes. ``updates`` counts every
    update.
    """

    SUMS = 5

    def __init__(
        self, device: torch.device, sums: Sequence[float] = (0.0,) * SUMS, updates: int = 0
    ):
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.tensor(sums, dtype=exact, device=device)
        self.updates = updates

    @classmethod
    def restore(cls, device: torch.device, progress: Progress) -> Tally:
        tallies = progress.tally
        if len(tallies) == distributed.world_size():
            return cls(device, tallies[distributed.rank()], progress.tally_updates)
        # Another number of processes saved it: the main one takes what all of them had.
        loss, likelihood, *_ = [sum(column) for column in zip(*tallies)]
        own = [loss, likelihood] if distributed.is_main() else [0.0, 0.0]
        return cls(device, [*own, *tallies[0][2:]], progress.tally_updates)

    def add(self, losses: Tensor, norm: Tensor, tokens: int, finite: Tensor) -> None:
        """An update; ``losses`` are loss and likelihood."""
        others = [norm, torch.full_like(norm, tokens), torch.ones_like(norm)]
        new = torch.cat([losses.to(self.sums), torch.stack(others).to(self.sums)])
        self.sums += torch.where(finite & new.isfinite(), new, 0)
        self.updates += 1

    def finite_updates(self) -> int:
        return int(self.sums[-1])

    def means(self) -> dict[str, float]:
        """Means for a line of the log; nan where no update was finite. All processes must call this."""
        parts = distributed.gather_json(self.sums.tolist())
        loss, likelihood = (sum(part[number] for part in parts) for number in (0, 1))
        _, _, norm, tokens, updates = parts[0]
        return {
            "loss": loss / (tokens or math.nan),
            "perplexity": math.exp(min(likelihood / (tokens or math.nan), 700)),
            "gradient_norm": norm / (updates or math.nan),
            "target_tokens": int(tokens),
            "skipped": self.updates - int(updates),
        }


def optimizer_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The state of all optimizers as ``parameter/key`` -> tensor."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizers(
    model: Seq2Seq,
    optimizers: Sequence[Optimizer],
    saved: Checkpoint,
    form: Seq2Seq,
    config: Adam | AdamW | Muon,
) -> None:
    """Give optimizers back what `optimizer_tensors` took from them.

    ``form`` is the model on the meta device, where a step shows which names and shapes they keep.
    Raises UserError where the checkpoint has others.
    """
    examples = optim.build(form, config)
    for parameter in form.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for example in examples:
        example.step()
    what = f"What the optimizers kept at update {saved.update}"
    check_forms(optimizer_tensors(form, examples), saved.tensors, what)
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in saved.tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        states[parameter_name][key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        own = {number: states[names[p]] for number, p in enumerate(parameters)}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": own})
