"""Tokenizers: nothing of a text is lost, whatever it holds; learning and loading fail with words."""

import logging
import unicodedata

import pytest
from hypothesis import example, given, strategies as st

from mtcli.config import Characters, Subwords, Words
from mtcli.support.errors import UserError
from mtcli.text.tokenizers import (
    JOINER,
    TOKENIZERS,
    CharacterTokenizer,
    SubwordTokenizer,
    WordTokenizer,
    seed_sampling,
)
from mtcli.text.vocab import SPECIAL, Vocabulary
from mtcli.text.writing import UNSPACED

TEXT = [
    "the small cat sees  the large dog .",
    " 我 爱 苹果 。 我爱香蕉。",
    "it costs <unk> 3.14 \u2581 or \u2581\u2581 so, doesn't it? <s> <0x41>",
    "Größe\u00a0und ﬁne\u3000Maße \t tab\ttab   spaces   ",
    "नमस्ते दुनिया 😀 👩‍💻 ❤️ \x1b \x1b0 \x1b1 \0 \u2028 \u0085 \r x",
]
ALGORITHMS = "bpe", "unigram"
LINE = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\n"),
        st.sampled_from(
            "abcdet  \u2581\x1b01\0\r\u2028\u0085\ufeff\ufffd\u2047\u2585苹果😀<>/￭■.,'\u0301\u200d\u3000"
        ),
    )
) | st.lists(st.sampled_from([*SPECIAL, "<0x0A>", "the", " ", "  ", "\u2581", *"".join(TEXT)])).map(
    "".join
)


def learnt(algorithm: str, size: int = 360, **options) -> SubwordTokenizer:
    config = Subwords(algorithm=algorithm, vocabulary_size=size, character_coverage=1.0, **options)
    return SubwordTokenizer.train(config, TEXT * 20)


SUBWORDS = {algorithm: learnt(algorithm, dropout=0.3) for algorithm in ALGORITHMS}
LOSSLESS = {"char": CharacterTokenizer(Characters()), **SUBWORDS}


# ---------------------------------------------------------------------------------------------------------- all kinds


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=LINE)
@example(text="")
@example(text="  two  spaces at every  place  ")
@example(text="\u2581")
@example(text="a\u2581 \u2581b\x1b1\x1b")
@example(text="\x1b01\x1b")
def test_lossless_tokenizers_give_back_the_text(kind, text):
    tokenizer = LOSSLESS[kind]
    tokens = tokenizer.tokenize(text)
    assert all(tokens) and tokenizer.detokenize(tokens) == text
    assert tokenizer.tokenize_all([text, "", text]) == [tokens, tokenizer.tokenize(""), tokens]
    for _ in range(5):
        assert tokenizer.detokenize(tokenizer.resample(tokens)) == text


@pytest.mark.parametrize("kind", ALGORITHMS)
@given(text=LINE)
def test_every_subword_of_a_text_is_in_the_vocabulary(kind, text):
    vocabulary = Vocabulary(SUBWORDS[kind].pieces())
    tokenized = SUBWORDS[kind].tokenize(text)
    for tokens in (tokenized, SUBWORDS[kind].resample(tokenized)):
        assert vocabulary.decode(vocabulary.encode(tokens)) == tokens
        assert not set(tokens) & set(SPECIAL)


@given(text=LINE)
@example(text='a. b .c . (d) e-f "g" \'h')
@example(text="我爱apples，也爱 梨 。")
def test_word_tokens_lose_only_runs_of_white_space(text):
    tokenizer = WordTokenizer(Words())
    tokens = tokenizer.tokenize(text)
    assert all(tokens) and not any(character.isspace() for token in tokens for character in token)
    assert tokenizer.detokenize(tokens) == " ".join(text.replace(JOINER, "■").split())


