"""How good a translator is on a test set: text metrics and perplexity. Knows no files and prints nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import metrics
from .config import Decoding
from .errors import UserError
from .translator import Translator


@dataclass(frozen=True)
class Result:
    """Scores of one translator on one test set."""

    hypotheses: list[str]
    references: list[list[str]]
    loss: float  # mean negative log-likelihood of a token of the first references, EOS included, in nats
    scores: dict[str, metrics.Score]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700))

    def values(self) -> dict[str, float]:
        """Loss, perplexity and every metric, by name."""
        return {"loss": self.loss, "perplexity": self.perplexity} | {n: score.value for n, score in self.scores.items()}


def evaluate(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    decoding: Decoding | None = None,
    limit: int | None = None,
) -> Result:
    """Translate ``sources`` (only the first ``limit``, if no metric is asked for) and score them.

    Raises UserError where there is nothing to score.
    """
    if not sources:
        raise UserError("The test set is empty; there is nothing to score.")
    tokens = list(translator.score((source, known[0]) for source, known in zip(sources, references)))
    loss = -sum(map(sum, tokens)) / sum(map(len, tokens))
    wanted = list(sources) if names or limit is None else list(sources[:limit])
    hypotheses = [translation.text for translation in translator.stream(wanted, decoding)]
    scores = metrics.score_all(names, hypotheses, references, **metric_options(translator))
    return Result(hypotheses, list(map(list, references)), loss, scores)


def metric_options(translator: Translator) -> dict[str, Any]:
    """How the translator's config wants text to be scored."""
    config = translator.config
    return {
        "tokenizer": config.evaluation.bleu_tokenizer,
        "target_language": config.data.target_language,
        "lowercase": config.evaluation.lowercase,
    }
