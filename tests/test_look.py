"""Pictures of traces: they fit where they are shown, say what is there, and nothing in a text does more than be shown."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from command import lines, mtcli
from pydantic import TypeAdapter
from rich.cells import cell_len
from rich.console import Console

from mtcli import Translator, config as configs
from mtcli.decoding.alignment import Head
from mtcli.run.directory import Run
from mtcli.seeing import picture, terminal
from mtcli.seeing.trace import Trace
from mtcli.seeing.view import Choice, grid, label
from mtcli.support.errors import UserError
from mtcli.training.trainer import Trainer

WORDS = [
    "我",
    "e\u0301te\u0301",
    "👍",
    "\u0301x",
    "sehr_langes_Wort_das_nicht_aufhört",
    "ab",
    "\x1b[31mred\x07",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of a Transformer (with two checkpoints) and of two GRUs, one without attention."""
    place = tmp_path_factory.mktemp("runs")
    tiny.write(place)
    for name, model, settings in [
        ("transformer", "transformer", ["training.keep_checkpoints=2"]),
        ("gru", "gru", []),
        ("plain", "gru", ["model.attention=none"]),
    ]:
        path = tiny.write_config(place, f"{name}.yaml", model=model)
        run = Run.create(place / name, path.read_text(), configs.load(path, settings))
        Trainer(run, torch.device("cpu")).train()
    return place


@pytest.fixture(scope="module")
def trace(folder) -> Trace:
    return Translator.load(folder / "transformer", "cpu").trace("ab cd ef a", reference="FE DC BA")


def printed(traces: list[Trace], width: int, choice: Choice | None = None, **options) -> str:
    file = io.StringIO()
    terminal.show(Console(file=file, width=width, **options), traces, choice or Choice())
    return file.getvalue()


def strange(trace: Trace) -> Trace:
    """The same numbers about other words, each of one token."""
    data = trace.as_dict()
    source = [WORDS[place % len(WORDS)] for place in range(len(trace.source.words))]
    target = [WORDS[place % len(WORDS)] for place in range(len(trace.target.words))]
    data["source"].update(text=" ".join(source), words=source)
    data["target"].update(text=" ".join(target), words=target)
    for place, step in enumerate(data["steps"]):
        step["token"] = WORDS[place % len(WORDS)]
    return TypeAdapter(Trace).validate_python(data)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_line_is_wider_than_the_terminal(folder, trace, width):
    """Also of long sentences, side by side, in scripts whose characters are wide or none."""
    translator = Translator.load(folder / "transformer", "cpu")
    long = translator.trace("abc def " * 6, n_best=3, tree=True)
    for traces in [trace], [long], [strange(trace)], [strange(trace), long]:
        for line in printed(traces, width).split("\n"):
            assert cell_len(line) <= width, line


def test_a_heatmap_shows_the_weights_of_its_head(trace):
    choice = Choice(layer=0, head=1, shifted=True)
    shown = grid(trace, Head("cross.0", 1, shifted=True))
    assert shown.weights.sum(1) == pytest.approx(1, abs=1e-3)
    text = printed([trace], 160, choice)
    assert "layer 0, head 1, shifted" in text
    block = text[text.index("layer 0") :].split("\n")[2:]
    for row, weights, line in zip(shown.rows, shown.weights, block):
        numbers = [str(round(100 * weight)) for weight in weights if weight >= terminal.SHOWN]
        assert line.split() == [row, *numbers]


def test_attention_of_every_kind_layer_and_head_can_be_chosen(trace):
    for kind, columns in (
        ("cross", trace.source),
        ("encoder", trace.source),
        ("decoder", trace.target),
    ):
        for head in None, 0, 1:
            chosen = Choice(kind, 0, head, mean=head is None, shifted=False).of(trace)
            assert chosen == Head(f"{kind}.0", head, shifted=False)
            shown = grid(trace, chosen)
            assert set(columns.words) <= set(shown.columns)
            assert shown.weights.shape == (len(shown.rows), len(shown.columns))
            assert shown.weights.sum(1) == pytest.approx(1, abs=1e-3)
    assert Choice().of(trace) == trace.alignment_from
    for wrong in Choice(layer=1), Choice(head=2), Choice("decoder", layer=3):
        with pytest.raises(UserError, match=r"does not show (cross|decoder).*cross.0 \(2\)"):
            wrong.of(trace)
    with pytest.raises(UserError, match="--kind is 'both'"):
        Choice("both").of(trace)


def test_a_given_translation_shows_ranks_and_what_the_model_prefers(trace):
    text = printed([trace], 160)
    for step in trace.steps:
        if step.rank > 1:
            assert f"rank {step.rank}" in text
            assert step.alternatives[0].token in text
    assert any(step.rank > 1 for step in trace.steps)


def test_colours_depend_on_the_terminal(trace, monkeypatch):
    escapes = re.compile("\x1b")
    for system in "truecolor", "256", "standard":
        assert escapes.search(printed([trace], 80, color_system=system, force_terminal=True))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = terminal.console()
    with console.capture() as capture:
        terminal.show(console, [trace], Choice())
    assert not escapes.search(capture.get())


