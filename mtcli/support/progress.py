"""The progress of training on stderr: a live line on a terminal, elsewhere plain lines."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from . import distributed
from .errors import log


class Bar:
    """Shows which share of training is done (0 to 1), and what the log says."""

    def __init__(self, done: float):
        self.bar = tqdm(
            total=100.0,
            initial=100 * done,
            disable=not (distributed.is_main() and sys.stderr.isatty()),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}",
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def advance(self, done: float) -> None:
        self.bar.update(100 * done - self.bar.n)

    def report(self, entry: dict[str, Any], done: float) -> None:
        """Show a training entry of the log."""
        text = (
            f"update {entry['update']:,}  epoch {entry['epoch']:.2f}  loss {entry['loss']:.3f}  perplexity "
            f"{entry['perplexity']:.4g}  lr {entry['learning_rate']:.2e}  norm {entry['gradient_norm']:.2f}  "
            f"{entry['clock']['tokens_per_second']:,} tokens/s"
        )
        if entry.get("skipped"):
            text += f"  skipped {entry['skipped']}"
        if self.bar.disable:
            seconds = entry["clock"]["seconds"] * (1 - done) / max(done, 1e-9)
            log.info(f"{text}  {tqdm.format_interval(seconds)} left")
        else:
            self.bar.set_postfix_str(text)

    def write(self, text: str) -> None:
        """Show lines above the bar."""
        with tqdm.external_write_mode(sys.stderr):
            for line in text.split("\n"):
                log.info(line)
