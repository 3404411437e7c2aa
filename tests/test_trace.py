"""What is said of the inside of a model agrees with what the model does."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, strategies as st
from pydantic import TypeAdapter

from mtcli import Translator
from mtcli.config import Characters, Subwords, Words
from mtcli.decoding.alignment import Head, by_words, find, kept, word_pairs
from mtcli.run.directory import Run
from mtcli.seeing.trace import Trace
from mtcli.support.errors import UserError
from mtcli.text.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer
from mtcli.text.vocab import EOS

SCHEMA = Path(__file__).parent.parent / "docs/trace.schema.json"
SOURCES = ["abc", "a bc fade", "dcb a", "q"]


@pytest.fixture(scope="module", params=["gru", "transformer"])
def translator(request, tmp_path_factory) -> Translator:
    return tiny.translator(tmp_path_factory.mktemp(request.param), request.param)


def test_schema_in_the_docs_is_that_of_the_dataclasses():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == TypeAdapter(Trace).json_schema()


@pytest.mark.parametrize("source", SOURCES)
def test_a_trace_is_json_of_its_schema(translator, source):
    found = translator.trace(source, n_best=3, beam_size=3, tree=True)
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    jsonschema.validate(data, json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("source", SOURCES)
def test_a_trace_has_the_translations_and_scores_of_translate_and_score(translator, source):
    found = translator.trace(source, n_best=3, beam_size=3)
    [expected] = translator.translate([source], n_best=3, beam_size=3)
    assert [each.text for each in found.hypotheses] == [each.text for each in expected.hypotheses]
    for one, other in zip(found.hypotheses, expected.hypotheses):
        assert one.score == pytest.approx(other.score, abs=1e-6)
    [tokens] = translator.score([(source, expected.hypotheses[0].tokens)])
    assert [step.log_probability for step in found.steps] == pytest.approx(tokens, abs=1e-6)
    assert found.log_probability == pytest.approx(sum(tokens), abs=1e-6)
    assert found.target.text == expected.text


@pytest.mark.parametrize("source", SOURCES)
def test_a_given_translation_is_traced_as_if_it_were_the_best(translator, source):
    best = translator.trace(source)
    given = translator.trace(source, reference=best.target.tokens[:-1])
    assert given.forced and replace(given, forced=False) == best


def test_steps_are_distributions_with_the_chosen_token_in_its_rank(translator):
    size = len(translator.codecs[1].vocabulary)
    for step in translator.trace("abc", reference="BAC", alternatives=size).steps:
        probabilities = [math.exp(each.log_probability) for each in step.alternatives]
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert step.entropy == pytest.approx(-sum(p * math.log(p) for p in probabilities), abs=1e-4)
        chosen = step.alternatives[step.rank - 1]
        assert chosen.log_probability == pytest.approx(step.log_probability, abs=1e-6)


def test_attention_has_a_row_a_token_that_sums_to_one(translator):
    found = translator.trace("a bc fade", reference="EDAF")
    source, target = len(found.source.tokens), len(found.target.tokens)
    sizes = {"cross": (target, source), "encoder": (source, source), "decoder": (target, target)}
    assert found.attention
    for name, heads in found.attention.items():
        rows, columns = sizes[name.split(".")[0]]
        for head in heads:
            assert len(head) == rows and {len(row) for row in head} == {columns}
            assert [sum(row) for row in head] == pytest.approx([1.0] * rows, abs=1e-3)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("width", [1, 3])
def test_finished_leaves_of_the_tree_are_the_hypotheses(translator, source, width):
    found = translator.trace(source, n_best=width, beam_size=width, tree=True)
    tree, penalty = found.tree, translator.config.decoding.length_penalty
    paths: list[list[str]] = []
    parents = {node.parent for node in tree}
    for place, node in enumerate(tree):
        assert node.parent < place
        paths.append([] if node.parent < 0 else [*paths[node.parent], node.token])
        assert len(paths[-1]) == node.step
        assert (node.end is None) == (place in parents) or node.end == "stop"
        assert (
            node.log_probability <= (tree[node.parent].log_probability if node.step else 0) + 1e-6
        )
        divisor = penalty.divisor(max(1, node.step))
        assert node.score == pytest.approx(node.log_probability / divisor, abs=1e-5)
    leaves = sorted(
        ((node.score, path[:-1]) for node, path in zip(tree, paths) if node.end == "finished"),
        key=lambda leaf: -leaf[0],
    )
    hypotheses = [each.tokens for each in found.hypotheses]
    assert [tokens for _, tokens in leaves[: len(hypotheses)]] == hypotheses
    assert {node.end for node in tree} <= {None, "finished", "width", "stop"}


def test_what_cannot_be_traced_is_refused(translator):
    with pytest.raises(UserError, match="nothing to look at"):
        translator.trace(" ")
    with pytest.raises(UserError, match="n_best is 3, but beam_size only 2"):
        translator.trace("a", n_best=3, beam_size=2)


def test_an_ensemble_shows_the_mean_of_its_members(translator):
    path = translator.name.split(", checkpoint")[0]
    alone = Translator.load(path, "cpu").trace("a bc", tree=True)
    both = Translator.load([path, path], "cpu").trace("a bc", tree=True)
    assert both.target == alone.target and len(both.tree) == len(alone.tree)
    [mean] = both.attention["cross.mean"]
    assert np.array(mean) == pytest.approx(np.mean(alone.attention["cross.0"], 0), abs=2e-4)
    assert both.alignment_from == Head("cross.mean", None, shifted=False)


# ------------------------------------------------------------------------------ words


@given(st.text("ab .\u0301é", max_size=12))
def test_words_are_what_is_between_spaces(text):
    for tokenizer in (CharacterTokenizer(Characters()), WordTokenizer(Words())):
        tokens = tokenizer.tokenize(text)
        word_of = tokenizer.words(tokens)
        words = [
            tokenizer.detokenize([t for t, w in zip(tokens, word_of) if w == word]).strip()
            for word in sorted({word for word in word_of if word is not None})
        ]
        assert words == tokenizer.detokenize(tokens).split()


def test_words_of_scripts_without_spaces_are_tokens():
    characters, words = CharacterTokenizer(Characters()), WordTokenizer(Words())
    assert characters.words(list("我爱 MT。")) == [0, 1, 2, 2, 2, 3]
    assert characters.words(["e", "\u0301", "书", "\u0301", " "]) == [0, 0, 1, 1, None]
    assert words.words(words.tokenize("我爱 it's 你")) == [0, 1, 2, 2, 2, 3]


def test_words_of_subwords_keep_the_bytes_of_a_character_together():
    text = ["the cat sat on the mat", "苹果 梨"] * 5
    tokenizer = SubwordTokenizer.train(Subwords(vocabulary_size=300), text)
    tokens = ["▁the", "▁", "c", "at", "<0xE7>", "<0x8B>", "<0x97>", "苹果", "梨", "▁"]
    assert tokenizer.words(tokens) == [0, 1, 1, 1, 1, 1, 1, 2, 3, None]


# ------------------------------------------------------------------------------ alignment


def test_word_attention_sums_over_what_is_looked_at():
    table = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.0, 0.2, 0.8]]).numpy()
    words = by_words(table, rows=[0, 0, None], columns=[0, 0, None])
    assert words == pytest.approx(torch.tensor([[0.475, 0.525]]).numpy())


def test_a_shifted_alignment_is_read_where_the_token_is_the_input():
    first = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.9, 0.1]]
    maps = {"cross.0": torch.tensor([first, [[0.0, 0.0, 1.0]] * 3]).numpy()}
    words = [0, 1, None]
    assert word_pairs(maps, Head("cross.0", 0, shifted=False), words, words) == [(0, 0), (1, 1)]
    assert word_pairs(maps, Head("cross.0", 0, shifted=True), words, words) == [(1, 0), (1, 1)]
    assert word_pairs(maps, Head("cross.0", 1, shifted=True), words, words) == []


def test_the_head_whose_links_are_regular_is_found():
    """Heads of a made-up model: one looks at the token's own translation when it is predicted, one
    when it is read, one always at the first token, one anywhere."""
    generator = random.Random(0)
    pairs = [([*generator.choices(range(4, 12), k=5), EOS],) * 2 for _ in range(40)]

    class Heads:
        def maps(self, sources, targets):
            found = []
            for source in sources:
                length = len(source)
                own, late = np.eye(length), np.eye(length, k=-1)
                first = np.eye(length)[[0] * length]
                anywhere = np.eye(length)[[generator.randrange(length) for _ in source]]
                order = {"own": own, "late": late}
                tables = [first, anywhere, order[self.right], anywhere]
                found.append({"cross.0": np.array([anywhere, first]), "cross.1": np.array(tables)})
            return found

    engine = Heads()
    for engine.right, shifted in ("own", False), ("late", True):
        assert find(engine, pairs) == Head("cross.1", 2, shifted)


def test_training_keeps_the_head_that_aligns_best(translator, tmp_path):
    run = Run(translator.name.split(", checkpoint")[0])
    assert kept(run) == translator.alignment_head
    found = translator.trace("abc")
    assert found.alignment_from == translator.alignment_head
    assert json.loads((run.path / "alignment.json").read_text()) == vars(found.alignment_from)
    (tmp_path / "alignment.json").write_text('{"map": "cross.0", "head": -1, "shifted": true}')
    with pytest.raises(UserError, match="does not hold a map"):
        kept(Run(tmp_path))
    assert kept(Run(tmp_path / "older")) is None


def test_alignments_of_translations_are_those_of_their_traces(translator):
    sources = ["a bc fade", "dcb a", ""]
    for source, each in zip(sources, translator.translate(sources, n_best=2, alignment=True)):
        assert bool(source) == (each.hypotheses[0].alignment is not None)
        for hypothesis in each.hypotheses if source else []:
            forced = translator.trace(source, reference=hypothesis.tokens)
            assert hypothesis.alignment == forced.alignment
