"""What training and build-vocab begin with: the config and the run's directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config


def run_path(config_path: Path, run: Path | None) -> Path:
    """The run directory of a config, where --run does not name another."""
    return run or Path("runs") / config_path.stem


def load_config(path: Path, settings: list[str] | None, own: Path) -> Config:
    """The config with --set's changes; what it leaves open is chosen by the size of the corpus.

    With ``init_from``, the tokenizer and the model are those of the other run, which is read only
    until ``own``, the run's directory, exists.
    """
    from .. import config as configs
    from ..run.directory import Run
    from ..training import defaults

    config = configs.load(path, settings or [])
    if config.init_from is None:
        return defaults.fit(config)
    origin = Run(own) if (own / "config.yaml").exists() else Run.open(config.init_from)
    return defaults.fit(config, origin.config)
