"""What a config leaves open, chosen by the size of the corpus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from .. import config as configs
from ..config import TSV, Characters, Config, Plain, Subwords, Transformer, Words, files_of
from ..support.errors import UserError, log
from ..text.corpus import count_lines, read_pairs
from ..text.writing import UNSPACED, clean, has_letter


class Size(NamedTuple):
    tokens: float  # of corpora with up to this number of target tokens
    vocabulary: int
    hidden: int
    layers: int
    dropout: float
    batch_tokens: int


# Small corpora want few subwords, small models, strong dropout and small batches; large ones the
# opposite. docs/experiments.md has what was measured: the first four rows, for Transformers.
SIZES = [
    Size(50_000, 1000, 128, 3, 0.3, 1000),
    Size(250_000, 4000, 128, 4, 0.3, 2000),
    Size(750_000, 4000, 128, 4, 0.25, 2000),
    Size(3_000_000, 8000, 128, 4, 0.15, 4000),
    Size(15_000_000, 8000, 256, 4, 0.1, 4000),
    Size(math.inf, 16000, 512, 6, 0.1, 16000),
]
SMALL = 250_000  # target tokens, up to which a model improves while its loss rises again
TRAINED_TOKENS = 16_000_000  # about an hour on two cores, at 128 units
FEWEST_EPOCHS, MOST_EPOCHS = 8, 120
VALIDATIONS = 50  # in a training, at least 100 updates apart
RECURRENT = 2  # times the units of a Transformer, which has more layers, and more weights for each
SECTIONS = ("tokenizer", "model", "training", "decoding", "evaluation")
SAMPLE_PAIRS = 10_000  # that tell whether the sides share letters, and how long sentences are


def fit(config: Config, origin: Config | None = None) -> Config:
    """``config`` with all that its YAML does not name chosen by the number of target tokens.

    That number is estimated from a sample, since there is no tokenizer yet. The log says what was
    chosen. With ``origin``, the config of the run to start from, tokenizers and model are as they
    are there. Raises UserError where ``config`` wants them otherwise.
    """
    if origin is not None:
        config = _like(origin, config)
    tokenizer, tokens = config.tokenizers[1], 0.0
    for part in config.data.train:
        tokens += part.weight * count_lines(files_of(part)[0]) * _target_length(part, tokenizer)
    size = next(size for size in SIZES if tokens <= size.tokens)
    chosen = []
    parts = {"tokenizer": _tokenizer, "model": _model, "training": _training, "decoding": _decoding}
    for section, choose in parts.items():
        given = getattr(config, section).model_fields_set
        values = {k: v for k, v in choose(config, size, tokens).items() if k not in given}
        config = _with(config, section, values)
        chosen += [f"{section}.{key} = {value}" for key, value in values.items()]
    if chosen:
        about = f"chosen for about {tokens:,.0f} target tokens"
        log.info(f"left open in the config, {about}: {', '.join(chosen)}")
    return config


def _tokenizer(config: Config, size: Size, tokens: float) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "tokenizer" not in config.model_fields_set:
        values["shared"] = _written_alike(config)
    if isinstance(config.tokenizer, Subwords):
        values["vocabulary_size"] = size.vocabulary
    return values


def _model(config: Config, size: Size, tokens: float) -> dict[str, Any]:
    model = config.model
    hidden = size.hidden * (1 if isinstance(model, Transformer) else RECURRENT)
    if "hidden_size" in model.model_fields_set:
        hidden = model.hidden_size
    values = {"hidden_size": hidden, "dropout": size.dropout}
    if not isinstance(model, Transformer):
        return {**values, "embedding_size": hidden}
    return {
        **values,
        "feed_forward_size": 4 * hidden,
        "heads": next(n for n in (max(4, hidden // 64), 4, 2, 1) if hidden % n == 0),
        "tied_embeddings": "all" if config.shared_vocabulary else "target",
        "encoder_layers": size.layers,
        "decoder_layers": size.layers,
    }


def _training(config: Config, size: Size, tokens: float) -> dict[str, Any]:
    training, batch_tokens = config.training, size.batch_tokens
    values: dict[str, Any] = {}
    if training.batch_sentences is None:
        values["batch_tokens"] = batch_tokens
    if "batch_tokens" in training.model_fields_set and training.batch_tokens:
        batch_tokens = training.batch_tokens
    if not training.has_end:
        epochs = min(max(TRAINED_TOKENS / tokens, FEWEST_EPOCHS), MOST_EPOCHS)
        every = epochs * tokens / batch_tokens / VALIDATIONS
        values |= {"max_epochs": round(epochs), "patience": 10}
        values["validate_every"] = max(100, round(every / 50) * 50)
    if tokens <= SMALL and "chrf" in training.validation_metrics:
        values["best_by"] = "chrf"
    return values


def _decoding(config: Config, size: Size, tokens: float) -> dict[str, Any]:
    """Symbols are not copied where a hundredth of the pairs translate them: 12 into twelve, 123 into 321."""
    translated = pairs = 0
    for part in config.data.train:
        for pair in islice(read_pairs(part, skip_blank=True, warn=False), SAMPLE_PAIRS):
            pairs += 1
            translated += not has_letter(pair.source) and clean(pair.source) != clean(pair.target)
    return {"copy_symbols": False} if translated * 100 > pairs else {}


def fill(config: Config, other: Config, sections: Sequence[str] = SECTIONS) -> Config:
    """``config`` with all that its YAML does not name taken from ``other``, such as the run that it
    continues, whose defaults may have been different."""
    for section in sections:
        theirs, given = getattr(other, section), getattr(config, section)
        if section not in config.model_fields_set:
            config = config.model_copy(update={section: theirs})
        elif type(given) is type(theirs):
            named = given.model_dump(mode="json", exclude_unset=True)
            values = _merge(theirs.model_dump(mode="json"), named)
            config = _with(config, section, values)
    return config


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with the values of ``new``; sections within are merged where they are of one type."""
    merged = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if before.get("type") == value.get("type", before.get("type")):
                value = _merge(before, value)
        merged[key] = value
    return merged


