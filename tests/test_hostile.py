"""What comes in is not believed: runs from strangers and texts of any bytes, through the commands themselves.

Whatever it is, a command does its work or says in words what is wrong and exits with 1; nothing else escapes it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest
import tiny
import yaml
from hypothesis import example, given, settings, strategies as st

from mtcli import cli, config as configs
from mtcli.decoding import exported
from mtcli.support.errors import UserError
from mtcli.text import codec
from mtcli.text.corpus import read_stream
from mtcli.text.writing import is_blank

# ------------------------------------------------------------------------------------------------------------- commands


class Done(NamedTuple):
    status: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode("utf-8").split("\n")[:-1]


def mtcli(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run a command in this process. What is neither success nor a failure in words fails the test."""
    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    source = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sinks = [TemporaryFile("w+", encoding="utf-8") for _ in range(2)]
    results = [
        open(os.dup(sink.fileno()), "rb") for sink in sinks
    ]  # the command may turn its own descriptors away
    sys.argv = ["mtcli", *map(str, arguments)]
    sys.stdin, (sys.stdout, sys.stderr) = source, sinks
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
        written = []
        for sink, result in zip(sinks, results):
            with sink, result:
                sink.flush()
                result.seek(0)
                written.append(result.read())
    stdout, told = written[0], written[1].decode("utf-8")
    assert status in (0, 1) and "Traceback" not in told
    assert status == 0 or told.startswith("mtcli: ") and len(told) < 5000, told[:5000]
    return Done(status, stdout, told)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A directory with a trained run, entered."""
    folder = tmp_path_factory.mktemp("work")
    before = os.getcwd()
    os.chdir(folder)
    tiny.write(Path("."))
    decoding = {
        "beam_size": 2,
        "max_length_ratio": 0.05,
        "max_length_offset": 3,
        "batch_tokens": 100_000,
    }  # soon done
    tiny.write_config(
        Path("."), decoding=decoding, training={"max_updates": 2, "validate_every": 1}
    )
    assert mtcli("train", "--config", "tiny.yaml").status == 0
    yield folder
    os.chdir(before)


# ---------------------------------------------------------------------------------------------------- texts of any kind


NASTY = [
    "\n",
    "\n",
    "\r\n",
    "\r",
    "\0",
    "\ufeff",
    "\u2028",
    "\x85",
    "\t",
    " ",
    "\u3000",
    "\x1b",
    "a",
    "ab c",
    "😀",
]
NASTY += ["<s>", "\ud800"]
TEXTS = st.lists(st.sampled_from(NASTY) | st.text(max_size=5), max_size=12).map(
    lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
)
BYTES = (
    TEXTS | st.binary(max_size=40) | st.tuples(TEXTS, st.binary(max_size=3), TEXTS).map(b"".join)
)


def lines_of(data: bytes) -> list[str] | None:
    """The lines of a text by the rule: LF and CR LF end them, a byte order mark at the start is none of it.

    None: it is refused."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
        list(read_stream(io.BytesIO(data), ""))
    except (UnicodeDecodeError, UserError):
        return None
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def first_bad_line(data: bytes) -> int:
    read = 0
    with suppress(UserError):
        for _ in read_stream(io.BytesIO(data), ""):
            read += 1
    return read + 1


@given(data=BYTES)
@example(data=b"")
@example(data=b"\xef\xbb\xbf")
@example(data=b"a\xe2\x80\xa8b\xc2\x85c\rd\x00\n\n \r\nfed")
@example(data=b"fine\n\xed\xa0\x80\n")
@pytest.mark.slow
def test_translate_gives_line_for_line_or_names_the_bad_one(work, data):
    expected = lines_of(data)
    done = mtcli("translate", "--run", "runs/tiny", "--json", stdin=data)
    if expected is None:
        assert done.status == 1 and done.stdout == b""
        assert f"stdin:{first_bad_line(data)}: " in done.stderr
        return
    assert done.status == 0
    told = [json.loads(line) for line in done.lines]
    assert [each["source"] for each in told] == expected
    assert [each["line"] for each in told] == list(range(1, len(expected) + 1))
    texts = [each["hypotheses"][0]["text"] for each in told]
    assert all(not text for text, line in zip(texts, expected) if is_blank(line))
    (work / "in").write_bytes(data)
    (work / "in.gz").write_bytes(gzip.compress(data))
    for name in ("in", "in.gz"):
        assert (
            mtcli("translate", "--run", "runs/tiny", "--input", name, "--output", "out").stdout
            == b""
        )
        assert (work / "out").read_bytes() == "".join(f"{text}\n" for text in texts).encode()


