"""Random segmentations of a word into pieces of subwords, for training.

sentencepiece could draw them too, but its generator starts elsewhere in every process, whatever its seed.
"""

from __future__ import annotations

import math
from bisect import bisect
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import accumulate
from random import Random

remember_words = lru_cache(2**17)  # most words of a text are common ones


class BPEDropout:
    """Merges neighbours to ever longer pieces, and leaves out each merge with a probability (Provilkov et al. 2020).

    ``scores`` are those of the pieces that text may consist of: of all possible merges, that with the highest score
    comes first, the leftmost of several.
    """

    def __init__(self, scores: dict[str, float], dropout: float):
        by_score = sorted(scores, key=scores.__getitem__, reverse=True)
        self.ranks = {piece: rank for rank, piece in enumerate(by_score)}
        self.dropout = dropout

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``, in which a character without a piece is alone."""
        # How many merges are made before the first is left out: mostly all, and the result is known.
        first = math.inf
        if self.dropout:
            first = math.floor(math.log(1 - random.random()) / math.log(1 - self.dropout))
        pieces, merges = _all_merges(self, word)
        return pieces if first >= merges else self.merge(word, first, random)[0]

    def merge(self, word: str, first: float, random: Random) -> tuple[list[str], int]:
        """The pieces, and the number of merges that made them; the one after ``first`` merges is left out."""
        ranks, size = self.ranks, len(word)
        pieces = list(word)  # a piece is where it begins; its other places are ""
        before = list(range(-1, size))  # where the piece before begins
        merges = chances = 0
        agenda = [
            (ranks[pair], at) for at in range(size - 1) if (pair := word[at : at + 2]) in ranks
        ]
        heapify(agenda)
        while agenda:
            rank, left = heappop(agenda)
            right = left + len(pieces[left])
            merged = pieces[left] + pieces[right] if right < size else ""
            if ranks.get(merged) != rank:
                continue  # one of the two has become part of another piece
            chances += 1
            if chances > first and (chances == first + 1 or random.random() < self.dropout):
                continue
            merges += 1
            pieces[left], pieces[right] = merged, ""
            following = left + len(merged)
            before[following] = left
            for one, other in ((before[left], left), (left, following)):
                if one >= 0 and other < size:
                    if (new := ranks.get(pieces[one] + pieces[other])) is not None:
                        heappush(agenda, (new, one))
        return [piece for piece in pieces if piece], merges


@remember_words
def _all_merges(sampler: BPEDropout, word: str) -> tuple[list[str], int]:
    return sampler.merge(word, math.inf, Random())


class UnigramSampling:
    """Draws a segmentation with its probability to the power ``alpha`` (Kudo 2018, section 3.2).

    ``scores`` are the log-probabilities of the pieces that text may consist of.
    """

    UNKNOWN = -10.0  # log-probability of a character without a piece, relative to the rarest piece

    def __init__(self, scores: dict[str, float], alpha: float):
        self.weights = {piece: alpha * score for piece, score in scores.items()}
        self.unknown = alpha * (min(scores.values(), default=0.0) + self.UNKNOWN)
        self.longest = max(map(len, scores), default=1)

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``, in which a character without a piece is alone."""
        pieces, end, found = [], len(word), _find_starts(self, word)
        while end:
            starts, cumulative = found[end]
            chosen = bisect(cumulative, random.random() * cumulative[-1])
            start = starts[min(chosen, len(starts) - 1)]
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]


@remember_words
def _find_starts(sampler: UnigramSampling, word: str) -> list[tuple[list[int], list[float]]]:
    """For each end of a piece: where the piece can start, and the cumulative probabilities of these starts."""
    # For each end, the log of the summed probabilities of the segmentations up to it.
    totals = [0.0]
    found: list[tuple[list[int], list[float]]] = [([], [])]
    for end in range(1, len(word) + 1):
        starts, logs = [], []
        for start in range(max(0, end - sampler.longest), end):
            unknown = sampler.unknown if start == end - 1 else None
            weight = sampler.weights.get(word[start:end], unknown)
            if weight is not None:
                starts.append(start)
                logs.append(totals[start] + weight)
        top = max(logs)
        cumulative = list(accumulate(math.exp(each - top) for each in logs))
        totals.append(top + math.log(cumulative[-1]))
        found.append((starts, cumulative))
    return found
