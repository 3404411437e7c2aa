"""Translating in practice: long lines, files that were interrupted, ensembles, prefixes, unknown words."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import command
import pytest
import tiny
import torch
from command import ENVIRONMENT, python_mtcli
from hypothesis import given, strategies as st

from mtcli import Translator, config as configs
from mtcli.cli import output
from mtcli.decoding import pieces, translator as translating
from mtcli.decoding.engine import Hypothesis
from mtcli.decoding.torch_engine import Ensemble
from mtcli.models import build_model
from mtcli.run.directory import Run
from mtcli.support.errors import UserError
from mtcli.training.trainer import Trainer

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes as on Unix")
SOURCES = [source for source, _ in tiny.pairs(30, seed=2)]
MODELS = {
    "gru": {"model": "gru"},
    "transformer": {"model": "transformer", "data": {"max_length": 12}},
    "learned": {
        "model": {**tiny.MODELS["transformer"], "positions": "learned", "max_positions": 40}
    },
    "spaces": {"model": "transformer", "tokenizer": {"type": "char", "clean": False}},
    "word": {"model": "gru", "tokenizer": {"type": "word", "min_count": 2}},
    "subword": {"model": "gru", "tokenizer": {"type": "subword", "vocabulary_size": 300}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[..., Path]:
    """Trains a run of MODELS once, with a seed of one's choice."""
    folder = tmp_path_factory.mktemp("practice")
    tiny.write(folder)

    def run(kind: str, seed: int = 1, **training) -> Path:
        path = folder / "-".join([kind, str(seed), *map(str, training.values())])
        if not path.exists():
            options = dict(MODELS[kind])
            model = options.pop("model")
            whole = tiny.config(folder, "gru", **options, training={"seed": seed, **training})
            whole["model"] = tiny.MODELS.get(model, model) if isinstance(model, str) else model
            text = json.dumps(whole)
            Trainer(
                Run.create(path, text, configs.loads(text, "test")), torch.device("cpu")
            ).train()
        return path

    return run


@pytest.fixture(scope="module")
def load(runs) -> Callable[..., Translator]:
    def load(*kinds: str) -> Translator:
        translator = Translator.load([runs(kind) for kind in kinds], device="cpu")
        translator.engine.model.double()
        return translator

    return load


# ---------------------------------------------------------------------------------------------------------- long lines


def cut(text: str, max_length: int) -> list[str]:
    return ["".join(tokens) for tokens in pieces.cut(text, list, max_length)]


