"""Random segmentations: the textbook's probabilities, sentencepiece's own result where nothing is random."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from test_tokenizers import ALGORITHMS, LINE, SUBWORDS, TEXT

from mtcli.text.segmentation import BPEDropout, UnigramSampling
from mtcli.text.tokenizers import _draw, _escape, _words, seed_sampling

SCORES = {"a": -9.0, "b": -9.1, "c": -9.2, "ab": -1.0, "bc": -2.0, "abc": -3.0}
ROUNDS = 20_000


def frequencies(sampler, word: str) -> dict[str, float]:
    random = Random(1)
    counts = Counter("·".join(sampler(word, random)) for _ in range(ROUNDS))
    return {segmentation: count / ROUNDS for segmentation, count in counts.items()}


def test_bpe_dropout_leaves_out_each_merge_with_its_probability():
    p = 0.3
    expected = {
        "abc": (1 - p) ** 2,  # ab, then abc
        "ab·c": (1 - p) * p,
        "a·bc": p * (1 - p) * p,  # ab is left out, bc made, a·bc left out
        "a·b·c": p * p,
    }
    expected["abc"] += p * (1 - p) * (1 - p)
    assert sum(expected.values()) == pytest.approx(1)
    assert frequencies(BPEDropout(SCORES, p), "abc") == pytest.approx(expected, abs=0.01)


def test_unigram_sampling_draws_by_probability_to_the_power_of_alpha():
    alpha = 0.2
    scores = {
        way: sum(SCORES[piece] for piece in way.split("·"))
        for way in ("abc", "ab·c", "a·bc", "a·b·c")
    }
    total = sum(math.exp(alpha * score) for score in scores.values())
    expected = {way: math.exp(alpha * score) / total for way, score in scores.items()}
    assert frequencies(UnigramSampling(SCORES, alpha), "abc") == pytest.approx(expected, abs=0.01)


@given(text=LINE)
def test_bpe_without_dropout_equals_sentencepiece(text):
    tokenizer = SUBWORDS["bpe"]
    certain = BPEDropout(tokenizer._scores, 0.0)
    expected = [piece for piece in tokenizer.tokenize(text) if not piece.startswith("<0x")]
    found = [
        piece
        for word in _words(_escape(tokenizer.normalize(text)))
        for piece in certain(word, Random())
    ]
    assert [piece for piece in found if piece in tokenizer._scores] == expected


def test_draw_is_uniform_and_deterministic():
    assert list(_draw(iter(range(5)), 10)) == list(range(5))
    drawn = list(_draw(iter(range(10_000)), 1000))
    assert drawn == list(_draw(iter(range(10_000)), 1000)) and len(set(drawn)) == 1000
    assert sum(drawn) / 1000 == pytest.approx(5000, rel=0.1)


DRAW = """
import sys
from pathlib import Path
from mtcli.config import Subwords
from mtcli.text.tokenizers import SubwordTokenizer, seed_sampling
tokenizer = SubwordTokenizer.load(Subwords(algorithm=sys.argv[1], dropout=0.3), Path(sys.argv[2]))
seed_sampling(7)
print([tokenizer.resample(tokenizer.tokenize(line)) for line in eval(sys.argv[3])])
"""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_seed_gives_the_same_segmentations_in_every_process(tmp_path, algorithm):
    text = [line for line in TEXT if "\0" not in line]
    SUBWORDS[algorithm].save(tmp_path / "subwords")
    command = [sys.executable, "-c", DRAW, algorithm, str(tmp_path / "subwords"), repr(text)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    seed_sampling(7)
    tokenizer = SUBWORDS[algorithm]
    assert eval(out) == [tokenizer.resample(tokenizer.tokenize(line)) for line in text]
