"""The command line as people use it: real processes, their output, their exit status."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from command import ENVIRONMENT, lines, mtcli, python_mtcli

from mtcli.cli import app
from mtcli.cli.output import to_json
from mtcli.support import files
from mtcli.support.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory with a trained run, as a user would have it after `mtcli train`."""
    folder = tmp_path_factory.mktemp("work")
    tiny.write(folder)
    tiny.write_config(folder, training={"max_updates": 40})
    done = mtcli(folder, "train", "--config", "tiny.yaml")
    assert done.stdout == b"", "results only go to stdout, and training has none"
    told = done.stderr.decode()
    for part in (
        "parameters",
        "update 40",
        "tokens/s",
        "best so far",
        "hypothesis",
        "finished: runs/tiny",
        "mtcli eval",
    ):
        assert part in told
    return folder


def test_translate_gives_the_same_for_arguments_a_file_and_stdin(folder):
    sources = [source for source, _ in tiny.pairs(8, seed=1)]
    text = "".join(f"{source}\n" for source in sources)
    (folder / "in.txt").write_text(text)
    by_words = lines(mtcli(folder, "translate", *sources))
    by_stdin = lines(mtcli(folder, "translate", stdin=text.encode()))
    by_file = lines(mtcli(folder, "translate", "--input", "in.txt"))
    mtcli(folder, "translate", "--input", "in.txt", "--output", "out.txt")
    by_output = (folder / "out.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(by_words) == 8 and any(by_words)
    assert by_words == by_stdin == by_file == by_output


def test_one_line_in_is_one_line_out(folder):
    (folder / "odd.txt.gz").write_bytes(
        gzip.compress("ab\r\n\r\n  \nc\u2028d\n\ufeffe\nf".encode())
    )
    done = mtcli(folder, "translate", "--input", "odd.txt.gz")
    translated = lines(done)
    assert len(translated) == 6
    assert translated[1] == translated[2] == ""
    assert lines(mtcli(folder, "translate", stdin=b"")) == []


def test_translate_json_has_hypotheses_scores_and_attention(folder):
    done = mtcli(folder, "translate", "--json", "--n-best", "3", "abc", "")
    first, blank = map(json.loads, lines(done))
    assert lines(done)[0] == to_json(first), "each number has the digits that are promised"
    assert (first["line"], first["source"]) == (1, "abc")
    hypotheses = first["hypotheses"]
    assert len({each["text"] for each in hypotheses}) == 3
    assert [each["score"] for each in hypotheses] == sorted(
        (each["score"] for each in hypotheses), reverse=True
    )
    for each in hypotheses:
        assert each["log_probability"] < 0 and each["text"] == "".join(each["tokens"])
        assert len(each["attention"]) == len(each["tokens"]) + 1
        for row in each["attention"]:
            assert len(row) == len("abc") + 1 and sum(row) == pytest.approx(1, abs=1e-3)
    assert blank["hypotheses"][0]["text"] == ""


def test_numbers_in_json_are_rounded_to_what_is_promised():
    values = {"a": [-1e-9, (-0.123449, 2)], "b": {"c": 1 / 3, "d": True, "e": None}, "f": "é"}
    expected = '{"a": [0.0, [-0.1234, 2]], "b": {"c": 0.3333, "d": true, "e": null}, "f": "é"}'
    assert to_json(values) == expected


def test_n_best_lines_are_number_text_and_score(folder):
    done = mtcli(folder, "translate", "--n-best", "2", "abc", "fed")
    parts = [line.split(" ||| ") for line in lines(done)]
    assert [part[0] for part in parts] == ["1", "1", "2", "2"]
    assert all(float(part[2]) < 0 for part in parts)


def test_samples_depend_on_the_seed_and_not_on_other_lines(folder):
    def draw(seed: int, *texts: str) -> list[str]:
        return lines(
            mtcli(
                folder, "translate", "--sample", "--temperature", "2", "--seed", str(seed), *texts
            )
        )

    texts = ["abc", "fed", "abc", "dab"]
    assert draw(1, *texts) == draw(1, *texts) == draw(1, *texts[:2]) + draw(1, *texts)[2:]
    assert draw(1, *texts) != draw(2, *texts)


def test_eval_prints_a_table_and_json(folder):
    table = mtcli(folder, "eval").stdout.decode()
    for part in ("8 sentences", "bleu", "chrf", "ter", "exact_match", "perplexity", "tok:13a"):
        assert part in table
    done = mtcli(
        folder, "eval", "--data", "validation.tsv", "--json", "--metrics", "chrf,exact_match"
    )
    result = json.loads(done.stdout)
    assert result["sentences"] == 8 and set(result["signatures"]) == {"chrf", "exact_match"}
    assert 0 <= result["chrf"] <= 100 and result["perplexity"] > 1


def test_eval_says_before_it_translates_that_its_output_cannot_be_written(folder, monkeypatch):
    monkeypatch.setattr("mtcli.decoding.evaluation.evaluate", None)
    monkeypatch.chdir(folder)
    words = ["eval", "--run", "runs/tiny", "--data", "train.tsv", "--output", "nowhere/out"]
    with pytest.raises(UserError, match="nowhere/out cannot be written"):
        app(words, standalone_mode=False)


def test_eval_counts_a_match_with_any_reference(folder):
    pairs = tiny.pairs(8, seed=1)
    (folder / "source").write_text("".join(f"{source}\n" for source, _ in pairs))
    hypotheses = lines(mtcli(folder, "translate", "--input", "source"))
    for name, texts in {"wrong": ["x"] * 8, "right": [text or "y" for text in hypotheses]}.items():
        (folder / name).write_text("".join(f"{text}\n" for text in texts))
    one = ["eval", "--source", "source", "--reference", "wrong", "--json"]
    assert json.loads(mtcli(folder, *one).stdout)["exact_match"] == 0
    share = 100 * sum(map(bool, hypotheses)) / 8
    assert (
        json.loads(mtcli(folder, *one, "--reference", "right").stdout)["exact_match"] == share > 0
    )


@pytest.mark.slow
def test_eval_against_another_run_tests_significance(folder):
    if not (folder / "runs/other").exists():
        mtcli(
            folder,
            "train",
            "--config",
            "tiny.yaml",
            "--run",
            "runs/other",
            "--set",
            "training.max_updates=2",
        )
    done = mtcli(
        folder,
        "eval",
        "--run",
        "runs/tiny",
        "--against",
        "runs/other",
        "--metrics",
        "chrf",
        "--json",
    )
    first, second = json.loads(done.stdout)["comparison"]
    assert (first["system"], second["system"]) == ("runs/other", "runs/tiny")
    assert 0 <= second["p_value"] <= 1


@pytest.mark.slow
def test_build_vocab_reports_and_train_uses_it(folder):
    table = mtcli(
        folder, "build-vocab", "--config", "tiny.yaml", "--run", "runs/vocab"
    ).stdout.decode()
    assert "coverage" in table and "100.00%" in table and "source, validation" in table
    before = {path: path.read_bytes() for path in (folder / "runs/vocab/tokenizer").iterdir()}
    mtcli(folder, "train", "--config", "tiny.yaml", "--run", "runs/vocab")
    assert {
        path: path.read_bytes() for path in (folder / "runs/vocab/tokenizer").iterdir()
    } == before


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
def test_sigterm_saves_and_the_same_command_continues(folder):
    command = [
        "train",
        "--config",
        "tiny.yaml",
        "--run",
        "runs/stopped",
        "--set",
        "training.max_updates=2000",
    ]
    process = subprocess.Popen(
        python_mtcli(*command),
        cwd=folder,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("update"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 143
    assert (
        "saved up to update" in rest and "mtcli train --config tiny.yaml --run runs/stopped" in rest
    )
    changed = mtcli(
        folder, *command, "--set", "training.schedule=constant", status=1
    ).stderr.decode()
    assert "training.schedule.type: 'inverse_sqrt' -> 'constant'" in changed
    saved = int(rest.split("saved up to update ")[1].split(";")[0].replace(",", ""))
    again = mtcli(folder, *command[:-1], f"training.max_updates={saved + 2}").stderr.decode()
    assert f"continuing from update {saved:,}" in again and f"{saved + 2:,} updates" in again


def typed(folder: Path, *options: str) -> bytes:
    """What a terminal shows where a person types two sentences and ends with an empty line."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb"}
    process = subprocess.Popen(
        python_mtcli("translate", *options),
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=environment,
    )
    os.close(slave)
    os.write(master, b"abc\nfed\n\n")
    shown = b""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            shown += os.read(master, 1000)
        except OSError:
            break
    assert process.wait() == 0
    os.close(master)
    process.stderr.close()
    return shown


@pytest.mark.slow
def test_prompt_on_a_terminal_translates_typed_lines(folder):
    shown = typed(folder)
    assert shown.count(b"> ") >= 3
    expected = lines(mtcli(folder, "translate", "abc", "fed"))
    assert all(text.encode() in shown for text in expected)
    assert "abc\nfed" in (folder / "state/mtcli_history").read_text()
    typed(folder, "--output", "typed.txt")
    assert (folder / "typed.txt").read_text(encoding="utf-8").splitlines() == expected


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["translate", "--run", "runs/nothing", "a"], 1, "runs/nothing is no run directory"),
        (["translate", "--input", "nothing.txt"], 1, "nothing.txt"),
        (["translate", "--input", "."], 1, "directory"),
        (["translate", "--input", "bad.txt"], 1, "bad.txt:2"),
        (
            ["translate", "--input", "source", "--output", "nowhere/out"],
            1,
            "nowhere/out cannot be written",
        ),
        (["translate", "a", "--input", "b"], 2, "not both"),
        (["translate", "a", "--beam-size", "0"], 2, "beam-size"),
        (["translate", "a", "--top-p", "0.5"], 2, "--sample"),
        (["translate", "a", "--sample", "--temperature", "1e-320"], 1, "temperature is 1e-320; it"),
        (["translate", "a", "--threads", "100000"], 2, "--threads"),
        (["translate", "--input", "endless.txt"], 1, "endless.txt:2: the line is longer than"),
        (
            ["train", "--config", "tiny.yaml", "--set", "data.train.0.weight=999999999999"],
            1,
            "<= 1000",
        ),
        (["translate", "a", "--sample", "--top-p", "1.5"], 1, "top_p is 1.5"),
        (["translate", "a", "--n-best", "3", "--beam-size", "2"], 1, "raise beam_size"),
        (["translate", "a", "--device", "abacus"], 1, "abacus"),
        (["eval", "--source", "source"], 2, "--source and --reference go together"),
        (["eval", "--source", "source", "--reference", "short"], 1, "short"),
        (["eval", "--data", "empty.tsv"], 1, "empty"),
        (["eval", "--metrics", "blue"], 1, "bleu"),
        (["train", "--config", "nothing.yaml"], 1, "nothing.yaml"),
        (
            ["train", "--config", "tiny.yaml", "--set", "model.hiden_size=3", "--run", "runs/none"],
            1,
            "hidden_size",
        ),
        (
            [
                "train",
                "--config",
                "tiny.yaml",
                "--set",
                "data.train=nothing.tsv",
                "--run",
                "runs/none",
            ],
            1,
            "nothing.tsv",
        ),
        (
            [
                "train",
                "--config",
                "tiny.yaml",
                "--set",
                "data.train=empty.tsv",
                "--run",
                "runs/empty",
            ],
            1,
            "empty.tsv",
        ),
        (
            ["train", "--config", "tiny.yaml", "--set", "data.train=one.tsv", "--run", "runs/one"],
            1,
            "one.tsv:1",
        ),
        (["train"], 2, "--config"),
        (["fly"], 2, "fly"),
    ],
)
def test_wrong_usage_and_bad_files_are_reported_without_a_traceback(
    folder, arguments, status, message
):
    (folder / "bad.txt").write_bytes(b"fine\n\xff\xfe\n")
    (folder / "short").write_text("a\n")
    (folder / "endless.txt").write_text("a\n" + "abc " * 1_100_000)
    (folder / "source").write_text("a\nb\n")
    (folder / "empty.tsv").write_text("")
    (folder / "one.tsv").write_text("only one column\n")
    done = mtcli(folder, *arguments, status=status)
    assert message in done.stderr.decode().replace("\n", " ")
    assert done.stdout == b""


def test_help_and_version_load_no_torch():
    for argument in ("--help", "--version"):
        code = f"import sys; sys.argv = ['mtcli', '{argument}']\nfrom mtcli import cli\ntry:\n    cli.main()\nfinally:\n    assert not {{'torch', 'pydantic', 'rich'}} & set(sys.modules)"
        subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True
        )


def test_schema_is_json():
    assert json.loads(mtcli(Path("."), "schema").stdout)["properties"].keys() >= {
        "data",
        "model",
        "training",
    }


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="a disk that is always full, as on Linux"
)
@pytest.mark.slow
def test_full_disk_behind_stdout_exits_with_1(folder):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            python_mtcli("translate", "--run", "runs/tiny", "abc"),
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
    assert done.returncode == 1
    assert done.stderr.decode().endswith("mtcli: No space left on device.\n")


def shell(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """What a command does in a shell script, where it is "$@"."""
    words = ["sh", "-c", script, "sh", *python_mtcli(*arguments)]
    done = subprocess.run(
        words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=100
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    return done


@pytest.mark.skipif(os.name != "posix", reason="a shell as on Unix")
@pytest.mark.slow
def test_closed_streams_are_no_reason_to_fail_unless_they_are_needed(folder):
    short = ["--run", "runs/closed", "--set", "training.max_updates=2"]
    done = shell(folder, 'exec "$@" <&- >&- 2>&-', "train", "--config", "tiny.yaml", *short)
    assert done.returncode == 0 and (folder / "runs/closed/checkpoints/2").is_dir()
    for script, words in (('exec "$@" >&-', ["schema"]), ('exec "$@" <&-', ["translate"])):
        done = shell(folder, script, *words)
        assert done.returncode == 1 and done.stderr == "mtcli: stdin or stdout is closed.\n"


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on memory that is kept")
def test_too_little_memory_to_load_pytorch_is_told_in_a_line(folder):
    done = shell(folder, 'ulimit -v 400000; exec "$@"', "translate", "--run", "runs/tiny", "abc")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be loaded" in done.stderr and "ulimit -v" in done.stderr


ENDLESS = """
import itertools, os, signal, sys
from mtcli import cli
from mtcli.text import tokenizers

number = getattr(signal, sys.argv.pop())

def endless(*_):
    for count in itertools.count():
        if count == 1000:
            os.kill(os.getpid(), number)
        yield "abc def"

tokenizers._draw = endless
cli.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize(
    ("name", "status", "told"), [("SIGINT", 130, "Ctrl-C"), ("SIGTERM", 143, "SIGTERM")]
)
@pytest.mark.slow
def test_a_signal_while_the_vocabulary_is_learnt_is_answered_by_a_line(folder, name, status, told):
    words = ["build-vocab", "--config", "tiny.yaml", "--set", "tokenizer.type=subword"]
    words += ["--set", "tokenizer.vocabulary_size=300", "--run", f"runs/{name}", name]
    command = [sys.executable, "-c", ENDLESS, *words]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    # before: what was chosen, and the first pair
    assert done.stderr.split("\n")[2:] == [f"mtcli: stopped by {told}", ""]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_all_is_done_changes_nothing(name):
    code = f"import atexit, signal; from mtcli import cli; atexit.register(signal.raise_signal, signal.{name}); cli.main()"
    done = subprocess.run([sys.executable, "-c", code, "schema"], capture_output=True)
    assert done.returncode == 0 and not done.stderr and json.loads(done.stdout)


ESCAPES = "a\x1b[31mb\x07\x9b2J\u202e"


def test_text_and_paths_are_shown_with_control_characters_made_visible(folder):
    for name in ("escapes", ESCAPES):
        (folder / f"{name}.tsv").write_text(f"{ESCAPES}\t{ESCAPES}\n", encoding="utf-8")
    words = ["--config", "tiny.yaml", "--set", "data.validation=escapes.tsv"]
    trained = mtcli(folder, "train", *words, "--run", "runs/escapes")
    table = mtcli(folder, "eval", "--run", "runs/tiny", "--data", f"{ESCAPES}.tsv")
    missing = mtcli(folder, "eval", "--run", "runs/tiny", "--data", f"no{ESCAPES}", status=1)
    for shown in (trained.stderr, table.stdout, missing.stderr):
        assert not set(ESCAPES) & set(shown.decode()) - {*"a[31mb2J"}
        assert "a\\x1b[31mb\\x07\\x9b2J\\u202e" in shown.decode()


def test_hints_are_quoted_for_the_shell(folder):
    sentence = "-$(touch pwned) `id` \"x\" 'y'"
    (folder / "shell.tsv").write_text(f"{sentence}\tb\n")
    tiny.write_config(folder, "a $b.yaml", training={"max_updates": 2})
    own = ["--config", "a $b.yaml", "--run", "a run", "--set", "data.validation=shell.tsv"]
    for command, words in (
        ("build-vocab", ["train", *own]),
        ("train", ["translate", "--run", "a run", "--", sentence]),
    ):
        done = mtcli(folder, command, *own)
        hint = done.stderr.decode().split("next: ")[1].split("\n")[0]
        assert shlex.split(hint) == ["mtcli", *words]


TRANSLATE = ("translate", "--run", "runs/tiny", "--input", "train.tsv")


@pytest.mark.skipif(os.name != "posix", reason="links, devices and pipes as on Unix")
@pytest.mark.slow
def test_output_goes_into_devices_and_pipes_and_to_what_a_link_leads_to(folder):
    expected = mtcli(folder, *TRANSLATE).stdout
    place = folder / "places"
    (place / "there").mkdir(parents=True)
    os.mkfifo(place / "pipe")
    (place / "null").symlink_to("/dev/null")
    (place / "new").symlink_to("there/new")
    (place / "link").symlink_to("there/file")
    (place / "there/file").write_text("old")
    (place / "there/file").chmod(0o640)
    for name in ("null", "new", "link"):
        mtcli(folder, *TRANSLATE, "--output", place / name)
        assert (place / name).is_symlink()
    assert (place / "there/new").read_bytes() == expected == (place / "there/file").read_bytes()
    assert (place / "there/file").stat().st_mode & 0o777 == 0o640
    mtcli(folder, "look", "--run", "runs/tiny", "--html", place / "link", "--", "abc")
    assert (place / "link").is_symlink() and b"<html" in (place / "there/file").read_bytes()
    assert (place / "there/file").stat().st_mode & 0o777 == 0o640
    (place / "there/file").write_bytes(expected)
    with subprocess.Popen(["cat", place / "pipe"], stdout=subprocess.PIPE) as reader:
        mtcli(folder, *TRANSLATE, "--output", place / "pipe")
        assert reader.stdout.read() == expected
    for sink in ("| cat", "> stdout && cat stdout"):
        done = shell(folder, f'"$@" --output /dev/stdout {sink}', *TRANSLATE)
        assert done.stdout.encode() == expected
    assert sorted(path.name for path in place.rglob("*")) == sorted(
        ["there", "pipe", "null", "new", "link", "file", "new"]
    )
    for command in (TRANSLATE, ["look", "--run", "runs/tiny", "abc", "--html"]):
        for directory in (".", "..", "/", "places"):
            output = ["--output"] * (command is TRANSLATE) + [directory]
            told = mtcli(folder, *command, *output, status=1).stderr.decode()
            assert told == f"mtcli: {directory} is a directory; name a file in it.\n"
    (place / "trap.part").symlink_to("there/file")
    done = mtcli(folder, *TRANSLATE, "--output", place / "trap", status=1)
    assert "is a link" in done.stderr.decode() and (place / "there/file").read_bytes() == expected


@pytest.mark.slow
def test_one_file_or_directory_is_written_by_one_process_at_a_time(folder):
    (folder / "own.txt").write_text("abc\n")
    for output, command in (
        ("own.txt", TRANSLATE),
        ("own.txt", ("eval", "--run", "runs/tiny")),
        ("own", ("average", "--run", "runs/tiny")),
        ("own", ("export", "--run", "runs/tiny", "--format", "ctranslate2")),
    ):
        with files.claim(folder / output):
            told = mtcli(folder, *command, "--output", output, status=1).stderr.decode()
        assert f"Another process is writing {output} (process {os.getpid()})." in told
    assert (folder / "own.txt").read_text() == "abc\n" and not (folder / "own").exists()
    assert not [path.name for path in folder.glob(".own*")]


@pytest.mark.skipif(os.name != "posix", reason="limits of processes, as on Unix")
@pytest.mark.slow
def test_a_full_disk_keeps_what_is_there_and_says_how_to_continue(folder):
    words = [*TRANSLATE, "--json", "--output", "full.txt"]
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (9000, 9000))\n"
    program = f"{limit}from mtcli.cli import main; main()"
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "full.txt cannot be written: File too large" in done.stderr
    assert "full.txt.part holds the results so far; --resume continues it." in done.stderr
    mtcli(folder, *words, "--resume")
    assert (folder / "full.txt").read_bytes() == mtcli(folder, *TRANSLATE, "--json").stdout


@pytest.mark.slow
def test_changed_data_are_refused_with_advice_that_works(folder):
    for name in ("train", "validation"):
        (folder / f"own-{name}.tsv").write_bytes((folder / f"{name}.tsv").read_bytes())
    command = [
        "train",
        "--config",
        "tiny.yaml",
        "--run",
        "runs/own",
        "--set",
        "data.train=own-train.tsv",
    ]
    command += ["--set", "data.validation=own-validation.tsv", "--set", "training.max_updates=3"]
    mtcli(folder, *command)
    (folder / "own-train.tsv").write_text("a b\tB A\n" * 30)
    refused = mtcli(folder, *command, status=1).stderr.decode()
    assert "data.train, own-train.tsv: " in refused and "to continue: " not in refused
    assert "--run NEW --set init_from=runs/own " in refused
    new = ["--run", "runs/new", "--set", "init_from=runs/own"]
    assert "starting from runs/own" in mtcli(folder, *command, *new).stderr.decode()
    told = mtcli(folder, *command, "--accept-changed-data").stderr.decode()
    assert "to train it further, raise training.max_updates" in told
    told = mtcli(folder, *command[:-1], "training.max_updates=5").stderr.decode()
    assert "continuing from update 3" in told and "5 updates" in told


@pytest.mark.slow
def test_a_run_that_moved_is_evaluated_on_its_own_test_set(folder, tmp_path):
    (tmp_path / "project").mkdir()
    for name in ("train", "validation"):
        shutil.copy(folder / f"{name}.tsv", tmp_path / "project")
    text = (folder / "tiny.yaml").read_text().replace(f"{folder}/", "")
    (tmp_path / "project/tiny.yaml").write_text(text)
    mtcli(tmp_path, "train", "--config", "project/tiny.yaml", "--set", "training.max_updates=2")
    (tmp_path / "runs").rename(tmp_path / "project/runs")
    (tmp_path / "project").rename(tmp_path / "moved")
    evaluate = ["eval", "--run", "moved/runs/tiny", "--metrics", "chrf"]
    refused = mtcli(tmp_path, *evaluate, status=1).stderr.decode()
    assert "data.test: there is no project/validation.tsv (seen from" in refused
    (tmp_path / "moved/runs").rename(tmp_path / "runs")
    (tmp_path / "moved").rename(tmp_path / "project")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = mtcli(elsewhere, "eval", "--run", "../runs/tiny", "--metrics", "chrf")
    assert "on ../project/validation.tsv: 8 sentences" in done.stdout.decode()
    (tmp_path / "project/validation.tsv").write_text("a\tb\n")
    refused = mtcli(elsewhere, "eval", "--run", "../runs/tiny", status=1).stderr.decode()
    assert "../project/validation.tsv is not the file that the run was made with" in refused


def test_the_last_checkpoint_is_used_by_itself(folder):
    for command in (
        ["translate", "abc"],
        ["eval", "--metrics", "chrf"],
        ["score", "--data", "validation.tsv"],
    ):
        outputs = {
            which: mtcli(folder, *command, "--run", "runs/tiny", "--checkpoint", which).stdout
            for which in ("last", "40")
        }
        assert outputs["last"] == outputs["40"] != b""
    refused = mtcli(folder, "translate", "abc", "--checkpoint", "41", status=1).stderr.decode()
    assert "has no checkpoint '41'; choose best, last, or one of: " in refused


@pytest.mark.slow
def test_eval_counts_empty_translations_of_sentences_that_are_not_empty(folder):
    nothing = ["--run", "runs/nothing", "--set", "training.max_updates=1"]
    nothing += ["--set", "decoding.max_length_ratio=0", "--set", "decoding.max_length_offset=0"]
    mtcli(folder, "train", "--config", "tiny.yaml", *nothing)
    (folder / "blank.tsv").write_text("a\tA\n \tB\nb\tB\n")
    command = ["eval", "--run", "runs/nothing", "--data", "blank.tsv", "--metrics", "chrf"]
    assert json.loads(mtcli(folder, *command, "--json").stdout)["empty_translations"] == 2
    assert "sentences that are not empty: 2" in mtcli(folder, *command).stdout.decode()


def test_a_missing_file_is_said_to_be_missing_where_it_was_looked_for(folder):
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs/tiny.yaml").write_text((folder / "tiny.yaml").read_text())
    command = ["train", "--config", "configs/tiny.yaml", "--run", "runs/none", "--set"]
    told = mtcli(folder, *command, "data.train=$HOME/no.tsv", status=1).stderr.decode()
    assert f"$HOME/no.tsv: there is no such file in {folder} or {folder / 'configs'}." in told
    assert "Variables are not put in" in told
    told = mtcli(folder, *command, 'data.train="C:\\train.tsv"', status=1).stderr.decode()
    assert r"'C:\train.tsv': there is no such file" in told
    assert r"In double quotes \ begins an escape" in told
