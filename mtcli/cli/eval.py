"""``mtcli eval``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option

from ..support.errors import UserError
from .loading import load_translator
from .options import BeamOption, DeviceOption, JSONOption, RunsOption, ThreadsOption
from .tables import print_table

if TYPE_CHECKING:
    from ..config import TSV, Config, Plain
    from ..decoding.evaluation import Result
    from ..text.metrics import Comparison

Source = Annotated[Path | None, Option(help="File to translate, one sentence a line.")]
Reference = Annotated[
    list[Path] | None,
    Option(help="Its translations, line by line; repeatable, or a .tsv with several a line."),
]
Data = Annotated[Path | None, Option(help="TSV of source and reference, instead of two files.")]
Metrics = Annotated[str | None, Option(help="Comma-separated: bleu, chrf, ter, exact_match.")]
Against = Annotated[Path | None, Option(help="Another run: is the difference significant?")]
Translations = Annotated[Path | None, Option("--output", "-o", help="Write the translations here.")]


def evaluate(
    run: RunsOption = None,
    source: Source = None,
    reference: Reference = None,
    data: Data = None,
    metrics: Metrics = None,
    against: Against = None,
    output: Translations = None,
    beam_size: BeamOption = None,
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate a test set and score it. Without files: the test set that the run's config names."""
    if data and (source or reference):
        raise BadParameter("give --data, or --source and --reference, not both")
    if bool(source) != bool(reference):
        raise BadParameter("--source and --reference go together")
    from .. import config as configs
    from ..decoding import evaluation
    from ..text import corpus, metrics as text_metrics

    translator = load_translator(run, device, threads, parallel=True)
    test_set = _test_set(translator.config, source, reference, data)
    names: list[str] = list(translator.config.evaluation.metrics)
    if metrics is not None:
        names = [name.strip() for name in metrics.split(",")]
        configs.replace(translator.config.evaluation, metrics=names)  # raises for unknown ones
    sources, references = corpus.read_evaluation(test_set)
    decoding = translator.decoding(**({} if beam_size is None else {"beam_size": beam_size}))
    result = evaluation.evaluate(translator, sources, references, names, decoding)
    if output:
        from .output import writer

        with writer(output) as out:
            out.writelines(f"{line}\n" for line in result.hypotheses)
    name = " + ".join(map(str, run)) if run else "the run trained last"
    comparisons: list[Comparison] = []
    if against:
        rival = load_translator([against], device, threads, parallel=True)
        rival_decoding = rival.decoding(beam_size=decoding.beam_size)
        theirs = evaluation.evaluate(rival, sources, references, [], rival_decoding).hypotheses
        systems = [(str(against), theirs), (name, result.hypotheses)]
        options = evaluation.metric_options(translator)
        comparisons = text_metrics.compare(systems, references, names, options)
    data_name = configs.name_of(test_set)
    if as_json:
        _print_json(result, data_name, decoding.beam_size, comparisons)
    else:
        sentences = f"{len(sources):,} sentences, beam {decoding.beam_size}"
        print(f"{name} on {data_name}: {sentences}")
        _print_tables(result, comparisons)


def _test_set(
    config: Config, source: Path | None, reference: list[Path] | None, data: Path | None
) -> TSV | Plain:
    """The files that were given, else the config's test set."""
    from .. import config as configs

    if data:
        return configs.TSV(path=str(data))
    if source:
        return configs.Plain(source=str(source), target=[str(path) for path in reference or []])
    if config.data.test is None:
        raise UserError(
            "The run's config names no data.test; give --data, or --source and --reference."
        )
    for path in configs.files_of(config.data.test):
        # The run may come from a stranger, who could name anything.
        if os.path.lexists(path) and not os.path.isfile(path):
            raise UserError(
                f"{path}, which the run's config names as data.test, is no plain file. It was not "
                "opened; give --data, or --source and --reference."
            )
    return config.data.test


def _print_json(
    result: Result, data_name: str, beam_size: int, comparisons: list[Comparison]
) -> None:
    summary: dict[str, Any] = {
        key: value for key, value in result.values().items() if key != "loss"
    }
    summary |= {
        "sentences": len(result.hypotheses),
        "source": data_name,
        "beam_size": beam_size,
        "signatures": {name: score.signature for name, score in result.scores.items()},
    }
    if comparisons:
        summary["comparison"] = [comparison._asdict() for comparison in comparisons]
    print(json.dumps(summary, ensure_ascii=False))


def _print_tables(result: Result, comparisons: list[Comparison]) -> None:
    rows = [(score.name, f"{score.value:.2f}", score.signature) for score in result.scores.values()]
    explanation = "of a target token of the first references, end of sentence included"
    print_table([*rows, ("perplexity", f"{result.perplexity:.3f}", explanation)])
    if comparisons:
        print("\nPaired bootstrap: could the difference to the first system be chance?")
        print_table(
            [
                ("system", "metric", "score", "mean ± 95 %", "p"),
                *(
                    (
                        each.system,
                        each.name,
                        f"{each.value:.2f}",
                        f"{each.mean:.2f} ± {each.interval:.2f}",
                        "" if each.p_value is None else f"{each.p_value:.4f}",
                    )
                    for each in comparisons
                ),
            ]
        )