@given(data=BYTES)
@example(data=b"")
@example(data=b"\t")
@example(data=b"a\tb\n\nc\td")
@example(data=b"a\tb\tc\nd\t\n")
@pytest.mark.slow
def test_eval_counts_every_line_or_names_what_is_wrong(work, data):
    (work / "test.tsv").write_bytes(data)
    rows = lines_of(data)
    done = mtcli(
        "eval",
        "--run",
        "runs/tiny",
        "--data",
        "test.tsv",
        "--json",
        "--metrics",
        "chrf,exact_match",
    )
    if rows and all("\t" in row for row in rows):
        assert done.status == 0 and json.loads(done.stdout)["sentences"] == len(rows)
    else:
        assert done.status == 1 and done.stdout == b"" and "test.tsv" in done.stderr


@given(source=BYTES, reference=BYTES)
@example(source=b"a\nb\n", reference=b"a\n")
@example(source=b"a\n", reference=b"a\n\n")
@example(source=b"", reference=b"")
@pytest.mark.slow
def test_eval_never_shifts_files(work, source, reference):
    (work / "source").write_bytes(source)
    (work / "reference").write_bytes(reference)
    sides = lines_of(source), lines_of(reference)
    command = ["eval", "--run", "runs/tiny", "--source", "source", "--reference", "reference"]
    command += ["--json", "--metrics", "exact_match"]
    done = mtcli(*command, "--output", "hypotheses")
    if None not in sides and len(sides[0]) == len(sides[1]) > 0:
        assert done.status == 0 and json.loads(done.stdout)["sentences"] == len(sides[0])
        hypotheses = (work / "hypotheses").read_text(encoding="utf-8").split("\n")[:-1]
        assert len(hypotheses) == len(sides[0])
        (work / "reference").write_text(
            "".join(f"{line}\n" for line in hypotheses), encoding="utf-8", newline="\n"
        )
        assert json.loads(mtcli(*command).stdout)["exact_match"] == 100
        (work / "hypotheses").unlink()
    else:
        assert done.status == 1 and done.stdout == b"" and not (work / "hypotheses").exists()
        assert "source" in done.stderr or "reference" in done.stderr


@settings(max_examples=max(5, settings().max_examples // 5))
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=8), tokenizer=st.sampled_from(["char", "word"])
)
def test_training_learns_from_a_text_or_names_what_is_wrong(work, rows, tokenizer):
    (work / "any.tsv").write_bytes(
        b"".join(source + b"\t" + target + b"\n" for source, target in rows)
    )
    shutil.rmtree(work / "runs/any", ignore_errors=True)
    done = mtcli(
        "train", "--config", "tiny.yaml", "--run", "runs/any",
        *("--set", "data.train=any.tsv"), *("--set", f"tokenizer={tokenizer}"), *("--set", "training.max_updates=1"),
    )  # fmt: skip
    lines = lines_of((work / "any.tsv").read_bytes())
    usable = lines and all("\t" in line for line in lines)
    usable = usable and any(not any(map(is_blank, line.split("\t")[:2])) for line in lines)
    assert (done.status == 0) == bool(usable), done.stderr
    assert done.status == 0 or "any.tsv" in done.stderr


@pytest.mark.slow
def test_a_line_of_a_megabyte_is_translated(work):
    (work / "long").write_text("abc " * 250_000 + "\nabc\n")
    done = mtcli("translate", "--input", "long", "--run", "runs/tiny")
    assert done.status == 0 and len(done.lines) == 2


