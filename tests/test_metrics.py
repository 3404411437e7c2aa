"""Scores are sacreBLEU's own: held against its command line, on texts small enough to check by eye."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from mtcli import config
from mtcli.support.errors import UserError
from mtcli.text import metrics
from mtcli.text.metrics import METRICS, Options, Score, bleu_tokenizer, compare

ENGLISH = [
    ["The cat sat on the mat today.", "Today the cat was sitting on the mat."],
    ["A man in a blue shirt is standing on a ladder."],
    [
        "Two dogs (both black) play in the snow!",
        "Two black dogs are playing in snow.",
        "Black dogs play.",
    ],
    ["Nobody knows."],
]
HYPOTHESES = [
    "the cat is sitting on the mat today.",
    "A man with blue shirt stands on a ladder.",
    "Two black dogs play in the snow.",
    "",
]
OTHERS = [
    "The cat sat on the mat.",
    "A man is on a ladder.",
    "Two dogs (both black) play in the snow!",
    "Who knows.",
]
CHINESE = [["我有三只猫。"], ["他昨天在学校读了一本书。"], ["你喜欢苹果吗?"]]
CHINESE_HYPOTHESES = ["我有三个猫。", "他昨天读了一本书在学校。", "你喜欢苹果吗?"]


def sacrebleu(
    folder: Path, references: list[list[str]], hypotheses: list[str], *options: str
) -> list[dict]:
    """What sacreBLEU's command line says. It takes a file for each reference, with as many lines as the others."""
    files = [
        folder / name
        for name in ("hypotheses", "reference 1", "reference 2")[: len(references[0]) + 1]
    ]
    for file, lines in zip(files, [hypotheses, *zip(*references)], strict=True):
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        *map(str, files[1:]),
        "-i",
        str(files[0]),
        *options,
    ]
    command += ["--width", "8", "--format", "json", "-m", "bleu", "chrf", "ter"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def first(references: list[list[str]]) -> list[list[str]]:
    return [texts[:1] for texts in references]


def score(
    name: str, hypotheses: list[str], references: list[list[str]], options: Options = Options()
) -> Score:
    return metrics.score([name], hypotheses, references, options)[name]


@pytest.mark.parametrize(
    "references", [first(ENGLISH), [texts[:1] + texts[-1:] for texts in ENGLISH]]
)
def test_english_scores_equal_sacrebleus_command_line(
    tmp_path: Path, references: list[list[str]]
) -> None:
    ours = metrics.score(
        ["bleu", "chrf", "ter"], HYPOTHESES, references, Options(target_language="en")
    )
    for mine, theirs in zip(
        ours.values(), sacrebleu(tmp_path, references, HYPOTHESES), strict=True
    ):
        assert mine.value == pytest.approx(theirs["score"], abs=1e-7)
        assert mine.signature == theirs["signature"]


def test_lowercase_scores_equal_sacrebleus_command_line(tmp_path: Path) -> None:
    ours = metrics.score(
        ["bleu", "chrf", "ter"], HYPOTHESES, first(ENGLISH), Options(lowercase=True)
    )
    theirs = sacrebleu(tmp_path, first(ENGLISH), HYPOTHESES, "--lowercase", "--chrf-lowercase")
    assert [mine.signature for mine in ours.values()] == [their["signature"] for their in theirs]
    assert [mine.value for mine in ours.values()] == pytest.approx(
        [their["score"] for their in theirs], abs=1e-7
    )


def test_chinese_is_scored_in_characters(tmp_path: Path) -> None:
    ours = metrics.score(
        ["bleu", "chrf", "ter"], CHINESE_HYPOTHESES, CHINESE, Options(target_language="zh-CN")
    )
    options = ["--tokenize", "zh", "--ter-normalized", "--ter-asian-support"]
    said = sacrebleu(tmp_path, CHINESE, CHINESE_HYPOTHESES, *options)
    for mine, theirs in zip(ours.values(), said, strict=True):
        assert mine.value == pytest.approx(theirs["score"], abs=1e-7)
        assert mine.signature == theirs["signature"]
    assert ours["ter"].value < 50  # in words, two of the three lines would be all wrong


@pytest.mark.parametrize("name", METRICS)
def test_lines_may_have_any_number_of_references(name: str) -> None:
    """A missing reference is no empty one: saying a line's last reference twice instead changes nothing."""
    value = score(name, HYPOTHESES, ENGLISH).value
    if (
        name == "ter"
    ):  # averages the lengths of a line's references, so the repeated one would count twice
        texts = [[texts[0]] * 3 for texts in ENGLISH]
        assert score(name, HYPOTHESES, texts).value == score(name, HYPOTHESES, first(ENGLISH)).value
        # Edits are those of the closest reference; lengths averaged by hand: (7 + 8) / 2, 11, (8 + 7 + 3) / 3, 2.
        edits = sum(
            min(
                round(score(name, [line], [[text]]).value * len(text.split()) / 100)
                for text in texts
            )
            for line, texts in zip(HYPOTHESES, ENGLISH)
        )
        assert value == pytest.approx(100 * edits / (7.5 + 11 + 6 + 2))
    else:
        assert (
            value
            == score(name, HYPOTHESES, [(texts + texts[-1:] * 2)[:3] for texts in ENGLISH]).value
        )
    assert "nrefs:var" in score(name, HYPOTHESES, ENGLISH).signature


def test_exact_match_is_a_percentage_of_lines() -> None:
    references = [["a b"], ["c", "d"], ["e"], [""]]
    assert score("exact_match", ["a b ", "d", "x", ""], references).value == 75
    assert (
        score("exact_match", ["A b", "D", "a  b", " "], references).value == 25
    )  # case and inner spaces count
    assert (
        score("exact_match", ["A b", "D", "a  b", " "], references, Options(lowercase=True)).value
        == 75
    )
    assert "case:lc" in score("exact_match", ["a"], [["a"]], Options(lowercase=True)).signature


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=4))
def test_any_text_can_be_scored_and_a_copy_is_perfect(lines: list[str]) -> None:
    copied = metrics.score(list(METRICS), lines, [[line] for line in lines])
    assert copied["exact_match"].value == 100
    assert copied["ter"].value == 0
    if any("".join(line.split()) for line in lines):
        assert copied["chrf"].value == pytest.approx(100)
    nothing = metrics.score(list(METRICS), ["" for _ in lines], [["x" + line] for line in lines])
    assert nothing["bleu"].value == nothing["chrf"].value == nothing["exact_match"].value == 0
    assert nothing["ter"].value == 100


