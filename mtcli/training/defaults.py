"""What a config leaves open, chosen by the size of the corpus. Knows no torch and no model, only what suits which size."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from typing import Any

from .. import config as configs
from ..config import Characters, Config, Plain, Subwords, Transformer, Words
from ..support.errors import UserError
from ..text.corpus import count_lines, read_pairs
from ..text.tokenizers import UNSPACED

log = logging.getLogger("mtcli")

# For corpora of up to so many target tokens. Small corpora want few subwords, small models, strong dropout and small
# batches; large ones the opposite. docs/experiments.md has what was measured: the first four rows, for Transformers.
SIZES: list[tuple[float, dict[str, Any]]] = [
    (50_000, {"vocabulary": 1000, "hidden": 128, "layers": 3, "dropout": 0.3, "batch": 1000}),
    (250_000, {"vocabulary": 4000, "hidden": 128, "layers": 4, "dropout": 0.3, "batch": 2000}),
    (750_000, {"vocabulary": 4000, "hidden": 128, "layers": 4, "dropout": 0.25, "batch": 2000}),
    (3_000_000, {"vocabulary": 8000, "hidden": 128, "layers": 4, "dropout": 0.15, "batch": 4000}),
    (15_000_000, {"vocabulary": 8000, "hidden": 256, "layers": 4, "dropout": 0.1, "batch": 4000}),
    (
        float("inf"),
        {"vocabulary": 16000, "hidden": 512, "layers": 6, "dropout": 0.1, "batch": 16000},
    ),
]
SMALL = (
    250_000  # target tokens, up to which what overfits by its loss translates better all the same
)
TRAINED_TOKENS = 16_000_000  # what an hour on two cores is enough for, at 128 units
FEWEST_EPOCHS, MOST_EPOCHS = 8, 60
VALIDATIONS = 50  # in a training, but none less than 100 updates after another
RECURRENT = 2  # times as many units as a Transformer, which has more layers, and in each more weights for a unit
SAMPLE_PAIRS = (
    10_000  # that decide whether the two sides are written alike, and how long sentences are
)


def fit(config: Config, origin: Config | None = None) -> Config:
    """``config`` with everything that its author left open chosen by the size of the corpus, and said in the log.

    That is its number of target tokens, estimated from a sample, since nothing is cut into tokens yet.

    Left open is what the YAML does not name: a value that is given there stays, also where it equals a default. With
    ``origin``, the config of the run to start from, tokenizers and model are as they are there. Raises UserError where
    these two cannot be had together.
    """
    if origin is not None:
        config = _like(origin, config)
    tokens = sum(
        part.weight * _count(part) * _target_length(part, config.tokenizers[1])
        for part in config.data.train
    )
    size = next(values for limit, values in SIZES if tokens <= limit)
    chosen: dict[str, dict[str, Any]] = {"tokenizer": {}, "model": {}, "training": {}}

    def choose(section: str, **values: Any) -> None:
        given = (
            getattr(config, section).model_fields_set
            if section in config.model_fields_set
            else set()
        )
        chosen[section].update({key: value for key, value in values.items() if key not in given})

    if "tokenizer" not in config.model_fields_set:
        choose("tokenizer", shared=_written_alike(config))
    if isinstance(config.tokenizer, Subwords):
        choose("tokenizer", vocabulary_size=size["vocabulary"])
    config = _with(config, "tokenizer", chosen["tokenizer"])

    model = config.model
    width = size["hidden"] * (1 if isinstance(model, Transformer) else RECURRENT)
    hidden = model.hidden_size if "hidden_size" in model.model_fields_set else width
    tied = "all" if config.shared_vocabulary else "target"
    choose("model", hidden_size=hidden, dropout=size["dropout"])
    if isinstance(model, Transformer):
        heads = next(number for number in (max(4, hidden // 64), 4, 2, 1) if hidden % number == 0)
        choose("model", feed_forward_size=4 * hidden, heads=heads, tied_embeddings=tied)
        choose("model", encoder_layers=size["layers"], decoder_layers=size["layers"])
    else:
        choose("model", embedding_size=hidden)

    training = config.training
    if training.batch_sentences is None:
        choose("training", batch_tokens=size["batch"])
    if not training.has_end:
        epochs = min(max(TRAINED_TOKENS / tokens, FEWEST_EPOCHS), MOST_EPOCHS)
        updates = (
            epochs
            * tokens
            / (
                training.batch_tokens
                if "batch_tokens" in training.model_fields_set
                else size["batch"]
            )
        )
        choose("training", max_epochs=round(epochs), patience=10)
        choose("training", validate_every=max(100, round(updates / VALIDATIONS / 50) * 50))
    if tokens <= SMALL and "chrf" in training.validation_metrics:
        choose("training", best_by="chrf")
    for section in ("model", "training"):
        config = _with(config, section, chosen[section])
    told = [
        f"{section}.{key} = {_shown(value)}"
        for section, values in chosen.items()
        for key, value in values.items()
    ]
    if told:
        log.info(
            f"left open in the config, chosen for about {tokens:,.0f} target tokens: {', '.join(told)}"
        )
    return config


def _like(origin: Config, config: Config) -> Config:
    """``config`` with the tokenizers and the model of ``origin``; of what it names itself, only dropout may differ."""
    for section in ("tokenizer", "model"):
        theirs, given = getattr(origin, section), getattr(config, section)
        if section not in config.model_fields_set:
            config = config.model_copy(update={section: theirs})
        elif type(given) is type(theirs):
            config = _with(
                config,
                section,
                {**theirs.model_dump(mode="json"), **given.model_dump(exclude_unset=True)},
            )
    other = [
        change
        for change in configs.changes(origin, config)
        if change.startswith(("tokenizer.", "model."))
        and not change.split(":")[0].endswith("dropout")
    ]
    if other:
        raise UserError(
            f"{config.init_from}, which init_from names, differs in more than dropout:\n"
            + "".join(f"  {change}\n" for change in other)
            + "Leave these out of the config, or start from another run."
        )
    return config


def _with(config: Config, section: str, values: dict[str, Any]) -> Config:
    if not values:
        return config
    return config.model_copy(update={section: configs.replace(getattr(config, section), **values)})


def _shown(value: Any) -> Any:
    return value["type"] if isinstance(value, dict) else value


def _count(part: configs.TSV | Plain) -> int:
    return count_lines(part.source if isinstance(part, Plain) else part.path)


def _target_length(part: configs.TSV | Plain, tokenizer: Characters | Words | Subwords) -> float:
    """Target tokens of a pair, EOS included, on average: counted in a sample, of subwords as they come out in general."""
    sample = [
        pair.target for pair in islice(read_pairs(part, skip_blank=True, warn=False), SAMPLE_PAIRS)
    ]
    total = len(sample)
    for text in sample:
        if isinstance(tokenizer, Characters):
            total += len(text)
        elif isinstance(tokenizer, Words):
            total += len(text.split())
        else:
            unspaced = len(UNSPACED.findall(text))
            total += unspaced / 1.4 + (len(text) - unspaced) / 4
    return total / len(sample)


def _written_alike(config: Config) -> bool:
    """Whether most letters of either side are used on the other as well: then one set of subwords serves both."""
    sides = Counter[str](), Counter[str]()
    for part in config.data.train:
        for pair in islice(read_pairs(part, skip_blank=True), SAMPLE_PAIRS):
            for side, text in zip(sides, pair):
                side.update(letter for letter in text.lower() if letter.isalpha())
    common = sides[0].keys() & sides[1].keys()
    return all(sum(side[letter] for letter in common) > 0.5 * sum(side.values()) for side in sides)
