"""The training corpora as token ids in files that are mapped into memory, built once. Knows no batches and no model.

    cache/lock           held by the process that builds
    cache/corpora.json   SHA-256 of each corpus file, remembered by its size and time
    cache/ids/           appears whole or not at all
      manifest.json      what it was made from; size and checksum of each file
      pairs              how many pairs each corpus gave
      source.values      ids of all source sentences, end to end, each ending in EOS
      source.starts      where each sentence begins, and at last where the last one ends
      target.…           likewise
      source.text.…      with subword sampling also the text, in UTF-8, since ids are then drawn at every use

All of it can be deleted at any time. It may have come from a stranger or a failing disk, so what does not fit in every
respect (made from other data, another tokenizer or limit; a wrong size or checksum; an id that does not exist) is built
anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from ..config import TSV, Plain, files_of, name_of
from ..support.errors import UserError
from ..text.codec import Codec, fingerprint, restore, save
from ..text.corpus import Pair, read_pairs

log = logging.getLogger("mtcli")

FORMAT = 1  # to be raised when the same key would stand for other files
CHUNK = 2000  # pairs that are encoded together
LARGE = 64 << 20  # bytes of text from which on starting more processes pays
MOST_WORKERS = 16  # one process reads and writes: it cannot feed more
BLOCK = 1 << 20  # bytes read at once
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
    if folder.is_symlink():
        raise UserError(f"{folder} is a link; a run holds its files itself. It was not followed.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digests = _digests(folder, corpora)
        key = _key(corpora, digests, codecs, max_length)
        ids = folder / "ids"
        found = _open(ids, key, codecs, len(corpora))
        if found is None:
            with _alone(folder):
                found = _open(
                    ids, key, codecs, len(corpora)
                )  # another process may have built it meanwhile
                if found is None:
                    _build(ids, key, corpora, codecs, max_length, digests)
                    found = _open(ids, key, codecs, len(corpora))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: token ids cannot be kept there: {error.strerror}."
        ) from None
    if found is None:
        raise UserError(f"{ids} is not what was just written there. Is the disk sound?")
    return found


def _forms(codecs: Codecs) -> dict[str, np.dtype]:
    """The files, and the numbers that are in them."""
    forms = {"pairs": np.dtype("<i8")}
    for name, codec in zip(SIDES, codecs):
        forms[f"{name}.values"] = np.dtype("<u2" if len(codec.vocabulary) <= 1 << 16 else "<u4")
        forms[f"{name}.starts"] = np.dtype("<i8")
        if codec.tokenizer.samples:
            forms[f"{name}.text.values"] = np.dtype("u1")
            forms[f"{name}.text.starts"] = np.dtype("<i8")
    return forms


# --------------------------------------------------------------------------------------------------- what it is made of


def _stamp(path: str) -> list[int]:
    """What changes when a file does."""
    there = os.stat(path)
    return [there.st_size, there.st_mtime_ns]


def _digests(folder: Path, corpora: Sequence[Corpus]) -> dict[str, dict[str, Any]]:
    """For each file its stamp, its SHA-256 and its number of lines; read only if the stamp is a new one."""
    memory = folder / "corpora.json"
    try:
        known = json.loads(_read(memory))
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError, RecursionError):
        known = {}
    digests = {}
    for path in dict.fromkeys(path for corpus in corpora for path in files_of(corpus)):
        try:
            stamp = _stamp(path)
            digests[path] = known.get(path)
            if not isinstance(digests[path], dict) or digests[path].get("stamp") != stamp:
                digests[path] = {"stamp": stamp, **_digest(path)}
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}."
            ) from None
    if digests != known:
        part = memory.with_name(f"{memory.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        with open(part, "x", encoding="utf-8") as file:
            json.dump(digests, file, indent=1)
        part.replace(memory)
    return digests


def _digest(path: str) -> dict[str, Any]:
    digest, lines = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            lines += block.count(b"\n")
    return {"sha256": digest.hexdigest(), "lines": None if path.endswith(".gz") else lines}


def _key(
    corpora: Sequence[Corpus], digests: dict[str, dict[str, Any]], codecs: Codecs, max_length: int
) -> str:
    """Of everything that decides what the files hold. How often a corpus is passed does not."""
    parts = [
        (
            [
                (digests[path].get("sha256"), "".join(Path(path).suffixes))
                for path in files_of(corpus)
            ],
            list(corpus.columns) if isinstance(corpus, TSV) else None,
        )
        for corpus in corpora
    ]
    text = json.dumps([FORMAT, parts, fingerprint(*codecs), sorted(_forms(codecs)), max_length])
    return hashlib.sha256(text.encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------------- reading


def _open(folder: Path, key: str, codecs: Codecs, corpora: int) -> dict[str, np.ndarray] | None:
    """The files, mapped; None where anything at all is not as it should be."""
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        if manifest["key"] != key:
            return None
        arrays = {}
        for name, form in _forms(codecs).items():
            with _regular(folder / name) as file:
                arrays[name] = np.asarray(np.memmap(file, form, "r"))
            wanted = manifest["files"][name]
            if [arrays[name].nbytes, _checksum(arrays[name])] != [wanted["bytes"], wanted["crc32"]]:
                return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return arrays if _make_sense(arrays, codecs, corpora) else None


def _make_sense(arrays: dict[str, np.ndarray], codecs: Codecs, corpora: int) -> bool:
    """Whether every sentence lies where its file has values, and every id is in its vocabulary."""
    pairs = arrays["pairs"]
    if len(pairs) != corpora or pairs.min() < 1:
        return False
    for name, starts in arrays.items():
        if name.endswith(".starts"):
            values = arrays[name.removesuffix("starts") + "values"]
            if (
                starts[0] != 0
                or starts[-1] != len(values)
                or starts.min() < 0
                or starts.max() > len(values)
            ):
                return False
            if (
                len(starts) != sum(pairs.tolist()) + 1
                or len(starts) < 2
                or np.diff(starts).min() < 1
            ):
                return False
    return all(
        arrays[f"{name}.values"].max() < len(codec.vocabulary) for name, codec in zip(SIDES, codecs)
    )


def _checksum(array: np.ndarray) -> int:
    data, checksum = memoryview(array).cast("B"), 0
    for start in range(0, len(data), BLOCK):
        checksum = zlib.crc32(data[start : start + BLOCK], checksum)
    return checksum


def _regular(path: Path) -> BinaryIO:
    """Open for reading what is a file, and no link or pipe. Raises OSError."""
    file = open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a file", str(path))
    return file


def _read(path: Path) -> bytes:
    with _regular(path) as file:
        return file.read(BLOCK)


# ------------------------------------------------------------------------------------------------------------- building


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds here. One that dies holds nothing."""
    with open(
        folder / "lock",
        "ab",
        opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666),
    ) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path,
    key: str,
    corpora: Sequence[Corpus],
    codecs: Codecs,
    max_length: int,
    digests: dict[str, dict[str, Any]],
) -> None:
    """Write all files aside, in one pass over the corpora, then put them in place."""
    if os.path.lexists(folder):
        log.info(f"{folder} is of other data, tokenizers or limits, or damaged: it is built anew.")
    aside = folder.with_name(f"{folder.name}.aside")
    _remove(aside)
    try:
        aside.mkdir()
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_File(aside / name, form))
                for name, form in _forms(codecs).items()
            }
            for name, file in files.items():
                if name.endswith(".starts"):
                    file.write([0])
            lines = [digests[files_of(corpus)[0]].get("lines") for corpus in corpora]
            total = sum(lines) if all(isinstance(number, int) for number in lines) else None
            bar = stack.enter_context(
                tqdm(
                    desc="encoding",
                    total=total,
                    unit=" pairs",
                    leave=False,
                    disable=not sys.stderr.isatty(),
                )
            )
            size = sum(digests[path]["stamp"][0] for corpus in corpora for path in files_of(corpus))
            encode = stack.enter_context(
                _encoder(codecs, max_length, _workers() if size > LARGE else 1)
            )
            for corpus in corpora:
                _add(corpus, encode, files, max_length, bar)
        written = {
            name: {"bytes": file.bytes, "crc32": file.checksum} for name, file in files.items()
        }
        manifest = json.dumps({"key": key, "files": written}, indent=1)
        (aside / "manifest.json").write_text(manifest, encoding="utf-8")
        for path, digest in digests.items():
            if _stamp(path) != digest["stamp"]:
                raise UserError(
                    f"{path} was changed while it was read. Run the same command again."
                )
        _remove(folder)
        os.rename(aside, folder)
    finally:
        _remove(aside)


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else folder.unlink()


