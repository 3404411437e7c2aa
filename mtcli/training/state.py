"""Where training stands, and what was summed up since the last line of the log. Knows no model, no data and no files."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..run.checkpoint import Checkpoint
from ..support.errors import UserError


class Tally:
    """What was summed up since the last line of the log; read from the device only there.

    ``sums`` are of updates with a finite gradient: loss and likelihood of this process's share; gradient norm, target
    tokens and number of updates of all processes. ``updates`` counts every update.
    """

    def __init__(self, device: torch.device, sums: list[float] | None = None, updates: int = 0):
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.tensor(sums or [0.0] * 5, dtype=exact, device=device)
        self.updates = updates

    def add(
        self, loss: Tensor, likelihood: Tensor, norm: Tensor, tokens: int, finite: Tensor
    ) -> None:
        numbers = [loss, likelihood, norm, torch.full_like(norm, tokens), torch.ones_like(norm)]
        new = torch.stack([number.detach().to(self.sums) for number in numbers])
        self.sums += torch.where(finite & new.isfinite(), new, 0)
        self.updates += 1


@dataclass
class Progress:
    """Where training stands: everything that decides what comes next, beside weights and optimizers."""

    update: int = 0
    epoch: int = 0
    index: int = 0  # updates done in this epoch
    due: bool = False  # a validation comes before the next update
    seconds: float = 0.0
    best: float | None = None
    best_update: int = 0
    waited: int = 0  # validations since the best
    cooling_from: int = (
        0  # the update at which patience ran out, and the share that was done; 0: it has not
    )
    cooling_share: float = 0.0
    log_size: int = 0
    tally_updates: int = 0
    tally: list[list[float]] = field(default_factory=list)  # sums, of each process
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, saved: Checkpoint, form: Progress) -> Progress:
        """What a checkpoint, perhaps a stranger's, says. Raises UserError where it is not of the form of ``form``."""
        state = {
            "cooling_from": 0,
            "cooling_share": 0.0,
        } | saved.state  # which older runs do not have
        sane = (
            state.keys() == {each.name for each in fields(cls)} and state["update"] == saved.update
        )
        sane = (
            sane
            and type(state["due"]) is bool
            and (state["best"] is None or _is_number(state["best"]))
        )
        for name in (
            "update",
            "epoch",
            "index",
            "best_update",
            "waited",
            "log_size",
            "tally_updates",
            "cooling_from",
        ):
            sane = sane and type(state[name]) is int and 0 <= state[name] < 2**63
        sane = sane and all(
            _is_number(state[name]) and state[name] >= 0 for name in ("seconds", "cooling_share")
        )
        sane = (
            sane
            and _are_alike(state["schedule"], form.schedule)
            and _are_alike(state["scaler"], form.scaler)
        )
        tally = state["tally"] if sane and isinstance(state["tally"], list) else []
        if not tally or not _are_alike(tally, form.tally * len(tally)):
            raise UserError(
                f"Checkpoint {saved.update} does not say where training stands: its state.json is not ours."
            )
        return cls(**state)


def _are_alike(value: Any, form: Any) -> bool:
    """Whether ``value`` is built as ``form`` is, of lists, objects and numbers."""
    if isinstance(form, dict):
        same_keys = isinstance(value, dict) and value.keys() == form.keys()
        return same_keys and all(_are_alike(value[key], form[key]) for key in form)
    if isinstance(form, list):
        return (
            isinstance(value, list)
            and len(value) == len(form)
            and all(map(_are_alike, value, form))
        )
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63
