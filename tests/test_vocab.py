"""Vocabularies: order, unknown and special tokens, files."""

import json
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from mtcli.support.errors import UserError
from mtcli.text.vocab import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary

TOKENS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


def test_tokens_are_ordered_by_count_then_alphabet():
    text = "b a c a b d b".split()
    built = Vocabulary.build(Counter(text)), Vocabulary.build(Counter(reversed(text)))
    assert built[0].tokens == built[1].tokens == [*SPECIAL, "b", "a", "c", "d"]


def test_min_count_and_max_size_limit_the_vocabulary():
    counts = Counter("b a c a b d b".split())
    assert Vocabulary.build(counts, min_count=2).tokens[4:] == ["b", "a"]
    assert Vocabulary.build(counts, max_size=3).tokens[4:] == ["b", "a", "c"]
    assert len(Vocabulary.build(counts, max_size=1)) == len(SPECIAL) + 1


def test_unknown_tokens_are_unk_and_other_special_ids_are_dropped():
    vocabulary = Vocabulary.build({"a": 1})
    assert vocabulary.encode(["a", "zebra"]) == [4, UNK]
    assert vocabulary.decode([BOS, 4, UNK, EOS, PAD]) == ["a", "<unk>"]


@pytest.mark.parametrize("special", SPECIAL)
def test_a_text_cannot_spell_a_special_token(special):
    vocabulary = Vocabulary.build({special: 5, "a": 1})
    assert vocabulary.tokens == [*SPECIAL, "a"]
    assert vocabulary.encode([special]) == [UNK]


@given(counts=st.dictionaries(TOKENS, st.integers(1, 5)))
def test_save_and_load_round_trip(tmp_path, counts):
    vocabulary = Vocabulary.build(counts)
    vocabulary.save(tmp_path / "v.json")
    loaded = Vocabulary.load(tmp_path / "v.json")
    assert loaded.tokens == vocabulary.tokens
    tokens = [token for token in counts if token not in SPECIAL]
    assert loaded.decode(loaded.encode(tokens)) == tokens


def test_tokens_with_control_characters_are_left_out():
    counts = {"a": 1, "a\x1b[2J": 5, "\x9b": 5, "\t": 5, "\0": 5}
    assert Vocabulary.build(counts).tokens == [*SPECIAL, "a"]


def test_the_file_is_json_with_one_readable_token_a_line(tmp_path):
    Vocabulary.build({"苹果": 1, 'a"b': 1}).save(tmp_path / "v.json")
    lines = (tmp_path / "v.json").read_text("utf-8").splitlines()
    assert lines[5:7] == [json.dumps('a"b') + ",", '"苹果"']


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not a vocabulary"),
        (b"\xff\xfe", "not a vocabulary"),
        (b"[" * 100_000, "not a vocabulary"),
        (b'{"a": 1}', "not a vocabulary"),
        (b'["<pad>", "<unk>", "<s>", "</s>", 5]', "not a vocabulary"),
        (b'["a", "b"]', "begins with <pad>, <unk>, <s>, </s>"),
        (b'["<pad>", "<unk>", "<s>", "</s>", "a", "a"]', "entry 5 is 'a', which came before"),
        (b'["<pad>", "<unk>", "<s>", "</s>", "<s>"]', "entry 4 is '<s>', which came before"),
        (
            b'["<pad>", "<unk>", "<s>", "</s>", "a\\nb"]',
            "entry 4 is 'a\\nb'; a token is not empty and holds no control",
        ),
        (b'["<pad>", "<unk>", "<s>", "</s>", "\\u001b[2J"]', "entry 4 is '\\x1b[2J'; a token"),
        (b'["<pad>", "<unk>", "<s>", "</s>", "\\u009b"]', "entry 4 is '\\x9b'; a token is not"),
        (
            b'["<pad>", "<unk>", "<s>", "</s>", ""]',
            "entry 4 is ''; a token is not empty and holds no control",
        ),
        (
            b'["<pad>", "<unk>", "<s>", "</s>", "\\ud800"]',
            "entry 4 is '\\ud800'; a token is not empty and holds no control",
        ),
    ],
)
def test_a_damaged_vocabulary_raises_with_its_path(tmp_path, content, complaint):
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        Vocabulary.load(path)
    assert str(error.value).startswith(f"{path}: ") and complaint in str(error.value)


def test_a_missing_vocabulary_raises_with_its_path(tmp_path):
    with pytest.raises(UserError, match="v.json: the vocabulary cannot be read: No such file"):
        Vocabulary.load(tmp_path / "v.json")
