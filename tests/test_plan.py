"""Updates: every pair once, little padding, a function of seed and epoch; micro-batches that fit; the data behind them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from mtcli.config import TSV, Characters, Subwords
from mtcli.models.batches import Sequences
from mtcli.text.codec import Codec
from mtcli.text.tokenizers import TOKENIZERS
from mtcli.text.vocab import BOS, EOS, PAD, Vocabulary
from mtcli.training.plan import ParallelData, cut, padding, plan_epoch

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200)


@given(lengths, st.integers(1, 300), st.sampled_from(["tokens", "sentences"]), st.integers(0, 3))
def test_epoch_holds_every_pair_once(pairs, size, by, epoch):
    source, target = np.array(pairs).T
    plan = plan_epoch(source, target, size, by, seed=1, epoch=epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(pairs)))
    again = plan_epoch(source, target, size, by, seed=1, epoch=epoch)
    assert all((a == b).all() for a, b in zip(plan, again, strict=True))
    for rows in plan:
        if by == "tokens":  # about as asked: off by rounding to equal parts, and by one pair
            assert target[rows].sum() <= 1.5 * size + target.max()
        else:
            assert len(rows) <= 1.5 * size + 1


def test_order_depends_on_seed_and_epoch():
    source = target = np.random.default_rng(0).integers(1, 30, 500)
    plans = [
        plan_epoch(source, target, 100, "tokens", seed, epoch)
        for seed, epoch in [(1, 0), (1, 1), (2, 0)]
    ]
    first_rows = [tuple(plan[0]) for plan in plans]
    assert len(set(first_rows)) == 3


def test_padding_is_small():
    generator = np.random.default_rng(0)
    target = generator.integers(4, 40, 5000)
    source = np.maximum(1, target + generator.integers(-4, 5, 5000))
    plan = plan_epoch(source, target, 2000, "tokens", 1, 0)
    assert padding(plan, target) < 0.05
    assert padding(plan, source) < 0.25


@given(lengths, st.integers(1, 400))
def test_micro_batches_fit_and_keep_the_order(pairs, limit):
    source, target = np.array(pairs).T
    rows = np.arange(len(pairs))
    parts = cut(rows, source, target, limit)
    assert np.concatenate(parts).tolist() == rows.tolist()
    for part in parts:
        assert len(part) == 1 or len(part) * (source[part].max() + target[part].max()) <= limit


@given(st.lists(st.lists(st.integers(4, 99), max_size=6), min_size=1, max_size=8), st.data())
def test_padded_rows_are_the_sequences(sequences, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=5)))
    if not any(sequences[row] for row in rows):
        return
    ids, mask = Sequences.of(sequences).take(rows).padded()
    assert [line[real].tolist() for line, real in zip(ids, mask)] == [
        sequences[row] for row in rows
    ]
    assert (ids[~mask] == PAD).all()


def test_a_batch_in_one_buffer_is_the_same(tmp_path):
    side = codec("abc")
    part = corpus(tmp_path / "a.tsv", ("ab", "c"), ("a", "abc"), ("abcab", "b"))
    batch = ParallelData([part], (side, side), 9, tmp_path / "cache").batch(np.arange(3))
    packed = batch.packed(pinned=False)
    for again in (packed, packed.to(torch.device("cpu"))):
        for name, tensor in vars(batch).items():
            assert name == "buffer" or torch.equal(getattr(again, name), tensor)
    moved = packed.to(torch.device("meta"))
    assert len({tensor.untyped_storage()._cdata for tensor in moved._tensors()}) == 1


def codec(text: str) -> Codec:
    return Codec(
        TOKENIZERS["char"].train(Characters(), [text]), Vocabulary.build({c: 1 for c in set(text)})
    )


def corpus(path: Path, *pairs: tuple[str, str], weight: int = 1) -> TSV:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return TSV(path=str(path), weight=weight)


def test_batch_has_inputs_and_outputs_for_teacher_forcing(tmp_path):
    side = codec("abc")
    part = corpus(tmp_path / "a.tsv", ("ab", "c"), ("a", "abc"))
    data = ParallelData([part], (side, side), 9, tmp_path / "cache")
    batch = data.batch(np.array([0, 1]))
    a, b, c = side.vocabulary.encode("abc")
    assert batch.source.tolist() == [[a, b, EOS], [a, EOS, PAD]]
    assert batch.source_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.target_in.tolist() == [[BOS, c, PAD, PAD], [BOS, a, b, c]]
    assert batch.target_out.tolist() == [[c, EOS, PAD, PAD], [a, b, c, EOS]]
    assert batch.target_places.tolist() == [0, 1, 4, 5, 6, 7]
    assert batch.of_targets(batch.target_out).tolist() == [c, EOS, a, b, c, EOS]


def test_sampled_segmentations_change_with_the_seed_and_only_with_it(tmp_path):
    config = Subwords(vocabulary_size=300, dropout=0.5)
    lines = ["the quick brown fox jumps over the lazy dog"] * 20
    tokenizer = TOKENIZERS["subword"].train(config, lines)
    side = Codec(tokenizer, Vocabulary(tokenizer.pieces()))
    part = corpus(tmp_path / "a.tsv", *zip(lines, lines))
    data = ParallelData([part], (side, side), 99, tmp_path / "cache")
    rows = np.arange(3)
    one, same, other = (data.batch(rows, sampling_seed=seed) for seed in (7, 7, 8))
    assert one.source.tolist() == same.source.tolist()
    assert one.source.tolist() != other.source.tolist()
    for ids in one.target_out.tolist():
        assert side.decode(ids) == lines[0]
    assert data.batch(rows).source.tolist() == [side.encode(lines[0])] * 3


def test_corpus_weight_repeats_its_pairs(tmp_path):
    side = codec("abc")
    parts = [
        corpus(tmp_path / f"{number}.tsv", *((text, text) for text in texts), weight=weight)
        for number, (texts, weight) in enumerate([(["a"], 2), (["bc", "b"], 1), (["ca"], 3)])
    ]
    data = ParallelData(parts, (side, side), 9, tmp_path / "cache")
    expected = ["a", "a", "bc", "b", "ca", "ca", "ca"]
    assert [side.decode(data.source[row]) for row in range(len(data))] == expected
    assert data.target.lengths.tolist() == [len(text) + 1 for text in expected]
    assert [side.decode(ids) for ids in data.batch(np.arange(7)).source.tolist()] == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by /proc")
def test_large_data_stays_on_disk(tmp_path):
    """40 MB of ids are read, planned and made to batches; what is held beside the files is a few numbers a pair."""

    def anonymous() -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) << 10

    side = codec("".join(map(chr, range(97, 123))))
    text = "abcdefghij" * 24
    part = corpus(tmp_path / "a.tsv", *[(text, text)] * 40_000)
    ParallelData([part], (side, side), 250, tmp_path / "cache")
    before = anonymous()
    data = ParallelData([part], (side, side), 250, tmp_path / "cache")
    plan = plan_epoch(data.source.lengths, data.target.lengths, 4000, "tokens", 1, 0)
    for rows in plan[::100]:
        data.batch(rows)
    assert anonymous() - before < 200 * len(data)  # bytes; the ids take 964
