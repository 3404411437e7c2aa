"""Token ids on disk: what corpora and tokenizers say, reused while they fit, never believed, complete after any kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mtcli.config import TSV, Characters, Plain, Subwords, Words
from mtcli.support.errors import UserError
from mtcli.text.codec import Codec
from mtcli.text.tokenizers import TOKENIZERS
from mtcli.text.vocab import Vocabulary
from mtcli.text.writing import is_blank
from mtcli.training import cache

LINES = ["the quick brown fox jumps over the lazy dog", "ein Hund 😀 läuft", "苹果 \u2028 x"] * 10


def codec(kind: str, **options) -> Codec:
    config = {"char": Characters, "word": Words, "subword": Subwords}[kind](**options)
    tokenizer = TOKENIZERS[kind].train(config, LINES)
    pieces = tokenizer.pieces()
    if pieces is not None:
        return Codec(tokenizer, Vocabulary(pieces))
    return Codec(
        tokenizer,
        Vocabulary.build({token: 1 for line in LINES for token in tokenizer.tokenize(line)}),
    )


SUBWORD = codec("subword", vocabulary_size=300, dropout=0.2)
CODECS = {
    "char": (codec("char"),) * 2,
    "word and subword": (codec("word"), SUBWORD),
    "subword": (SUBWORD, SUBWORD),
}
CHAR = CODECS["char"]


def write(path: Path, *pairs: tuple[str, str]) -> TSV:
    path.write_text(
        "".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8", newline="\n"
    )
    return TSV(path=str(path))


def rows(arrays: dict[str, np.ndarray], name: str) -> list[list[int]]:
    starts = arrays[f"{name}.starts"]
    return [arrays[f"{name}.values"][start:end].tolist() for start, end in zip(starts, starts[1:])]


def never(*_, **__):
    raise AssertionError("encoded again")


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\n\t\r\ufeff")
TEXT = st.one_of(st.sampled_from(LINES), st.text(CHARACTERS))


@pytest.mark.parametrize("kind", CODECS)
@given(
    corpora=st.lists(
        st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=9), min_size=1, max_size=3
    )
)
def test_it_holds_what_encoding_every_pair_gives(kind, corpora, tmp_path_factory):
    folder, codecs = tmp_path_factory.mktemp("cache"), CODECS[kind]
    parts = [
        write(folder / f"{number}.tsv", ("a", "b"), *pairs) for number, pairs in enumerate(corpora)
    ]
    kept = [
        [("a", "b"), *(pair for pair in pairs if not any(map(is_blank, pair)))] for pairs in corpora
    ]
    kept = [
        [
            pair
            for pair in pairs
            if all(len(side.encode(text)) <= 31 for side, text in zip(codecs, pair))
        ]
        for pairs in kept
    ]
    for _ in range(2):  # built, then read
        arrays = cache.load(folder / "cache", parts, codecs, 30)
        assert arrays["pairs"].tolist() == [len(pairs) for pairs in kept]
        for side, name in enumerate(("source", "target")):
            texts = [pair[side] for pairs in kept for pair in pairs]
            assert rows(arrays, name) == [codecs[side].encode(text) for text in texts]


def test_ids_of_large_vocabularies_fit(tmp_path):
    large = Codec(
        TOKENIZERS["word"](Words()), Vocabulary.build({f"w{number}": 1 for number in range(70_000)})
    )
    texts = ["w69999 w0", "w35000"]
    part = write(tmp_path / "a.tsv", *zip(texts, texts))
    assert rows(cache.load(tmp_path / "cache", [part], (large, large), 9), "target") == [
        large.encode(t) for t in texts
    ]


def test_several_processes_give_the_same_in_the_same_order(tmp_path, monkeypatch):
    pairs = [(f"{LINES[number % 30]} {number}", LINES[(number * 7) % 30]) for number in range(300)]
    part = write(tmp_path / "a.tsv", *pairs)
    codecs = CODECS["word and subword"]
    alone = cache.load(tmp_path / "alone", [part], codecs, 20)
    monkeypatch.setattr(cache, "LARGE", 0)
    monkeypatch.setattr(cache, "CHUNK", 17)
    monkeypatch.setattr(cache, "cores", lambda: 3)
    together = cache.load(tmp_path / "together", [part], codecs, 20)
    assert together.keys() == alone.keys() and 0 < len(together["source.starts"]) - 1 < 300
    assert all((together[name] == alone[name]).all() for name in alone)
    assert not multiprocessing.active_children()


def test_it_is_used_again_without_reading_the_corpus(tmp_path, monkeypatch):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    first = cache.load(tmp_path / "cache", [part], CHAR, 99)
    monkeypatch.setattr(cache, "_encode", never)
    monkeypatch.setattr(cache.files, "sha256", never)
    again = cache.load(tmp_path / "cache", [part.model_copy(update={"weight": 3})], CHAR, 99)
    assert all((again[name] == first[name]).all() for name in first)


def test_a_corpus_that_moved_or_was_touched_is_recognised_by_its_content(tmp_path, monkeypatch):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    cache.load(tmp_path / "cache", [part], CHAR, 99)
    (tmp_path / "a.tsv").rename(tmp_path / "b.tsv")
    os.utime(tmp_path / "b.tsv", (1, 1))
    monkeypatch.setattr(cache, "_encode", never)
    cache.load(tmp_path / "cache", [TSV(path=str(tmp_path / "b.tsv"))], CHAR, 99)


@pytest.mark.parametrize(
    "change", ["text", "column", "order", "limit", "tokenizer", "clean", "vocabulary", "sampling"]
)
def test_whatever_decides_the_ids_builds_it_again(tmp_path, change):
    def corpora():
        both = [("x.tsv", "a"), ("y.tsv", "b")]
        return [
            write(tmp_path / name, ("ab", "c"), ("c", "abc"), (text, text)) for name, text in both
        ]

    parts, codecs, limit = corpora(), (SUBWORD, SUBWORD), 9
    before = cache.load(tmp_path / "cache", parts, codecs, limit)
    manifest = (tmp_path / "cache/ids/manifest.json").read_bytes()
    if change == "text":
        parts[0] = write(tmp_path / "x.tsv", ("ab", "c"), ("c", "abc"), ("b", "a"))
    elif change == "column":
        parts[0] = TSV(path=parts[0].path, columns=(2, 1))
    elif change == "order":
        parts.reverse()
    elif change == "limit":
        limit = 2
    elif change == "tokenizer":
        codecs = (codec("subword", vocabulary_size=300, dropout=0.2, lowercase=True), SUBWORD)
    elif change == "clean":
        codecs = (codec("subword", vocabulary_size=300, dropout=0.2, clean=False), SUBWORD)
    elif change == "vocabulary":
        codecs = (codec("subword", vocabulary_size=310, dropout=0.2), SUBWORD)
    else:
        codecs = (codec("subword", vocabulary_size=300), SUBWORD)
    after = cache.load(tmp_path / "cache", parts, codecs, limit)
    assert (tmp_path / "cache/ids/manifest.json").read_bytes() != manifest
    texts = [
        line.split("\t") for part in parts for line in Path(part.path).read_text().splitlines()
    ]
    first = 1 if change == "column" else 0
    sources = [pair[first if number < 3 else 0] for number, pair in enumerate(texts)]
    expected = [codecs[0].encode(text) for text in sources]
    assert (
        rows(after, "source") == [ids for ids in expected if len(ids) <= limit + 1]
        or change == "limit"
    )
    assert change != "limit" or after["pairs"].sum() < before["pairs"].sum()
    assert rows(before, "source")  # what is mapped stays readable when the files are replaced


def damages() -> dict[str, object]:
    def cut(path):
        path.write_bytes(path.read_bytes()[:-2])

    def link(path):
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))

    def pipe(path):
        path.unlink()
        os.mkfifo(path)

    def folder(path):
        path.unlink()
        path.mkdir()

    return {"cut": cut, "empty": lambda path: path.write_bytes(b""), "gone": Path.unlink, "link": link,
            "pipe": pipe, "folder": folder}  # fmt: skip


FILES = [
    "manifest.json",
    "pairs",
    "source.values",
    "source.starts",
    "target.values",
    "target.starts",
]


@pytest.mark.parametrize("damage", damages())
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_built_again(tmp_path, name, damage):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    first = {
        key: array.tolist()
        for key, array in cache.load(tmp_path / "cache", [part], CHAR, 99).items()
    }
    damages()[damage](tmp_path / "cache/ids" / name)
    again = cache.load(tmp_path / "cache", [part], CHAR, 99)
    assert {key: array.tolist() for key, array in again.items()} == first
    key = json.loads((tmp_path / "cache/ids/manifest.json").read_text())["key"]
    assert cache._open(tmp_path / "cache/ids", key, CHAR)


@pytest.mark.parametrize(
    "name, position, value",
    [
        ("source.starts", -1, 2**62),
        ("target.starts", -1, 10**9),
        ("target.starts", -1, 0),
        ("pairs", 0, 2**62),
        ("pairs", 0, -1),
        ("pairs", 0, 2),
    ],
)
def test_sizes_that_do_not_fit_together_build_it_again(tmp_path, name, position, value):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    first = {
        key: array.tolist()
        for key, array in cache.load(tmp_path / "cache", [part], CHAR, 99).items()
    }
    array = np.fromfile(tmp_path / "cache/ids" / name, "<i8")
    array[position] = value
    array.tofile(tmp_path / "cache/ids" / name)
    again = cache.load(tmp_path / "cache", [part], CHAR, 99)
    assert {key: array.tolist() for key, array in again.items()} == first


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"%s": {"stamp": 1}}', b'{"%s": 3}']
)
def test_a_nonsensical_memory_of_files_is_forgotten(tmp_path, content):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    cache.load(tmp_path / "cache", [part], CHAR, 99)
    memory = tmp_path / "cache/corpora.json"
    good = memory.read_bytes()
    memory.write_bytes(content.replace(b"%s", part.path.encode()))
    assert len(rows(cache.load(tmp_path / "cache", [part], CHAR, 99), "source")) == 30
    assert memory.read_bytes() == good


def test_links_in_its_place_lead_nothing_out(tmp_path):
    part = write(tmp_path / "a.tsv", *zip(LINES, LINES))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("ids", f".ids.{os.getpid()}.aside"):
        (folder / name).symlink_to(outside)
    (folder / "corpora.json").symlink_to(outside / "precious")
    cache.load(folder, [part], CHAR, 99)
    assert (outside / "precious").read_text() == "x" and len(list(outside.iterdir())) == 1
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(outside / "precious")
    with pytest.raises(UserError, match="lock is a link"):
        cache.load(folder, [part], CHAR, 5)


def test_long_pairs_are_counted_for_each_corpus_and_none_left_is_an_error(tmp_path, caplog):
    good = write(tmp_path / "a.tsv", ("a", "a"), ("aaaa", "a"), ("a", "aaaaa"), ("aaa", "aaa"))
    assert cache.load(tmp_path / "cache", [good], CHAR, 3)["pairs"].tolist() == [2]
    said = f"{good.path}: skipped 2 of 4 pairs with more than 3 tokens on a side, the first at {good.path}:2"
    assert said in caplog.text
    bad = write(tmp_path / "b.tsv", ("aaaa", "a"))
    with pytest.raises(UserError, match="b.tsv holds no usable sentence pair"):
        cache.load(tmp_path / "cache", [good, bad], CHAR, 3)


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    good = write(tmp_path / "a.tsv", ("a", "a"))
    with pytest.raises(UserError, match="nothing.tsv: cannot be read: No such file"):
        cache.load(tmp_path / "cache", [TSV(path=str(tmp_path / "nothing.tsv"))], CHAR, 9)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written: File exists"):
        cache.load(tmp_path / "file", [good], CHAR, 9)
    (tmp_path / "short").write_text("a\n")
    (tmp_path / "long").write_text("a\nb\n")
    with pytest.raises(UserError, match="short: ends after line 1"):
        cache.load(
            tmp_path / "cache",
            [Plain(source=str(tmp_path / "short"), target=str(tmp_path / "long"))],
            CHAR,
            9,
        )
    assert not list((tmp_path / "cache").glob("*ids*"))


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    part = write(tmp_path / "a.tsv", ("a", "a"))
    encode = cache._encode

    def change(pairs, **rest):
        write(tmp_path / "a.tsv", ("aa", "a"))
        return encode(pairs, **rest)

    monkeypatch.setattr(cache, "_encode", change)
    with pytest.raises(UserError, match="a.tsv was changed while it was read"):
        cache.load(tmp_path / "cache", [part], CHAR, 9)


BUILDER = """
import os, signal, sys
from mtcli.training import cache
sys.path.insert(0, {tests!r})
from test_cache import CHAR, TSV
from pathlib import Path

