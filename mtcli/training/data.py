"""The training data of a run: tokenizers, vocabularies, and all sentence pairs as ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..config import TSV, Config, Plain
from ..models.batches import Batch, Sequences, padded_batch
from ..run.directory import Run
from ..support.signals import run_interruptibly
from ..text import codec, corpus
from ..text.codec import Codec
from ..text.tokenizers import seed_sampling
from . import cache


def prepare(config: Config, run: Run) -> tuple[Codec, Codec]:
    """The run's tokenizers and vocabularies. A new run takes those of `init_from`, or learns them."""
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


class ParallelData:
    """The pairs of all corpora as ids, each as often as its weight says; ids are kept in files.

    With subword sampling the text is kept too, and segmented again at every use. `cache.load` says
    which pairs are skipped and what is raised.
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
        sides = ("source.text", "target.text")  # UTF-8 bytes, of the sides that are sampled
        self.texts = [sequences(s) if f"{s}.values" in arrays else None for s in sides]
        self.samples = any(texts is not None for texts in self.texts)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows: np.ndarray, sampling_seed: int | None = None) -> Batch:
        """The pairs of ``rows``, padded. A ``sampling_seed`` segments at random those that sample."""
        if sampling_seed is None or not self.samples:
            return padded_batch(self.source.take(rows), self.target.take(rows))
        seed_sampling(sampling_seed)
        sides = []
        for ids, texts, side in zip((self.source, self.target), self.texts, self.codecs):
            if texts is None:
                sides.append(ids.take(rows))
            else:
                lines = (texts[row].tobytes().decode(errors="replace") for row in rows)
                sides.append(Sequences.of(side.encode(line, sample=True) for line in lines))
        return padded_batch(*sides)
