"""Reading sentences: nothing is lost, nothing shifts, and what cannot be read is named."""

import gzip
import io
import logging
import os
from pathlib import Path

import pytest
from hypothesis import assume, example, given, strategies as st

from mtcli.config import TSV, Plain
from mtcli.support.errors import UserError
from mtcli.text import corpus as corpus_module
from mtcli.text.corpus import (
    Arriving,
    Pair,
    count_lines,
    read_evaluation,
    read_lines,
    read_pairs,
    read_stream,
)
from mtcli.text.inspection import inspect
from mtcli.text.writing import is_blank

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"))
SIDE = st.sampled_from(
    ["", " ", "\u3000", "a", "b c", " d ", "\u2028", "e\u0085f", "\r", "\ufeff", "\u200b\u200e"]
)


def write(path: Path, *lines: str) -> str:
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return str(path)


# ------------------------------------------------------------------------------------------------------------- lines


@given(
    content=st.lists(
        st.one_of(LINE, st.sampled_from(["\n", "\r\n", "\ufeff", "\ra\n", "\u2028", "abcdef\0"]))
    ).map("".join)
)
@example(content="")
@example(content="\ufeff")
@example(content="\ufeff\r\na")
@example(content="a\r\r\nb\rc\r")
def test_lines_end_at_line_feeds_only(tmp_path, content):
    expected = content.encode().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not expected[-1]:
        expected.pop()
    expected = [line.removesuffix(b"\r").decode() for line in expected]
    assert list(read_stream(io.BytesIO(content.encode()), "text")) == expected
    (tmp_path / "a").write_bytes(content.encode())
    if content != "\ufeff":  # which is a line of bytes
        assert count_lines(tmp_path / "a") == len(expected)


@given(content=st.binary())
def test_any_bytes_give_lines_or_a_user_error(content):
    try:
        assert "".join(read_stream(io.BytesIO(content), "text")).count("\n") == 0
    except UserError as error:
        assert str(error).startswith("text:")
        if content.count(b"\r") < 2 and b"\0" not in content:
            with pytest.raises(UnicodeDecodeError):
                content.decode()


@given(chunks=st.lists(st.text("ab\n\r\ufeff").map(str.encode)))
def test_lines_of_a_pipe_are_ready_as_soon_as_they_are_complete(chunks):
    assume(max(chunk.count(b"\r") for chunk in [b"", *chunks]) * len(chunks) < 2)
    reader, writer = os.pipe()
    sent, got = b"", []
    with open(reader, "rb") as stream:
        arriving = Arriving(stream, "pipe")
        lines = iter(arriving)
        for chunk in chunks:
            os.write(writer, chunk)
            sent += chunk
            while arriving.ready():
                got.append(next(lines))
            assert len(got) == sent.count(b"\n")
        os.close(writer)
        got += lines
        assert arriving.ready()  # the end is
    assert got == list(read_stream(io.BytesIO(sent), "pipe"))


def test_without_select_a_pipe_is_never_ready_and_a_file_always(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("an operation was attempted on something that is not a socket")

    monkeypatch.setattr(corpus_module.select, "select", fail)
    reader, writer = os.pipe()
    os.write(writer, b"one\n")
    with open(reader, "rb") as stream, open(write(tmp_path / "a", "x"), "rb") as file:
        pipe = Arriving(stream, "pipe")
        assert not pipe.ready() and next(iter(pipe)) == "one" and not pipe.ready()
        assert Arriving(file, "file").ready()
        os.close(writer)


class Zeros(io.BytesIO):
    """A device that never ends."""

    def read1(self, size: int = -1) -> bytes:
        return bytes(size)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    with pytest.raises(UserError, match="stdin:1: the line is longer than 4,194,304 bytes"):
        next(iter(Arriving(Zeros(), "stdin")))
    with gzip.open(tmp_path / "bomb.gz", "wb") as bomb:
        bomb.write(b"fine\n" + bytes(1 << 24))
    with pytest.raises(UserError, match="bomb.gz:2: the line is longer than"):
        list(read_lines(tmp_path / "bomb.gz"))


def test_a_stream_in_memory_is_always_ready():
    arriving = Arriving(io.BufferedReader(io.BytesIO(b"one\ntwo")), "memory")
    assert arriving.ready() and list(arriving) == ["one", "two"] and arriving.ready()


def test_gzip_is_read_by_name(tmp_path):
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(b"\xef\xbb\xbfone\r\n\n") + gzip.compress(b"three")
    )
    assert list(read_lines(tmp_path / "a.gz")) == ["one", "", "three"]
    assert count_lines(tmp_path / "a.gz") == 3


