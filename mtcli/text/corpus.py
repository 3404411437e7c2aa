"""Sentences and sentence pairs from files, in order, none lost and none shifted. Knows no tokens.

A file is UTF-8, plain or gzip (by its name, ``.gz``). Lines end at LF or CR LF and at nothing else: U+2028, U+0085,
form feeds and single carriage returns are part of a line. A byte order mark at the start of a file is not.
"""

from __future__ import annotations

import gzip
import io
import logging
import select
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..config import TSV, Plain
from ..support.errors import UserError

log = logging.getLogger("mtcli")


class Pair(NamedTuple):
    """A sentence, its translation, and where it stands (``file:line``)."""

    source: str
    target: str
    place: str


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file, without their ends, read as they are asked for.

    Raises UserError where the file cannot be opened or decompressed, or a line is not UTF-8.
    """
    with _open(path) as stream:
        yield from read_stream(stream, str(path))


def count_lines(path: str | Path) -> int:
    """How many lines a file has, read without looking at what they say. Raises UserError."""
    lines, end = 0, b"\n"
    with _open(path) as stream:
        while block := stream.read(1 << 20):
            lines, end = lines + block.count(b"\n"), block[-1:]
    return lines + (end != b"\n")


@contextmanager
def _open(path: str | Path) -> Iterator[BinaryIO]:
    try:
        with (
            io.BufferedReader(gzip.open(path))
            if _suffix(path, ".gz")
            else open(path, "rb") as stream
        ):
            yield stream
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None


def _suffix(path: str | Path, *suffixes: str) -> bool:
    return str(path).endswith(suffixes)


def read_stream(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of an open file; ``name`` is what messages call it."""
    for number, content in enumerate(stream, 1):
        try:
            line = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number}: byte {error.start + 1} of the line (0x{content[error.start]:02x}) is not UTF-8. "
                "Convert the file to UTF-8, for example with iconv."
            ) from None
        if number == 1:
            line = line.removeprefix("\ufeff")
            if not line:  # nothing but a byte order mark
                return
        yield line.removesuffix("\n").removesuffix("\r")


class Arriving:
    """The lines of a stream that may still be written, such as a pipe, as by `read_stream`; `ready` tells when to wait."""

    BLOCK = 1 << 16  # bytes: what a pipe holds
    PATIENCE = 0.001  # seconds in which a writer that is at work writes more

    def __init__(self, stream: BinaryIO, name: str):
        self.stream, self.name = stream, name
        self.whole: deque[bytes] = deque()
        self.torn: list[bytes] = []  # parts of a line whose end has not come yet
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return read_stream(self._contents(), self.name)

    def ready(self) -> bool:
        """Whether the next line, or the end, is here: to ask for it would be no waiting."""
        while not self.whole and not self.ended and self._more():
            self._read()
        return bool(self.whole) or self.ended

    def _contents(self) -> Iterator[bytes]:
        while True:
            while not self.whole and not self.ended:
                self._read()
            if not self.whole:
                return
            yield self.whole.popleft()

    def _more(self) -> bool:
        try:
            return bool(select.select([self.stream], [], [], self.PATIENCE)[0])
        except (OSError, ValueError):  # no stream, or no system, that can tell
            return True

    def _read(self) -> None:
        """Take what has come, or wait for something."""
        block = self.stream.read1(self.BLOCK)
        self.ended = not block
        for part in io.BytesIO(block):
            self.torn.append(part)
            if part.endswith(b"\n"):
                self.whole.append(b"".join(self.torn))
                self.torn = []
        if self.ended and self.torn:
            self.whole.append(b"".join(self.torn))


def read_pairs(corpus: TSV | Plain, *, skip_blank: bool, warn: bool = True) -> Iterator[Pair]:
    """The pairs of a corpus, in order; of several references the first.

    ``skip_blank`` (for training): a pair with nothing but white space on either side is left out, as a pair; one
    warning at the end says how many were, unless ``warn`` is false. Raises UserError where sides do
    not match up or nothing is left.
    """
    skipped, first_skipped, kept = 0, "", 0
    for source, references, place in _rows(corpus):
        if skip_blank and (_blank(source) or _blank(references[0])):
            first_skipped = first_skipped or place
            skipped += 1
        else:
            kept += 1
            yield Pair(source, references[0], place)
    if skipped and warn:
        log.warning(
            f"{first_skipped}: a side of this pair is blank; {skipped} such pairs of {skipped + kept} skipped."
        )
    if not kept:
        raise UserError(
            f"{_name(corpus)}: holds no sentence pair{' without a blank side' if skipped else ''}."
        )


def read_evaluation(corpus: TSV | Plain) -> tuple[list[str], list[list[str]]]:
    """All sources, and for each at least one reference. No line is skipped: a blank one stays, as the text it is.

    A line may have fewer references than others: blank ones beside one that is not blank are left out. Raises
    UserError where sides do not match up or there is no line.
    """
    sources, references = [], []
    for source, row, _ in _rows(corpus):
        sources.append(source)
        references.append([reference for reference in row if not _blank(reference)] or row[:1])
    if not sources:
        raise UserError(f"{_name(corpus)}: holds no sentence pair.")
    return sources, references


def _rows(corpus: TSV | Plain) -> Iterator[tuple[str, list[str], str]]:
    """Source, references (at least one) and place of every line."""
    return _tsv_rows(corpus) if isinstance(corpus, TSV) else _plain_rows(corpus)


def _tsv_rows(corpus: TSV) -> Iterator[tuple[str, list[str], str]]:
    source, target = corpus.columns
    for number, line in enumerate(read_lines(corpus.path), 1):
        fields = line.split("\t")
        if len(fields) < max(source, target):
            raise UserError(
                f"{corpus.path}:{number}: columns {source} and {target} are asked for, but the row has {len(fields)}. "
                "Columns are separated by one tab."
            )
        yield fields[source - 1], [fields[target - 1]], f"{corpus.path}:{number}"


def _plain_rows(corpus: Plain) -> Iterator[tuple[str, list[str], str]]:
    targets = [corpus.target] if isinstance(corpus.target, str) else corpus.target
    for number, (source, *lines) in enumerate(_aligned([corpus.source, *targets]), 1):
        references = []
        for path, line in zip(targets, lines):
            references += line.split("\t") if _suffix(path, ".tsv", ".tsv.gz") else [line]
        yield source, references, f"{corpus.source}:{number}"


def _aligned(paths: list[str]) -> Iterator[tuple[str, ...]]:
    """Line N of every file. Raises UserError where one ends before another."""
    files = [read_lines(path) for path in paths]
    for number, lines in enumerate(zip_longest(*files), 1):
        if None in lines:
            lengths = [
                number - 1 if line is None else number + sum(1 for _ in file)
                for file, line in zip(files, lines)
            ]
            shortest, longest = lengths.index(min(lengths)), lengths.index(max(lengths))
            raise UserError(
                f"{paths[shortest]}: ends after line {lengths[shortest]}, but {paths[longest]} has {lengths[longest]} "
                "lines. Line N of one must translate line N of the other."
            )
        yield lines


def _blank(text: str) -> bool:
    return not text or text.isspace()


def _name(corpus: TSV | Plain) -> str:
    return corpus.path if isinstance(corpus, TSV) else corpus.source