# ------------------------------------------------------------------------------------------------- files of other kinds


@pytest.mark.slow
def test_what_stands_where_a_file_should_be(work, capfd):
    tiny_run = ["--run", "runs/tiny"]
    (work / "folder").mkdir(exist_ok=True)
    (work / "plain.gz").write_bytes(b"not gzip\n")
    (work / "cut.gz").write_bytes(gzip.compress(os.urandom(9999))[:-99])
    (work / "one.tsv").write_text("one column\n")
    (work / "good").write_text("abc\n")
    for path in (
        "folder",
        "plain.gz",
        "cut.gz",
        "nothing",
        "nothing/at/all",
        "good/below",
        "x" * 300,
    ):
        for command in (
            ["translate", *tiny_run, "--input", path],
            ["eval", *tiny_run, "--data", path],
            ["eval", *tiny_run, "--source", path, "--reference", "good"],
            ["eval", *tiny_run, "--source", "good", "--reference", path],
            ["train", "--config", path],
            ["train", "--config", "tiny.yaml", "--run", "runs/none", "--set", f"data.train={path}"],
            [
                "train",
                "--config",
                "tiny.yaml",
                "--run",
                "runs/none",
                "--set",
                f"data.validation={path}",
            ],
        ):
            shutil.rmtree("runs/none", ignore_errors=True)
            done = mtcli(*command)
            assert done.status == 1 and done.stdout == b"" and path in done.stderr, command
    assert "one.tsv:1" in mtcli("eval", *tiny_run, "--data", "one.tsv").stderr
    for output in ("folder", "nothing/at/all", "good/below"):
        for command in (["translate", "abc"], ["eval", "--metrics", "chrf"]):
            done = mtcli(*command, *tiny_run, "--output", output)
            assert done.status == 1 and output in done.stderr, command
    for words in (["\udc80"], ["a\udfffb"], ["a", "--prefix", "\udc80", "--output", "out"]):
        done = mtcli("translate", *tiny_run, *words)
        assert done.status == 1 and done.stdout == b"" and "is not UTF-8" in done.stderr
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_no_permission(work):
    (work / "secret").write_text("abc\n")
    (work / "secret").chmod(0)
    (work / "closed").mkdir()
    (work / "closed").chmod(0o500)
    for command in (
        ["translate", "--input", "secret"],
        ["eval", "--data", "secret"],
        ["translate", "abc", "--output", "closed/out"],
        ["train", "--config", "tiny.yaml", "--run", "closed/run"],
        ["train", "--config", "tiny.yaml", "--run", "runs/none", "--set", "data.train=secret"],
    ):
        done = mtcli(*command)
        assert done.status == 1 and done.stdout == b"" and "Permission denied" in done.stderr


# ----------------------------------------------------------------------------------------- run directories of strangers


