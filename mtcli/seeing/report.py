"""The results of runs, as plain data: one run, or several side by side. Page and terminal show the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from ..config import TSV, Config, Corpus, Plain, name_of
from ..decoding import alignment, evaluation
from ..decoding.alignment import Head
from ..decoding.torch_engine import describe
from ..decoding.translator import Translator
from ..run import record
from ..run.directory import Run
from ..support.errors import UserError, log
from ..text import codec, corpus, metrics
from ..text.codec import Codec
from ..text.writing import is_blank
from ..training import traces
from .statistics import SENTENCE, Answers, Seen, buckets, summary
from .trace import of_inside, side, trace

Item = TypeVar("Item")
Watch = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Shows how far a loop is: items, what is done to them, their number if it is known."""

UNLIKELY = math.log(0.01)  # alternatives below are not kept
SAMPLES = 1000  # of a bootstrap
# So that the page of a run has less than 2 MB:
MOST_LINES = 400  # of the log, with updates and with validations
MOST_STOPS = 50  # of the history
ROOM = {"sentences": 1_000_000, "history": 300_000}  # bytes of traces


def report(
    runs: Sequence[Run],
    data: TSV | Plain | None = None,
    limit: int = 200,
    device: str = "auto",
    threads: int | None = None,
    watch: Watch = lambda items, what, number: items,
) -> dict[str, Any]:
    """A complete report. Raises UserError.

    data: what to translate, instead of each run's own test data or, without any, validation data.
    limit: how many sentences are shown, the worst and the best.
    """
    found, answers = [], []
    for run in runs:
        translator = Translator.load(run.path, device, threads, processes=None)
        role: record.Role = "test" if run.config.data.test else "validation"
        tests = data or _recorded(run, role)
        own = _answers(translator, tests, watch)
        summaries, seen = _data(run, translator.codecs, "given" if data else role, own, watch)
        known = following(run)
        about = f"{name_of(tests)}, {len(own.sources):,} sentences"
        known["facts"].append(["tested on", f"{about}, beam {run.config.decoding.beam_size}"])
        found.append(
            {
                **known,
                "data": summaries,
                "scores": _scores(own),
                "buckets": buckets(own, translator.codecs[0], seen),
                "sentences": _sentences(own, translator, limit, watch),
            }
        )
        answers.append(own)
    return {"format": 1, "runs": found, "significance": _significance(answers, watch)}


def _recorded(run: Run, role: record.Role) -> Corpus:
    """The run's own data, if they are what they were when it was trained."""
    try:
        return record.find(run.path, run.config.data, role)[0]
    except UserError as error:
        raise UserError(f"{error} Give the test set: --data.") from None


def following(run: Run) -> dict[str, Any]:
    """What is known of a run without translating; also of one that is being trained."""
    entries = [each for each in run.read_log() if isinstance(each.get("update"), int)]
    there = (run.path / "tokenizer").is_dir()  # a training has read its data
    codecs = codec.load(run.path / "tokenizer", run.config) if there else None
    return {
        "name": str(run.path),
        "facts": _facts(run, codecs, entries),
        "log": _lines(entries),
        "history": _history(run, codecs) if codecs else [],
    }


