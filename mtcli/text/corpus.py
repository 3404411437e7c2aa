"""Sentences and sentence pairs from files: in order, none lost, none shifted.

A file is UTF-8, plain or gzip (by its name, ``.gz``). Lines end at LF or CR LF and at nothing else: U+2028, U+0085,
form feeds and single carriage returns are part of a line. A byte order mark at the start of a file is not. What looks
like another encoding, or like lines that end at CR, is refused.
"""

from __future__ import annotations

import gzip
import io
import os
import select
import shlex
import stat
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..config import TSV, Plain, files_of, name_of
from ..support.errors import UserError, log, warn_once
from ..support.files import reason
from .writing import is_blank

LONGEST_LINE = 4 << 20  # bytes; memory grows with the longest line


class Pair(NamedTuple):
    """A sentence, its translation, and its place (``file:line``)."""

    source: str
    target: str
    place: str


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file, without their ends. Raises UserError where it cannot be read or is not UTF-8."""
    with _open(path) as stream:
        yield from read_stream(_contents(stream), str(path))


def count_lines(path: str | Path) -> int:
    """The number of lines of a file, which need not be UTF-8. Raises UserError."""
    with _open(path) as stream:
        return sum(1 for _ in _contents(stream))


def _contents(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream with their ends; one that is too long in parts, the first of which says so."""
    return iter(partial(stream.readline, LONGEST_LINE + 1), b"")


@contextmanager
def _open(path: str | Path) -> Iterator[BinaryIO]:
    try:
        zipped = str(path).endswith(".gz")
        with io.BufferedReader(gzip.open(path)) if zipped else open(path, "rb") as stream:
            yield stream
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}.") from None