@pytest.mark.parametrize("kind", ["char", "word", *ALGORITHMS])
@given(
    tokens=st.lists(
        st.one_of(LINE.filter(bool), st.sampled_from([*SPECIAL, JOINER, "<0x0A>", "<0xE2>"]))
    )
)
def test_any_tokens_give_one_line_of_text(kind, tokens):
    text = {**LOSSLESS, "word": WordTokenizer(Words())}[kind].detokenize(tokens)
    text.encode()
    assert "\n" not in text


@pytest.mark.parametrize("options", [{"lowercase": True}, {"normalization": "nfkc"}])
@given(text=LINE)
@example(text="ﬁne Ａ² İ")
def test_text_is_normalized_before_tokenizing(options, text):
    expected = text.lower() if "lowercase" in options else unicodedata.normalize("NFKC", text)
    assert "".join(CharacterTokenizer(Characters(**options)).tokenize(text)) == expected


@pytest.mark.parametrize("kind", ["char", "word", *ALGORITHMS])
def test_a_lone_surrogate_raises_with_its_place(kind):
    tokenizer = {**LOSSLESS, "word": WordTokenizer(Words())}[kind]
    for cut in (tokenizer.tokenize, lambda text: tokenizer.tokenize_all([text])):
        with pytest.raises(
            UserError, match=r"Character 3 of the text is the lone surrogate U\+DC80"
        ):
            cut("ab\udc80")


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("(red) apples.", "(￭ red ￭) apples ￭."),
        ("(red) apples .", "(￭ red ￭) apples ."),
        ("he does n't , does n't he ?", "he does n ￭'￭ t , does n ￭'￭ t he ?"),
        ("John 's", "John '￭ s"),
        ("3.14 well-known", "3 ￭.￭ 14 well ￭-￭ known"),
        ("我爱 apples。", "我 ￭爱 apples ￭。"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया ￭।"),
        ("مُحَمَّد، می‌روم", "مُحَمَّد ￭، می‌روم"),
        ("e\u0301te\u0301 ❤️!", "e\u0301te\u0301 ❤️ ￭!"),
        ("a ￭ b￭c", "a ■ b ￭■￭ c"),
    ],
)
def test_words_and_punctuation_are_joined_by_joiners(text, tokens):
    assert WordTokenizer(Words()).tokenize(text) == tokens.split()


@pytest.mark.parametrize(
    "text", ["我爱苹果", "りんごリンゴ", "ผลไม้", "ຫມາກໄມ້", "ཤིང་ཏོག་", "သစ်သီး", "ផ្លែឈើ", "々〆ｱ"]
)
def test_unspaced_matches_scripts_without_spaces_between_words(text):
    assert all(map(UNSPACED.match, text)), [char for char in text if not UNSPACED.match(char)]


@pytest.mark.parametrize("text", ["apple", "яблоко", "사과", "सेब", "تفاح", "1.,"])
def test_unspaced_does_not_match_scripts_with_spaces(text):
    assert not any(map(UNSPACED.match, text))


