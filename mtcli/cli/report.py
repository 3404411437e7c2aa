"""``mtcli report``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Argument, BadParameter, Option

from ..support.errors import log
from .options import DeviceOption, JSONOption, ThreadsOption

if TYPE_CHECKING:
    from ..run.directory import Run

EVERY = 2  # seconds between two looks at a run that is followed
RELOAD = 10  # seconds between two loadings of its page


def report(
    runs: list[Path] | None = Argument(None, help="Run directories.  [default: the last trained]"),
    html: Path | None = Option(None, help="Write a page that needs nothing else, instead."),
    follow: bool = Option(
        False, "--follow", help="Write the page again and again while training goes on."
    ),
    data: Path | None = Option(None, help="TSV to translate instead of the runs' own test data."),
    limit: int = Option(200, min=0, help="Sentences to show: the worst and the best."),
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """The results of runs: data, learning curves, scores, worst and best sentences, what the model looks at."""
    if follow and not html:
        raise BadParameter("--follow goes with --html, the page to write")
    if html and as_json:
        raise BadParameter("give --html or --json, not both")
    from .. import config as configs
    from ..run.directory import Run
    from ..seeing import report as reports, summary, terminal

    if follow and html:
        _follow([Run(path) for path in runs] if runs else [Run.latest()], html)
    opened = [Run.open(path) for path in runs] if runs else [Run.latest()]
    given = configs.TSV(path=str(data)) if data else None
    made = reports.report(opened, given, limit, device, threads, _bar)
    if html:
        _write(html, made)
        log.info(f"{html}: {html.stat().st_size / 1e6:.1f} MB")
    elif as_json:
        print(json.dumps(made, ensure_ascii=False))
    else:
        summary.show(made, terminal.console())


def _follow(runs: list[Run], html: Path) -> None:
    """Write the page whenever a run has grown, until no training holds any of them any more."""
    from ..seeing import report as reports

    seen, idle = None, 0
    log.info(f"{html} is written again whenever there is more; Ctrl-C ends that.")
    while idle < 2:  # a training that starts lets go for a moment
        idle = 0 if any(run.is_training() for run in runs) else idle + 1
        size = [run.log_size() for run in runs]
        if size != seen:
            found = [reports.following(run) for run in runs]
            _write(html, {"format": 1, "runs": found, "significance": []}, RELOAD)
            seen = size
        time.sleep(EVERY)
    log.info("no training is running any more: the last page is the complete report.")


def _write(path: Path, made: dict[str, Any], refresh: int | None = None) -> None:
    from ..seeing.page import page
    from ..support import files

    title = "Report: " + ", ".join(run["name"] for run in made["runs"])
    text = page(title, {"report": made}, refresh)
    files.write_output(path, text.encode("utf-8", "backslashreplace"))


def _bar(items: Iterable[Any], what: str, number: int | None) -> Iterable[Any]:
    """A bar on stderr, if that is a terminal."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    return tqdm(items, what, number, leave=False, disable=hidden, smoothing=0)
