"""Beam search, greedy search and sampling over token ids. Knows no vocabulary and no kind of model."""

# B sentences, K hypotheses of each, R = B·K rows, V vocabulary, S source, T target

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.base import Memory, State, Step, select_rows
from ..support.errors import UserError

if TYPE_CHECKING:
    from ..config import LengthPenalty, Sampling

Reorder = Callable[[State, Tensor, Tensor | None], State]  # as `Seq2Seq.reorder`

NEVER = float("-inf")  # the log-probability of what may not be
# Finished sentences leave when the others can be 2, 3, 4, 6, 8, 12, 16, … (numbers of so many leading bits), since oneDNN
# makes a kernel, in 0.3 ms, for each new number of rows of each matrix: greedy search takes 0.9 of the time.
LEAVE_BITS = 2
CHECK_EVERY = (
    8  # steps between two looks at who has finished, off the CPU: each look waits for the device
)


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence."""

    tokens: list[int]
    """Target ids, EOS included."""
    log_probability: float
    """The sum over `tokens`, by the model's own softmax: no constraint on the search changes it."""
    score: float
    """`log_probability` over the length penalty."""
    attention: Tensor | None = None
    """(T, S) on the CPU: what each token looked at, S as padded as the batch was. None: not asked for, or the model has
    none."""


