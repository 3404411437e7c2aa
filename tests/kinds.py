"""Every kind of model with combinations of its options, read from the config: a new one is tested without a change here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from mtcli.config import Config
from mtcli.models import build_model
from mtcli.models.base import Seq2Seq

VOCABULARY = 13
NUMBERS = {  # what options that are numbers may be here; the ones that are not named keep their defaults
    "embedding_size": [6], "hidden_size": [8], "feed_forward_size": [12], "heads": [4], "key_value_heads": [None, 2],
    "encoder_layers": [1, 2], "decoder_layers": [1, 2, 3], "max_positions": [40], "dropout": [0.3],
}  # fmt: skip


def kinds() -> dict[str, Any]:
    """The config class of every kind of model."""
    classes = get_args(Config.model_fields["model"].annotation)
    return {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in classes}


def combinations(kind: Any) -> Iterator[Any]:
    """Configs in which any three options meet in every way."""
    options: dict[str, list[Any]] = {}
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal:
            options[name] = list(get_args(field.annotation))
        elif field.annotation is bool:
            options[name] = [False, True]
        elif name in NUMBERS:
            options[name] = NUMBERS[name]
    every = [list(zip(options, values)) for values in itertools.product(*options.values())]
    random.Random(1).shuffle(every)
    met: set[Any] = set()
    for choice in every:
        triples = set(itertools.combinations(choice, 3))
        if not triples <= met:
            met |= triples
            yield kind(**dict(choice))


def name(config: Any) -> str:
    """The kind and what was chosen for it, in the order of the config."""
    chosen = config.model_fields_set - {key for key, values in NUMBERS.items() if len(values) == 1}
    return "-".join(str(getattr(config, key)) for key in type(config).model_fields if key in chosen)


def parameters(kind: Any) -> Iterator[Any]:
    """All of `combinations`; those after any two options have met are slow, since they are many."""
    met: set[Any] = set()
    for config in combinations(kind):
        pairs = set(itertools.combinations(config.model_dump().items(), 2))
        yield pytest.param(config, id=name(config), marks=[pytest.mark.slow] * (pairs <= met))
        met |= pairs


def build(config: Any) -> Seq2Seq:
    """A model in float64, without dropout until it is asked for. Biases are not left at zero: that would hide them."""
    torch.manual_seed(1)
    model = build_model(config, VOCABULARY, VOCABULARY).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5)
    return model
