"""``mtcli average``."""

from __future__ import annotations

from pathlib import Path

from typer import BadParameter, Option

from ..support.errors import UserError, log
from .options import DeviceOption, RunOption, ThreadsOption
from .tables import print_table


def average(
    output: Path = Option(..., "--output", "-o", help="Directory of the run to make."),
    run: RunOption = None,
    last: int | None = Option(None, min=2, help="Only the N newest that are kept."),
    best: int | None = Option(None, min=2, help="Only the N best that are kept."),
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Average the weights of several checkpoints into a new run, and say what that does to validation."""
    if last and best:
        raise BadParameter("give --last or --best, not both")
    from ..run.directory import Run
    from ..support import devices
    from ..training import average as averaging

    chosen = devices.prepare(device, threads)
    origin = Run.open(run) if run else Run.latest()
    updates = averaging.choose(origin, last, best)
    weights = averaging.average(origin, updates)
    made = averaging.write(origin, updates, weights, output)
    numbers = ", ".join(map(str, updates))
    log.info(f"{output}: the average of checkpoints {numbers} of {origin.path}")
    try:
        before = origin.load_checkpoint("best", training=False).update
        old_values = averaging.validate(origin, chosen)
        values = averaging.validate(made, chosen)
    except UserError as error:
        log.warning(f"It was not compared with the best checkpoint: {error}")
        return
    measure = origin.config.training.best_by
    made.set_best(
        {
            "update": max(updates),
            "metric": measure,
            "value": values[measure],
            "data": made.record.digests()["validation"],
        }
    )
    old, new = ([f"{value:.4g}" for value in each.values()] for each in (old_values, values))
    best_checkpoint = f"best checkpoint, {before}"
    print_table([("validation", *values), (best_checkpoint, *old), ("average", *new)])
