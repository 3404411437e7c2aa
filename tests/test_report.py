"""What a report says of a run, and what training keeps for it."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from command import ENVIRONMENT, lines, mtcli, python_mtcli
from rich.cells import cell_len

from mtcli import Translator, config as configs
from mtcli.run.directory import Run
from mtcli.seeing.page import page
from mtcli.seeing.report import ROOM, few, following, report
from mtcli.seeing.statistics import Answers, Seen, buckets, summary
from mtcli.support.errors import UserError
from mtcli.text import codec, metrics
from mtcli.training import traces
from mtcli.training.trainer import Trainer


def trained(folder: Path, name: str = "run", model: str = "transformer", **training) -> Run:
    """A run of 20 updates, with validations after 7, 14 and 20."""
    if not (folder / "train.tsv").exists():
        tiny.write(folder)
    path = tiny.write_config(folder, f"{name}.yaml", model=model, training=training)
    run = Run.create(folder / name, path.read_text(), configs.load(path))
    with run.lock():
        Trainer(run, torch.device("cpu")).train()
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module", params=tiny.MODELS)
def run(request, folder) -> Run:
    return trained(folder, request.param, request.param, examples=3)


ONE = pytest.mark.parametrize("run", ["gru"], indirect=True)  # what holds for one holds for all

# ------------------------------------------------------------------------------ what training keeps


def test_each_validation_keeps_the_examples_from_inside(run):
    assert run.traces() == [7, 14, 20]
    lines = {entry["update"]: entry for entry in run.read_log() if "validation" in entry}
    codecs = Trainer(run, torch.device("cpu")).codecs
    for update in run.traces():
        kept = traces.load(run, update)
        shown = [(each["source"], each["hypothesis"]) for each in lines[update]["examples"]]
        spelt = [codecs[1].tokenizer.detokenize(each.tokens) for each in kept]
        assert list(zip([each.source for each in kept], spelt)) == shown
        for each in kept:
            assert each.attention and set(each.attention) == {"cross.0"}
            [weights] = each.inside().maps.values()
            assert weights.shape[1:] == (len(each.tokens) + 1, len(each.source) + 1)
            assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=0.06)


def test_kept_attention_is_bounded():
    maps = {f"cross.{layer}": np.full((8, 30, 20), 0.05) for layer in range(2)}
    maps["encoder.0"] = np.ones((8, 20, 20))
    shapes = [
        {name: np.shape(weights) for name, weights in traces._small(maps, room).items()}
        for room in (9600, 9599, 1199)
    ]
    assert shapes == [
        {"cross.0": (8, 30, 20), "cross.1": (8, 30, 20)},
        {"cross.0": (1, 30, 20), "cross.1": (1, 30, 20)},
        {},
    ]


def test_without_traces_nothing_is_kept_and_the_weights_are_the_same_bits(run, folder):
    other = trained(folder, f"off-{run.path.name}", run.path.name, examples=3, traces=False)
    assert other.traces() == [] and not (other.path / "traces").exists()
    ours, theirs = (each.load_checkpoint(20, training=True) for each in (run, other))
    for one, two in ((ours.model, theirs.model), (ours.tensors, theirs.tensors)):
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_resumed_run_has_the_traces_of_an_uninterrupted_one(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "killed")
    shutil.rmtree(path / "checkpoints/20")
    (path / "traces/20.json").write_text("{}")
    (path / "traces/99.json").write_text("{}")
    killed = Run.create(path, "", run.config)
    with killed.lock():
        Trainer(killed, torch.device("cpu")).train()
    assert killed.traces() == run.traces()
    for update in run.traces():
        assert killed.load_traces(update) == run.load_traces(update)


@ONE
def test_traces_of_a_stranger_are_refused_in_words(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "strange")
    [first, *_] = json.loads((path / "traces/7.json").read_text())["traces"]
    for wrong in ({"tokens": ["a"] * 99}, {"attention": {"cross.0": [[[1.0]]]}}, {"ranks": "x"}):
        (path / "traces/7.json").write_text(json.dumps({"traces": [{**first, **wrong}]}))
        with pytest.raises(UserError, match="does not hold what a training keeps"):
            traces.load(Run(path), 7)


# ------------------------------------------------------------------------------ what a report says


@ONE
def test_data_are_counted(run):
    codecs = codec.load(run.path / "tokenizer", run.config)
    seen = Seen()
    pairs = [("ab", "BA"), ("ab", "BA"), ("ab", "?"), ("cd e", "E DC")]
    training = summary("training", pairs, codecs, seen, training=True)
    test = summary("test", [("ab", "A"), ("ab", "A"), ("??????", "A")], codecs, seen)
    assert training == {
        "name": "training",
        "pairs": 4,
        "source_tokens": 10,
        "target_tokens": 9,
        "duplicates": 1,
        "in_train": None,
        "unknown": pytest.approx(1 / 19, abs=1e-6),
        "lengths": {"source": [(5, 4)], "target": [(5, 4)]},
    }
    assert (test["duplicates"], test["in_train"]) == (1, 2)
    assert test["unknown"] == pytest.approx(6 / 13, abs=1e-6)
    assert test["lengths"]["source"] == [(5, 2), (10, 1)]
    assert seen.words == (Counter(ab=3, cd=1, e=1), Counter(ba=2, e=1, dc=1))


@ONE
def test_sentences_and_words_are_grouped(run):
    source = codec.load(run.path / "tokenizer", run.config)[0]
    references = [["One two"], ["one new"]]
    own = Answers(["ab", "abc def"], references, ["one two", "one old"], [], metrics.Options())
    seen = Seen(words=(Counter(ab=1), Counter(one=1000, two=5, old=10)))
    found = [tuple(each.values()) for each in buckets(own, source, seen)]
    first = metrics.score(["chrf"], own.hypotheses[:1], references[:1])["chrf"].value
    second = metrics.score(["chrf"], own.hypotheses[1:], references[1:])["chrf"].value
    first, second = round(first, 2), round(second, 2)
    words = "target words by their number in training (F1)"
    assert found == [
        ("source tokens (chrF)", "1–5", 1, first),
        ("source tokens (chrF)", "6–10", 1, second),
        ("source words (chrF)", "all in training", 1, first),
        ("source words (chrF)", "some not in training", 1, second),
        (words, "unseen", 1, 0.0),
        (words, "1–9 times", 1, 100.0),
        (words, "1,000 times and more", 2, 100.0),
    ]
    assert [each["by"] for each in buckets(own, source, None)] == ["source tokens (chrF)"] * 2


def test_intervals_hold_the_score_and_are_wider_for_less_text():
    hypotheses = ["a cat sat here", "the big dog is", "one two three", "nothing"] * 5
    references = [["a cat sat there"], ["the big dog is"], ["one two"], ["all"]] * 5
    names = list(metrics.METRICS)
    for name in names:
        few_lines, many = (
            metrics.score([name], hypotheses * times, references * times, samples=200)[name]
            for times in (1, 10)
        )
        assert few_lines.interval and many.interval and few_lines.value == many.value
        (low, high), (inner_low, inner_high) = few_lines.interval, many.interval
        assert low < inner_low < many.value < inner_high < high
    exact = metrics.score(["exact_match"], ["x"], [["x"]], samples=10)["exact_match"]
    assert exact.interval == (100.0, 100.0)


@pytest.mark.slow
def test_a_report_of_several_runs_says_what_translating_and_training_say(folder):
    runs = [trained(folder, f"pair-{name}", name, examples=2) for name in tiny.MODELS]
    made = json.loads(json.dumps(report(runs, limit=5, threads=1), allow_nan=False))
    for run, entry in zip(runs, made["runs"]):
        translator = Translator.load(run.path, threads=1)
        sources, references = zip(*tiny.pairs(8, seed=1))
        hypotheses = [each.text for each in translator.translate(list(sources))]
        expected = metrics.score(
            translator.config.evaluation.metrics, hypotheses, [[each] for each in references]
        )
        assert entry["name"] == str(run.path)
        assert {each["metric"]: each["value"] for each in entry["scores"]} == {
            name: round(score.value, 2) for name, score in expected.items()
        }
        assert all(each["low"] <= each["value"] <= each["high"] for each in entry["scores"])
        rows = entry["sentences"]
        assert len(rows) == 5 and [row["score"] for row in rows] == sorted(
            row["score"] for row in rows
        )
        for row in rows:
            assert row["hypothesis"] == hypotheses[sources.index(row["source"])]
            assert row["trace"]["target"]["text"] == row["hypothesis"]
            assert [len(heads) for heads in row["trace"]["attention"].values()] == [1]
        assert [stop["update"] for stop in entry["history"]] == [7, 14, 20]
        shown = [line for line in run.read_log() if "validation" in line][-1]["examples"]
        last = entry["history"][-1]["traces"]
        assert [one["target"]["text"] for one in last] == [one["hypothesis"] for one in shown]
        assert [line["update"] for line in entry["log"]] == [e["update"] for e in run.read_log()]
    expected_rows = [([0, 1], name) for name in runs[0].config.evaluation.metrics]
    assert [(each["runs"], each["metric"]) for each in made["significance"]] == expected_rows
    assert all(0 <= each["p"] <= 1 for each in made["significance"])
    scores = [{each["metric"]: each["value"] for each in run["scores"]} for run in made["runs"]]
    for each in made["significance"]:
        one, two = (values[each["metric"]] for values in scores)
        assert each["difference"] == pytest.approx(one - two, abs=0.011)


@ONE
def test_traces_of_the_worst_and_the_best_fill_the_room_there_is(run, monkeypatch):
    monkeypatch.setitem(ROOM, "sentences", 4000)
    rows = report([run], threads=1)["runs"][0]["sentences"]
    compact = [json.dumps(row["trace"], ensure_ascii=False, separators=(",", ":")) for row in rows]
    sizes = [len(text) for text in compact if text != "null"]
    assert len(rows) == 8 and rows[0]["trace"] and rows[-1]["trace"] and len(sizes) < 8
    assert sum(sizes) - max(sizes) < 4000


def test_long_logs_and_histories_are_thinned_from_end_to_end():
    assert few(range(5), 5) == [0, 1, 2, 3, 4]
    assert few(range(1001), 5) == [0, 250, 500, 750, 1000]


# ------------------------------------------------------------------------------ where it is shown

HOSTILE = "a</script><script>alert(1)</script>\x1b[31mb\u202e"


def data_of(html: str) -> dict:
    return json.loads(re.search('id="data">(.*?)</script>', html, re.DOTALL)[1])["report"]


@ONE
def test_a_page_and_a_terminal_show_text_as_text(run, tmp_path):
    data = tmp_path / "hostile.tsv"
    data.write_text(f"{HOSTILE}\tA\nabc\tCBA\n", encoding="utf-8")
    options = ("--data", data, "--threads", "1")
    mtcli(tmp_path, "report", run.path, "--html", "page.html", *options)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    made = data_of(html)
    assert HOSTILE in [row["source"] for row in made["runs"][0]["sentences"]]
    assert html.count("<script") == 2 and not re.search(r"<(link|script|img)[^>]+https?:", html)
    assert html == page(f"Report: {run.path}", {"report": made})
    [line] = lines(mtcli(tmp_path, "report", run.path, "--json", *options))
    assert json.loads(line) == made
    strange = Run(shutil.copytree(run.path, tmp_path / "strange"))
    strange.append_log({"update": 21, "\x1b[31mred": 1.0, "clock": {"seconds": "\x1b[31m"}})
    kept = strange.load_traces(20)
    kept["traces"][0]["source"] = "\x1b[31m"
    strange.save_traces(20, kept)
    shown = mtcli(tmp_path, "report", strange.path, *options)
    assert b"\x1b" not in shown.stdout and "\\x1b[31mb\\u202e" in shown.stdout.decode()
    assert max(map(cell_len, lines(shown))) <= 80


def test_a_run_without_traces_says_so(folder):
    run = trained(folder, "none", traces=False)
    assert following(run)["history"] == []
    assert (
        "none kept no traces." in mtcli(folder, "report", "none", "--threads", "1").stdout.decode()
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@ONE
def test_a_page_follows_a_training_and_ends_with_it(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "followed"))
    html = tmp_path / "page.html"
    command = python_mtcli("report", copy.path, "--threads", "1", "--follow", "--html", html)

    def updates() -> list[int]:
        text = html.read_text(encoding="utf-8") if html.exists() else ""
        return [line["update"] for line in data_of(text)["runs"][0]["log"]] if text else []

    with copy.lock():
        first = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        until(lambda: updates()[-1:] == [20])
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130 and updates()[-1:] == [20]
        second = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        copy.append_log({"update": 21, "loss": math.pi})
        until(lambda: updates()[-1:] == [21])
        copy.append_log({"update": 22, "loss": math.nan})
        until(lambda: updates()[-1:] == [22])
        assert "scores" not in data_of(html.read_text())["runs"][0] and second.poll() is None
    assert second.wait(60) == 0
    text = html.read_text(encoding="utf-8")
    assert data_of(text)["runs"][0]["scores"] and 'http-equiv="refresh"' not in text


def test_report_options_that_do_not_go_together_are_refused(tmp_path):
    assert b"--follow goes with --html" in mtcli(tmp_path, "report", "--follow", status=2).stderr
    done = mtcli(tmp_path, "report", "--html", "x", "--json", status=2)
    assert b"--html or --json, not both" in done.stderr
    assert b"is no run directory" in mtcli(tmp_path, "report", "absent", status=1).stderr


def test_a_run_whose_test_set_is_gone_says_how_to_give_one(tmp_path):
    run = trained(tmp_path, max_updates=1)
    (tmp_path / "validation.tsv").rename(tmp_path / "moved.tsv")
    done = mtcli(tmp_path, "report", str(run.path), status=1)
    assert b"Give the test set: --data." in done.stderr