@pytest.mark.parametrize("name", METRICS)
def test_better_text_scores_better_in_the_direction_the_metric_says(name: str) -> None:
    perfect, poor = (
        score(name, OTHERS, [[line] for line in OTHERS]),
        score(name, HYPOTHESES, [[x] for x in OTHERS]),
    )
    assert (perfect.value < poor.value) == (name in metrics.LOWER_IS_BETTER)
    assert perfect.value != poor.value


# ------------------------------------------------------------------------------------------------------ BLEU tokenizer


@pytest.mark.parametrize(
    "language, expected",
    [
        ("en", "13a"),
        (None, "13a"),
        ("", "13a"),
        ("de_DE", "13a"),
        ("th", "char"),
        ("tha_Thai", "char"),
        ("Thai", "char"),
        ("my", "char"),
        ("mn-CN", "13a"),
    ]
    + [
        (code, "zh")
        for code in (
            "zh",
            "ZH",
            "zh-CN",
            "zh_TW",
            "zho",
            "cmn",
            "zho_Hans",
            "cmn-Hant",
            "chi",
            "cn",
            "Chinese",
        )
    ],
)
def test_the_tokenizer_follows_the_target_language(language: str | None, expected: str) -> None:
    assert bleu_tokenizer(language) == expected
    assert bleu_tokenizer(language, "intl") == "intl"  # unless one is wanted


@pytest.mark.parametrize("language", [None, "en", "Klingon"])
def test_references_without_spaces_are_scored_as_their_language_with_one_warning(
    language, caplog
) -> None:
    options, known = Options(target_language=language), Options(target_language="zh")
    names = ["bleu", "ter"]
    for _ in range(2):
        found = metrics.score(names, CHINESE_HYPOTHESES, CHINESE, options)
        assert found == metrics.score(names, CHINESE_HYPOTHESES, CHINESE, known)
    systems = [("a", CHINESE_HYPOTHESES), ("b", CHINESE_HYPOTHESES)]
    row = compare(systems, CHINESE, ["bleu"], options, samples=2)[0]
    assert row.value == found["bleu"].value > 0 and "tok:zh" in row.signature
    [record] = caplog.records
    assert "without spaces between words (language zh)" in record.message


def test_a_tokenizer_that_was_asked_for_is_used_with_a_warning_if_it_does_not_fit(caplog) -> None:
    found = score("bleu", CHINESE_HYPOTHESES, CHINESE, Options("13a", "zh"))
    assert "tok:13a" in found.signature and "takes for very long words" in caplog.text
    caplog.clear()
    score("bleu", HYPOTHESES, first(ENGLISH), Options("13a", "zh"))
    score("bleu", CHINESE_HYPOTHESES, CHINESE, Options("char"))
    assert not caplog.records


