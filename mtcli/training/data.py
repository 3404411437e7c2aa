"""The training data of a run: tokenizers, vocabularies, and all sentence pairs as ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..config import TSV, Config, Plain
from ..models.batches import Batch, Sequences, padded_batch
from ..run.directory import Run
from ..support.errors import log
from ..support.signals import run_interruptibly
from ..text import codec, corpus
from ..text.codec import Codec
from ..text.inspection import inspect
from ..text.tokenizers import seed_sampling
from ..text.vocab import EOS, UNK
from . import cache

Evaluated = tuple[list[str], list[list[str]]]  # sources, and the references of each
FEW_UNKNOWN = 0.03  # of the tokens
SAMPLE_IDS = 10_000_000  # in which UNK is counted


def prepare(config: Config, run: Run) -> tuple[Codec, Codec]:
    """The run's tokenizers and vocabularies. A new run takes those of `init_from`, or learns them."""
    for part in config.data.train:
        inspect(part, (config.data.source_language, config.data.target_language))
    folder = run.path / "tokenizer"
    if folder.is_dir():
        return codec.load(folder, config)
    if config.init_from is not None:
        codecs = codec.load(Run.open(config.init_from).path / "tokenizer", config)
    else:
        codecs = run_interruptibly(lambda: codec.learn(config, lambda: training_pairs(config)))
    run.save_tokenizers(lambda place: codec.save(place, *codecs))
    return codecs


def training_pairs(config: Config) -> Iterator[corpus.Pair]:
    """Every training pair once, whatever its corpus's weight; pairs with a blank side are left out."""
    for part in config.data.train:  # reading the data will warn
        yield from corpus.read_pairs(part, skip_blank=True, warn=False)


def warn_of_unknown(config: Config, data: ParallelData, validation: Evaluated) -> None:
    """Warn of the share of tokens that are not in the vocabularies, and say whose vocabularies they are."""
    lines = validation[0], [references[0] for references in validation[1]]
    for number, (name, side) in enumerate(zip(("source", "target"), data.codecs)):
        ids = (data.source, data.target)[number].values[:SAMPLE_IDS]
        rates = {"data.train": int(np.sum(ids == UNK)) / max(int(np.sum(ids != EOS)), 1)}
        rates["data.validation"] = codec.coverage(side, lines[number]).unknown_rate
        if max(rates.values()) > FEW_UNKNOWN:
            shares = ", ".join(f"{rate:.1%} of {key}" for key, rate in rates.items())
            whose = (
                f"the vocabulary of {config.init_from}" if config.init_from else "its vocabulary"
            )
            log.warning(
                f"{name} tokens that are not in {whose} (UNK): {shares}. The model cannot "
                f"{('tell them apart', 'write them')[number]}; one with tokenizer: subword and a vocabulary of its own can."
            )


class ParallelData:
    """The pairs of all corpora as ids, each as often as its weight says; ids are kept in files.

    `cache.load` says which pairs are skipped and what is raised.
    """

    def __init__(
        self,
        corpora: Sequence[TSV | Plain],
        codecs: tuple[Codec, Codec],
        max_length: int,
        folder: Path,
    ):
        arrays = cache.load(folder, corpora, codecs, max_length)
        rows = None
        if any(corpus.weight > 1 for corpus in corpora):
            ends = np.cumsum(arrays["pairs"])
            parts = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
            rows = np.concatenate([np.tile(p, c.weight) for p, c in zip(parts, corpora)])

        def sequences(name: str) -> Sequences:
            all_pairs = Sequences.end_to_end(arrays[f"{name}.values"], arrays[f"{name}.starts"])
            return all_pairs if rows is None else all_pairs.take(rows)

        self.codecs = codecs
        self.source, self.target = sequences("source"), sequences("target")
        self.samples = any(side.tokenizer.samples for side in codecs)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows: np.ndarray, sampling_seed: int | None = None) -> Batch:
        """The pairs of ``rows``, padded. A ``sampling_seed`` segments at random those that sample."""
        sides = [self.source.take(rows), self.target.take(rows)]
        if sampling_seed is not None:
            seed_sampling(sampling_seed)
            for number, (ids, side) in enumerate(zip((self.source, self.target), self.codecs)):
                if side.tokenizer.samples:
                    sides[number] = Sequences.of(side.resample(ids[row].tolist()) for row in rows)
        return padded_batch(*sides)
