"""What commands begin with: the config, the run's directory, the corpus that is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from typer import BadParameter

from ..support.errors import UserError

if TYPE_CHECKING:
    from ..config import Config, Corpus


def run_path(config_path: Path, run: Path | None) -> Path:
    """The run directory of a config, where --run does not name another."""
    return run or Path("runs") / config_path.stem


def load_config(path: Path, settings: list[str] | None, own: Path) -> Config:
    """The config with --set's changes. What it leaves open is as in ``own``, the run's directory, if
    that is to be continued; else it is chosen by the size of the corpus and, with ``init_from``, by
    the run to start from.
    """
    from .. import config as configs
    from ..run.directory import Run
    from ..training import defaults

    config = configs.load(path, settings or [])
    for corpus in (*config.data.train, config.data.validation):
        for file in configs.files_of(corpus):
            _check_there(file, path)
    run = Run(own)
    if (own / "config.yaml").exists() and run.checkpoints():
        return defaults.fill(config, run.config)
    origin = None if config.init_from is None else Run.open(config.init_from).config
    return defaults.fit(config, origin)


def _check_there(file: str, config: Path) -> None:
    """Raises UserError where there is no such file, and says where it was looked for."""
    if os.path.lexists(file):
        return
    places = dict.fromkeys((os.getcwd(), str(config.absolute().parent)))
    where = "" if os.path.isabs(file) else f" in {' or '.join(places)}"
    hint = " In double quotes \\ begins an escape: write 'C:\\data' in single quotes, or C:/data."
    if file.isprintable():
        hint = " Variables are not put in; ~ is the home directory." if "$" in file else ""
    name = file if file.isprintable() else repr(file)
    raise UserError(f"{name}: there is no such file{where}.{hint}")


def given_corpus(data: Path | None, source: Path | None, targets: list[Path], name: str) -> Corpus:
    """What --data names, or --source and --``name``, which holds ``targets``."""
    if bool(data) == bool(source or targets) or bool(source) != bool(targets):
        raise BadParameter(f"give --data alone; --source and --{name} go together")
    from .. import config as configs

    if data:
        return configs.TSV(path=str(data))
    return configs.Plain(source=str(source), target=list(map(str, targets)))
