"""How good a translator is on a test set: text metrics and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Decoding
from ..support.errors import UserError
from ..text import metrics
from .translator import Translator

LOWER_IS_BETTER = {"loss", "perplexity", *metrics.LOWER_IS_BETTER}


@dataclass(frozen=True)
class Result:
    """Scores of one translator on one test set."""

    hypotheses: list[str]
    loss: float  # mean negative log-likelihood of a token of the first references, in nats
    scores: dict[str, metrics.Score]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700))

    def values(self) -> dict[str, float]:
        """Loss, perplexity and every metric, by name."""
        values = {name: score.value for name, score in self.scores.items()}
        return {"loss": self.loss, "perplexity": self.perplexity, **values}


@dataclass(frozen=True)
class Answers:
    """What a translator makes of a test set."""

    hypotheses: list[str]
    log_probabilities: list[float]  # of the first reference of each sentence
    tokens: list[int]  # of that reference, EOS included


def evaluate(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    decoding: Decoding | None = None,
) -> Result:
    """Translate `sources` and score them. Raises UserError where there is nothing to score."""
    if not sources:
        raise UserError("The test set is empty; there is nothing to score.")
    return score(translator, answer(translator, sources, references, decoding), references, names)


def answer(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    decoding: Decoding | None = None,
    limit: int | None = None,
) -> Answers:
    """Translate `sources`, or only the first `limit`, and score the first references of all."""
    pairs = ((source, known[0]) for source, known in zip(sources, references))
    tokens = list(translator.score(pairs, warn=False))  # the translation warns of long sources
    hypotheses = [translation.text for translation in translator.stream(sources[:limit], decoding)]
    return Answers(hypotheses, [sum(each) for each in tokens], [len(each) for each in tokens])


def score(
    translator: Translator,
    answers: Answers,
    references: Sequence[Sequence[str]],
    names: Sequence[str],
) -> Result:
    """The scores of the answers to a complete test set. Without ``names`` they need no translations."""
    loss = -sum(answers.log_probabilities) / sum(answers.tokens)
    scores = {}
    if names:  # otherwise perhaps only a few were translated
        scores = metrics.score(names, answers.hypotheses, references, metric_options(translator))
    return Result(answers.hypotheses, loss, scores)


def metric_options(translator: Translator) -> metrics.Options:
    """How the translator's config wants text to be scored."""
    config = translator.config
    return metrics.Options(
        tokenizer=config.evaluation.bleu_tokenizer,
        target_language=config.data.target_language,
        lowercase=config.evaluation.lowercase,
        clean=config.tokenizers[1].clean,
    )
