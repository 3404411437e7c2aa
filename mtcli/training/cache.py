"""The training corpora as token ids, in files that are mapped into memory and built once.

    cache/lock           held by the process that builds
    cache/corpora.json   SHA-256 of each file, remembered by its size and time
    cache/ids/           appears complete or not at all
      manifest.json      the key: what it was made from
      pairs              how many pairs each corpus gave
      source.values      ids of all source sentences, end to end, each ending in EOS
      source.starts      where each sentence begins, and at last where the last one ends
      target.…           likewise

All of it can be deleted at any time. What has another key, or files whose sizes do not fit together, is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, compress, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..config import TSV, Plain, files_of, name_of
from ..run.record import Digests, digest, stamp
from ..support import files
from ..support.errors import UserError, log
from ..support.processes import Pool, cores
from ..text.codec import Codec, fingerprint
from ..text.corpus import Pair, count_lines, read_pairs

FORMAT = 2  # to be raised when the same key would mean other files
CHUNK = 2000  # pairs that are encoded together
LARGE = 64 << 20  # bytes of text above which starting more processes pays
MOST_PROCESSES = 16  # one process reads and writes: it cannot feed more
SIDES = ("source", "target")

Codecs = tuple[Codec, Codec]
Corpus = TSV | Plain


def load(
    folder: Path, corpora: Sequence[Corpus], codecs: Codecs, max_length: int
) -> dict[str, np.ndarray]:
    """The files of ``ids`` in ``folder``, which is the cache, by name; built if they are not there or do not fit.

    Pairs with a blank side, and pairs with more than ``max_length`` tokens on a side, EOS not counted, are left out and
    counted in a warning. Raises UserError where a corpus gives no pair, cannot be read, or the cache cannot be written.
    """
    files.refuse_link(folder)
    with files.user_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ids = folder / "ids"
    with files.lock(folder / "lock"):
        paths = [path for corpus in corpora for path in files_of(corpus)]
        digests = digest(folder / "corpora.json", paths)
        key = _key(corpora, digests, codecs, max_length)
        arrays = _open(ids, key, codecs)
        if arrays is None:
            if os.path.lexists(ids):
                log.info(f"{ids} is of other data, tokenizers or limits: it is built again.")
            files.clear_leftovers(folder)
            with files.user_errors(ids), files.new_directory(ids, replace=True) as aside:
                pairs = _build(aside, corpora, codecs, max_length, digests)
                np.array(pairs, "<i8").tofile(aside / "pairs")
                (aside / "manifest.json").write_text(json.dumps({"key": key}), encoding="utf-8")
            arrays = _open(ids, key, codecs)
    if arrays is None:
        raise UserError(f"{ids} is not what was just written there. Is the disk sound?")
    return arrays


def _dtype(codec: Codec) -> np.dtype:
    return np.dtype("<u2" if len(codec.vocabulary) <= 1 << 16 else "<u4")


# --------------------------------------------------------------------------------------------------- what it is made of


def _key(corpora: Sequence[Corpus], digests: Digests, codecs: Codecs, max_length: int) -> str:
    """Of everything that decides what the files hold. How often a corpus is passed does not."""
    parts = []
    for corpus in corpora:
        sums = [(digests[p].get("sha256"), "".join(Path(p).suffixes)) for p in files_of(corpus)]
        parts.append((sums, list(corpus.columns) if isinstance(corpus, TSV) else None))
    text = json.dumps([FORMAT, parts, fingerprint(*codecs), max_length])
    return hashlib.sha256(text.encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------------- reading


def _open(folder: Path, key: str, codecs: Codecs) -> dict[str, np.ndarray] | None:
    """The files, mapped; None where the key is another or the sizes do not fit together."""
    manifest = folder / "manifest.json"
    try:
        if files.read_json(manifest).get("key") != key:
            return None
        arrays = {"pairs": _map(folder / "pairs", np.dtype("<i8"))}
        rows = sum(arrays["pairs"].tolist())
        for name, codec in zip(SIDES, codecs):
            starts = arrays[f"{name}.starts"] = _map(folder / f"{name}.starts", np.dtype("<i8"))
            values = arrays[f"{name}.values"] = _map(folder / f"{name}.values", _dtype(codec))
            if len(starts) != rows + 1 or starts[-1] != len(values):
                return None
    except (OSError, ValueError, UserError):
        return None
    return arrays


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    with files.open_regular(path) as file:
        return np.asarray(np.memmap(file, dtype, "r"))


# ------------------------------------------------------------------------------------------------------------- building


class _Column:
    """Rows of numbers, end to end in one file; where each begins in another."""

    def __init__(self, path: Path, dtype: np.dtype, stack: ExitStack):
        self.dtype, self.end = dtype, 0
        self.values = stack.enter_context(open(f"{path}.values", "xb"))
        self.starts = stack.enter_context(open(f"{path}.starts", "xb"))
        self.starts.write(np.zeros(1, "<i8").tobytes())

    def add(self, values: np.ndarray, lengths: np.ndarray) -> None:
        self.starts.write((self.end + np.cumsum(lengths)).astype("<i8").tobytes())
        self.values.write(values.astype(self.dtype).tobytes())
        self.end += len(values)


def _build(
    folder: Path, corpora: Sequence[Corpus], codecs: Codecs, max_length: int, digests: Digests
) -> list[int]:
    """Write the columns in one pass over the corpora. Returns the number of pairs of each."""
    total = sum(count_lines(files_of(corpus)[0]) for corpus in corpora)
    large = sum(known["stamp"][0] for known in digests.values()) > LARGE
    encode = partial(_encode, codecs=codecs, max_length=max_length)
    with ExitStack() as stack:
        columns = [_Column(folder / name, _dtype(c), stack) for name, c in zip(SIDES, codecs)]
        bar = stack.enter_context(
            tqdm(desc="encoding", total=total, unit=" pairs", leave=False, disable=None)
        )
        encode_all: Encoder = partial(map, encode)
        if large and cores() > 2:
            pool = Pool(min(cores(), MOST_PROCESSES), _start, (encode,))
            stack.callback(pool.close)
            encode_all = partial(pool.map, _work)
        pairs = [_add(corpus, encode_all, columns, max_length, bar) for corpus in corpora]
    for path, known in digests.items():
        if stamp(path) != known["stamp"]:
            raise UserError(f"{path} was changed while it was read. Run the same command again.")
    return pairs


def _add(
    corpus: Corpus, encode: Encoder, columns: Sequence[_Column], max_length: int, bar: tqdm
) -> int:
    """Encode a corpus and add it to the columns. Returns its number of pairs."""
    kept, skipped, first_skipped = 0, 0, ""
    pairs = read_pairs(corpus, skip_blank=True)
    for count, rows, places in encode(iter(lambda: list(islice(pairs, CHUNK)), [])):
        for column, (values, lengths) in zip(columns, rows):
            column.add(values, lengths)
        kept += count - len(places)
        skipped += len(places)
        first_skipped = first_skipped or next(iter(places), "")
        bar.update(count)
    if skipped:
        log.warning(
            f"{name_of(corpus)}: skipped {skipped:,} of {skipped + kept:,} pairs with more than {max_length} tokens on "
            f"a side, the first at {first_skipped} (data.max_length)."
        )
    if not kept:
        raise UserError(f"{name_of(corpus)} holds no usable sentence pair.")
    return kept


# Of a chunk: its number of pairs; by side the values and lengths of those that are kept; where the others are.
Encoded = tuple[int, list[tuple[np.ndarray, np.ndarray]], list[str]]
Encoder = Callable[[Iterable[list[Pair]]], Iterator[Encoded]]


def _encode(pairs: list[Pair], codecs: Codecs, max_length: int) -> Encoded:
    ids = [codec.encode_all([pair[side] for pair in pairs]) for side, codec in enumerate(codecs)]
    fits = [max(len(source), len(target)) - 1 <= max_length for source, target in zip(*ids)]
    rows = [_flat(list(compress(side, fits))) for side in ids]
    return len(pairs), rows, [pair.place for pair, fit in zip(pairs, fits) if not fit]


def _flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.fromiter(chain.from_iterable(rows), np.uint32, int(lengths.sum())), lengths


_encode_here: Callable[[list[Pair]], Encoded]  # in a process of the pool


def _start(encode: Callable[[list[Pair]], Encoded]) -> None:
    """Codecs are sent to a process once, not with every chunk."""
    global _encode_here
    _encode_here = encode


def _work(pairs: list[Pair]) -> Encoded:
    return _encode_here(pairs)