def test_a_line_of_a_megabyte_is_read(tmp_path):
    line = "苹果 " * 250_000
    assert list(read_lines(write(tmp_path / "a", line, "b"))) == [line, "b"]


def test_invalid_utf8_raises_with_line_and_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"good\nalso good\nna\xefve\n")
    lines = read_lines(tmp_path / "a")
    assert [next(lines), next(lines)] == ["good", "also good"]
    with pytest.raises(UserError, match=r"a:3: byte 3 of the line \(0xef\) is not UTF-8. Convert"):
        next(lines)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"plain text\n", "Not a gzipped file"),
        (gzip.compress(b"text\n" * 999)[:-20], "ended before"),
        (gzip.compress(os.urandom(999))[:-8] + bytes(8), "CRC check failed"),
        (gzip.compress(b"text\n" * 999)[:10] + b"\xff" * 50, "invalid"),
    ],
    ids=["plain", "cut", "checksum", "stream"],  # the bytes hold the time: workers would disagree
)
def test_damaged_gzip_raises_with_the_file(tmp_path, content, complaint):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.gz.*{complaint}|a\.gz:1: .* not UTF-8"):
        list(read_lines(tmp_path / "a.gz"))


@given(data=st.data())
def test_gzip_with_a_flipped_bit_gives_its_lines_or_a_user_error(tmp_path, data):
    content = bytearray(gzip.compress(b"one\ntwo\nthree\n" * 9, mtime=0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "a.gz").write_bytes(content)
    try:
        lines = list(read_lines(tmp_path / "a.gz"))
    except UserError as error:
        assert "a.gz" in str(error)
    else:
        assert lines == ["one", "two", "three"] * 9


@pytest.mark.parametrize(
    "content, line",
    [
        (b"a\tb\rc\td\re\tf\r", 1),
        (b"one\rtwo\rthree\n", 1),
        (b"one\r\n" + b"two\r" * 9, 2),
        (b"a\nb\nc\nd\re\rf\rg\rh\ri", 4),
    ],
)
def test_lines_that_end_in_carriage_returns_are_refused(tmp_path, content, line):
    (tmp_path / "$a").write_bytes(content)
    advice = r"carriage returns .* tr '\\r' '\\n' < '.*/\$a' > NEW"
    with pytest.raises(UserError, match=rf"\$a:{line}: .*{advice}"):
        list(read_lines(tmp_path / "$a"))


def test_a_carriage_return_here_and_there_is_part_of_its_line(tmp_path):
    (tmp_path / "a").write_bytes(b"one\rtwo\nthree\nfour\rfive\r\nsix")
    assert list(read_lines(tmp_path / "a")) == ["one\rtwo", "three", "four\rfive", "six"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le"])
@pytest.mark.parametrize(
    "text", ["apple\tpear\nfig\tplum\n", "кот\tcat\nпёс\tdog\n", "猫 a\tcat b\n"]
)
def test_utf16_is_recognised_also_without_its_mark(tmp_path, encoding, text):
    (tmp_path / "a").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"a:[12]: .* looks like UTF-16.* iconv -f UTF-16") as error:
        list(read_lines(tmp_path / "a"))
    assert ("without its byte order mark" in str(error.value)) == (encoding != "utf-16")


def test_line_ends_that_were_converted_twice_give_one_warning(tmp_path, caplog):
    (tmp_path / "a").write_bytes(b"one\r\r\ntwo\r\r\n")
    for _ in range(2):
        assert list(read_lines(tmp_path / "a")) == ["one\r", "two\r"]
    [record] = caplog.records
    assert record.message.startswith(f"{tmp_path / 'a'}: lines end in ")


def test_a_file_that_cannot_be_opened_raises_with_its_path(tmp_path):
    for path, complaint in [
        (tmp_path, "Is a directory"),
        (tmp_path / "b", "No such file"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(UserError) as error:
            list(read_lines(path))
        assert str(error.value).startswith(f"{path}: cannot be read: ") and complaint in str(
            error.value
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_raises_with_its_path(tmp_path):
    Path(write(tmp_path / "a", "x")).chmod(0)
    with pytest.raises(UserError, match="a: cannot be read: Permission denied"):
        list(read_lines(tmp_path / "a"))


# ------------------------------------------------------------------------------------------------------------- pairs


def test_tsv_columns_choose_source_and_target(tmp_path):
    path = write(tmp_path / "a.tsv", "1\tapple\t苹果", "2\tpear\t梨\tfurther")
    assert list(read_pairs(TSV(path=path, columns=(2, 3)), skip_blank=True)) == [
        Pair("apple", "苹果", f"{path}:1"),
        Pair("pear", "梨", f"{path}:2"),
    ]
    assert next(read_pairs(TSV(path=path, columns=(3, 2)), skip_blank=True))[:2] == (
        "苹果",
        "apple",
    )


def test_a_tsv_row_with_too_few_columns_raises_with_its_line(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb", "one  two")
    with pytest.raises(
        UserError, match=r"a\.tsv:2: columns 1 and 2 are asked for, but the row has 1\."
    ):
        list(read_pairs(TSV(path=path), skip_blank=True))


@pytest.mark.parametrize("short, long", [("source", "target"), ("target", "source")])
def test_files_of_unequal_length_raise_with_both_lengths(tmp_path, short, long):
    sides = {
        short: write(tmp_path / short, "a", "b"),
        long: write(tmp_path / long, "a", "b", "c", "d"),
    }
    pairs = read_pairs(Plain(**sides), skip_blank=True)
    assert [next(pairs).source, next(pairs).source] == ["a", "b"]
    with pytest.raises(UserError) as error:
        next(pairs)
    assert f"{sides[short]}: ends after line 2, but {sides[long]} has 4 lines." in str(error.value)


@pytest.mark.parametrize("lines", [[], ["\t"], [" \tb", "a\t"]])
def test_a_corpus_without_a_pair_raises(tmp_path, lines):
    path = write(tmp_path / "a.tsv", *lines)
    with pytest.raises(UserError, match="a.tsv: holds no sentence pair"):
        list(read_pairs(TSV(path=path), skip_blank=True))


@given(rows=st.lists(st.tuples(SIDE, SIDE), min_size=1))
def test_line_n_of_the_source_stays_with_line_n_of_the_target(tmp_path, rows):
    """Blank lines, and characters that others take for line ends, shift nothing, in either kind of file."""
    rows = [(source.removesuffix("\r"), target.removesuffix("\r")) for source, target in rows]
    source = write(tmp_path / "source", *(row[0] for row in rows))
    target = write(tmp_path / "target", *(row[1] for row in rows))
    both = write(tmp_path / "both.tsv", *("\t".join(row) for row in rows))
    mark = "\ufeff"  # at the start of a file it is none of the text
    first = rows[0][0].removeprefix(mark), rows[0][1].removeprefix(mark)

    for corpus, place, expected in [
        (Plain(source=source, target=target), source, [first, *rows[1:]]),
        (TSV(path=both), both, [(first[0], rows[0][1]), *rows[1:]]),
    ]:
        expected = [(*row, f"{place}:{number}") for number, row in enumerate(expected, 1)]
        assert list(read_pairs(corpus, skip_blank=False)) == expected
        assert read_evaluation(corpus) == (
            [row[0] for row in expected],
            [[row[1]] for row in expected],
        )
        kept = [row for row in expected if not is_blank(row[0]) and not is_blank(row[1])]
        if kept:
            assert list(read_pairs(corpus, skip_blank=True)) == kept


def test_skipped_pairs_are_counted_in_one_warning(tmp_path, caplog):
    path = write(tmp_path / "a.tsv", "a\tb", "\tb", "a\t ", "c\td")
    with caplog.at_level(logging.WARNING):
        assert len(list(read_pairs(TSV(path=path), skip_blank=True))) == 2
    [record] = caplog.records
    assert record.message == f"{path}:2: a side of this pair is blank; 2 such pairs of 4 skipped."


@pytest.mark.parametrize(
    "read", [lambda part: list(read_pairs(part, skip_blank=True)), read_evaluation]
)
def test_the_first_row_with_another_number_of_fields_is_named_once(tmp_path, caplog, read):
    path = write(tmp_path / "a.tsv", "a\tb", "c\td", "e\tf\tg", "h\ti", "j\tk\tl", "m\tn\to\tp")
    read(TSV(path=path))
    [record] = caplog.records
    assert record.message.startswith(
        f"{path}:3: this row has 3 fields, most have 2; 3 such rows of 6."
    )
    caplog.clear()
    read(TSV(path=write(tmp_path / "b.tsv", "a\tb\tCC", "c\td\tCC")))
    assert not caplog.records


PAIRS = [(f"le chat {number}", f"the cat {number}") for number in range(40)]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([("source", "Target"), *PAIRS], "1: this looks like the header of a table"),
        ([("French", "en"), *PAIRS], "1: this looks like the header of a table"),
        ([(f'"{s}"', f'"{t}"') for s, t in PAIRS], "1: every target is in quotes, as in CSV"),
        (
            [("id", "x"), *enumerate(t for _, t in PAIRS)],
            "1: no source has a letter: all are numbers or symbols",
        ),
        (
            [(s, "eng") for s, _ in PAIRS],
            "1: 40 pairs have only one target, such as 'eng'",
        ),
    ],
)
def test_what_looks_like_no_sentences_is_named_before_training(tmp_path, caplog, rows, said):
    path = write(tmp_path / "a.tsv", *("\t".join(map(str, row)) for row in rows))
    inspect(TSV(path=path), ("fr", "en"))
    assert f"{path}:{said}" in caplog.text


@pytest.mark.parametrize(
    "rows",
    [PAIRS, PAIRS[:1], [("apple", "苹果"), ("2", "两")], [('"a"', "b"), ("c", '"d"'), ("e", "f")]],
)
def test_the_first_pair_is_shown_and_sentences_give_no_warning(tmp_path, caplog, rows):
    path = write(tmp_path / "a.tsv", "\t", *map("\t".join, rows))
    with caplog.at_level(logging.INFO):
        inspect(TSV(path=path), ("fr", "en"))
    [record] = caplog.records
    assert record.message == f"{path}:2: {rows[0][0]!r} is translated as {rows[0][1]!r}"


# -------------------------------------------------------------------------------------------------------- evaluation


def test_references_are_read_from_several_files_or_columns(tmp_path):
    source = write(tmp_path / "source", "one", "two", "")
    first, second = write(tmp_path / "1", "a", "", ""), write(tmp_path / "2", "b", "d", "")
    columns = write(tmp_path / "r.tsv", "a\tb\tc", "d\t", "")
    assert read_evaluation(Plain(source=source, target=first)) == (
        ["one", "two", ""],
        [["a"], [""], [""]],
    )
    assert read_evaluation(Plain(source=source, target=[first, second]))[1] == [
        ["a", "b"],
        ["d"],
        [""],
    ]
    assert read_evaluation(Plain(source=source, target=columns))[1] == [
        ["a", "b", "c"],
        ["d"],
        [""],
    ]
    pairs = read_pairs(Plain(source=source, target=columns), skip_blank=False)
    assert [pair.target for pair in pairs] == ["a", "d", ""]


def test_a_reference_file_that_is_too_short_raises(tmp_path):
    files = [
        write(tmp_path / name, *lines)
        for name, lines in [("s", "abc"), ("r1", "abc"), ("r2", "ab")]
    ]
    with pytest.raises(UserError, match=r"r2: ends after line 2, but .*s has 3 lines\."):
        read_evaluation(Plain(source=files[0], target=files[1:]))


def test_an_empty_test_set_raises(tmp_path):
    with pytest.raises(UserError, match=r"s \+ .*t: holds no sentence pair"):
        read_evaluation(Plain(source=write(tmp_path / "s"), target=write(tmp_path / "t")))