def search(
    decode_step: Step,
    reorder: Reorder,
    memory: Memory,
    state: State,
    *,
    bos: int,
    eos: int,
    banned: Sequence[int],
    min_lengths: Tensor,
    max_lengths: Tensor,
    length_penalty: LengthPenalty,
    keys: Tensor,
    beam_size: int = 1,
    n_best: int = 1,
    look_ahead: int | None = None,
    sampling: Sampling | None = None,
    no_repeat_ngram: int = 0,
    prefix: Sequence[int] = (),
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """The `n_best` best hypotheses of each sentence, best score first; fewer only where fewer exist.

    decode_step: as `Seq2Seq.decode_step`; logits of any float type, which are overwritten; sums are at least float32.
    reorder: as `Seq2Seq.reorder`.
    memory, state: as `Seq2Seq.encode` and `init_state` make them, of B sentences.
    banned: ids that are never written, such as PAD and BOS.
    min_lengths, max_lengths: (B,) target tokens, EOS not counted. The maximum wins over the minimum, and `prefix` over
        both. Where nothing else may be written, EOS may come too early.
    keys: (B,) int64, who each sentence is (its line number). Its sampling noise follows from that, not from its batch.
    beam_size: 1 is greedy search: it ends at the first EOS. More: a sentence ends when no live hypothesis can still
        beat its `n_best` best finished ones, or at its maximum length.
    look_ahead: "can still" means with so many more tokens of probability 1; None: with as many as are allowed.
    n_best: at most `beam_size`. With `sampling` it is the number of samples, and `beam_size` says nothing.
    no_repeat_ngram: no sequence of so many tokens comes twice; 0: no limit. `prefix` may.
    prefix: the first target tokens of every hypothesis.

    Raises UserError where the model allows a sentence no hypothesis at all: its weights are not finite.
    """
    assert 1 <= n_best <= beam_size or sampling is not None
    count, device = len(keys), keys.device
    first_width, width = (1, beam_size) if sampling is None else (n_best, n_best)
    last_step = max([len(prefix), *max_lengths.tolist()])
    divisors = [length_penalty.divisor(step + 1) for step in range(last_step + 1)]
    unwritable = torch.tensor([*banned, eos], device=device)

    maximum = max_lengths.clamp(min=len(prefix))
    first_full, first_free = (
        int(maximum.min()),
        int(min_lengths.max()),
    )  # before and after: nothing to check
    sentences = {  # row-first, as Memory is: sentences leave both together
        "index": torch.arange(count, device=device),
        "maximum": maximum,
        "minimum": torch.minimum(min_lengths, maximum),
        "live": torch.zeros(count, first_width, device=device),
        "finished": torch.full((count, n_best), NEVER, device=device),
    }
    if sampling is not None:
        sentences["noise"] = _noise(sampling.seed, keys, n_best, last_step + 1)  # (B, K, T)
        state = reorder(state, sentences["index"].repeat_interleave(n_best), None)
    tokens = torch.full((count * first_width,), bos, device=device)
    parents = torch.full_like(
        tokens, -1
    )  # of each row: its number among the rows of the step before
    written = tokens.new_empty(len(tokens), 0)
    trail: list[dict[str, Tensor]] = []
    shape = None

    for step in range(last_step + 1):
        if shape != sentences["live"].shape:
            shape = sentences["live"].shape  # (B, K)
            first_rows = torch.arange(0, shape.numel(), shape[1], device=device).unsqueeze(
                1
            )  # (B, 1)
            whose = sentences["index"].repeat_interleave(shape[1])
        logits, state, weights = decode_step(tokens, state, memory, attention)
        precision = logits.dtype if logits.dtype == torch.float64 else torch.float32
        # The fused log_softmax takes half the time of logsumexp; in place it needs no other memory (and caches).
        place = logits if logits.dtype == precision else None
        log_probs = torch.log_softmax(logits, 1, dtype=precision, out=place)
        log_probs = log_probs.view(*shape, -1)
        if step == 0:
            sentences["divisor"] = log_probs.new_tensor([divisors[i] for i in maximum.tolist()])

        if step < len(prefix):
            choice = _force(log_probs, sentences, prefix[step])
        else:
            ends = log_probs.select(2, eos).clone()  # (B, K)
            log_probs.index_fill_(2, unwritable, NEVER)
            if no_repeat_ngram:
                _ban_repeats(log_probs, written, no_repeat_ngram, spare=eos)
            full = (step >= sentences["maximum"]).unsqueeze(1) if step >= first_full else None
            early = (step < sentences["minimum"]).unsqueeze(1) if step < first_free else None
            if sampling is not None:
                choice = _draw(log_probs, ends, sentences, step, full, early, sampling, eos)
            elif width == 1:
                choice = _choose_one(log_probs, ends, sentences, full, early)
            else:
                choice = _choose(log_probs, ends, sentences, full, early, width)

        grown = {
            "token": tokens,
            "parent": parents,
            "sentence": whose,
            "log_probability": choice.ended.view(-1),
        }
        if weights is not None:
            grown["attention"] = weights
        trail.append(grown)

        # Log-probabilities only fall. A sentence that is done and has not left yet finds nothing more.
        live = choice.live
        if width == 1:
            done = (live == NEVER).view(-1)
        else:
            scores = choice.ended / divisors[step]
            finished = torch.cat((sentences["finished"], scores), 1).topk(n_best).values
            reach = sentences["divisor"]
            if look_ahead is not None:
                reach = reach.clamp(max=divisors[min(step + 1 + look_ahead, last_step)])
            done = live.amax(1) / reach <= finished[:, -1]
            live = live.masked_fill(done.unsqueeze(1), NEVER)
            sentences["finished"] = finished
        rows = first_rows if width == 1 else first_rows + choice.parents
        sentences |= {"live": live, "rows": rows, "tokens": choice.tokens}
        moves, staying = sampling is None and width > 1 and step >= len(prefix), None
        if device.type == "cpu" or (step + 1) % CHECK_EVERY == 0:
            unfinished = done.tolist().count(False)
            if unfinished == 0:
                break
            unit = 1 << max(0, unfinished.bit_length() - LEAVE_BITS)
            size = -(-unfinished // unit) * unit
            if size < len(done):
                staying = done.byte().argsort(stable=True)[:size]  # the unfinished ones first
                sentences, memory = select_rows(sentences, staying), select_rows(memory, staying)
                moves = True
        parents, tokens = sentences["rows"].view(-1), sentences["tokens"].view(-1)
        if moves:
            state = reorder(state, parents, staying)
        if no_repeat_ngram:
            written = torch.cat((written.index_select(0, parents), tokens.unsqueeze(1)), 1)

    found = _harvest(trail, divisors, eos, count, n_best)
    if not all(found):
        raise UserError(
            "The model gives every translation of a sentence the probability 0 or none at all: its weights are not "
            "finite numbers. Take an earlier checkpoint, and train on with a lower learning rate."
        )
    return found


# ------------------------------------------------------------------------------------------- what one step decides


class Choice(NamedTuple):
    """How the hypotheses of each sentence go on. `ended` has a column for each that was stepped, the others K."""

    ended: Tensor  # (B, ·) log-probability where EOS comes next and the hypothesis counts as finished, else NEVER
    live: Tensor  # (B, K) log-probabilities of those that go on; NEVER: nothing goes on here
    parents: Tensor  # (B, K) which of its sentence's hypotheses each one goes on from
    tokens: Tensor  # (B, K) with which token


def _force(log_probs: Tensor, sentences: dict[str, Tensor], token: int) -> Choice:
    """Every hypothesis goes on with `token`; log_probs (B, K, V)."""
    live = sentences["live"] + log_probs[..., token]
    tokens = torch.full_like(live, token, dtype=torch.long)
    return Choice(
        torch.full_like(live, NEVER), live, torch.arange(live.shape[1], device=live.device), tokens
    )


def _choose(
    log_probs: Tensor,
    ends: Tensor,
    sentences: dict[str, Tensor],
    full: Tensor | None,
    early: Tensor | None,
    width: int,
) -> Choice:
    """Beam search: the `width` best of all continuations go on; EOS ends a hypothesis where it is among the best.

    log_probs (B, K, V), NEVER for EOS; ends (B, K), those of EOS. full (B, 1): only EOS may come; early (B, 1): it may
    not, unless nothing else can; None: nowhere so.
    """
    live, places = _top(log_probs, sentences["live"], width)
    ends = ends + sentences["live"]
    if full is not None:
        live = live.masked_fill(full, NEVER)
    if early is not None:
        ends = ends.masked_fill(early & (live[:, :1] > NEVER), NEVER)
    bar = torch.cat((live, ends), 1).topk(width).values[:, -1:]
    ended = ends.masked_fill(ends < bar, NEVER)
    return Choice(ended, live, places // log_probs.shape[2], places % log_probs.shape[2])


def _choose_one(
    log_probs: Tensor,
    ends: Tensor,
    sentences: dict[str, Tensor],
    full: Tensor | None,
    early: Tensor | None,
) -> Choice:
    """Greedy search: the most probable token goes on, unless EOS is as probable: as `_choose`, with less to do."""
    live, tokens = log_probs.max(2) if len(ends) < 8 else _top(log_probs, torch.zeros_like(ends), 1)
    if full is not None:
        live = live.masked_fill(full, NEVER)
    if early is not None:
        ends = ends.masked_fill(early & (live > NEVER), NEVER)
    over, before = ends >= live, sentences["live"]
    ended = (ends + before).masked_fill_(~over, NEVER)
    live = (live + before).masked_fill_(over, NEVER)
    return Choice(ended, live, torch.zeros_like(tokens), tokens)


def _top(values: Tensor, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each sentence's K·V values, largest first, and their places: (B, K, V) -> (B, k), (B, k).

    ``offsets`` (B, K) are added to all values of a hypothesis. The k largest lie in the k groups with the largest
    maxima: `topk` of those is 3 times as fast as of everything (0.25 ms, not 0.86, for 64 x 20,000 on one core). Groups
    are strided, since maxima over rows are what is fast. For one sentence it is not worth their while.
    """
    vocabulary = values.shape[2]
    if len(values) == 1 and values.numel() >= k:
        return (values + offsets.unsqueeze(2)).flatten(1).topk(k)
    members = next(size for size in range(20, 0, -1) if vocabulary % size == 0)
    groups = vocabulary // members
    maxima = (values.unflatten(2, (members, groups)).amax(2) + offsets.unsqueeze(2)).flatten(
        1
    )  # (B, K·groups)
    chosen = maxima.topk(min(k, maxima.shape[1])).indices
    hypotheses = chosen // groups
    first = chosen + hypotheses * (vocabulary - groups)  # the place of a group's first member
    places = first.unsqueeze(2) + torch.arange(
        0, vocabulary, groups, device=values.device
    )  # (B, k, members)
    inside = values.flatten(1).gather(1, places.flatten(1))
    inside += offsets.gather(1, hypotheses).repeat_interleave(members, 1)
    best, order = inside.topk(min(k, inside.shape[1]))
    places = places.flatten(1).gather(1, order)
    if missing := k - best.shape[1]:  # fewer continuations than k exist
        best, places = pad(best, (0, missing), value=NEVER), pad(places, (0, missing))
    return best, places


def _draw(
    log_probs: Tensor,
    ends: Tensor,
    sentences: dict[str, Tensor],
    step: int,
    full: Tensor | None,
    early: Tensor | None,
    sampling: Sampling,
    eos: int,
) -> Choice:
    """Sampling: each hypothesis goes on by itself, with one token drawn from what it may write; else as `_choose`."""
    if early is not None:
        ends = ends.masked_fill(early & (log_probs.amax(2) > NEVER), NEVER)
    log_probs[..., eos] = ends
    tokens = _inverse_cdf(log_probs, sentences["noise"][..., step], sampling)
    if full is not None:
        tokens = tokens.masked_fill(full, eos)
    live = sentences["live"] + log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)
    over = tokens == eos
    parents = torch.arange(live.shape[1], device=live.device)
    return Choice(live.masked_fill(~over, NEVER), live.masked_fill(over, NEVER), parents, tokens)


def _inverse_cdf(log_probs: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """The token where the cumulative distribution passes `noise`, uniform in (0, 1]: (…, V), (…) -> (…)."""
    tokens = None
    if sampling.top_k is not None:
        log_probs, tokens = log_probs.topk(min(sampling.top_k, log_probs.shape[-1]))
    elif sampling.top_p < 1:
        log_probs, tokens = log_probs.sort(stable=True, descending=True)
    cumulative = (log_probs / sampling.temperature).softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    if (
        sampling.top_p < 1
    ):  # as far as the first place that reaches top_p (Holtzman et al. 2020, eq. 2)
        total = cumulative.gather(-1, (cumulative < sampling.top_p * total).sum(-1, keepdim=True))
    place = (cumulative < noise.unsqueeze(-1) * total).sum(-1, keepdim=True)
    return (place if tokens is None else tokens.gather(-1, place)).squeeze(-1)


def _noise(seed: int, keys: Tensor, samples: int, steps: int) -> Tensor:
    """Uniform in (0, 1], a hash of (seed, key, sample, step) and of nothing else: keys (B,) -> (B, samples, steps)."""
    hashed = _splitmix64(torch.tensor(seed, device=keys.device))
    sample, step = (
        torch.arange(samples, device=keys.device),
        torch.arange(steps, device=keys.device),
    )
    for part in (keys[:, None, None], sample[:, None], step):
        hashed = _splitmix64(hashed + part)
    return ((hashed & (2**24 - 1)) + 1).float() / 2**24


def _splitmix64(state: Tensor) -> Tensor:
    """One output of the generator SplitMix64 (Steele et al. 2014, figure 15) for each int64 state."""
    state = (
        state - 0x61C8864680B583EB
    )  # adds 0x9E3779B97F4A7C15 modulo 2^64; the factors too are signed here
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


# ------------------------------------------------------------------------------------------------- what it comes to


def _harvest(
    trail: list[dict[str, Tensor]], divisors: list[float], eos: int, count: int, n_best: int
) -> list[list[Hypothesis]]:
    """Follows the `n_best` best finished hypotheses of each sentence back to their beginnings.

    trail: at each step, of each row that was stepped: the token it was fed, its parent among the rows of the step
    before (-1: it begins a hypothesis), its sentence, the log-probability with which it ended there or NEVER, and its
    attention. divisors: what that is divided by at each step.
    """
    nodes = {name: torch.cat([grown[name] for grown in trail]).cpu() for name in trail[0]}
    begins = [0, *itertools.accumulate(len(grown["token"]) for grown in trail)]  # of the steps
    ended = (nodes["log_probability"] > NEVER).nonzero().squeeze(1)
    steps = torch.bucketize(ended, torch.tensor(begins[1:]), right=True)
    log_probabilities = nodes["log_probability"][ended]
    scores, order = (log_probabilities / log_probabilities.new_tensor(divisors)[steps]).sort(
        descending=True, stable=True
    )
    tokens, parents = nodes["token"].tolist(), nodes["parent"].tolist()
    found: list[list[Hypothesis]] = [[] for _ in range(count)]
    results = (
        each[order].tolist() for each in (ended, steps, nodes["sentence"][ended], log_probabilities)
    )
    for score, node, step, sentence, log_probability in zip(scores.tolist(), *results):
        if len(found[sentence]) == n_best:
            continue
        path = [node]
        while step > 0:
            step -= 1
            path.append(begins[step] + parents[path[-1]])
        path.reverse()
        attention = nodes["attention"][path] if "attention" in nodes else None
        found[sentence].append(
            Hypothesis(
                [tokens[node] for node in path[1:]] + [eos], log_probability, score, attention
            )
        )
    return found
