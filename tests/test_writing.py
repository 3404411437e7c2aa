"""Text: what looks the same is the same, what cannot be seen is nothing, and which scripts have no spaces."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, strategies as st

from mtcli import config as configs
from mtcli.text import codec
from mtcli.text.writing import clean, has_letter, is_blank, language_code, unspaced_language

TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from(
        "eé\u0301 \u00a0\u3000\t\u200b\u00ad\ufeff\u200e\u200d\u212b각ᄀ\u1161나\u0344"
    )
)
SPACES = st.sampled_from([" ", "  ", "\u00a0", "\t", "\u3000 ", " \u200b", "\u2028", "\x85"])
HIDDEN = st.sampled_from(["", "", "\u200b", "\u00ad", "\ufeff", "\u200e", "\u2066", "\x00", "\x1b"])


@given(text=TEXT, drop=st.booleans())
def test_cleaning_is_idempotent_and_gives_one_line_without_spaces_at_its_ends(text, drop):
    found = clean(text, drop)
    assert clean(found, drop) == found == unicodedata.normalize("NFC", found)
    assert found == " ".join(found.split()) and is_blank(found) == is_blank(text)


@given(
    words=st.lists(st.text("aéñ苹각ệ नि", min_size=1).filter(str.strip), min_size=1),
    form=st.sampled_from(["NFC", "NFD"]),
    data=st.data(),
)
def test_texts_that_look_the_same_become_the_same(words, form, data):
    plain = " ".join(words)
    other = "".join(data.draw(HIDDEN) + char for char in unicodedata.normalize(form, plain))
    other = "".join(data.draw(SPACES) if char == " " else char for char in other)
    assert clean(data.draw(SPACES) + other + data.draw(SPACES)) == clean(plain)


@pytest.mark.parametrize(
    "text",
    ["می\u200cخواهم", "क्\u200dष", "👩\u200d💻", "❤\ufe0f", "🏴\U000e0067\U000e007f", "\u06dd"],
)
def test_what_scripts_and_emoji_need_is_kept(text):
    assert clean(text) == unicodedata.normalize("NFC", text)


def test_who_writes_may_need_invisible_characters():
    assert clean(" a\u200b \u00ad\u00a0b", drop_invisible=False) == "a\u200b \u00ad b"


def test_blank_is_white_space_and_all_controls_and_format_characters():
    kinds = {"Cc", "Cf"}
    for char in map(chr, range(sys.maxunicode + 1)):
        if char.isspace() or unicodedata.category(char) in kinds:
            assert is_blank(char), hex(ord(char))
    assert (
        is_blank("") and is_blank("\u3164\ufe0f") and not any(map(is_blank, ".1é苹\ud800😀\u0301"))
    )


@pytest.mark.parametrize("text", ["a", "٣ ب", "苹", "12 км", "ª", "ไ"])
def test_letters_are_those_of_any_script(text):
    assert has_letter(text)


@pytest.mark.parametrize("text", ["", "😀👩\u200d💻", "12,5 % (3)", "٣٤", "…!?", "→ €", "①Ⅳ"])
def test_numbers_punctuation_and_symbols_are_no_letters(text):
    assert not has_letter(text)


@pytest.mark.parametrize(
    "names, code",
    [
        ("zh ZH-cn zh_Hans zho_Hans cmn cn Chinese 中文", "zh"),
        ("ja jpn jp jp-JP Japanese 日本語", "ja"),
        ("th tha Thai tha_Thai", "th"),
        ("km Khmer", "km"),
        ("tr tur Turkish tr-TR Türkçe", "tr"),
        ("mn-CN", "mn"),
        ("en-JP", "en"),
    ],
)
def test_languages_are_known_by_their_codes_wrong_codes_and_names(names, code):
    assert {language_code(name) for name in names.split()} == {code}
    assert language_code("Simplified Chinese") == language_code("Chinese (Simplified)") == "zh"
    assert language_code(None) == language_code("") == language_code("--") == ""


@pytest.mark.parametrize(
    "text, code",
    [
        ("他说我们明天去买 iPhone。", "zh"),
        ("東京でりんごを食べたい", "ja"),
        ("ผลไม้", "th"),
        ("ផ្លែឈើ", "km"),
        ("I like 苹果", None),
        ("사과를 좋아해요", None),
        ("", None),
        ("12", None),
    ],
)
def test_languages_without_spaces_are_recognised_by_most_letters(text, code):
    assert unspaced_language([text, ""]) == code


# ------------------------------------------------------------------------------------------------------- in a codec


def learnt(tokenizer: str, languages: tuple[str, str] = ("en", "en"), *pairs: tuple[str, str]):
    data = "data: {{source_language: {}, target_language: {}, train: a, validation: a}}\n"
    config = configs.loads(f"{data.format(*languages)}tokenizer: {tokenizer}", "test")
    return config, codec.learn(config, lambda: pairs or [("é a", "é a")])


@pytest.mark.parametrize("tokenizer", [
    "{type: char}", "{type: word, shared: true}", "{type: subword, shared: true, vocabulary_size: 300}",
    "{source: word, target: char}",
])  # fmt: skip
def test_only_the_source_loses_invisible_characters_also_where_the_sides_share_all(
    tokenizer, tmp_path
):
    config, (source, target) = learnt(tokenizer)
    assert source.encode("e\u0301\u00a0 a") == source.encode("é\u200b a ") == source.encode("é a")
    assert target.encode("e\u0301\u00a0 a") == target.encode("é a") != target.encode("é\u200b a")
    codec.save(tmp_path, source, target)
    loaded = codec.load(tmp_path, config)
    assert loaded[0].encode("é\u200b a") == source.encode("é a")
    assert loaded[1].encode("é\u200b a") == target.encode("é\u200b a")
    assert codec.fingerprint(*loaded) == codec.fingerprint(source, target)


def test_without_cleaning_a_text_is_taken_as_it_is():
    _, (source, _) = learnt("{type: char, clean: false}")
    assert source.tokenize(" e\u0301\u200b\t") == list(" e\u0301\u200b\t")
    assert codec.fingerprint(source, source) != codec.fingerprint(*learnt("{type: char}")[1])


@pytest.mark.parametrize("language", ["tr", "Turkish", "az-AZ", "aze"])
@pytest.mark.parametrize("tokenizer", ["word", "subword"])
def test_lower_case_follows_the_language_of_the_side(language, tokenizer):
    form = f"{{type: {tokenizer}, lowercase: true, shared: true}}"
    pairs = [("I İ", "I İ IŞIK")] * 9
    _, (english, turkish) = learnt(form, ("en", language), *pairs)
    assert turkish.decode(turkish.encode("IŞIK I\u0307 i")) == "ışık i i"
    assert english.decode(english.encode("I")) == "i"