# ----------------------------------------------------------------------------------------------------------- subwords


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_subwords_begin_with_the_special_tokens_and_are_distinct(algorithm):
    pieces = SUBWORDS[algorithm].pieces()
    assert tuple(pieces[:4]) == SPECIAL and len(set(pieces)) == len(pieces) > 260


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_subwords_are_learnt_without_control_characters_and_spell_them_in_bytes(algorithm):
    text = "a\x1b[2Jb\t\u2581\x9b"
    config = Subwords(algorithm=algorithm, vocabulary_size=300)
    tokenizer = TOKENIZERS["subword"].train(config, [text] * 50)
    assert not [piece for piece in tokenizer.pieces() if not piece.isprintable()]
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_is_deterministic_and_silent_and_can_be_saved(algorithm, tmp_path, capfd):
    tokenizer = learnt(algorithm, dropout=0.3)
    tokenizer.save(tmp_path / "source")
    loaded = SubwordTokenizer.load(tokenizer.config, tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["source.model"]
    assert SUBWORDS[algorithm].pieces() == tokenizer.pieces() == loaded.pieces()
    assert [loaded.tokenize(line) for line in TEXT] == [
        SUBWORDS[algorithm].tokenize(line) for line in TEXT
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sampling_varies_and_follows_its_seed(algorithm):
    tokenized = SUBWORDS[algorithm].tokenize_all(TEXT * 5)

    def draw(seed):
        seed_sampling(seed)
        return [SUBWORDS[algorithm].resample(tokens) for tokens in tokenized]

    first = draw(1)
    assert first == draw(1) != draw(2)
    assert len({tuple(tokens) for tokens in first}) > len(TEXT)
    assert SUBWORDS[algorithm].samples


def test_without_dropout_sampling_equals_tokenizing():
    tokenizer = learnt("bpe")
    assert not tokenizer.samples
    assert all(tokenizer.resample(tokens) == tokens for tokens in tokenizer.tokenize_all(TEXT))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_small_text_gives_fewer_subwords_with_a_warning(algorithm, caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = learnt(algorithm, size=20_000)
    got = len(tokenizer.pieces())
    assert 300 < got < 20_000
    [record] = caplog.records
    assert (
        f"vocabulary_size is 20000, but the text is small and gives {got} pieces" in record.message
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_more_characters_than_subwords_raises(algorithm):
    with pytest.raises(
        UserError,
        match="vocabulary_size is 300, but the text's characters, .* alone are 7[0-9][0-9]",
    ):
        learn_from = ["".join(map(chr, range(0x4E00, 0x4E00 + 500)))]
        SubwordTokenizer.train(
            Subwords(algorithm=algorithm, vocabulary_size=300, character_coverage=1.0), learn_from
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("lines", [[], ["", ""]])
def test_learning_from_no_text_raises(algorithm, lines):
    with pytest.raises(UserError, match="There is no text to learn subwords from"):
        SubwordTokenizer.train(Subwords(algorithm=algorithm), lines)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_subwords_are_learnt_from_a_very_long_line(algorithm):
    text = "".join(chr(97 + n * n % 23) for n in range(200_000))
    tokenizer = SubwordTokenizer.train(Subwords(algorithm=algorithm, vocabulary_size=300), [text])
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_an_error_of_the_reader_is_raised_by_learning():
    def lines():
        yield "good"
        raise UserError("a.en:2: not UTF-8")

    with pytest.raises(UserError, match="^a.en:2: not UTF-8$"):
        SubwordTokenizer.train(Subwords(), lines())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(data=st.data())
def test_a_damaged_subword_model_raises_or_works(algorithm, tmp_path, data):
    model = bytearray(SUBWORDS[algorithm].processor.serialized_model_proto())
    start = data.draw(st.integers(0, len(model) - 1))
    model[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    (tmp_path / "x.model").write_bytes(model)
    try:
        tokenizer = SubwordTokenizer.load(
            Subwords(algorithm=algorithm, dropout=0.1), tmp_path / "x"
        )
    except UserError as error:
        assert str(error).startswith(
            f"{tmp_path / 'x.model'}: not a subword model of ours, or damaged: "
        )
    else:
        for line in TEXT:
            tokens = tokenizer.tokenize(line)
            tokenizer.detokenize(tokenizer.resample(tokens)), tokenizer.detokenize(tokens)


def test_a_missing_or_foreign_subword_model_raises_with_its_path(tmp_path):
    with pytest.raises(UserError, match="x.model: the subword model cannot be read: No such file"):
        SubwordTokenizer.load(Subwords(), tmp_path / "x")
    model = SUBWORDS["bpe"].processor.serialized_model_proto().replace(b"<pad>", b"<PAD>")
    (tmp_path / "x.model").write_bytes(model)
    with pytest.raises(
        UserError,
        match="x.model: not a subword model of ours, or damaged: its special pieces are not",
    ):
        SubwordTokenizer.load(Subwords(), tmp_path / "x")


def test_the_registry_has_every_tokenizer_of_the_config():
    assert set(TOKENIZERS) == {section().type for section in (Characters, Words, Subwords)}