class _File:
    """A file of numbers that grows, with its size and checksum."""

    def __init__(self, path: Path, form: np.dtype):
        self.file, self.form = open(path, "xb"), form
        self.bytes = self.checksum = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, values: Sequence[int] | np.ndarray) -> None:
        data = np.asarray(values, self.form).tobytes()
        self.file.write(data)
        self.bytes += len(data)
        self.checksum = zlib.crc32(data, self.checksum)


def _add(corpus: Corpus, encode, files: dict[str, _File], max_length: int, bar: tqdm) -> None:
    """Encode a corpus and add it to the files."""
    kept = skipped = 0
    first_skipped = ""
    pairs = read_pairs(corpus, skip_blank=True)
    for count, rows, places in encode(iter(lambda: list(islice(pairs, CHUNK)), [])):
        for name, (values, lengths) in rows.items():
            end = files[f"{name}.values"].bytes // files[f"{name}.values"].form.itemsize
            files[f"{name}.starts"].write(end + np.cumsum(lengths))
            files[f"{name}.values"].write(values)
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
    files["pairs"].write([kept])


# For a chunk: its number of pairs; by name the values and lengths of those that are kept; where the others stand.
Encoded = tuple[int, dict[str, tuple[np.ndarray, np.ndarray]], list[str]]


