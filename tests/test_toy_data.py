"""The shipped toy corpus: that it is what its grammar writes, and that its splits ask what they promise to ask."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

TOY = Path(__file__).parents[1] / "data" / "toy"
SPLITS = ("train", "validation", "test", "test_long")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The scripts of data/toy, imported as they import each other, and forgotten again."""
    names = ("lexicon", "grammar", "make_corpus", "baselines", "alignments")
    sys.path.insert(0, str(TOY))
    try:
        return {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(TOY))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[tuple[str, str]]]:
    found = {}
    for name in SPLITS:
        rows = [
            line.split("\t")
            for line in (TOY / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        ]
        assert all(len(row) == 2 for row in rows)
        found[name] = [(english, chinese) for english, chinese in rows]
    return found


@pytest.mark.slow
def test_the_grammar_writes_the_shipped_bytes(scripts):
    for name, text in scripts["make_corpus"].files().items():
        assert (TOY / name).read_bytes() == text.encode("utf-8"), (
            f"{name}: run python data/toy/make_corpus.py"
        )


def test_no_english_sentence_appears_twice(corpus):
    counts = Counter(english for pairs in corpus.values() for english, _ in pairs)
    assert counts.most_common(1)[0][1] == 1


def test_splits_have_their_sizes(corpus):
    assert len(corpus["train"]) >= 5000 and len(corpus["validation"]) >= 500
    assert len(corpus["test"]) >= 500 and len(corpus["test_long"]) >= 500


def test_every_test_sentence_holds_a_word_pair_that_training_never_shows_together(scripts, corpus):
    make = scripts["make_corpus"]
    held_out = make.held_out_pairs()
    for english, _ in corpus["train"] + corpus["validation"] + corpus["test_long"]:
        assert not make.touches(held_out, english), english
    for english, _ in corpus["test"]:
        assert make.touches(held_out, english), english


def test_no_form_of_a_held_out_pair_escapes(scripts):
    """The check above must see through inflection, or it could not fail."""
    touches = scripts["make_corpus"].touches
    for english in (
        "he drinks tea .",
        "we drank a cup of hot tea .",
        "what tea are you drinking ?",
    ):
        assert touches([("drink", "tea")], english)
    assert touches([("new", "scarf")], "these scarves are newer than those .")
    assert not touches([("drink", "tea")], "he drinks milk .")


def test_every_word_and_character_of_the_tests_is_well_known(scripts, corpus):
    words = Counter(word for english, _ in corpus["train"] for word in english.split())
    characters = Counter(character for _, chinese in corpus["train"] for character in chinese)
    for english, chinese in corpus["test"] + corpus["test_long"]:
        assert all(words[word] >= scripts["make_corpus"].MIN_COUNT for word in english.split()), (
            english
        )
        assert all(
            characters[character] >= scripts["make_corpus"].MIN_COUNT for character in chinese
        ), chinese


def test_test_long_is_longer_than_training_on_both_sides(corpus):
    known, asked = (
        [(len(english.split()), len(chinese)) for english, chinese in pairs]
        for pairs in (corpus["train"] + corpus["validation"], corpus["test_long"])
    )
    for known_lengths, asked_lengths in zip(zip(*known), zip(*asked)):
        assert min(asked_lengths) > max(known_lengths)


def test_text_has_the_form_that_the_readme_says(corpus):
    for english, chinese in (pair for pairs in corpus.values() for pair in pairs):
        assert (
            english == english.lower()
            and english.isascii()
            and english.split(" ")[-1] in (".", "?")
        )
        assert english == " ".join(english.split())
        assert chinese[-1] == {".": "。", "?": "？"}[english[-1]]
        assert all("一" <= character <= "龥" or character in "，。？" for character in chinese), (
            chinese
        )


def test_the_readme_shows_sentences_of_the_corpus(corpus):
    shown = (TOY / "README.md").read_text(encoding="utf-8").split("```")[1].strip().splitlines()
    for line in shown:
        english, chinese = line.split("  ", 1)
        assert (english, chinese.strip()) in corpus["train"]


def test_questions_and_negation_are_marked(corpus):
    """Two rules of translation that hold for every sentence, read off the text alone."""
    for english, chinese in (pair for pairs in corpus.values() for pair in pairs):
        asks = any(word in chinese for word in ("吗", "什么", "谁", "哪", "几"))
        assert asks == english.endswith("?"), (english, chinese)
        assert ("not" in english.split()) == any(word in chinese for word in "不没"), (
            english,
            chinese,
        )


def test_mandarin_has_none_of_the_typical_mistakes(corpus):
    """What a careless grammar writes and no speaker says: 二 before a measure word, 有 negated by 不, a doubled 的 or 在."""
    for _, chinese in (pair for pairs in corpus.values() for pair in pairs):
        assert not any(
            wrong in chinese for wrong in ("不有", "没不", "的的", "在在", "大大", "了了", "没正在")
        ), chinese
        assert "二" not in chinese.replace("十二", "").replace("二十", ""), chinese
        assert ("没" not in chinese) or ("了。" not in chinese) or "，" in chinese, chinese


@pytest.mark.slow
def test_baselines_that_know_no_grammar_fail(scripts, corpus):
    baselines = scripts["baselines"]
    for name, learn in baselines.BASELINES.items():
        assert baselines.exact_match(learn(corpus["train"]), corpus["test"][::5]) < 10, name


def test_word_by_word_finds_the_words(scripts):
    """It fails on the corpus for want of grammar, not of words."""
    train = [
        ("red book", "红色的书"),
        ("red pen", "红色的笔"),
        ("new book", "新书"),
        ("new pen", "新笔"),
    ]
    translate = scripts["baselines"].word_by_word(train)
    assert translate("book") == "书" and translate("pen") == "笔" and translate("new") == "新"


def test_nearest_sentence_recalls_what_it_saw(scripts):
    train = [("he reads books .", "他看书。"), ("she reads books .", "她看书。")]
    translate = scripts["baselines"].nearest_sentence(train)
    assert (
        translate("she reads books .") == "她看书。" and translate("does she read ?") == "她看书。"
    )


def test_gold_alignments_are_those_of_the_lexicon(scripts):
    english = "my father read two red books yesterday afternoon , but his father did not ."
    chinese = "我爸爸昨天下午看了两本红色的书，但是他爸爸没看。"
    gold = scripts["alignments"].align(english, chinese)
    tokens = english.split()
    said = {
        (tokens[word], "".join(chinese[c] for w, c in sorted(gold.sure) if w == word))
        for word, _ in gold.sure
    }
    assert said == {
        ("my", "我"), ("two", "两"), ("red", "红色"), ("books", "书"), (",", "，"), ("his", "他"), (".", "。"),
    }  # fmt: skip
    phrase = {(word, c) for word in (6, 7) for c in range(3, 7)}
    assert gold.possible - gold.sure == phrase


def test_gold_judges_most_characters(scripts, corpus):
    judged = total = 0
    for english, chinese in corpus["test"]:
        gold = scripts["alignments"].align(english, chinese)
        assert gold.sure <= gold.possible
        judged += len({character for _, character in gold.possible})
        total += len(chinese)
    assert judged > 0.6 * total