def _like(origin: Config, config: Config) -> Config:
    """``config`` with the tokenizers and the model of ``origin``; only dropout may differ."""
    config = fill(config, origin, ("tokenizer", "model"))
    different = [
        f"  {change}\n"
        for change in configs.changes(origin, config)
        if change.startswith(("tokenizer.", "model.")) and "dropout:" not in change
    ]
    if different:
        raise UserError(
            f"{config.init_from}, which init_from names, differs in more than dropout:\n"
            f"{''.join(different)}Leave these out of the config, or start from another run."
        )
    return config


def _with(config: Config, section: str, values: dict[str, Any]) -> Config:
    return config.model_copy(update={section: configs.replace(getattr(config, section), **values)})


def _target_length(part: TSV | Plain, tokenizer: Characters | Words | Subwords) -> float:
    """The mean number of target tokens of a pair, with EOS, in a sample; of subwords, as is usual."""
    pairs = islice(read_pairs(part, skip_blank=True, warn=False), SAMPLE_PAIRS)
    texts = [pair.target for pair in pairs]
    total = float(len(texts))
    for text in texts:
        if isinstance(tokenizer, Characters):
            total += len(text)
        elif isinstance(tokenizer, Words):
            total += len(text.split())
        else:
            unspaced = len(UNSPACED.findall(text))
            total += unspaced / 1.4 + (len(text) - unspaced) / 4
    return total / len(texts)


def _written_alike(config: Config) -> bool:
    """Whether most letters of each side are used on the other too, so that they can share subwords."""
    sides = Counter[str](), Counter[str]()
    for part in config.data.train:
        for pair in islice(read_pairs(part, skip_blank=True, warn=False), SAMPLE_PAIRS):
            for side, text in zip(sides, pair):
                side.update(letter for letter in text.lower() if letter.isalpha())
    common = sides[0].keys() & sides[1].keys()
    return all(sum(side[letter] for letter in common) > 0.5 * sum(side.values()) for side in sides)
