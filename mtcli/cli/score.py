"""``mtcli score``."""

from __future__ import annotations

from itertools import tee
from pathlib import Path

from typer import Option

from .loading import given_corpus
from .options import (
    CheckpointOption,
    DeviceOption,
    JSONOption,
    OutputOption,
    RunsOption,
    ThreadsOption,
)


def score(
    run: RunsOption = None,
    checkpoint: CheckpointOption = "best",
    source: Path | None = Option(None, help="File with one sentence a line."),
    target: Path | None = Option(None, help="Their translations, line by line."),
    data: Path | None = Option(None, help="TSV with both, instead of two files."),
    output: OutputOption = None,
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """How probable given translations are: for each pair its log-probability, a tab, and its score (as translate's)."""
    files = given_corpus(data, source, [target] if target else [], "target")
    from ..decoding.translator import Translator
    from ..text import corpus
    from .output import DIGITS, progress, to_json, writer

    translator = Translator.load(run, device, threads, checkpoint=checkpoint)
    penalty = translator.config.decoding.length_penalty
    pairs, scored = tee(corpus.read_pairs(files, skip_blank=False))
    with (
        writer(output) as out,
        progress(translator.score(scored), data or source, output is None) as results,
    ):
        for number, (pair, tokens) in enumerate(zip(pairs, results), 1):
            log_probability = sum(tokens)
            penalised = log_probability / penalty.divisor(len(tokens))
            line = f"{log_probability:.{DIGITS}f}\t{penalised:.{DIGITS}f}"
            if as_json:
                values = {
                    "line": number,
                    "source": pair.source,
                    "target": pair.target,
                    "score": penalised,
                    "log_probability": log_probability,
                    "tokens": translator.codecs[1].tokenize(pair.target),
                    "token_log_probabilities": tokens,
                }
                line = to_json(values)
            print(line, file=out, flush=True)
