"""``mtcli eval``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Option

from ..support.errors import UserError, visible
from .loading import given_corpus
from .options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    JSONOption,
    RunsOption,
    ThreadsOption,
)
from .tables import print_table

if TYPE_CHECKING:
    from ..config import Corpus
    from ..decoding.evaluation import Result
    from ..decoding.translator import Translator
    from ..text.metrics import Comparison


def evaluate(
    run: RunsOption = None,
    checkpoint: CheckpointOption = "best",
    source: Path | None = Option(None, help="File to translate, one sentence a line."),
    reference: list[Path] | None = Option(
        None, help="Its translations; repeatable, or a .tsv with several a line."
    ),
    data: Path | None = Option(None, help="TSV of source and reference, instead of two files."),
    metrics: str | None = Option(None, help="Comma-separated: bleu, chrf, ter, exact_match."),
    against: Path | None = Option(None, help="Another run: is the difference significant?"),
    output: Path | None = Option(None, "--output", "-o", help="Write the translations here."),
    beam_size: BeamOption = None,
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate a test set and score it. Without files: the test set that the run's config names."""
    given = data or source or reference
    test_set = given_corpus(data, source, reference or [], "reference") if given else None
    from .. import config as configs
    from ..decoding.evaluation import evaluate, metric_options
    from ..decoding.translator import Translator
    from ..text import corpus, metrics as text_metrics
    from ..text.writing import is_blank
    from .output import writer

    translator = Translator.load(run, device, threads, checkpoint=checkpoint, processes=None)
    test_set = test_set or _named_test_set(translator)
    names = translator.config.evaluation.metrics
    if metrics is not None:
        wanted = [name.strip() for name in metrics.split(",")]
        names = configs.replace(translator.config.evaluation, metrics=wanted).metrics
    sources, references = corpus.read_evaluation(test_set)
    beam_size = beam_size or translator.config.decoding.beam_size
    decoding = translator.decoding(beam_size=beam_size)
    with writer(output) if output else nullcontext() as out:  # that cannot be written is told first
        result = evaluate(translator, sources, references, names, decoding)
        if out:
            out.writelines(f"{line}\n" for line in result.hypotheses)
    empty = sum(
        is_blank(text) and not is_blank(source) for source, text in zip(sources, result.hypotheses)
    )
    name = " + ".join(map(str, run)) if run else str(translator.folder)
    comparisons: list[Comparison] = []
    if against:
        rival = Translator.load(against, device, threads, processes=None)
        theirs = evaluate(rival, sources, references, [], rival.decoding(beam_size=beam_size))
        systems = [(str(against), theirs.hypotheses), (name, result.hypotheses)]
        options = metric_options(translator)
        comparisons = text_metrics.compare(systems, references, names, options)
    data_name = configs.name_of(test_set)
    if as_json:
        _print_json(result, data_name, beam_size, empty, comparisons)
    else:
        print(visible(f"{name} on {data_name}: {len(sources):,} sentences, beam {beam_size}"))
        _print_tables(result, comparisons)
        if empty:
            print(f"empty translations of sentences that are not empty: {empty:,}")


def _named_test_set(translator: Translator) -> Corpus:
    """The test set that the config names, if it is what it was when the run was trained."""
    from ..run import record

    assert translator.folder is not None
    try:
        return record.find(translator.folder, translator.config.data, "test")[0]
    except UserError as error:
        raise UserError(
            f"{error} Give the test set: --data, or --source and --reference."
        ) from None


def _print_json(
    result: Result, source: str, beam: int, empty: int, comparisons: list[Comparison]
) -> None:
    summary: dict[str, Any] = result.values()
    del summary["loss"]
    summary |= {"sentences": len(result.hypotheses), "source": source, "beam_size": beam}
    summary["empty_translations"] = empty
    summary["signatures"] = {name: score.signature for name, score in result.scores.items()}
    if comparisons:
        summary["comparison"] = [comparison._asdict() for comparison in comparisons]
    from .output import to_json

    print(to_json(summary))


def _print_tables(result: Result, comparisons: list[Comparison]) -> None:
    rows = [(score.name, f"{score.value:.2f}", score.signature) for score in result.scores.values()]
    explanation = "of a target token of the first references, end of sentence included"
    print_table([*rows, ("perplexity", f"{result.perplexity:.3f}", explanation)])
    if not comparisons:
        return
    print("\nPaired bootstrap: could the difference to the first system be chance?")
    table = [("system", "metric", "score", "mean ± 95 %", "p")]
    for each in comparisons:
        mean = f"{each.mean:.2f} ± {each.interval:.2f}"
        p_value = "" if each.p_value is None else f"{each.p_value:.4f}"
        table.append((each.system, each.name, f"{each.value:.2f}", mean, p_value))
    print_table(table)
