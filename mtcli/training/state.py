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

from ..config import Adam, AdamW, Muon
from ..models.base import Seq2Seq
from ..run.checkpoint import Checkpoint
from ..support import distributed
from ..support.errors import UserError
from . import optim

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int | float, Field(gt=-(2**63), lt=2**63)]
NEWER = {"cooling_from", "cooling_share"}  # what checkpoints of earlier versions lack


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
            or cls.model_fields.keys() - saved.state.keys() - NEWER
            or progress.schedule.keys() != schedule.keys()
            or progress.scaler.keys() != scaler.keys()
            or {len(sums) for sums in progress.tally} != {Tally.SUMS}
        ):
            raise UserError(f"Checkpoint {saved.update}: its state.json is not ours.")
        return progress


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


def optimizer_form(model: Seq2Seq, config: Adam | AdamW | Muon) -> dict[str, Tensor]:
    """Names and shapes of `optimizer_tensors`, found by a step of ``model`` on the meta device."""
    optimizers = optim.build(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    return optimizer_tensors(model, optimizers)


def load_optimizer_tensors(
    model: nn.Module, optimizers: Sequence[Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Give optimizers back what `optimizer_tensors` took from them."""
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        states[parameter_name][key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        own = {number: states[names[p]] for number, p in enumerate(parameters)}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": own})
