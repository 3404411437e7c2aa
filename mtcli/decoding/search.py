"""Beam search, greedy search and sampling over token ids. Knows no vocabulary and no kind of model."""

# B sentences, K hypotheses of each, R = B·K rows, V vocabulary, T target

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..config import LengthPenalty, Sampling
from ..models.base import Memory, Rows, State
from ..support import devices
from ..support.errors import UserError
from .engine import Hypothesis

NEVER = float("-inf")  # the log-probability of what may not be
CHECK_EVERY = 8  # steps between two looks at who has finished, off the CPU


class Steps(Protocol):
    """What is needed of a model: as in `Seq2Seq`. Its logits are overwritten."""

    def init_state(self, memory: Memory) -> State: ...

    def decode_step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class SearchOptions:
    """How to search, for B sentences."""

    bos: int
    eos: int
    min_lengths: Sequence[int]
    """For each sentence, target tokens without EOS. The maximum wins over it, `prefix` over both;
    where nothing else may be written, EOS may come too early."""
    max_lengths: Sequence[int]
    banned: Sequence[int] = ()
    """Ids that are never written, such as PAD and BOS."""
    beam_size: int = 1
    """1 is greedy search: it ends at the first EOS. More: a sentence ends when no live hypothesis
    can still beat its `n_best` best finished ones, or at its maximum length."""
    n_best: int = 1
    """At most `beam_size`. With `sampling` it is the number of samples, and `beam_size` is unused."""
    length_penalty: LengthPenalty = LengthPenalty()
    look_ahead: int | None = None
    """"Can still" means with this many more tokens of probability 1; None: with all allowed."""
    sampling: Sampling | None = None
    keys: Sequence[int] = ()
    """Who each sentence is. Its noise follows from that, not from its batch. Empty: its place."""
    no_repeat_ngram: int = 0
    """No sequence of N tokens comes twice; 0: no limit. `prefix` may."""
    prefix: Sequence[int] = ()
    """The first target tokens of every hypothesis."""
    keep_pruned: bool = False
    """Whether a beam's trail has the best of what was not kept, too."""


@dataclass
class Step:
    """What one step did, of R rows: the search's tree, step by step."""

    tokens: Tensor
    """(R,) what each hypothesis read."""
    parents: Tensor
    """(R,) its row in the step before; -1 at first."""
    sentences: Tensor
    """(B,) whose rows these are, K each."""
    live: Tensor
    """(R,) log-probabilities before this step."""
    ended: Tensor
    """(R,) log-probability where EOS comes next and finishes the hypothesis; NEVER elsewhere."""
    pruned: Choice | None = None
    """With `keep_pruned`: the best continuations that were not kept."""


@dataclass
class Sentences(Rows):
    """Where each sentence is."""

    index: Tensor  # (B,) its place among all
    minimum: Tensor  # (B,)
    maximum: Tensor  # (B,)
    reach: Tensor  # (B,) float64: what the log-probability of its longest hypothesis is divided by
    live: Tensor  # (B, K) log-probabilities of hypotheses that go on; NEVER: none
    finished: Tensor  # (B, n_best) the best scores, largest first
    noise: Tensor | None  # (B, K, T) uniform in (0, 1]


