"""What commands begin with: a config, a run directory, a translator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..support import distributed

if TYPE_CHECKING:
    from ..config import Config
    from ..decoding.translator import Translator
    from ..run.directory import Run


def run_path(config_path: Path, run: Path | None) -> Path:
    """The run directory of a config, where --run does not name another."""
    return run or Path("runs") / config_path.stem


def load_config(path: Path, settings: list[str] | None, run: Path | None) -> Config:
    """The config with --set's changes; what it leaves open is chosen by the size of the corpus.

    With ``init_from``, the tokenizer and the model are those of the other run. The other run is
    read only until ours exists.
    """
    from .. import config as configs
    from ..run.directory import Run
    from ..training import defaults

    config = configs.load(path, settings or [])
    if config.init_from is None:
        return defaults.fit(config)
    own = run_path(path, run)
    origin = Run(own) if (own / "config.yaml").exists() else Run.open(config.init_from)
    return defaults.fit(config, origin.config)


def prepare_run(config_path: Path, run: Path | None, config: Config) -> Run:
    """The run directory for a config: new, or the existing one if it was made with the same config.

    Only the main process of a training writes it.
    """
    from ..run.directory import Run

    path = run_path(config_path, run)
    if distributed.is_main():
        return Run.create(path, config_path.read_text(encoding="utf-8"), config)
    prepared = Run(path)
    prepared.config = config
    return prepared


def open_run(run: Path | None) -> Run:
    """The run that --run names, else the one trained last."""
    from ..run.directory import Run

    return Run.open(run) if run else Run.latest()


def load_translator(
    runs: Sequence[Path] | None, device: str, threads: int | None, parallel: bool = False
) -> Translator:
    """The translator of one run, or of several as an ensemble; None is the run trained last.

    ``parallel``: there may be many lines, so they are shared among processes where that is
    possible.
    """
    from ..decoding.translator import Translator

    return Translator.load(runs, device, threads, None if parallel else 1)