def _encode(pairs: list[Pair], codecs: Codecs, max_length: int) -> Encoded:
    sides = [codec.encode_all([pair[side] for pair in pairs]) for side, codec in enumerate(codecs)]
    lengths = [max(len(source), len(target)) - 1 for source, target in zip(*sides)]
    kept = [number for number, length in enumerate(lengths) if length <= max_length]
    rows = {}
    for side, (name, codec) in enumerate(zip(SIDES, codecs)):
        rows[name] = _flat([sides[side][number] for number in kept], np.uint32)
        if codec.tokenizer.samples:
            rows[f"{name}.text"] = _flat(
                [pairs[number][side].encode() for number in kept], np.uint8
            )
    return (
        len(pairs),
        rows,
        [pairs[number].place for number, length in enumerate(lengths) if length > max_length],
    )


def _flat(sequences: list[Sequence[int]], form: type) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return np.fromiter(chain.from_iterable(sequences), form, int(lengths.sum())), lengths


def _workers() -> int:
    """Processes for encoding: on one or two cores no more than this one."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return 1 if cores <= 2 else min(cores, MOST_WORKERS)


@contextmanager
def _encoder(codecs: Codecs, max_length: int, workers: int) -> Iterator[Any]:
    """A function from chunks of pairs to what `_encode` makes of them, in order, by so many processes.

    No more than twice as many chunks as there are processes are held.
    """
    if workers == 1:
        yield lambda chunks: (_encode(chunk, codecs, max_length) for chunk in chunks)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
    folder = TemporaryDirectory()
    save(Path(folder.name), *codecs)
    settings = (
        folder.name,
        [codec.tokenizer.config for codec in codecs],
        codecs[0] is codecs[1],
        max_length,
    )
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, settings)

    def encode(chunks: Iterable[list[Pair]]) -> Iterator[Encoded]:
        waiting: deque = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield encode
    except BrokenProcessPool:
        raise UserError("A process that turned text into ids died. Was it out of memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)
        folder.cleanup()


def _start_worker(folder: str, tokenizers: list, shared: bool, max_length: int) -> None:
    global _settings
    _settings = restore(Path(folder), tokenizers, shared), max_length
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """A parent that was killed could not stop its workers."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(pairs: list[Pair]) -> Encoded:
    return _encode(pairs, *_settings)