@pytest.mark.parametrize(
    ("text", "max_length", "parts"),
    [
        ("One two. Three four? “Five!” Six", 15, ["One two.", "Three four?", "“Five!”", "Six"]),
        ("Approx. ten and 3.5 of it. So there", 30, ["Approx. ten and 3.5 of it.", "So there"]),
        ("一二三。四五？」六七", 6, ["一二三。", "四五？」", "六七"]),
        ("one two, three four, five six", 21, ["one two, three four,", "five six"]),
        ("one two three four", 9, ["one two", "three", "four"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("今天我买了一部iPhone手机", 8, ["今天我买了一部", "iPhone手机"]),
        ("私はコーヒーが好きです", 7, ["私はコーヒーが", "好きです"]),
        ("ผมชอบกินไอศกรีม", 12, ["ผมชอบกิน", "ไอศกรีม"]),
        ("ខ្ញុំ\u200bចូលចិត្ត\u200bបាយ", 10, ["ខ្ញុំ\u200b", "ចូលចិត្ត\u200b", "បាយ"]),
        ("ខ្ញុំទៅ។គាត់មក", 8, ["ខ្ញុំទៅ។", "គាត់មក"]),
        ("ကျွန်တော်စာဖတ်တယ်", 9, ["ကျွန်တော်", "စာဖတ်တယ်"]),
        ("10\u00a0000 kg", 7, ["10\u00a0000", "kg"]),
    ],
)
def test_long_lines_are_split_at_sentences_then_clauses_then_words(text, max_length, parts):
    assert cut(text, max_length) == parts


@given(st.text("ab .,!。，\u3000我កเ\u200b", max_size=80), st.integers(1, 12))
def test_splitting_loses_only_white_space_and_every_piece_is_short(text, max_length):
    parts = cut(text, max_length)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(0 < len(part) <= max_length for part in parts)


def test_splitting_takes_linear_time():
    for text in (
        "." * 200_000,
        " " * 200_000 + "x",
        ".)" * 100_000,
        "a," * 100_000,
        "a " * 100_000,
    ):
        assert cut(text, 50)  # a quadratic pattern would take minutes


def test_long_line_is_translated_by_sentences_with_a_warning(load, caplog):
    translator = load("transformer")
    sentences = ["abc deff.", "fede cba!", "bad cab?"]
    alone = translator.translate(sentences)
    caplog.clear()
    first, whole = translator.translate(["ab", " ".join(sentences)], attention=True)
    assert (
        "Line 2 has 28 tokens" in caplog.text
        and "Line 1" not in caplog.text
        and "3 pieces" in caplog.text
    )
    assert whole.text == " ".join(each.text for each in alone if each.text)
    together = sum(each.hypotheses[0].log_probability for each in alone)
    assert whole.hypotheses[0].log_probability == pytest.approx(together, abs=1e-9)
    assert whole.hypotheses[0].attention is None and first.hypotheses[0].attention is not None


def test_pieces_are_joined_without_spaces_in_scripts_without_spaces():
    def parts(*texts):
        return [[Hypothesis([5], -2.0, -1.0, text=text, tokens=list(text))] for text in texts]

    joined = pieces.join_hypotheses(parts("苹果。", "梨。", "OK.", "", "Yes."))
    assert joined[0].text == "苹果。梨。OK. Yes." and joined[0].log_probability == -10


def test_no_line_is_too_long_for_learned_positions(load, caplog):
    translator = load("learned")
    lines = ["abc " * 100, "a" * 500, "abcdef" * 6]
    found = translator.translate(lines, max_length_ratio=5, min_length_ratio=5)
    assert len(found) == 3
    assert all(f"Line {line}" in caplog.text for line in (1, 2)) and "Line 3" not in caplog.text
    assert len(found[2].hypotheses[0].tokens) <= 39
    with pytest.raises(
        UserError, match="Pair 2: the target has 50 tokens; the model has positions for 39"
    ):
        list(translator.score([("a", "b"), ("a", "b" * 50)]))


def test_input_that_is_not_a_line_of_text_is_rejected_with_its_place(load):
    translator = load("gru")
    with pytest.raises(UserError, match="Line 2 holds a line end"):
        translator.translate(["a", "b\nc"])
    with pytest.raises(UserError, match="Line 1: Character 2 of the text is the lone surrogate"):
        translator.translate(["a\udc80"])
    with pytest.raises(UserError, match="Pair 1: the source holds a line end"):
        list(translator.score([("a\n", "b")]))
    with pytest.raises(TypeError, match="Line 1 is of type bytes"):
        translator.translate([b"a"])


# ----------------------------------------------------------------------------------------------- hypotheses and scores


@pytest.mark.parametrize("kind", ["gru", "transformer", "subword", "word"])
def test_hypotheses_differ_and_forced_decoding_confirms_their_scores(load, kind):
    translator = load(kind)
    decoding = translator.decoding(beam_size=6)
    for translation in translator.translate(SOURCES[:12], decoding=decoding, n_best=4):
        texts = [each.text for each in translation.hypotheses]
        assert len(set(texts)) == len(texts) and (len(texts) == 4 or kind == "subword")
        scores = [each.score for each in translation.hypotheses]
        assert scores == sorted(scores, reverse=True)
        for each, tokens in zip(
            translation.hypotheses,
            translator.score((translation.source, each.tokens) for each in translation.hypotheses),
        ):
            assert sum(tokens) == pytest.approx(each.log_probability, abs=1e-6)
            assert sum(tokens) / decoding.length_penalty.divisor(len(tokens)) == pytest.approx(
                each.score, abs=1e-6
            )


def test_n_best_keeps_the_best_of_hypotheses_with_the_same_text(load, monkeypatch):
    translator = load("gru")
    ids = translator.codecs[1].vocabulary.encode("AB")
    asked = []

    def search(request):
        asked.append(request.n_best)
        found = [([ids[0]], -1.0), ([ids[0]], -2.0), ([ids[1]], -3.0), (ids, -4.0)]
        return [[Hypothesis(t, s, s) for t, s in found[: request.n_best]] for _ in request.sources]

    monkeypatch.setattr(translator.engine, "search", search)
    found = translator.translate(["a"], beam_size=4, n_best=2)[0].hypotheses
    assert [(each.text, each.score) for each in found] == [("A", -1.0), ("B", -3.0)] and asked == [
        4
    ]
    assert (
        len(translator.translate(["a"], sampling={}, n_best=2)[0].hypotheses) == 2
    )  # samples stay as they fall


@pytest.mark.parametrize(
    ("kind", "prefix"), [("gru", "AB "), ("transformer", "FED"), ("word", "AB"), ("subword", "FE")]
)
def test_every_translation_begins_with_the_prefix(load, kind, prefix):
    translator = load(kind)
    if kind == "word":
        prefix = translator.codecs[1].vocabulary.tokens[7].strip("￭")
    for translation in translator.translate(SOURCES, n_best=3, prefix=prefix):
        assert all(each.text.startswith(prefix.strip()) for each in translation.hypotheses)
    assert texts(translator.translate(SOURCES[:5], prefix=" ")) == texts(
        translator.translate(SOURCES[:5])
    )
    assert translator.translate([""], prefix=prefix)[0].text == ""


def test_prefix_applies_only_to_the_first_piece_of_a_line(load):
    translator = load("transformer")
    whole = translator.translate(["abc def. fed cba!"], prefix="FED")[0].text
    assert whole.startswith("FED")
    assert whole.endswith(translator.translate(["fed cba!"])[0].text)


def test_impossible_prefix_is_rejected(load):
    with pytest.raises(UserError, match="prefix holds '苹', which is not in the target vocabulary"):
        load("gru").translate(["a"], prefix="A苹")
    with pytest.raises(UserError, match="prefix has 50 tokens; the model writes 39"):
        load("learned").translate(["a"], prefix="A" * 50)
    with pytest.raises(UserError, match="prefix holds a line end"):
        load("gru").translate(["a"], prefix="A\nB")


def texts(translations) -> list[list[str]]:
    return [
        [hypothesis.text for hypothesis in translation.hypotheses] for translation in translations
    ]


# ------------------------------------------------------------------------------------------------------- unknown words


def test_replace_unknown_takes_the_most_attended_source_word(load, monkeypatch):
    translator = load("word")
    known_id, known = 5, translator.codecs[1].vocabulary.tokens[5]

    def search(request):
        assert request.attention and request.decoding.generate_unknown
        rows = [[0.1, 0.7, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1], [0.0, 0.1, 0.3, 0.6], [0, 0, 0, 1]]
        tokens = [translating.UNK, known_id, translating.UNK, translating.EOS]
        return [[Hypothesis(tokens, -1.0, -1.0, rows)] for _ in request.sources]

    monkeypatch.setattr(translator.engine, "search", search)
    found = translator.translate(["one (two"], replace_unknown=True)[0].hypotheses[
        0
    ]  # one, (￭, two and the end
    assert found.tokens == ["<unk>", known, "<unk>"] and found.attention is None
    assert found.text.split()[0] == "(" and found.text.split()[-1] == "two"


def test_replace_unknown_replaces_every_unknown_word(load):
    translator = load("word")
    with_unknown = translator.translate(SOURCES, generate_unknown=True)
    assert any("<unk>" in each.text for each in with_unknown)
    replaced = translator.translate(SOURCES, replace_unknown=True)
    for before, after in zip(with_unknown, replaced):
        assert (
            "<unk>" not in after.text and after.hypotheses[0].tokens == before.hypotheses[0].tokens
        )
        if "<unk>" in before.text:
            assert any(word in after.text for word in before.source.split())


def test_source_word_of_a_subword_is_the_complete_word(load):
    translator = load("subword")
    tokens = translator.codecs[0].tokenizer.tokenize("fade bead")
    first = (
        tokens.index("▁", 1)
        if "▁" in tokens[1:]
        else next(i for i in range(1, len(tokens)) if tokens[i][0] == "▁")
    )
    assert [translator._source_word(tokens, i) for i in range(len(tokens))] == ["fade"] * first + [
        "bead"
    ] * (len(tokens) - first)


def test_replace_unknown_warns_for_subwords_and_fails_without_attention(
    load, runs, caplog, monkeypatch
):
    load("subword").translate(["a"], replace_unknown=True)
    assert "no unknown words" in caplog.text
    monkeypatch.setitem(
        MODELS,
        "blind",
        {"model": {**tiny.MODELS["gru"], "attention": "none"}, "tokenizer": {"type": "word"}},
    )
    with pytest.raises(UserError, match="no attention"):
        load("blind").translate(["a"], replace_unknown=True)


# ------------------------------------------------------------------------------------------------------------ ensemble


def test_ensemble_of_one_model_twice_equals_that_model(load):
    one, twice = load("gru"), load("gru", "gru")
    options = {"n_best": 3, "attention": True}
    for alone, together in zip(
        one.translate(SOURCES, **options), twice.translate(SOURCES, **options)
    ):
        assert texts([alone]) == texts([together])
        for a, b in zip(alone.hypotheses, together.hypotheses):
            assert a.score == pytest.approx(b.score, abs=1e-9)
            assert torch.tensor(a.attention).allclose(torch.tensor(b.attention), atol=1e-6)


def test_ensemble_averages_probabilities_of_different_models(load):
    members = load("gru"), load("transformer")
    ensemble = load("gru", "transformer")
    pairs = tiny.pairs(10, seed=3)
    for one, two, both in zip(*(translator.score(pairs) for translator in (*members, ensemble))):
        for a, b, mean in zip(one, two, both):
            assert math.exp(mean) == pytest.approx((math.exp(a) + math.exp(b)) / 2, rel=1e-6)
    found = ensemble.translate(SOURCES[:8], n_best=3)
    assert ensemble.max_length == 12  # the least of its members'
    for translation in found:
        for each, tokens in zip(
            translation.hypotheses,
            ensemble.score((translation.source, each.tokens) for each in translation.hypotheses),
        ):
            assert sum(tokens) == pytest.approx(each.log_probability, abs=1e-6)


def test_ensemble_steps_agree_with_teacher_forcing():
    parts = [
        configs.Recurrent(embedding_size=8, hidden_size=8, attention="none"),
        configs.Transformer(
            hidden_size=8, feed_forward_size=8, heads=2, encoder_layers=1, decoder_layers=1
        ),
    ]
    model = Ensemble([build_model(part, 9, 9) for part in parts]).double().eval()
    source, target = torch.randint(4, 9, (2, 5)), torch.randint(4, 9, (2, 6))
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.inference_mode():
        taught = model.project(model(source, mask, target))
        memory = model.encode(source, mask)
        # Three hypotheses of each sentence share its memory.
        rows = torch.arange(2).repeat_interleave(3)
        state = model.init_state(memory).select(rows)
        for step in range(6):
            logits, state = model.decode_step(target[rows, step], state, memory)
            assert logits.allclose(taught[rows, step], atol=1e-9)
        weights = model.alignment(source, mask, target)
        assert weights.shape == (2, 6, 5) and weights.sum(2).allclose(torch.ones(2, 6).double())
    assert taught.exp().sum(-1).allclose(torch.ones(2, 6).double())


def test_ensemble_needs_equal_vocabularies(runs):
    with pytest.raises(UserError, match="different source vocabularies or tokenizers"):
        Translator.load([runs("gru"), runs("word")], device="cpu")


# -------------------------------------------------------------------------------------------------- the command itself


def mtcli(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess:
    return command.mtcli(Path.cwd(), *arguments, status=status)


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [[], ["--json"], ["--n-best", "3"]], ids=["text", "json", "n-best"]
)
def test_resume_after_kill_writes_the_same_bytes(runs, tmp_path, options):
    lines = [*SOURCES, "", "abc. def!"] * 90
    source, target, part = tmp_path / "in", tmp_path / "out", tmp_path / "out.part"
    source.write_text("".join(f"{line}\n" for line in lines))
    base = [
        "translate",
        "--run",
        runs("transformer"),
        "--input",
        source,
        *options,
        "--beam-size",
        "3",
    ]
    mtcli(*base, "--output", tmp_path / "whole")
    process = subprocess.Popen(
        python_mtcli(*base, "--output", target), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    while not (part.exists() and part.read_bytes().count(b"\n") > 1) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not target.exists()
    os.truncate(
        part, part.stat().st_size - 3
    )  # as if a line had been torn, in the middle of a pool
    told = mtcli(*base, "--output", target, "--resume").stderr.decode()
    assert "continuing after line" in told and "continuing after line 0" not in told
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "whole"}
    assert "complete already" in mtcli(*base, "--output", target, "--resume").stderr.decode()


@pytest.mark.slow
def test_resume_with_other_options_is_refused(runs, tmp_path):
    (tmp_path / "in").write_text("a\nb\n")
    base = ["translate", "--run", runs("gru"), "--input", tmp_path / "in"]
    assert "--output" in mtcli(*base, "--resume", status=2).stderr.decode()
    output_file = tmp_path / "out"
    told = mtcli(*base, "--output", output_file, "--resume").stderr.decode()
    assert "beginning" in told and output_file.exists()
    (tmp_path / "bad").write_bytes(b"a\n" * 3000 + b"\xff\n")
    base = [
        "translate",
        "--run",
        runs("gru"),
        "--input",
        tmp_path / "bad",
        "--output",
        tmp_path / "out2",
        "--beam-size",
        "1",
    ]
    assert "--resume continues it" in mtcli(*base, status=1).stderr.decode()
    assert (tmp_path / "out2.part").read_bytes().count(b"\n") == 2048
    told = mtcli(*base[:-1], "2", "--resume", status=1).stderr.decode()
    assert "begun with another task" in told and "decoding.beam_size: 1 -> 2" in told
    (tmp_path / "out2.part.json").unlink()
    assert "without what was asked for" in mtcli(*base, "--resume", status=1).stderr.decode()


@posix
@pytest.mark.slow
def test_pipe_is_answered_line_by_line(runs):
    arguments = python_mtcli("translate", "--run", runs("subword"), "--replace-unknown")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(arguments, env=ENVIRONMENT, bufsize=0, **pipes)
    with process:
        answers = []
        for question in (b"abc\n", b"fed\n\nbad\ncab"):  # the last one is not whole yet
            process.stdin.write(question)
            for _ in range(question.count(b"\n")):
                assert select.select([process.stdout], [], [], 60)[0], "it waits for more"
                answers.append(process.stdout.readline())
        process.stdin.close()
        answers += process.stdout.readlines()
        assert process.stderr.read().count(b"There are no unknown words") == 1
    assert process.returncode == 0
    assert answers == mtcli(
        "translate", "--run", runs("subword"), "abc", "fed", "", "bad", "cab"
    ).stdout.splitlines(True)


def test_score_agrees_with_translate(runs, tmp_path):
    run = runs("spaces")
    found = (
        mtcli("translate", "--run", run, "--n-best", "4", "--json", "abc", "fed")
        .stdout.decode()
        .splitlines()
    )
    hypotheses = [
        (line["source"], each) for line in map(json.loads, found) for each in line["hypotheses"]
    ]
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{source}\t{each['text']}\n" for source, each in hypotheses))
    scored = [
        json.loads(line)
        for line in mtcli("score", "--run", run, "--data", data, "--json").stdout.splitlines()
    ]
    assert len(scored) == 8
    for (_, each), own in zip(hypotheses, scored, strict=True):
        assert own["score"] == pytest.approx(each["score"], abs=1.5e-4)
        assert own["log_probability"] == pytest.approx(each["log_probability"], abs=1.5e-4)
        assert (
            own["tokens"] == each["tokens"]
            and len(own["token_log_probabilities"]) == len(own["tokens"]) + 1
        )
    table = mtcli("score", "--run", run, "--data", data).stdout.decode().splitlines()
    assert [float(line.split("\t")[0]) for line in table] == [
        own["log_probability"] for own in scored
    ]
    for arguments in ([], ["--source", data], ["--data", data, "--source", data]):
        assert (
            "--source and --target"
            in mtcli("score", "--run", run, *arguments, status=2).stderr.decode()
        )


def test_score_warns_of_pairs_longer_than_training_and_fails_beyond_positions(runs, tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("ab\nabc\nabcdefabcdefabc\n")
    target.write_text("BA\nFEDCBAFEDCBAFEDCBA\nCBA\n")
    arguments = ["score", "--source", source, "--target", target, "--json"]
    done = mtcli(*arguments, "--run", runs("transformer"))
    assert [
        len(json.loads(line)["token_log_probabilities"]) for line in done.stdout.splitlines()
    ] == [3, 19, 4]
    warned = done.stderr.decode().splitlines()
    assert len(warned) == 2 and all("seen no sentence of more than 12" in line for line in warned)
    assert (
        f"{source}:2: the target has 18 tokens" in warned[0]
        and f"{source}:3: the source has 15 tokens" in warned[1]
    )
    target.write_text(f"BA\n{'A' * 40}\nCBA\n")
    told = mtcli(*arguments, "--run", runs("learned"), status=1).stderr.decode()
    assert f"mtcli: {source}:2: the target has 40 tokens; the model has positions for 39" in told


def test_ensemble_scores_only_what_all_members_have_positions_for(load):
    with pytest.raises(
        UserError, match="Pair 1: the source has 40 tokens; the model has positions for 39"
    ):
        next(load("gru", "learned").score([("a" * 40, "b")]))


def test_average_prints_validation_before_and_after(runs, tmp_path):
    run = runs("gru", 1, keep_checkpoints=5)
    done = mtcli("average", "--run", run, "--output", tmp_path / "mean", "--last", "3")
    head, before, after = done.stdout.decode().splitlines()
    assert head.split()[:3] == ["validation", "loss", "perplexity"]
    assert before.startswith("best checkpoint") and after.startswith("average")
    shown = float(after.split()[1])
    assert Run(tmp_path / "mean").best == {
        "update": 20,
        "metric": "loss",
        "value": pytest.approx(shown, rel=1e-3),
        "data": Run(run).record.digests()["validation"],
    }
    mtcli("translate", "--run", tmp_path / "mean", "--run", run, "--prefix", "A", "abc")


@pytest.mark.slow
def test_translate_imports_only_what_it_needs(runs):
    program = (
        f"import sys; sys.argv = ['mtcli', 'translate', '--run', {str(runs('gru'))!r}, 'abc']\n"
        "from mtcli import cli\ntry:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch._dynamo', 'sympy', 'sacrebleu', 'torch.utils.tensorboard', 'rich', 'mtcli.training.optim')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.slow
def test_python_example_in_readme_runs(runs, tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = readme.split("```python\n")[1].split("```")[0]
    (tmp_path / "runs").mkdir()
    shutil.copytree(runs("gru"), tmp_path / "runs/words")
    (tmp_path / "a.en").write_text("abc\nfed\n")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_progress_bar_counts_the_lines_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def total(path):
        with output.progress(iter([]), path, to_stdout=False) as bar:
            return bar.total

    for content, count in [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)]:
        (tmp_path / "lines").write_bytes(content)
        assert total(tmp_path / "lines") == count
    assert total(tmp_path) is None


@pytest.mark.slow
def test_progress_bar_on_a_terminal_shows_count_and_speed(runs, tmp_path):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    import fcntl

    (tmp_path / "in").write_text("abc\n" * 50)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    arguments = python_mtcli(
        "translate", "--run", runs("gru"), "--input", tmp_path / "in", "--output", tmp_path / "out"
    )
    process = subprocess.Popen(arguments, stderr=slave, env={**ENVIRONMENT, "TERM": "dumb"})
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 1000)
        except OSError:
            break
    os.close(master)
    assert process.wait() == 0
    assert b"50/50" in shown and b"lines/s" in shown


def test_stream_reads_one_pool_ahead(load):
    translator = load("gru")
    read = 0

    def lines():
        nonlocal read
        while True:
            read += 1
            yield "abc"

    list(islice(translator.stream(lines(), beam_size=1), translating.POOL_LINES + 1))
    assert read == 2 * translating.POOL_LINES
