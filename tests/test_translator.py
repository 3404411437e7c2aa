"""Text to hypotheses: order, blanks, batches that do not matter, scores that forced decoding confirms."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import example, given, strategies as st

from mtcli import Translator
from mtcli.decoding import translator as translating
from mtcli.decoding.engine import Hypothesis
from mtcli.decoding.evaluation import evaluate
from mtcli.decoding.torch_engine import TorchEngine
from mtcli.decoding.translator import _shared_batches
from mtcli.support.errors import UserError
from mtcli.text.vocab import EOS

SOURCES = [source for source, _ in tiny.pairs(30, seed=2)]


@pytest.fixture(scope="module", params=["gru", "transformer"])
def translator(request, tmp_path_factory) -> Translator:
    return tiny.translator(tmp_path_factory.mktemp(request.param), request.param)


def texts(translations) -> list[list[str]]:
    return [
        [hypothesis.text for hypothesis in translation.hypotheses] for translation in translations
    ]


def scores(translations) -> list[float]:
    return [
        hypothesis.score for translation in translations for hypothesis in translation.hypotheses
    ]


@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"sampling": {"temperature": 1.5}}])
def test_a_result_does_not_depend_on_its_batch(translator, options):
    n_best = 1 if "beam_size" in options else 3
    whole = translator.translate(SOURCES, n_best=n_best, **options)
    alone = [
        next(
            translator.stream(
                [source], first_line=line, n_best=n_best, decoding=translator.decoding(**options)
            )
        )
        for line, source in enumerate(SOURCES, 1)
    ]
    small = translator.translate(SOURCES, n_best=n_best, batch_tokens=25, **options)
    assert texts(whole) == texts(alone) == texts(small)
    assert scores(whole) == pytest.approx(scores(alone), abs=1e-9)
    assert [translation.source for translation in whole] == SOURCES


def test_batches_are_sized_by_the_device_unless_the_config_says(translator):
    lines, counts = ["abc def"] * 1200, []  # 9,600 tokens
    for device, options in (("cpu", {}), ("meta", {}), ("meta", {"batch_tokens": 4000})):
        engine = TorchEngine(translator.engine.model, torch.device(device))

        def search_all(requests):
            counts.append(len(requests := list(requests)))
            return [[[Hypothesis([EOS], 0.0, 0.0)] for _ in each.sources] for each in requests]

        engine.search_all = search_all
        Translator(engine, translator.codecs, translator.config).translate(lines, **options)
    assert counts == [3, 1, 3]


def test_threads_may_share_a_translator(translator):
    expected = texts(translator.translate([source])[0] for source in SOURCES)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda source: translator.translate([source])[0], SOURCES * 3)
        assert texts(found) == expected * 3


def test_log_probabilities_are_those_of_forced_decoding(translator):
    found = translator.translate(SOURCES, n_best=4, length_penalty={"type": "none", "alpha": 1.0})
    pairs = [(each.source, hypothesis) for each in found for hypothesis in each.hypotheses]
    forced = translator.score((source, hypothesis.tokens) for source, hypothesis in pairs)
    for (_, hypothesis), tokens in zip(pairs, forced, strict=True):
        assert len(tokens) == len(hypothesis.tokens) + 1
        assert (
            hypothesis.score == hypothesis.log_probability == pytest.approx(sum(tokens), abs=1e-6)
        )


def test_blank_lines_stay_blank(translator):
    found = translator.translate(["", "abc", " \t", "\u3000"])
    assert [translation.text for translation in found][::2] == ["", ""]
    assert found[3].text == "" and found[1].hypotheses[0].log_probability < 0


def test_lines_that_show_nothing_are_blank(translator):
    lines = ["\u200b", " \ufeff\u00a0", "\u200e\u200d", "\u00ad", "\x00\x1b"]
    for found in translator.translate(lines, n_best=2, copy_symbols=False):
        assert found.text == "" and found.hypotheses[0].score == 0 and len(found.hypotheses) == 1


def test_lines_without_a_letter_are_copied(translator):
    found = translator.translate(["😀", " 12,5\u00a0%  (3) ", "3 a"], n_best=2, attention=True)
    assert [each.text for each in found[:2]] == ["😀", "12,5 % (3)"]
    for each in found[:2]:
        [only] = each.hypotheses
        assert only.score == only.log_probability == 0 and only.attention is None
        assert "".join(only.tokens) == each.text and len(only.ids) == len(only.tokens) + 1
    assert len(found[2].hypotheses) == 2 and found[2].hypotheses[0].log_probability < 0
    scored = evaluate(translator, ["12", "…"], [["12"], ["…"]], ["exact_match"])
    assert scored.hypotheses == ["12", "…"] and scored.scores["exact_match"].value == 100
    for options in ({"copy_symbols": False}, {"prefix": "A"}):
        assert translator.translate(["12"], **options)[0].hypotheses[0].log_probability < 0


@given(data=st.data(), source=st.sampled_from(SOURCES))
def test_texts_that_look_the_same_are_translated_alike(translator, data, source):
    hidden, space = (
        st.sampled_from(["", "", "\u200b", "\ufeff"]),
        st.sampled_from(" \u00a0\t\u3000"),
    )
    other = "".join(data.draw(space if char == " " else hidden) + char for char in source)
    one, two = translator.translate([source, f" {other}\u00a0"], beam_size=2)
    assert one.text == two.text and scores([one]) == pytest.approx(scores([two]), abs=1e-9)


def test_a_run_without_the_keys_goes_on_as_it_was_trained(translator, tmp_path):
    path = Path(translator.name.rpartition(", checkpoint ")[0])
    shutil.copytree(path, tmp_path / "old")
    config = tmp_path / "old/config.yaml"
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split(":")[0].strip() not in ("clean", "copy_symbols")]
    assert len(lines) == len(kept) + 2
    config.write_text("".join(kept), encoding="utf-8")
    old = Translator.load(tmp_path / "old", device="cpu")
    assert old.codecs[0].tokenize(" a\u200b\t") == list(" a\u200b\t")
    assert old.translate(["12"])[0].hypotheses[0].log_probability < 0
    with pytest.raises(UserError, match="different source vocabularies or tokenizers"):
        Translator.load([path, tmp_path / "old"], device="cpu")


def test_streams_are_endless(translator, monkeypatch):
    monkeypatch.setattr(translating, "POOL_LINES", 100)
    assert len(list(islice(translator.stream(SOURCES[i % 30] for i in count()), 250))) == 250


def test_unknown_characters_and_long_lines_are_translated_with_a_warning(translator, caplog):
    found = translator.translate(["苹果", "ab " * 300])
    assert len(found) == 2
    assert "Line 2 has 899 tokens" in caplog.text


def test_lengths_are_kept_within_their_own_bounds(translator):
    for translation in translator.translate(
        SOURCES, min_length_ratio=1.0, max_length_ratio=1.0, max_length_offset=0
    ):
        source = translator.codecs[0].tokenize(translation.source)
        assert len(translation.hypotheses[0].tokens) == len(source)


def test_impossible_options_are_refused(translator):
    with pytest.raises(UserError, match="beam_size"):
        translator.translate(["a"], beam_size=0)
    with pytest.raises(UserError, match="raise beam_size"):
        translator.translate(["a"], beam_size=2, n_best=3)
    with pytest.raises(TypeError, match="list of sentences"):
        translator.translate("a")


def test_evaluation_agrees_with_its_parts(translator):
    pairs = tiny.pairs(8, seed=1)
    result = evaluate(
        translator, [s for s, _ in pairs], [[t] for _, t in pairs], ["chrf", "exact_match"]
    )
    tokens = [each for scores in translator.score(pairs) for each in scores]
    assert result.loss == pytest.approx(-sum(tokens) / len(tokens))
    assert result.hypotheses == [
        translation.text for translation in translator.translate([s for s, _ in pairs])
    ]
    same = evaluate(
        translator, [s for s, _ in pairs], [[h or "-"] for h in result.hypotheses], ["exact_match"]
    )
    assert same.scores["exact_match"].value == 100 * sum(map(bool, result.hypotheses)) / 8


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(1, 400), st.integers(1, 5))
@example([1] * 100, 30, 3)
def test_batches_are_all_sentences_in_order_and_as_many_for_each_process(
    lengths, tokens, processes
):
    items = list(enumerate(sorted(lengths, reverse=True)))
    batches = list(_shared_batches(items, lambda item: item[1], tokens, processes))
    assert [item for batch in batches for item in batch] == items and all(batches)
    padded = [len(batch) * batch[0][1] for batch in batches]
    assert all(size <= tokens * 5 / 4 or len(batch) == 1 for size, batch in zip(padded, batches))
    if set(lengths) == {1} and len(lengths) > tokens >= 4 and len(lengths) >= 2 * processes:
        assert len(batches) % processes == 0