class Trap:
    """What a pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def header(declared: dict, data: bytes = b"") -> bytes:
    text = json.dumps(declared).encode()
    return struct.pack("<Q", len(text)) + text + data


def sign(checkpoint: Path) -> None:
    """Make the manifest agree with the files, as a stranger can."""
    import hashlib

    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in ("model.safetensors", "state.safetensors", "state.json")
        for data in [(checkpoint / name).read_bytes()]
    }
    (checkpoint / "manifest.json").write_text(
        json.dumps({"update": int(checkpoint.name), "files": files})
    )


Change = Callable[[Path, Path], None]  # of a run, and what is outside of it


def content(name: str, data: bytes) -> Change:
    """Another content for a file; in checkpoints for all, and signed."""

    def change(run: Path, outside: Path) -> None:
        paths = list(run.glob(name))
        assert paths
        for path in paths:
            path.write_bytes(data)
            if "checkpoints" in name and path.name != "manifest.json":
                sign(path.parent)

    return change


def setting(key: str, value: object) -> Change:
    def change(run: Path, outside: Path) -> None:
        path = run / "config.yaml"
        whole = yaml.safe_load(path.read_text())
        *above, last = key.split(".")
        section = whole
        for part in above:
            section = section[part]
        section[last] = value
        path.write_text(yaml.safe_dump(whole))

    return change


def link(name: str) -> Change:
    """A link to something outside in a file's or folder's place."""

    def change(run: Path, outside: Path) -> None:
        path = next(iter(run.glob(name)), run / name)
        if path.is_dir():
            shutil.copytree(path, outside / "there")
            shutil.rmtree(path)
        elif path.exists():
            shutil.copy(path, outside / "there")
            path.unlink()
        else:
            (outside / "there").mkdir()
        path.symlink_to(outside / "there")

    return change


def sparse(name: str) -> Change:
    def change(run: Path, outside: Path) -> None:
        with open(next(run.glob(name)), "r+b") as file:
            file.truncate(1 << 40)

    return change


DEEP = b"[" * 200_000
HUGE = {"weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}
MODEL = "checkpoints/*/model.safetensors"
BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}]" for n in range(40))]
).encode()

REFUSED: dict[str, Change] = {  # nothing can be done with such a run
    "code in the config": content("config.yaml", b"!!python/object/apply:os.mkdir ['trapped']"),
    "an alias bomb": content("config.yaml", BOMB),
    "a deep config": content("config.yaml", DEEP),
    "a pickle for a config": content("config.yaml", pickle.dumps(Trap())),
    "an empty config": content("config.yaml", b""),
    "a list for a config": content("config.yaml", b"- 1\n"),
    "a config of a terabyte": sparse("config.yaml"),
    "a model of another size": setting("model.hidden_size", 2**17),
    "a model of many layers": setting("model.encoder_layers", 100),
    "a feed-forward layer of petabytes": setting("model.feed_forward_size", 10**15),
    "a beam of billions": setting("decoding.beam_size", 10**9),
    "translations of terabytes": setting("decoding.max_length_offset", 10**12),
    "translations of a million times the length": setting("decoding.max_length_ratio", 1e6),
    "a penalty that is no number": setting("decoding.length_penalty.alpha", 1e300),
    "a name that is no model": setting("model.type", "../../x"),
    "a vocabulary of terabytes": sparse("tokenizer/source.vocabulary.json"),
    "a deep vocabulary": content("tokenizer/source.vocabulary.json", DEEP),
    "a longer vocabulary": content(
        "tokenizer/source.vocabulary.json",
        json.dumps(["<pad>", "<unk>", "<s>", "</s>", *map(str, range(10**5))]).encode(),
    ),
    "a vocabulary that is a link": link("tokenizer/source.vocabulary.json"),
    "tokenizers elsewhere": link("tokenizer"),
    "a config elsewhere": link("config.yaml"),
    "checkpoints elsewhere": link("checkpoints"),
    "models elsewhere": lambda run, outside: [
        link(f"checkpoints/{n}/model.safetensors")(run, outside) for n in (1, 2)
    ],
    "a pickle for a model": content(MODEL, pickle.dumps(Trap())),
    "no model": content(MODEL, b""),
    "a model that declares exabytes": content(MODEL, header(HUGE)),
    "a header that declares exabytes": content(MODEL, struct.pack("<Q", 2**62) + b"{}"),
    "a model without weights": content(MODEL, header({})),
    "weights of another shape": content(
        MODEL, header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
    ),
    "a manifest that leads out": content(
        "checkpoints/*/manifest.json",
        b'{"update": 2, "files": {"../../../tiny.yaml": {"bytes": 1, "sha256": ""}}}',
    ),
    "a deep manifest": content("checkpoints/*/manifest.json", DEEP),
}

CONTINUED: dict[str, Change] = {  # only who would train it further meets these
    "a deep state": content("checkpoints/*/state.json", DEEP),
    "a state of nonsense": content(
        "checkpoints/*/state.json", b'{"update": {"a": []}, "seed": 1e308}'
    ),
    "a state that counts backwards": content(
        "checkpoints/*/state.json", b'{"update": -5, "epoch": 99999999999999}'
    ),
    "no tensors": content("checkpoints/*/state.safetensors", b""),
    "tensors that declare exabytes": content("checkpoints/*/state.safetensors", header(HUGE)),
    "a log elsewhere": link("log.jsonl"),
    "a cache elsewhere": link("cache"),
    "a lock elsewhere": link("lock"),
}


@pytest.fixture
def stranger(work, tmp_path) -> tuple[Path, Path]:
    """A copy of the run for a stranger to change, and a place outside of it."""
    shutil.rmtree("runs/stranger", ignore_errors=True)
    shutil.copytree("runs/tiny", "runs/stranger")
    (tmp_path / "precious").write_text("x")
    return Path("runs/stranger"), tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def peak() -> int:
    """The most memory in bytes that this process had at once, since `forget_peak`."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


