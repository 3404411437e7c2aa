"""Validation by several processes: each answers its share of the data, and all get all answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from ..config import Training
from ..decoding import alignment, evaluation
from ..decoding.evaluation import Answers
from ..decoding.torch_engine import TorchEngine
from ..decoding.translator import Translator
from ..run.directory import Run
from ..support import distributed
from ..text.codec import Codec

ALIGNED = 500  # validation pairs by which the head is found that aligns best


def answer_share(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: Training,
) -> Answers:
    """The answers to this process's share: of N processes, to every Nth sentence.

    Without validation metrics only the examples that will be shown are translated.
    """
    decoding = translator.decoding(beam_size=settings.validation_beam_size, sampling=None)
    wanted = len(sources) if settings.validation_metrics else min(settings.examples, len(sources))
    first, step = distributed.rank(), distributed.world_size()
    limit = len(range(first, wanted, step))
    own = sources[first::step], references[first::step]
    return evaluation.answer(translator, *own, decoding, limit)


def merge(own: Answers) -> Answers:
    """The answers of all processes, in the order of the data."""
    parts = distributed.gather_json(vars(own))
    merged = {}
    for name in parts[0]:
        turns = zip_longest(*(part[name] for part in parts))  # the last one may be incomplete
        merged[name] = [value for turn in turns for value in turn if value is not None]
    return Answers(**merged)


def keep_alignment(
    run: Run,
    codecs: tuple[Codec, Codec],
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    device: torch.device,
) -> None:
    """Keep with the run which head of its best checkpoint aligns best, on the validation data."""
    if not distributed.is_main():
        return
    sides = sources, [known[0] for known in references]
    ids = zip(*(side.encode_all(lines) for side, lines in zip(codecs, sides)))
    longest = run.config.data.max_length + 1
    pairs = [pair for pair in ids if max(map(len, pair)) <= longest]
    engine = TorchEngine.load([run], [len(side.vocabulary) for side in codecs], device)
    if head := alignment.find(engine, pairs[:ALIGNED]):
        alignment.keep(run, head)