def search(
    model: Steps, memory: Memory, options: SearchOptions, trail: list[Step] | None = None
) -> list[list[Hypothesis]]:
    """The `n_best` best hypotheses of each sentence, best score first; fewer only where fewer exist.

    ``trail`` is filled with all steps, where it is given. Raises UserError where the model allows a
    sentence no hypothesis at all: its weights are not finite.
    """
    trail = [] if trail is None else trail
    device, prefix, strategy = memory.mask.device, options.prefix, _strategy(options)
    most = [max(length, len(prefix)) for length in options.max_lengths]
    divisors = [options.length_penalty.divisor(step + 1) for step in range(max(most) + 1)]
    first_full, first_free = min(most), max(options.min_lengths)  # before, after: nothing to check
    unwritable = _sent([*options.banned, options.eos], device)
    sentences = _start(options, most, divisors, device)
    state = model.init_state(memory)
    if (width := sentences.live.shape[1]) > 1:
        state = state.select(sentences.index.repeat_interleave(width))
    tokens = torch.full((sentences.live.numel(),), options.bos, device=device)
    parents, written = torch.full_like(tokens, -1), tokens.new_empty(len(tokens), 0)

    for step in range(max(most) + 1):
        shape = sentences.live.shape  # (B, K)
        logits, state = model.decode_step(tokens, state, memory)
        log_probs = _log_softmax(logits).view(*shape, -1)
        if step < len(prefix):
            choice = _force(log_probs, sentences.live, prefix[step])
        else:
            ends = log_probs.select(2, options.eos).clone()
            log_probs.index_fill_(2, unwritable, NEVER)
            if options.no_repeat_ngram:
                _ban_repeats(log_probs, written, options.no_repeat_ngram, spare=options.eos)
            full = (step >= sentences.maximum)[:, None] if step >= first_full else None
            early = (step < sentences.minimum)[:, None] if step < first_free else None
            noise = None if sentences.noise is None else sentences.noise[..., step]
            choice = strategy.choose(log_probs, sentences.live, ends, full, early, noise)
        live, ended = sentences.live.view(-1), choice.ended.view(-1)
        trail.append(Step(tokens, parents, sentences.index, live, ended, choice.pruned))

        done = _finish(sentences, choice, step, divisors, options.look_ahead)
        first_rows = torch.arange(0, shape.numel(), shape[1], device=device)[:, None]
        rows, tokens, staying = first_rows + choice.parents, choice.tokens, None
        if device.type == "cpu" or (step + 1) % CHECK_EVERY == 0:
            if (unfinished := _count_unfinished(done)) == 0:
                break
            if (size := _leaving_size(unfinished)) < len(done):
                staying = done.byte().argsort(stable=True)[:size]  # the unfinished first
                sentences, memory = sentences.select(staying), memory.select(staying)
                rows, tokens = rows[staying], tokens[staying]
                devices.choose_products(device, rows.numel())
        parents, tokens = rows.view(-1), tokens.reshape(-1)
        if staying is not None or (strategy.reorders and step >= len(prefix)):
            state = state.select(parents)
        if options.no_repeat_ngram:
            written = torch.cat((written.index_select(0, parents), tokens[:, None]), 1)
    return _harvest(trail, divisors, options)


def _start(
    options: SearchOptions, most: list[int], divisors: list[float], device: torch.device
) -> Sentences:
    count, width, noise = len(most), 1, None
    exact = torch.float32 if device.type == "mps" else torch.float64
    if options.sampling is not None:
        width = options.n_best
        keys = _sent(options.keys or range(count), device)
        noise = _noise(options.sampling.seed, keys, width, len(divisors))
    return Sentences(
        index=torch.arange(count, device=device),
        minimum=_sent(list(map(min, options.min_lengths, most)), device),
        maximum=_sent(most, device),
        reach=_sent([divisors[length] for length in most], device, exact),
        live=torch.zeros(count, width, device=device),
        finished=torch.full((count, options.n_best), NEVER, device=device),
        noise=noise,
    )