TRANSLATE = ["translate", "abc", "--run", "runs/stranger"]
EVALUATE = ["eval", "--run", "runs/stranger", "--metrics", "chrf"]
CONTINUE = [
    "train",
    "--config",
    "tiny.yaml",
    "--run",
    "runs/stranger",
    "--set",
    "training.max_updates=3",
]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured by /proc"
)
@pytest.mark.parametrize("name", [*REFUSED, *CONTINUED])
def test_a_hostile_run_is_refused_in_words(work, stranger, name):
    run, outside = stranger
    {**REFUSED, **CONTINUED}[name](run, outside)
    before = snapshot(outside)
    for command in [TRANSLATE, EVALUATE, CONTINUE] if name in REFUSED else [CONTINUE]:
        forget_peak()
        start = peak()
        done = mtcli(*command)
        assert done.status == 1 and done.stdout == b"", command
        assert "runs/stranger" in done.stderr or "checkpoint" in done.stderr.lower(), done.stderr
        assert peak() - start < 300 << 20
    assert snapshot(outside) == before and not (work / "trapped").exists()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("kind", ["a device", "a pipe", "a secret", "a link to one"])
def test_of_the_files_that_a_strangers_run_names_only_recorded_contents_are_read(
    work, stranger, caplog, kind, recorded
):
    run, outside = stranger
    os.mkfifo(outside / "pipe")
    (outside / "secret").write_text("a\tb\n")
    (outside / "link").symlink_to(outside / "secret")
    names = {"a device": "/dev/zero", "a pipe": outside / "pipe", "a secret": outside / "secret"}
    path = str(names.get(kind, outside / "link"))
    if recorded:  # as if it had been, but what is in it is not known
        entry = {"path": path, "bytes": 4 if kind.endswith(("secret", "one")) else 0, "sha256": "0"}
        (run / "data.json").write_text(json.dumps({"test": [entry], "validation": [entry]}))
    else:
        (run / "data.json").unlink()
    for key in ("data.test", "data.validation"):
        setting(key, path)(run, outside)
    shutil.rmtree("mean", ignore_errors=True)
    told = "is not the file that the run was made with" if recorded else "so it was not opened"
    done = mtcli(*EVALUATE)
    assert done.status == 1 and done.stdout == b"" and told in done.stderr
    assert "Give the test set: --data" in done.stderr
    done = mtcli("average", "--run", run, "--output", "mean")
    assert done.status == 0 and "not compared" in caplog.text and told in caplog.text
    config = configs.load(run / "config.yaml")
    codecs = codec.load(run / "tokenizer", config)
    assert len(exported._sample(run, config, codecs, None)) == exported.SAMPLE_SENTENCES


@pytest.mark.parametrize(
    "content", [b"", b"[]", DEEP, b'{"test": 1}', b'{"test": [{"path": "a"}]}', b'{"test": [[]]}']
)
def test_a_record_that_is_none_is_refused_in_words(work, stranger, content):
    (stranger[0] / "data.json").write_bytes(content)
    for command in (EVALUATE, CONTINUE):
        done = mtcli(*command)
        assert done.status == 1 and "data.json" in done.stderr
