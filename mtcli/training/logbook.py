"""What training reports: to log.jsonl, to TensorBoard, and as a bar or lines on stderr."""

from __future__ import annotations

import time
from typing import Any

from ..config import Training
from ..run.directory import Run
from ..support import distributed
from ..support.errors import require
from ..support.progress import Bar
from .state import Progress

# The pace is measured between these updates of a process; the first few are slower.
PACE = (5, 20)


class Logbook:
    """Reports on one training. Of several processes, only the main one writes entries."""

    def __init__(
        self, run: Run, settings: Training, bar: Bar, progress: Progress, updates_per_epoch: int
    ):
        self.run, self.settings, self.bar, self.progress = run, settings, bar, progress
        self.updates_per_epoch = updates_per_epoch
        self.board: Any = None
        if settings.tensorboard and distributed.is_main():
            tensorboard = require("torch.utils.tensorboard", "tensorboard")
            path = str(run.inside("tensorboard"))  # what an interrupted run wrote later is dropped
            self.board = tensorboard.SummaryWriter(path, purge_step=progress.update)
        self.started = time.perf_counter()  # of the updates since the last training entry
        self.updates = 0
        self.pace_start = (0.0, 0.0)  # time and share of training done after PACE[0] updates

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def advance(self, done: float) -> None:
        """Show that an update was made; ``done`` is the share of training that is done.

        After a few of them, estimate the time that is left.
        """
        self.bar.advance(done)
        self.updates += 1
        if self.updates == PACE[0]:
            self.pace_start = time.perf_counter(), done
        elif self.updates == PACE[1] and self.settings.max_minutes is None:
            seconds, share = time.perf_counter() - self.pace_start[0], done - self.pace_start[1]
            minutes = seconds / max(share, 1e-9) * (1 - done) / 60
            if minutes >= 1:
                patience = ", if validation keeps getting better" if self.settings.patience else ""
                self.bar.write(
                    f"about {minutes:,.0f} minutes to go on this machine, validations not counted{patience}; to bound it: "
                    f"--set training.max_minutes={max(1, round(minutes / 2))}"
                )

    def training(self, learning_rate: float, means: dict[str, float], done: float) -> None:
        """Write an entry for the updates since the last one."""
        now = time.perf_counter()
        speed = round(means["target_tokens"] / (now - self.started))
        self.started = now
        numbers = {"learning_rate": learning_rate, **means}
        entry = self._write("training", numbers, numbers, {"tokens_per_second": speed})
        self.bar.report(entry, done)

    def validation(
        self, values: dict[str, float], best: bool, examples: list[dict[str, str]], seconds: float
    ) -> None:
        """Write an entry for a validation that took ``seconds``, in which no updates were made."""
        self.started += seconds
        data = self.progress.data.get("validation", "")
        results = {"validation": values, "best": best, "data": data, "examples": examples}
        self._write("validation", results, values, {"validation_seconds": round(seconds, 2)})
        parts = [f"update {self.progress.update:,}", "validation"]
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        self.bar.write("  ".join([*parts, "best so far"] if best else parts))
        for example in examples:
            self.bar.write("\n".join(f"    {name:<10} {text}" for name, text in example.items()))

    def _write(
        self, kind: str, results: dict[str, Any], numbers: dict[str, float], clock: dict[str, float]
    ) -> dict[str, Any]:
        update, clock = self.progress.update, {"seconds": round(self.progress.seconds, 2), **clock}
        epoch = round(update / self.updates_per_epoch, 3)
        entry = {"update": update, "epoch": epoch, **results, "clock": clock}
        self.run.append_log(entry)
        if self.board is not None:
            for name, value in {"epoch": epoch, **numbers, **clock}.items():
                self.board.add_scalar(f"{kind}/{name}", value, update)
        return entry
