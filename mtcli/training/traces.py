"""What validations leave of a few sentences, to be looked at later: how the model came to translate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from ..decoding.engine import Inside, Maps, Request
from ..decoding.translator import Translator
from ..run.directory import Run
from ..support.errors import UserError
from ..text.writing import is_blank

MOST_WEIGHTS = 20_000  # of attention, kept at one validation: 100 KB
Number = Annotated[float, Field(allow_inf_nan=False)]
Weights = list[list[list[Number]]]  # head, target token, source token


class Kept(BaseModel):
    """A sentence and its translation at some update, from inside: what `Inside` has, rounded."""

    source: str
    tokens: list[str]
    """Of the translation, without EOS; the lists below have one entry more."""
    log_probabilities: list[Number]
    ranks: list[int]
    entropies: list[Number]
    attention: dict[str, Weights]
    """To the source: of every head; if that is too much, the mean over heads of each layer; or none."""

    @model_validator(mode="after")
    def _fits(self) -> Kept:
        steps = len(self.tokens) + 1
        heads = [head for heads in self.attention.values() for head in heads]
        lists: list[list] = [self.log_probabilities, self.ranks, self.entropies, *heads]
        if {len(each) for each in lists} != {steps} or not all(self.attention.values()):
            raise ValueError("there is not one entry a step")
        if len({len(row) for head in heads for row in head}) > 1:
            raise ValueError("rows of attention are not equally long")
        return self

    def inside(self) -> Inside:
        maps = {name: np.array(weights) for name, weights in self.attention.items()}
        return Inside(self.log_probabilities, maps, self.ranks, self.entropies)


class Traces(BaseModel):
    """What is in a file of traces/."""

    traces: list[Kept]


def keep(translator: Translator, sources: Sequence[str], beam_size: int) -> Traces:
    """The translations of ``sources``; left out are blank lines and those that are cut into pieces."""
    ids = {line: translator.codecs[0].encode(line) for line in sources if not is_blank(line)}
    fitting = [line for line in ids if len(ids[line]) <= translator.max_length + 1]
    if not fitting:
        return Traces(traces=[])
    engine, room = translator.engine, MOST_WEIGHTS // len(fitting)
    decoding = translator.decoding(beam_size=beam_size, sampling=None)
    found = engine.search(Request([ids[line] for line in fitting], decoding))
    kept = []
    for line, (best, *_) in zip(fitting, found):
        inside = engine.inside(ids[line], best.ids, 1)
        if not np.isfinite(inside.log_probabilities).all():  # training will say more
            continue
        kept.append(
            Kept(
                source=line,
                tokens=translator.codecs[1].vocabulary.decode(best.ids),
                log_probabilities=[round(each, 3) for each in inside.log_probabilities],
                ranks=inside.ranks or [],
                entropies=[round(each, 3) for each in inside.entropies or []],
                attention=_small(inside.maps, room),
            )
        )
    return Traces(traces=kept)


def _small(maps: Maps, room: int) -> dict[str, Weights]:
    """At most ``room`` weights of attention to the source."""
    cross = {name: weights for name, weights in maps.items() if name.startswith("cross.")}
    if sum(weights.size for weights in cross.values()) > room:
        cross = {name: weights.mean(0, keepdims=True) for name, weights in cross.items()}
    if sum(weights.size for weights in cross.values()) > room:
        return {}
    return {name: weights.astype(float).round(2).tolist() for name, weights in cross.items()}


def load(run: Run, update: int) -> list[Kept]:
    """The traces of an update. Raises UserError where they are not ours."""
    try:
        return Traces.model_validate(run.load_traces(update)).traces
    except ValidationError:
        raise UserError(
            f"{run.path}/traces/{update}.json does not hold what a training keeps."
        ) from None