def _sent(values: Sequence, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """As a tensor on the device, without waiting for its work."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _log_softmax(logits: Tensor) -> Tensor:
    """In at least float32; in place, where that is what the logits are in."""
    exact = torch.promote_types(logits.dtype, torch.float32)
    out = logits if logits.dtype == exact else None
    return torch.log_softmax(logits, 1, dtype=exact, out=out)


def _finish(
    sentences: Sentences, choice: Choice, step: int, divisors: list[float], look_ahead: int | None
) -> Tensor:
    """Take what a step chose into ``sentences``. Returns which are done, (B,): log-probabilities
    only fall, so nothing that is live can still win. A sentence that is done finds nothing more."""
    scores = choice.ended / divisors[step]
    best = sentences.finished.shape[1]
    sentences.finished = torch.cat((sentences.finished, scores), 1).topk(best).values
    reach = sentences.reach
    if look_ahead is not None:
        reach = reach.clamp(max=divisors[min(step + 1 + look_ahead, len(divisors) - 1)])
    done = choice.live.amax(1) / reach <= sentences.finished[:, -1]
    sentences.live = choice.live.masked_fill(done[:, None], NEVER)
    return done


def _count_unfinished(done: Tensor) -> int:
    """The one value that a search reads from the device before its end, which waits for it."""
    return done.tolist().count(False)


def _leaving_size(unfinished: int) -> int:
    """How many sentences stay when others leave: at least the unfinished, in one of a few sizes (2,
    3, 4, 6, 8, 12, 16, …), since oneDNN makes a kernel for every new number of rows."""
    unit = 1 << max(0, unfinished.bit_length() - 2)
    return -(-unfinished // unit) * unit


# ----------------------------------------------------------------------- what one step decides


@dataclass
class Choice:
    """How the hypotheses of each sentence go on."""

    ended: Tensor
    """(B, K before) log-probability where EOS comes next and the hypothesis is finished, or NEVER."""
    live: Tensor
    """(B, K) log-probabilities of those that go on; NEVER: nothing does."""
    parents: Tensor
    """(B, K) which of its sentence's hypotheses each one continues."""
    tokens: Tensor
    """(B, K) with which token."""
    pruned: Choice | None = None


class Strategy(Protocol):
    """One decision a step.

    log_probs (B, K, V), NEVER for EOS and what may not be written; live (B, K); ends (B, K), the
    log-probability of EOS; full (B, 1): only EOS may come; early (B, 1): it may not, unless
    nothing else can; None: no sentence is. noise (B, K).
    """

    reorders: bool
    """Whether hypotheses change places."""

    def choose(
        self, log_probs: Tensor, live: Tensor, ends: Tensor, full: Tensor | None,
        early: Tensor | None, noise: Tensor | None,
    ) -> Choice: ...  # fmt: skip


def _strategy(options: SearchOptions) -> Strategy:
    if options.sampling is not None:
        return Sample(options.sampling, options.eos)
    assert 1 <= options.n_best <= options.beam_size
    return Greedy() if options.beam_size == 1 else Beam(options.beam_size, options.keep_pruned)


def _force(log_probs: Tensor, live: Tensor, token: int) -> Choice:
    """Every hypothesis goes on with ``token``."""
    live = live + log_probs[..., token]
    parents = torch.arange(live.shape[1], device=live.device).expand(live.shape)
    return Choice(torch.full_like(live, NEVER), live, parents, torch.full_like(parents, token))


class Greedy:
    """The most probable token goes on, unless EOS is as probable."""

    reorders = False

    def choose(self, log_probs, live, ends, full, early, noise) -> Choice:
        best, tokens = _top(log_probs, torch.zeros_like(ends), 1)
        if full is not None:
            best = best.masked_fill(full, NEVER)
        if early is not None:
            ends = ends.masked_fill(early & (best > NEVER), NEVER)
        over = ends >= best
        ended = (ends + live).masked_fill_(~over, NEVER)
        live = (best + live).masked_fill_(over, NEVER)
        return Choice(ended, live, torch.zeros_like(tokens), tokens)


class Beam:
    """The ``width`` best of all continuations go on; EOS ends a hypothesis where it is among them."""

    reorders = True

    def __init__(self, width: int, keep_pruned: bool = False):
        self.width, self.keep_pruned = width, keep_pruned

    def choose(self, log_probs, live, ends, full, early, noise) -> Choice:
        vocabulary, width = log_probs.shape[2], self.width
        best, places = _top(log_probs, live, width * 2 if self.keep_pruned else width)
        ends = ends + live
        if full is not None:
            best = best.masked_fill(full, NEVER)
        if early is not None:
            ends = ends.masked_fill(early & (best[:, :1] > NEVER), NEVER)
        bar = torch.cat((best[:, :width], ends), 1).topk(width).values[:, -1:]
        ended = ends.masked_fill(ends < bar, NEVER)
        parents, tokens = places // vocabulary, places % vocabulary
        kept, rest = slice(None, width), slice(width, None)
        pruned = None
        if self.keep_pruned:
            missed = ends.masked_fill(ends >= bar, NEVER)
            pruned = Choice(missed, best[:, rest], parents[:, rest], tokens[:, rest])
        return Choice(ended, best[:, kept], parents[:, kept], tokens[:, kept], pruned)


class Sample:
    """Every hypothesis goes on by itself, with one token drawn from what it may write."""

    reorders = False

    def __init__(self, sampling: Sampling, eos: int):
        self.sampling, self.eos = sampling, eos

    def choose(self, log_probs, live, ends, full, early, noise) -> Choice:
        if early is not None:
            ends = ends.masked_fill(early & (log_probs.amax(2) > NEVER), NEVER)
        log_probs[..., self.eos] = ends
        tokens = _inverse_cdf(log_probs, noise, self.sampling)
        if full is not None:
            tokens = tokens.masked_fill(full, self.eos)
        chosen = live + log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)
        over = tokens == self.eos
        parents = torch.arange(live.shape[1], device=live.device).expand(live.shape)
        ended, live = chosen.masked_fill(~over, NEVER), chosen.masked_fill(over, NEVER)
        return Choice(ended, live, parents, tokens)