def read_stream(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of an open file; ``name`` is what messages call it. Raises UserError for what is not UTF-8 or looks
    like another kind of file."""
    returns = 0  # carriage returns inside lines
    for number, content in enumerate(stream, 1):
        returns += content.rstrip(b"\r\n").count(b"\r")
        if returns > max(1, number - (not content.endswith(b"\n"))):
            raise UserError(
                f"{name}:{number}: up to here there are more carriage returns inside lines than line feeds: the file looks "
                f"like one whose lines end in CR alone. Convert it: tr '\\r' '\\n' < {shlex.quote(name)} > NEW"
            )
        if len(content) > LONGEST_LINE:
            raise UserError(
                f"{name}:{number}: the line is longer than {LONGEST_LINE:,} bytes. A file has one sentence a line; "
                "is it text, and do its lines end at LF?"
            )
        if content.endswith(b"\r\r\n"):
            warn_once(
                f"{name}: lines end in \\r\\r\\n, as happens where line ends are converted twice; the first \\r counts as "
                "part of the line."
            )
        try:
            line = content.decode("utf-8")
        except UnicodeDecodeError as error:
            wrong = (
                f"byte {error.start + 1} of the line (0x{content[error.start]:02x}) is not UTF-8"
            )
            raise _not_utf8(content, f"{name}:{number}", wrong) from None
        if _looks_like_utf16(content):
            raise _not_utf8(content, f"{name}:{number}", "it is full of NUL bytes")
        if number == 1:
            line = line.removeprefix("\ufeff")
            if not line:  # nothing but a byte order mark
                return
        yield line.removesuffix("\n").removesuffix("\r")


def _looks_like_utf16(content: bytes) -> bool:
    """Whether there are NULs, and a third of the bytes are controls: in UTF-16 each second byte of most scripts is."""
    return content.count(0) > 1 and 3 * sum(byte < 32 for byte in content) >= len(content)


def _not_utf8(content: bytes, place: str, wrong: str) -> UserError:
    how = "Convert the file to UTF-8, for example with iconv."
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        how = "This looks like UTF-16. Convert it: iconv -f UTF-16 -t UTF-8"
    elif _looks_like_utf16(content):
        how = "This looks like UTF-16 without its byte order mark. Convert it: iconv -f UTF-16LE -t UTF-8 (or UTF-16BE)"
    return UserError(f"{place}: {wrong}. {how}")


class Arriving:
    """The lines of a pipe that may still be written, as `read_stream` gives them; `ready` tells when to wait."""

    BLOCK = 1 << 16  # bytes that a pipe holds
    PATIENCE = 0.001  # seconds in which a writer at work writes more

    def __init__(self, stream: BinaryIO, name: str):
        self.stream, self.name = stream, name
        self.complete: deque[bytes] = deque()
        self.parts: list[bytes] = []  # of a line whose end has not come yet
        self.size = 0  # of these
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return read_stream(self._contents(), self.name)

    def ready(self) -> bool:
        """Whether the next line, or the end, is here: asking for it would not block."""
        while not self.complete and not self.ended and self._has_more():
            self._read()
        return bool(self.complete) or self.ended

    def _contents(self) -> Iterator[bytes]:
        while self.complete or not self.ended:
            if self.complete:
                yield self.complete.popleft()
            else:
                self._read()

    def _has_more(self) -> bool:
        """Whether a read would not block. Where the system cannot tell (a pipe on Windows), no."""
        try:
            return bool(select.select([self.stream], [], [], self.PATIENCE)[0])
        except io.UnsupportedOperation:  # a stream in memory
            return True
        except (OSError, ValueError):
            return stat.S_ISREG(os.fstat(self.stream.fileno()).st_mode)

    def _read(self) -> None:
        """Take what has come, or wait for something."""
        block = self.stream.read1(self.BLOCK)  # type: ignore[attr-defined]
        self.ended = not block
        for part in io.BytesIO(block):
            self.parts.append(part)
            self.size += len(part)
            if part.endswith(b"\n") or self.size > LONGEST_LINE:
                self.complete.append(b"".join(self.parts))
                self.parts, self.size = [], 0
        if self.ended and self.parts:
            self.complete.append(b"".join(self.parts))


def read_pairs(corpus: TSV | Plain, *, skip_blank: bool, warn: bool = True) -> Iterator[Pair]:
    """The pairs of a corpus, in order; of several references the first. ``skip_blank`` leaves out pairs with a blank
    side. ``warn`` warns at the end, once, of these and of rows with more or fewer fields than others. Raises UserError
    where sides do not match up or no pair is left.
    """
    skipped, first_skipped, kept = 0, "", 0
    for source, references, place in _read_rows(corpus, warn):
        if skip_blank and (is_blank(source) or is_blank(references[0])):
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
        without = " without a blank side" if skipped else ""
        raise UserError(f"{name_of(corpus)}: holds no sentence pair{without}.")


def read_evaluation(corpus: TSV | Plain) -> tuple[list[str], list[list[str]]]:
    """All sources, and for each its references that are not blank, or a blank one. Warns and raises as `read_pairs`."""
    sources, references = [], []
    for source, row, _ in _read_rows(corpus, warn=True):
        sources.append(source)
        references.append([each for each in row if not is_blank(each)] or row[:1])
    if not sources:
        raise UserError(f"{name_of(corpus)}: holds no sentence pair.")
    return sources, references


def _read_rows(corpus: TSV | Plain, warn: bool) -> Iterator[tuple[str, list[str], str]]:
    """Of each line the source, the references (at least one) and the place."""
    paths = files_of(corpus)
    widths: dict[int, list[Any]] = {}  # by number of fields: how many rows, and where the first is
    for number, lines in enumerate(_aligned(paths), 1):
        place = f"{paths[0]}:{number}"
        if isinstance(corpus, TSV):
            fields, (source, target) = lines[0].split("\t"), corpus.columns
            if len(fields) < max(source, target):
                raise UserError(
                    f"{place}: columns {source} and {target} are asked for, but the row has {len(fields)}. "
                    "Columns are separated by one tab."
                )
            widths.setdefault(len(fields), [0, place])[0] += 1
            yield fields[source - 1], [fields[target - 1]], place
        else:
            references: list[str] = []
            for path, line in zip(paths[1:], lines[1:]):
                references += line.split("\t") if path.endswith((".tsv", ".tsv.gz")) else [line]
            yield lines[0], references, place
    if warn and len(widths) > 1:
        _warn_of_widths(widths)


def _warn_of_widths(widths: dict[int, list[Any]]) -> None:
    usual = max(widths, key=lambda width: widths[width][0])
    total = sum(count for count, _ in widths.values())
    width, place = next((width, place) for width, (_, place) in widths.items() if width != usual)
    log.warning(
        f"{place}: this row has {width} fields, most have {usual}; {total - widths[usual][0]:,} such rows of {total:,}. "
        "Is there a tab inside a field? Then its columns are not what they should be."
    )


def _aligned(paths: list[str]) -> Iterator[tuple[str, ...]]:
    """Line N of every file. Raises UserError where one ends before another."""
    try:
        yield from zip(*map(read_lines, paths), strict=True)
    except ValueError:
        lengths = [count_lines(path) for path in paths]
        shortest, longest = lengths.index(min(lengths)), lengths.index(max(lengths))
        raise UserError(
            f"{paths[shortest]}: ends after line {lengths[shortest]}, but {paths[longest]} has {lengths[longest]} "
            "lines. Line N of one must translate line N of the other."
        ) from None