def few(items: Sequence[Item], most: int) -> list[Item]:
    """Evenly spaced items, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


# ------------------------------------------------------------------------------ what was trained


def _facts(run: Run, codecs: tuple[Codec, Codec] | None, entries: list[dict[str, Any]]) -> list:
    config, facts = run.config, []
    languages = config.data.source_language, config.data.target_language
    if any(languages):
        facts.append(["languages", " → ".join(each or "?" for each in languages)])
    facts.append(["trained on", ", ".join(map(name_of, config.data.train))])
    facts.append(["model", config.model.type])
    if codecs:
        sizes = [len(each.vocabulary) for each in codecs]
        parameters = sum(each.numel() for each in describe(config.model, sizes).parameters())
        facts[-1][1] += f", {parameters:,} parameters"
        kinds = [each.type for each in config.tokenizers]
        shown = [f"{size:,} {kind}" for size, kind in zip(sizes, kinds)]
        text = f"{shown[0]} (shared)" if config.shared_vocabulary else " → ".join(shown)
        facts.append(["vocabulary", text])
    if entries:
        last = _numbers(entries[-1])
        epochs, minutes = last.get("epoch", 0), last.get("clock", {}).get("seconds", 0) / 60
        trained = f"{last['update']:,} updates, {epochs:.1f} epochs, {minutes:.1f} minutes"
        facts.append(["trained", trained])
    if best := run.best:
        facts.append(
            ["best checkpoint", f"{best['update']:,} ({best['metric']} {best['value']:.4g})"]
        )
    if head := alignment.kept(run):
        which = "mean of all heads" if head.head is None else f"head {head.head}"
        facts.append(["attention shown", f"{head.map}, {which}{', shifted' * head.shifted}"])
    return facts


def _lines(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log's numbers, in at most twice MOST_LINES lines."""
    numbers = [_numbers(each) for each in entries]
    validations = [each for each in numbers if "validation" in each]
    updates = [each for each in numbers if "validation" not in each]
    kept = few(updates, MOST_LINES) + few(validations, MOST_LINES)
    return sorted(kept, key=lambda line: line["update"])