def _top(values: Tensor, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each sentence's K·V values, largest first, and their places: (B, K, V) ->
    (B, k), (B, k). ``offsets`` (B, K) are added to all values of a hypothesis.

    They are in the k groups with the largest maxima: `topk` of those is four times as fast as of
    everything on the CPU. Members of a group are V / members apart, since maxima over rows are fast.
    """
    vocabulary = values.shape[2]
    if len(values) == 1 and values.numel() >= k:  # not worth it
        return (values + offsets.unsqueeze(2)).flatten(1).topk(k)
    members = next(size for size in range(20, 0, -1) if vocabulary % size == 0)
    groups = vocabulary // members
    maxima = values.unflatten(2, (members, groups)).amax(2) + offsets.unsqueeze(2)  # (B, K, groups)
    chosen = maxima.flatten(1).topk(min(k, maxima[0].numel())).indices
    hypotheses = chosen // groups
    first = chosen + hypotheses * (vocabulary - groups)  # the place of a group's first member
    places = first.unsqueeze(2) + torch.arange(0, vocabulary, groups, device=values.device)
    inside = values.flatten(1).gather(1, places.flatten(1)).view(places.shape)
    inside = (inside + offsets.gather(1, hypotheses).unsqueeze(2)).flatten(1)  # (B, k·members)
    best, order = inside.topk(min(k, inside.shape[1]))
    places = places.flatten(1).gather(1, order)
    if missing := k - best.shape[1]:  # fewer continuations than k exist
        best, places = pad(best, (0, missing), value=NEVER), pad(places, (0, missing))
    return best, places


def _inverse_cdf(log_probs: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """The token where the cumulative distribution passes `noise`, uniform in (0, 1]: (…, V), (…) -> (…)."""
    tokens = None
    if sampling.top_k is not None:
        log_probs, tokens = log_probs.topk(min(sampling.top_k, log_probs.shape[-1]))
    elif sampling.top_p < 1:
        log_probs, tokens = log_probs.sort(stable=True, descending=True)
    cumulative = (log_probs / sampling.temperature).softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    if sampling.top_p < 1:  # up to the first place that reaches top_p (Holtzman et al. 2020, eq. 2)
        total = cumulative.gather(-1, (cumulative < sampling.top_p * total).sum(-1, keepdim=True))
    place = (cumulative < noise.unsqueeze(-1) * total).sum(-1, keepdim=True)
    return (place if tokens is None else tokens.gather(-1, place)).squeeze(-1)


def _noise(seed: int, keys: Tensor, samples: int, steps: int) -> Tensor:
    """Uniform in (0, 1], a hash of (seed, key, sample, step) and of nothing else: keys (B,) -> (B, samples, steps)."""
    hashed = _splitmix64(torch.tensor(seed))
    sample, step = (torch.arange(count, device=keys.device) for count in (samples, steps))
    for part in (keys[:, None, None], sample[:, None], step):
        hashed = _splitmix64(hashed + part)
    return ((hashed & (2**24 - 1)) + 1).float() / 2**24


def _splitmix64(state: Tensor) -> Tensor:
    """One output of the generator SplitMix64 (Steele et al. 2014, figure 15) for each int64 state."""
    state = (
        state - 0x61C8864680B583EB
    )  # adds 0x9E3779B97F4A7C15 mod 2^64; the factors are signed, too
    state = (state ^ ((state >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    state = (state ^ ((state >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return state ^ ((state >> 31) & (2**33 - 1))


def _ban_repeats(log_probs: Tensor, written: Tensor, n: int, spare: int) -> None:
    """NEVER for each token that would complete an n-gram a second time; log_probs (B, K, V), written (R, T).

    Column `spare` takes the writes that ban nothing: read it before.
    """
    if written.shape[1] < n:
        return
    ngrams = written.unfold(1, n, 1)  # (R, T - n + 1, n)
    end = written[:, written.shape[1] - n + 1 :]  # (R, n - 1)
    seen = (ngrams[..., :-1] == end.unsqueeze(1)).all(2)
    log_probs.view(len(written), -1).scatter_(1, ngrams[..., -1].where(seen, spare), NEVER)


# ------------------------------------------------------------------------------ what it comes to


def _harvest(
    trail: list[Step], divisors: list[float], options: SearchOptions
) -> list[list[Hypothesis]]:
    """Follow the `n_best` best finished hypotheses of each sentence back to their beginnings."""
    widths = [len(step.tokens) // len(step.sentences) for step in trail]
    sentences = [step.sentences.repeat_interleave(width) for step, width in zip(trail, widths)]
    begins = [0, *accumulate(len(step.tokens) for step in trail)]
    tokens = torch.cat([step.tokens for step in trail]).tolist()
    parents = torch.cat([step.parents for step in trail]).tolist()
    log_probabilities = torch.cat([step.ended for step in trail]).cpu()
    ended = (log_probabilities > NEVER).nonzero()[:, 0]
    steps = torch.bucketize(ended, torch.tensor(begins[1:]), right=True)
    log_probabilities = log_probabilities[ended]
    scores = log_probabilities / log_probabilities.new_tensor(divisors)[steps]
    scores, order = scores.sort(descending=True, stable=True)
    owners = torch.cat(sentences).cpu()[ended]
    results = (each[order].tolist() for each in (ended, steps, owners, log_probabilities))
    found: list[list[Hypothesis]] = [[] for _ in options.max_lengths]
    for score, node, step, sentence, log_probability in zip(scores.tolist(), *results):
        if len(found[sentence]) == options.n_best:
            continue
        path = [tokens[node]]
        while step > 0:
            node, step = begins[step - 1] + parents[node], step - 1
            path.append(tokens[node])
        ids = [*path[-2::-1], options.eos]  # without BOS
        found[sentence].append(Hypothesis(ids, log_probability, score))
    if not all(found):
        raise UserError(
            "The model gives every translation of a sentence the probability 0 or none at all: its "
            "weights are not finite numbers. Take an earlier checkpoint, and train on with a lower "
            "learning rate."
        )
    return found
