"""``mtcli train``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Option

from ..support import distributed
from ..support.errors import UserError, log
from ..support.signals import Interrupted, Signals
from .loading import load_config, run_path
from .options import ConfigOption, DeviceOption, NewRunOption, SetOption, ThreadsOption
from .tables import command

if TYPE_CHECKING:
    from ..training.trainer import Trainer


def train(
    config: ConfigOption,
    run: NewRunOption = None,
    settings: SetOption = None,
    accept_changed_data: bool = Option(
        False, "--accept-changed-data", help="Continue a run although its data changed."
    ),
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Train a model; the same command again continues a run where it stopped. torchrun starts it on several GPUs."""
    if not distributed.is_main():
        log.setLevel(logging.ERROR)  # the main process speaks for all
    path = run_path(config, run)
    with (
        Signals() as signals,
        distributed.told_once(),
        _told_what_is_saved(Interrupted, path),
    ):
        loaded = load_config(config, settings, path)
        from ..run.directory import Run
        from ..support import devices
        from ..training.trainer import Trainer

        chosen = devices.prepare(device, threads)
        distributed.init(chosen)
        with distributed.main_first():
            if distributed.is_main():
                text = config.read_text(encoding="utf-8")
                prepared = Run.create(path, text, loaded, accept_changed_data)
            else:
                prepared = Run(path)
                prepared.config = loaded
        lock = prepared.lock() if distributed.is_main() else nullcontext()
        with lock:
            if distributed.is_main():
                prepared.mark_latest()
            trainer = Trainer(prepared, chosen, signals)
            parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
            processes = distributed.world_size()
            several = f", {processes} processes" if processes > 1 else ""
            kind = loaded.model.type
            log.info(f"{path}: {kind}, {parameters:,} parameters, on {trainer.device}{several}")
            trainer.resume()  # what is wrong here the same command would meet again
            begun = trainer.progress.update
            try:
                with _told_what_is_saved(UserError, path):
                    trainer.train()
            except Interrupted:  # all processes stop
                distributed.shutdown()
                raise
        distributed.shutdown()
    _tell_result(trainer, longer=trainer.progress.update > begun)


def _tell_result(trainer: Trainer, longer: bool) -> None:
    """Say how a finished training ended, and what to do next; ``longer``: whether it made any update."""
    path, progress, settings = trainer.run.path, trainer.progress, trainer.settings
    best, scored = trainer.run.best, "no score better than guessing"
    if best:
        scored = f"best {best['metric']} {best['value']:.4g} at update {best['update']:,}"
    minutes = f"{progress.seconds / 60:.1f} minutes"
    sentence = trainer.sources[0]
    words = ["--", sentence] if sentence.startswith("-") else [sentence]
    log.info(
        f"finished: {path}, {progress.update:,} updates in {minutes}; {scored}\n"
        f"next: {command('translate', '--run', path, *words)}\n"
        f"      {command('eval', '--run', path)}"
    )
    if not longer:
        names = ("max_updates", "max_epochs", "max_minutes")
        limits = [f"training.{name}" for name in names if getattr(settings, name)]
        log.info(f"to train it further, raise {' and '.join(limits)}: --set {limits[0]}=…")


@contextmanager
def _told_what_is_saved(kind: type[UserError | Interrupted], path: Path) -> Iterator[None]:
    """Where ``kind`` ends training, say how to continue."""
    try:
        yield
    except kind as error:
        same = command(*sys.argv[1:])
        if distributed.world_size() > 1:
            same = f"the same torchrun command ({same})"
        saved = [int(each.name) for each in path.glob("checkpoints/*") if each.name.isdigit()]
        hint = "nothing was saved yet; to start again"
        if saved:
            hint = f"saved up to update {max(saved):,}; to continue"
        if isinstance(error, Interrupted):
            error.hint = f"{hint}: {same}"
        elif saved:
            log.info(f"{hint}: {same}")
        raise