def test_what_could_control_a_terminal_is_shown(trace):
    assert label("\x1b[31m\x07\t") == "\\x1b[31m\\x07\\t" and label("\u0301x") == "\u25cc\u0301x"
    text = printed([strange(trace)], 80)
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[31mred" in text


def test_pictures_are_drawn_by_matplotlib(trace):
    pytest.importorskip("matplotlib")
    assert picture.draw([trace, trace], Choice(), "png").startswith(b"\x89PNG")
    svg = picture.draw([trace], Choice(), "svg").decode()
    assert "<script" not in svg and all(f">{word}<" in svg for word in trace.source.words)


def test_a_script_without_a_font_is_named(trace, monkeypatch):
    manager = pytest.importorskip("matplotlib.font_manager")
    monkeypatch.setattr(manager, "findSystemFonts", lambda: [])
    odd = strange(trace)
    with pytest.raises(UserError, match="No font on this machine has .*我.*fonts-noto-cjk"):
        picture.draw([odd], Choice(), "png")
    assert "我" in picture.draw([odd], Choice(), "svg").decode()


# ------------------------------------------------------------------------------ commands


def test_look_prints_a_trace_as_json(folder):
    done = mtcli(folder, "look", "ab cd", "a", "--run", "gru", "--json", "--tree", "--n-best", 2)
    traces = [json.loads(line) for line in lines(done)]
    assert [each["source"]["text"] for each in traces] == ["ab cd", "a"]
    expected = Translator.load(folder / "gru", "cpu").trace("ab cd", n_best=2, tree=True).as_dict()
    assert traces[0]["hypotheses"] == json.loads(json.dumps(expected))["hypotheses"]
    assert traces[0]["tree"] and traces[0]["alignment_from"]["map"] == "cross.0"


def test_look_compares_runs_and_checkpoints(folder):
    done = mtcli(folder, "look", "ab cd", "--run", "transformer", "--run", "gru", "--run", "plain")
    assert "\x1b" not in done.stdout.decode()
    assert "no attention" in done.stdout.decode() and not done.stderr
    first, last = Run(folder / "transformer").checkpoints()
    both = ["--checkpoint", first, "--checkpoint", last]
    done = mtcli(folder, "look", "ab cd", "--run", "transformer", *both, "--json")
    names = [json.loads(line)["model"].split(", ")[-1] for line in lines(done)]
    assert names == [f"checkpoint {first}", f"checkpoint {last}"]
    done = mtcli(folder, "look", "a", "--run", "transformer", "--checkpoint", 3, status=1)
    assert (
        f"has no checkpoint '3'; choose best, last, or one of: {first}, {last}."
        in done.stderr.decode()
    )


def test_look_reads_sentences_from_stdin_and_shows_the_search(folder):
    done = mtcli(folder, "look", "--run", "transformer", "--tree", stdin=b"ab\n\ncd\n")
    text = done.stdout.decode()
    assert text.count("the search:") == 2 and "✓" in text


def test_look_writes_files(folder):
    pytest.importorskip("matplotlib")
    names = ["a.svg", "a.png", "a.html"]
    options = [word for name in names for word in (f"--{name[2:]}", name)]
    options += ["--layer", "0", "--mean"]
    done = mtcli(folder, "look", "ab <b>cd", "--run", "transformer", *options)
    assert not done.stdout and all((folder / name).stat().st_size > 1000 for name in names)
    html = (folder / "a.html").read_text(encoding="utf-8")
    assert "<b>" not in html and '"shown":{"map":"cross.0","head":null,' in html


def test_look_says_where_translate_asks_no_model(folder):
    done = mtcli(folder, "look", "--run", "gru", "42")
    assert "42: translate copies what has no letter" in done.stderr.decode()
    assert b"log-probability" in done.stdout
    for words in (["42", "--reference", "ab"], ["ab"]):
        assert b"copies" not in mtcli(folder, "look", "--run", "gru", *words).stderr
    done = mtcli(folder, "look", "--run", "gru", "\u200b", "--html", "blank.html", status=1)
    assert "the sentence is blank" in done.stderr.decode()


def test_look_says_what_an_exported_model_cannot_show(folder):
    pytest.importorskip("ctranslate2")
    mtcli(folder, "export", "--run", "transformer", "--format", "ctranslate2", "-o", "exported")
    text = mtcli(folder, "look", "ab cd", "--run", "exported").stdout.decode()
    assert "shows no ranks and no alternatives" in " ".join(text.split())
    assert "last layer, mean over heads" in text
    done = mtcli(folder, "look", "ab", "--run", "exported", "--tree", status=1)
    assert "does not show its search" in done.stderr.decode()
    done = mtcli(folder, "look", "ab", "--run", "exported", "--kind", "encoder", status=1)
    assert "does not show encoder" in done.stderr.decode()


def test_translate_prints_alignments(folder):
    expected = Translator.load(folder / "gru", "cpu").trace("ab cd")
    pairs = " ".join(f"{one}-{other}" for one, other in expected.alignment)
    done = mtcli(folder, "translate", "ab cd", "", "--run", "gru", "--alignment")
    assert lines(done) == [f"{expected.target.text} ||| {pairs}", " ||| "] and not done.stderr
    [line] = lines(mtcli(folder, "translate", "ab cd", "--run", "gru", "--json"))
    assert json.loads(line)["hypotheses"][0]["alignment"] == [list(p) for p in expected.alignment]
    (folder / "gru/alignment.json").rename(folder / "moved")
    done = mtcli(folder, "translate", "ab", "--run", "gru", "--alignment")
    told = done.stderr.decode()
    assert told.startswith("mtcli: warning: Which head aligns best is not known")
    (folder / "moved").rename(folder / "gru/alignment.json")