def test_texts_that_look_the_same_are_scored_as_the_same_where_that_is_wanted() -> None:
    texts = ["Il a été à l'hôtel là-bas, hélas.", "Élève préféré à Noël, déjà très âgé."]
    other = [unicodedata.normalize("NFD", text).replace(" ", "\u00a0 ") for text in texts]
    for name, value in (("bleu", 100), ("chrf", 100), ("ter", 0), ("exact_match", 100)):
        assert score(name, texts, [[text] for text in other], Options(clean=True)).value == value
        assert score(name, texts, [[text] for text in other]).value != value
    rows = compare(
        [("a", texts), ("b", other)], [[t] for t in texts], ["bleu"], Options(clean=True), 2
    )
    assert [row.value for row in rows] == [100, 100]


@pytest.mark.parametrize(
    "language, without, wanted", [("jpn", "char", "ja-mecab"), ("ko-KR", "13a", "ko-mecab")]
)
def test_mecab_is_used_if_installed(language, without, wanted, monkeypatch, caplog) -> None:
    bleu_tokenizer.cache_clear()
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    assert bleu_tokenizer(language) == bleu_tokenizer(language) == without
    assert caplog.text.count(wanted) == 1  # said once
    with pytest.raises(
        UserError, match=rf"'{wanted}' is not installed: pip install 'sacrebleu\[{wanted[:2]}\]'"
    ):
        bleu_tokenizer(language, wanted)
    bleu_tokenizer.cache_clear()
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: object())
    assert bleu_tokenizer(language) == bleu_tokenizer(language, wanted) == wanted
    bleu_tokenizer.cache_clear()


def test_flores200_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"'flores200' needs a file: save http\S+ as .*flores200"):
        score("bleu", ["a"], [["a"]], Options("flores200"))
    assert list(tmp_path.iterdir()) == []


def test_the_config_allows_the_metrics_and_tokenizers_there_are() -> None:
    allowed = typing.get_args(
        typing.get_args(config.Evaluation.model_fields["bleu_tokenizer"].annotation)[0]
    )
    assert set(allowed) == set(metrics.BLEU_TOKENIZERS)
    assert set(config.Evaluation().metrics) == set(METRICS)


# ---------------------------------------------------------------------------------------------------------- comparison


def test_compare_equals_sacrebleus_paired_bootstrap() -> None:
    systems = [("base", OTHERS * 5), ("new", HYPOTHESES * 5)]
    rows = compare(systems, first(ENGLISH) * 5, ["ter", "bleu", "chrf"], samples=200)
    lines = [texts[0] for texts in ENGLISH] * 5
    theirs = {"ter": TER(), "bleu": BLEU(), "chrf": CHRF()}
    signatures, results = PairedTest(systems, theirs, [lines], test_type="bs", n_samples=200)()
    expected = [
        (system, name, their.score, their.mean, their.ci, their.p_value, str(signatures[column]))
        for index, system in enumerate(("base", "new"))
        for name, column in (("ter", "TER"), ("bleu", "BLEU"), ("chrf", "chrF2"))
        for their in [results[column][index]]
    ]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [row[2:5] for row in rows] == [pytest.approx(row[2:5]) for row in expected]
    assert [row[5:] for row in rows] == [row[5:] for row in expected]
    assert rows == compare(
        systems, first(ENGLISH) * 5, ["ter", "bleu", "chrf"], samples=200
    )  # the seed holds


def test_compare_tells_a_difference_from_none() -> None:
    references = [[f"line number {number} of the text"] for number in range(60)]
    good = [texts[0] for texts in references]
    bad = [text if number % 2 else "nothing of it" for number, text in enumerate(good)]
    rows = compare([("a", good), ("b", bad), ("c", good)], references, list(METRICS), samples=200)
    p_values = {(row.system, row.name): row.p_value for row in rows}
    for name in METRICS:
        assert p_values["a", name] is None
        assert p_values["b", name] < 0.05
        assert p_values["c", name] == 1


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", METRICS)
def test_bad_corpora_raise(name: str) -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score(name, [], [])
    with pytest.raises(UserError, match="2 hypotheses for 1 lines of references"):
        score(name, ["a", "b"], [["a"]])
    with pytest.raises(UserError, match="line 2 has no reference"):
        score(name, ["a", "b"], [["a"], []])
    with pytest.raises(UserError, match="2 hypotheses of 'new' for 1 lines"):
        compare([("old", ["a"]), ("new", ["a", "b"])], [["a"]], [name])


def test_bad_names_and_counts_raise() -> None:
    with pytest.raises(
        UserError, match="metric 'blue' is not known; choose bleu, chrf, ter, exact_match"
    ):
        score("blue", ["a"], [["a"]])
    with pytest.raises(UserError, match="tokenizer '13b' is not known; choose 13a, intl"):
        score("bleu", ["a"], [["a"]], Options("13b"))
    with pytest.raises(UserError, match="two systems or more, got 1"):
        compare([("a", ["a"])], [["a"]], ["bleu"])
    with pytest.raises(UserError, match="one resampled corpus or more, got 0"):
        compare([("a", ["a"]), ("b", ["a"])], [["a"]], ["bleu"], samples=0)