written, add, folder = 0, cache._Column.add, Path(sys.argv[1])

def add_and_die(self, *row):
    global written
    written += 1
    if written == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, *row)

cache._Column.add = add_and_die
cache.CHUNK = 3
arrays = cache.load(folder / "cache", [TSV(path=str(folder / "a.tsv"))], CHAR, 99)
print(sum(map(int, arrays["source.values"])), written)
"""


def builder(folder: Path, die_at: int) -> subprocess.Popen:
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(Path(tests).parent), "OMP_NUM_THREADS": "1"}
    code = [sys.executable, "-c", BUILDER.format(tests=tests), str(folder), str(die_at)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, env=environment, text=True)


@pytest.mark.slow
def test_two_builders_and_one_that_is_killed(tmp_path):
    write(tmp_path / "a.tsv", *zip(LINES, LINES))
    expected = sum(sum(CHAR[0].encode(line)) for line in LINES)
    killed = builder(tmp_path, die_at=10)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "cache").glob(".ids.*.aside")) and not (tmp_path / "cache/ids").exists()
    both = [builder(tmp_path, die_at=-1) for _ in range(2)]
    told = [process.communicate()[0].split() for process in both]
    assert [int(total) for total, _ in told] == [expected] * 2
    assert sorted(int(writes) > 0 for _, writes in told) == [False, True], (
        "one builds, the other uses what it built"
    )
    assert not list((tmp_path / "cache").glob(".*"))