def _numbers(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            found[name] = _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = value
    return found


# ------------------------------------------------------------------------------ history and traces


def _history(run: Run, codecs: tuple[Codec, Codec]) -> list[dict[str, Any]]:
    """Traces of the same sentences over the updates; of fewer of them where they are large."""
    head, stops = alignment.kept(run), []
    for update in few(run.traces(), MOST_STOPS):
        kept = traces.load(run, update)
        found = [_kept(f"update {update:,}", each, run.config, codecs, head) for each in kept]
        stops.append({"update": update, "traces": found})
    size = len(json.dumps(stops))
    return few(stops, max(2, len(stops) * ROOM["history"] // size))


def _kept(
    name: str, kept: traces.Kept, config: Config, codecs: tuple[Codec, Codec], head: Head | None
) -> dict[str, Any]:
    source = side(codecs[0], codecs[0].tokenize(kept.source), kept.source)
    sides, inside = (source, side(codecs[1], kept.tokens)), kept.inside()
    if {weights.shape[2] for weights in inside.maps.values()} - {len(source.tokens)}:
        inside.maps.clear()  # a stranger's
    penalty = config.decoding.length_penalty
    return _small(
        of_inside(name, sides, inside, codecs[1].vocabulary.tokens, head, penalty).as_dict()
    )


def _small(found: dict[str, Any]) -> dict[str, Any]:
    """A trace with the one map that aligns, and with fewer digits and alternatives."""
    if head := found["alignment_from"]:
        heads = np.array(found["attention"][head["map"]])
        table = heads.mean(0) if head["head"] is None else heads[head["head"]]
        found["attention"] = {head["map"]: [table.round(2).tolist()]}
        found["alignment_from"] = {**head, "head": None}
    steps = []
    for step in found["steps"]:
        others = [each for each in step["alternatives"] if each["log_probability"] > UNLIKELY]
        steps.append({**step, "alternatives": others})
    rounded = json.loads(json.dumps(steps), parse_float=lambda text: round(float(text), 3))
    return {**found, "steps": rounded, "hypotheses": [], "tree": []}


# ------------------------------------------------------------------------------ data


def _data(
    run: Run, codecs: tuple[Codec, Codec], name: str, own: Answers, watch: Watch
) -> tuple[list[dict[str, Any]], Seen | None]:
    """What is in training, validation and test data; what is not there any more is left out."""
    seen, summaries = Seen(), []
    try:
        pairs = (
            (pair.source, pair.target)
            for part in record.find(run.path, run.config.data, "train")
            for pair in corpus.read_pairs(part, skip_blank=True, warn=False)
        )
        summaries.append(
            summary("training", watch(pairs, "reading training data", None), codecs, seen, True)
        )
        if name != "validation":
            [validation] = record.find(run.path, run.config.data, "validation")
            sources, references = corpus.read_evaluation(validation)
            first = zip(sources, (each[0] for each in references))
            summaries.append(summary("validation", first, codecs, seen))
    except UserError as error:
        log.warning(f"{error} The report does not compare with the training data.")
        seen = Seen()
    first = zip(own.sources, (each[0] for each in own.references))
    summaries.append(summary(name, first, codecs, seen))
    return summaries, seen if seen.pairs else None


# ------------------------------------------------------------------------------ translations


def _answers(translator: Translator, tests: TSV | Plain, watch: Watch) -> Answers:
    sources, references = corpus.read_evaluation(tests)
    stream = translator.stream(sources)
    hypotheses = [each.text for each in watch(stream, "translating", len(sources))]
    options = evaluation.metric_options(translator)
    return Answers(sources, references, hypotheses, translator.config.evaluation.metrics, options)


def _scores(own: Answers) -> list[dict[str, Any]]:
    found = []
    scores = metrics.score(own.metrics, own.hypotheses, own.references, own.options, SAMPLES)
    for name, value, signature, interval in scores.values():
        low, high = interval or (value, value)
        numbers = {"value": value, "low": low, "high": high}
        rounded = {key: round(each, 2) for key, each in numbers.items()}
        found.append({"metric": name, **rounded, "signature": signature})
    return found


def _significance(answers: Sequence[Answers], watch: Watch) -> list[dict[str, Any]]:
    """By how much the first of every two runs that translated the same is better, and how often
    chance alone makes such a difference."""
    found = []
    pairs = list(combinations(range(len(answers)), 2))
    for one, two in watch(pairs, "comparing", len(pairs)):
        first, second = answers[one], answers[two]
        names = [name for name in first.metrics if name in second.metrics]
        same = ("sources", "references", "options")
        if names and all(getattr(first, part) == getattr(second, part) for part in same):
            systems = [("0", first.hypotheses), ("1", second.hypotheses)]
            rows = metrics.compare(systems, first.references, names, first.options, SAMPLES)
            for ours, theirs in zip(rows, rows[len(names) :]):
                numbers = round(ours.value - theirs.value, 2), theirs.p_value
                keys = "runs", "metric", "difference", "p"
                found.append(dict(zip(keys, ([one, two], ours.name, *numbers))))
    return found


def _sentences(
    own: Answers, translator: Translator, limit: int, watch: Watch
) -> list[dict[str, Any]]:
    """The worst and the best sentences, worst first; traces of as many from both ends as there is room for."""
    rows: list[dict[str, Any]] = []
    for source, references, hypothesis in zip(own.sources, own.references, own.hypotheses):
        score = metrics.score([SENTENCE], [hypothesis], [references], own.options)[SENTENCE].value
        texts = {"source": source, "reference": references[0], "hypothesis": hypothesis}
        rows.append({**texts, "score": round(score, 2), "trace": None})
    rows.sort(key=lambda row: row["score"])
    if len(rows) > limit:
        rows = rows[: limit - limit // 2] + rows[len(rows) - limit // 2 :]
    room, last = ROOM["sentences"], len(rows) - 1
    order = sorted(range(len(rows)), key=lambda place: min(place, last - place))
    for place in watch(order, "looking inside", len(order)):
        row, ids = rows[place], translator.codecs[0].encode(rows[place]["source"])
        if not is_blank(row["source"]) and len(ids) <= translator.max_length + 1 and room > 0:
            row["trace"] = _small(trace(translator, row["source"]).as_dict())
            room -= len(json.dumps(row["trace"], ensure_ascii=False, separators=(",", ":")))
    return rows
