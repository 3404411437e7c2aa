"""``mtcli train``."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..support import distributed
from ..support.errors import UserError
from ..support.signals import Signals
from .loading import load_config, prepare_run, run_path
from .options import ConfigOption, DeviceOption, NewRunOption, SetOption, ThreadsOption

if TYPE_CHECKING:
    from ..training.trainer import Trainer

log = logging.getLogger("mtcli")


def train(
    config: ConfigOption,
    run: NewRunOption = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Train a model; the same command again continues a run where it stopped. torchrun starts it on several GPUs."""
    if not distributed.is_main():
        log.setLevel(logging.ERROR)  # the main process speaks for all
    path = run_path(config, run)
    with Signals() as signals, _told_what_is_saved(KeyboardInterrupt, path):
        loaded = load_config(config, settings, run)
        from ..support import devices
        from ..training.trainer import Trainer

        chosen = devices.prepare(device, threads)
        distributed.init(chosen)
        with distributed.main_first():
            prepared = prepare_run(config, run, loaded)
        lock = prepared.lock() if distributed.is_main() else nullcontext()
        with lock, _told_what_is_saved(UserError, path):
            if distributed.is_main():
                prepared.mark_latest()
            trainer = Trainer(prepared, chosen, signals)
            _log_start(path, trainer)
            try:
                trainer.train()
            except KeyboardInterrupt:  # all processes stop
                distributed.shutdown()
                raise
        distributed.shutdown()
    _log_end(path, prepared.best, trainer)


def _log_start(path: Path, trainer: Trainer) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    kind, processes = trainer.config.model.type, distributed.world_size()
    several = f", {processes} processes" if processes > 1 else ""
    log.info(f"{path}: {kind}, {parameters:,} parameters, on {trainer.device}{several}")


def _log_end(path: Path, best: dict | None, trainer: Trainer) -> None:
    progress = trainer.progress
    scored = "no finite score"
    if best:
        scored = f"best {best['metric']} {best['value']:.4g} at update {best['update']:,}"
    log.info(
        f"finished: {path}, {progress.update:,} updates in {progress.seconds / 60:.1f} minutes; "
        f"{scored}\n"
        f'next: mtcli translate --run {path} "{trainer.sources[0]}"\n'
        f"      mtcli eval --run {path}"
    )


@contextmanager
def _told_what_is_saved(kind: type[BaseException], path: Path) -> Iterator[None]:
    """Where ``kind`` ends training, say what is saved and how to continue.

    A signal exits with 128 + its number.
    """
    try:
        yield
    except kind as error:
        saved = [int(each.name) for each in path.glob("checkpoints/*") if each.name.isdigit()]
        if saved:
            log.info(f"saved up to update {max(saved):,}; to continue: {_same_command()}")
        elif kind is KeyboardInterrupt:
            log.info(f"stopped before anything was saved; to start again: {_same_command()}")
        if number := getattr(error, "signal", 0):
            sys.exit(128 + number)
        raise


def _same_command() -> str:
    command = shlex.join(["mtcli", *sys.argv[1:]])
    return command if distributed.world_size() == 1 else f"the same torchrun command ({command})"
