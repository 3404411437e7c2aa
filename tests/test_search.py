"""Search, on models that are small tables: against hand, enumeration and a slow search that is plain to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import pytest
import torch
from hypothesis import given, settings, strategies as st

from mtcli.config import LengthPenalty, Sampling
from mtcli.decoding.search import NEVER, SearchOptions, Step, search
from mtcli.models.base import Memory, State
from mtcli.support.errors import UserError

BOS, EOS = 0, 1
PLACES = 13  # of a Walk
STEPS = 12  # after which its logits start over
PENALTIES = [
    LengthPenalty(type="none"),
    LengthPenalty(type="average", alpha=1.0),
    LengthPenalty(type="average", alpha=0.3),
    LengthPenalty(type="gnmt", alpha=1.0),
]

several = settings(deadline=None, max_examples=60)


@dataclass
class Tables(Memory):
    logits: torch.Tensor  # (B, STEPS, PLACES, V)


@dataclass
class Place(State):
    place: torch.Tensor  # (R,)


class Walk:
    """A model that walks over places by all the tokens it has read; each place has a row of logits.

    Rows that are mixed up show, since the place is in the State. It writes into the State it is given, as models may.
    The logits grow from step to step, so that no two ways have the same probability.
    """

    def __init__(self, tables: torch.Tensor):
        growing = torch.stack([tables * (1 + step / 8) for step in range(STEPS)], 1)
        self.memory = Tables(torch.ones(len(tables), 1, dtype=torch.bool), growing)
        self.rows = 0  # that were stepped

    @cached_property
    def log_probs(self) -> list:
        return self.memory.logits.double().log_softmax(3).tolist()

    @classmethod
    def random(cls, seed: int, sentences: int, vocabulary: int, sharpness: float = 1.0) -> Walk:
        generator = torch.Generator().manual_seed(seed)
        return cls(
            sharpness
            * torch.randn(sentences, PLACES, vocabulary, generator=generator, dtype=torch.float64)
        )

    def init_state(self, memory: Memory) -> Place:
        return Place(0, torch.zeros(len(memory.mask), dtype=torch.long))

    @staticmethod
    def move(place, token):
        return (place * 5 + token * 3 + 1) % PLACES

    def decode_step(self, tokens, state, memory):
        self.rows += len(tokens)
        state.place.copy_(self.move(state.place, tokens))
        sentence = torch.arange(len(tokens)) // (len(tokens) // len(memory.mask))
        logits = memory.logits[sentence, state.position % STEPS, state.place]
        return logits, Place(state.position + 1, state.place)

    def next(self, sentence: int, tokens: tuple[int, ...]) -> list[float]:
        """The log-probabilities after `tokens`, by plain Python."""
        return self.log_probs[sentence][len(tokens) % STEPS][self.places(tokens)[-1]]

    def places(self, tokens: tuple[int, ...]) -> list[int]:
        """Where it stands after BOS and after each of `tokens`."""
        places = [self.move(0, BOS)]
        for token in tokens:
            places.append(self.move(places[-1], token))
        return places

    def log_probability(self, sentence: int, tokens: list[int]) -> float:
        return math.fsum(
            self.next(sentence, tuple(tokens[:i]))[token] for i, token in enumerate(tokens)
        )

    def select(self, sentences: list[int]) -> Walk:
        return Walk(self.memory.logits[sentences, 0])


def run(
    model: Walk, *, maximum=6, minimum=0, banned=(BOS,), penalty=PENALTIES[0], trail=None, **options
):
    count = len(model.memory.mask)
    lengths = [[each] * count if isinstance(each, int) else each for each in (minimum, maximum)]
    search_options = SearchOptions(BOS, EOS, *lengths, banned, length_penalty=penalty, **options)
    return search(model, model.memory, search_options, trail)


def divide(penalty: LengthPenalty, log_probability: float, length: int) -> float:
    base = {"none": 1, "average": length, "gnmt": (5 + length) / 6}[penalty.type]
    return log_probability / base**penalty.alpha


def repeats(tokens: tuple[int, ...], n: int) -> bool:
    """Whether the last n-gram was there before."""
    ngrams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
    return n > 0 and len(ngrams) > 0 and ngrams[-1] in ngrams[:-1]


@dataclass
class Plain:
    """What a search found, to compare with."""

    tokens: list[int]
    log_probability: float
    score: float


def plain_search(
    model,
    sentence,
    beam_size,
    *,
    maximum,
    minimum,
    banned,
    penalty,
    n=0,
    prefix=(),
    n_best=1,
    look_ahead=None,
) -> list[Plain]:
    """Beam search one sentence and one hypothesis at a time. All that finished, best first.

    It never stops early unless there is a look_ahead.
    """
    start = math.fsum(model.next(sentence, prefix[:i])[token] for i, token in enumerate(prefix))
    live, finished = [(start, tuple(prefix))], []
    for length in range(len(prefix), maximum + 1):
        candidates = []
        for log_probability, tokens in live:
            for token, value in enumerate(model.next(sentence, tokens)):
                full, early = length == maximum, length < minimum
                writable = token not in banned and not repeats((*tokens, token), n)
                if (token == EOS and (full or not early)) or (
                    token != EOS and writable and not full
                ):
                    candidates.append((log_probability + value, (*tokens, token)))
        if not candidates:
            candidates = [
                (value + model.next(sentence, tokens)[EOS], (*tokens, EOS))
                for value, tokens in live
            ]
        candidates.sort(reverse=True)
        ended = [each for each in candidates[:beam_size] if each[1][-1] == EOS]
        live = [each for each in candidates if each[1][-1] != EOS][:beam_size]
        finished += [
            Plain(list(tokens), value, divide(penalty, value, len(tokens)))
            for value, tokens in ended
        ]
        if not live or (beam_size == 1 and finished):
            break
        if look_ahead is not None and len(finished) >= n_best:
            reach = min(length + 1 + look_ahead, maximum) + 1
            if (
                divide(penalty, live[0][0], reach)
                <= sorted(each.score for each in finished)[-n_best]
            ):
                break
    return sorted(finished, key=lambda each: -each.score)


def assert_same(found, expected):
    assert [each.ids for each in found] == [list(each.tokens) for each in expected]
    for mine, other in zip(found, expected):
        assert mine.log_probability == pytest.approx(other.log_probability, abs=1e-9)
        assert mine.score == pytest.approx(other.score, abs=1e-9)


walks = st.builds(
    Walk.random,
    seed=st.integers(0, 10**6),
    sentences=st.integers(1, 4),
    vocabulary=st.sampled_from([3, 4, 7, 20, 24, 30]),
    sharpness=st.sampled_from([0.5, 2.0, 5.0]),
)


# --------------------------------------------------------------------------------------------- greedy and beam search


class Chain:
    """A Markov model: `rows` are the probabilities of the next token after each token."""

    def __init__(self, rows: list[list[float]]):
        self.table = torch.tensor(rows, dtype=torch.float64).log()

    def init_state(self, memory):
        return State(0)

    def decode_step(self, tokens, state, memory):
        return self.table[tokens], State(state.position + 1)


def run_chain(rows: list[list[float]], length_penalty=PENALTIES[0], **options):
    options = SearchOptions(BOS, EOS, [0], [3], [BOS], length_penalty=length_penalty, **options)
    return search(Chain(rows), Memory(torch.ones(1, 1, dtype=torch.bool)), options)[0]


GARDEN_PATH = [
    [0.0, 0.0, 0.6, 0.4],  # after BOS, 2 looks better
    [0.0, 1.0, 0.0, 0.0],
    [0.0, 0.4, 0.3, 0.3],  # but nothing good follows it
    [0.0, 0.9, 0.05, 0.05],
]


def test_greedy_by_hand():
    (best,) = run_chain(GARDEN_PATH)
    assert best.ids == [2, EOS]
    assert best.log_probability == best.score == pytest.approx(math.log(0.6 * 0.4))


def test_beam_by_hand():
    first, second = run_chain(GARDEN_PATH, beam_size=2, n_best=2)
    assert first.ids == [3, EOS] and first.score == pytest.approx(math.log(0.4 * 0.9))
    assert second.ids == [2, EOS] and second.score == pytest.approx(math.log(0.6 * 0.4))


def test_waits_for_a_longer_hypothesis_that_scores_better():
    """[EOS] is ahead at first; what follows 2 costs next to nothing and, divided by its length, comes out before it."""
    sure = [[0.0, 0.6, 0.4], [0.0, 1.0, 0.0], [0.0, 0.99, 0.01]]
    (best,) = run_chain(sure, beam_size=2, length_penalty=LengthPenalty(type="average"))
    assert best.ids == [2, EOS] and best.score == pytest.approx(math.log(0.4 * 0.99) / 2)


def test_maximum_length_forces_eos_at_its_true_probability():
    endless = [[0.0, 0.1, 0.9], [0.0, 1.0, 0.0], [0.0, 0.1, 0.9]]
    (best,) = run_chain(endless)
    assert best.ids == [2, 2, 2, EOS]
    assert best.log_probability == pytest.approx(math.log(0.9**3 * 0.1))


@several
@given(walks, st.sampled_from(PENALTIES), st.integers(0, 3), st.integers(0, 7))
def test_beam_of_one_is_greedy(model, penalty, minimum, maximum):
    for sentence, (found,) in enumerate(
        run(model, penalty=penalty, minimum=minimum, maximum=maximum)
    ):
        tokens: tuple[int, ...] = ()
        while tokens[-1:] != (EOS,):
            row = dict(enumerate(model.next(sentence, tokens)))
            del row[BOS]
            if len(tokens) < min(minimum, maximum):
                del row[EOS]
            tokens += (EOS,) if len(tokens) == maximum else (max(row, key=row.__getitem__),)
        assert found.ids == list(tokens)


@several
@given(walks, st.sampled_from(PENALTIES), st.data())
def test_equals_a_plain_search(model, penalty, data):
    count, vocabulary = len(model.log_probs), len(model.log_probs[0][0][0])
    beam_size = data.draw(st.integers(1, 5))
    n_best = data.draw(st.integers(1, beam_size))
    minimum = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    maximum = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    n = data.draw(st.integers(0, 3))
    prefix = tuple(data.draw(st.lists(st.integers(2, vocabulary - 1), max_size=2)))
    look_ahead = data.draw(st.none() | st.integers(0, 4))
    banned = (BOS, 2) if vocabulary > 4 else (BOS,)
    found = run(
        model, penalty=penalty, minimum=minimum, maximum=maximum, banned=banned, beam_size=beam_size, n_best=n_best,
        no_repeat_ngram=n, prefix=prefix, look_ahead=look_ahead,
    )  # fmt: skip
    for sentence in range(count):
        expected = plain_search(
            model, sentence, beam_size, banned=banned, penalty=penalty, n=n, prefix=prefix, n_best=n_best,
            look_ahead=look_ahead, maximum=max(maximum[sentence], len(prefix)), minimum=minimum[sentence],
        )  # fmt: skip
        assert_same(found[sentence], expected[:n_best])


@several
@given(st.integers(0, 10**6), st.sampled_from(PENALTIES), st.integers(0, 3))
def test_wide_beam_is_exhaustive(seed, penalty, maximum):
    model = Walk.random(seed, sentences=2, vocabulary=4)
    sequences = [
        [*body, EOS] for length in range(maximum + 1) for body in product((2, 3), repeat=length)
    ]
    width = len(sequences) + 2**maximum
    for sentence, found in enumerate(
        run(model, penalty=penalty, maximum=maximum, beam_size=width, n_best=width)
    ):
        everything = []
        for tokens in sequences:
            log_probability = model.log_probability(sentence, tokens)
            everything.append(
                Plain(tokens, log_probability, divide(penalty, log_probability, len(tokens)))
            )
        assert_same(found, sorted(everything, key=lambda each: -each.score))


def test_sentences_end_early():
    """A model that is sure of its end is not asked again and again until the maximum length."""
    tables = torch.zeros(4, PLACES, 6, dtype=torch.float64)
    tables[:3, :, EOS] = 20.0
    tables[3, :, EOS] = -20.0
    model = Walk(tables)
    run(model, maximum=[40, 40, 40, 10], beam_size=2)
    assert model.rows == 4 + 2 * 10


# ------------------------------------------------------------------------------------------------- what always holds


@several
@given(walks, st.integers(1, 4), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_sentence_does_not_depend_on_its_batch(model, beam_size, sampled, constrained, random):
    count = len(model.log_probs)
    options = {
        "penalty": PENALTIES[3],
        "beam_size": beam_size,
        "n_best": beam_size,
    }
    if sampled:
        options["sampling"] = Sampling(
            seed=5, top_k=7 if constrained else None, top_p=0.8 if constrained else 1.0
        )
    if constrained:
        options["no_repeat_ngram"] = 2
    maximum = [random.randrange(9) for _ in range(count)]
    together = run(model, maximum=maximum, **options)
    order = random.sample(range(count), random.randint(1, count))
    mixed = run(model.select(order), maximum=[maximum[i] for i in order], keys=order, **options)
    alone = [run(model.select([i]), maximum=maximum[i], keys=[i], **options)[0] for i in order]
    for i, in_mixed, by_itself in zip(order, mixed, alone):
        for one in in_mixed, by_itself:
            assert one == together[i]


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("sampling", [None, Sampling()])
def test_a_finished_sentence_waits_for_others_to_leave_with_it(beam_size, sampling):
    """In a large batch a sentence is stepped for a while after its end."""
    model = Walk.random(9, sentences=60, vocabulary=24, sharpness=2.0)
    options = {
        "beam_size": beam_size,
        "n_best": beam_size,
        "sampling": sampling,
        "penalty": PENALTIES[1],
        "maximum": 9,
    }
    for sentence, found in enumerate(run(model, **options)):
        assert found == run(model.select([sentence]), keys=[sentence], **options)[0]


@several
@given(walks, st.integers(1, 4), st.booleans(), st.sampled_from(PENALTIES))
def test_results_are_what_they_say(model, beam_size, sampled, penalty):
    vocabulary = len(model.log_probs[0][0][0])
    banned = (BOS, vocabulary - 1)
    prefix = (vocabulary - 1,)  # the prefix may hold what may not be written
    found = run(
        model, minimum=3, maximum=7, banned=banned, prefix=prefix, beam_size=beam_size, n_best=beam_size,
        penalty=penalty, sampling=Sampling(temperature=2.0) if sampled else None,
    )  # fmt: skip
    for sentence, hypotheses in enumerate(found):
        assert 1 <= len(hypotheses) <= beam_size
        assert [each.score for each in hypotheses] == sorted(
            (each.score for each in hypotheses), reverse=True
        )
        assert sampled or len({tuple(each.ids) for each in hypotheses}) == len(hypotheses)
        for each in hypotheses:
            *body, last = each.ids
            assert last == EOS and tuple(body[:1]) == prefix
            assert EOS not in body and not set(body[1:]) & set(banned)
            assert len(body) <= 7 and (len(body) >= 3 or vocabulary == 3)
            log_probability = model.log_probability(sentence, each.ids)
            assert each.log_probability == pytest.approx(log_probability, abs=1e-9)
            assert each.score == pytest.approx(
                divide(penalty, log_probability, len(each.ids)), abs=1e-9
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    model = Walk(Walk.random(3, sentences=3, vocabulary=20).memory.logits[:, 0].to(dtype))
    for sentence, hypotheses in enumerate(run(model, beam_size=3, n_best=3)):
        for each in hypotheses:
            expected = model.log_probability(sentence, each.ids)
            assert each.log_probability == pytest.approx(expected, abs=1e-5)


@several
@given(walks, st.integers(2, 4), st.integers(0, 5))
def test_a_kept_tree_has_the_best_continuations_of_every_step(model, width, maximum):
    """Every node's log-probability is its parent's and its token's; what was pruned is worse than what
    was kept; the result is the same as without."""
    trail: list[Step] = []
    options = {"beam_size": width, "n_best": width, "maximum": maximum}
    assert run(model, trail=trail, keep_pruned=True, **options) == run(model, **options)
    paths: list[dict[int, tuple[int, ...]]] = []
    for number, step in enumerate(trail):
        rows = len(step.tokens) // len(step.sentences)
        owners = step.sentences.repeat_interleave(rows).tolist()
        paths.append({})
        for row, (token, parent, live, ended) in enumerate(
            zip(
                step.tokens.tolist(), step.parents.tolist(), step.live.tolist(), step.ended.tolist()
            )
        ):
            before = () if number == 0 else (*paths[-2][parent], token)
            paths[-1][row] = before
            if live > NEVER:
                expected = model.log_probability(owners[row], list(before))
                assert live == pytest.approx(expected, abs=1e-9)
            if ended > NEVER:
                expected = model.log_probability(owners[row], [*before, EOS])
                assert ended == pytest.approx(expected, abs=1e-9)
        if step.pruned is not None and number + 1 < len(trail):
            kept = dict(
                zip(trail[number + 1].sentences.tolist(), trail[number + 1].live.view(-1, width))
            )
            for sentence, pruned in zip(step.sentences.tolist(), step.pruned.live):
                best = kept.get(sentence, torch.tensor([math.inf]))
                assert (best[-1] == NEVER) or pruned.max() <= best[best > NEVER].min() + 1e-12
    assert all(step.pruned is not None for step in trail)


@pytest.mark.parametrize("sampling", [None, Sampling()])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_broken_weights_are_an_error(sampling, beam_size):
    with pytest.raises(UserError, match="not finite"):
        run(Walk(torch.full((2, PLACES, 5), math.nan)), beam_size=beam_size, sampling=sampling)


# ----------------------------------------------------------------------------------------------------------- sampling


def flat_walk(logits: list[float], sentences: int) -> Walk:
    """A model that has the same `logits` everywhere."""
    return Walk(torch.tensor(logits, dtype=torch.float64).expand(sentences, PLACES, len(logits)))


def first_tokens(found) -> torch.Tensor:
    return torch.tensor([each.ids[0] for hypotheses in found for each in hypotheses])


def test_samples_follow_from_the_seed():
    model = Walk.random(1, sentences=20, vocabulary=24)
    draw = [
        [each.ids for (each,) in run(model, sampling=Sampling(seed=seed))] for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]
    twins = run(flat_walk([0.0] * 50, 2), n_best=5, sampling=Sampling())
    assert (
        len({tuple(each.ids) for hypotheses in twins for each in hypotheses}) == 10
    )  # other keys, other samples
    model = flat_walk([0.0] * 50, 1)
    one, other = (
        run(model, keys=[key], sampling=Sampling(seed=seed)) for key, seed in ((1, 2), (2, 1))
    )
    assert one[0][0].ids != other[0][0].ids


@pytest.mark.parametrize(
    "options, kept",
    [
        ({}, 5),
        ({"temperature": 0.5}, 5),
        ({"top_k": 3}, 3),
        ({"top_p": 0.6}, 2),
        ({"top_k": 4, "top_p": 0.95}, 4),
    ],
)
def test_frequencies(options, kept):
    """Over many sentences and samples, tokens come as often as they should."""
    probabilities = torch.tensor([0.45, 0.25, 0.2, 0.06, 0.04], dtype=torch.float64)
    model = flat_walk([-50.0, *probabilities.log().tolist()], 500)
    found = run(model, maximum=1, n_best=8, sampling=Sampling(**options))
    observed = torch.bincount(first_tokens(found) - 1, minlength=5).double()
    expected = probabilities ** (1 / options.get("temperature", 1.0))
    expected[kept:] = 0
    expected *= observed.sum() / expected.sum()
    assert observed[kept:].sum() == 0
    chi_square = ((observed - expected)[:kept] ** 2 / expected[:kept]).sum()
    assert chi_square < 25  # at most 4 degrees of freedom: chance exceeds it once in 20,000


def test_steps_are_drawn_independently():
    """Pairs of neighbouring tokens are all equally frequent."""
    found = run(flat_walk([-50.0, -50.0, 0.0, 0.0, 0.0], 3000), maximum=2, sampling=Sampling())
    pairs = torch.tensor([3 * (each.ids[0] - 2) + each.ids[1] - 2 for (each,) in found])
    observed = torch.bincount(pairs, minlength=9).double()
    assert ((observed - 3000 / 9) ** 2 / (3000 / 9)).sum() < 35  # 8 degrees of freedom


@several
@given(walks)
def test_sampling_from_the_best_alone_is_greedy(model):
    greedy = run(model)
    for sampling in Sampling(top_k=1), Sampling(top_p=1e-9):
        for (drawn,), (best,) in zip(run(model, sampling=sampling), greedy):
            assert drawn.ids == best.ids
