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

REMEMBERED = 2**16  # words; most words of a text are common ones


class BPEDropout:
    """Merges neighbours to ever longer pieces, and leaves out each merge with a probability (Provilkov et al. 2020).

    ``scores`` are those of the pieces that text may consist of: of all possible merges, that with the highest score
    comes first, the leftmost of several.
    """

    def __init__(self, scores: dict[str, float], dropout: float):
        by_score = sorted(scores, key=scores.__getitem__, reverse=True)
        self.ranks = {piece: rank for rank, piece in enumerate(by_score)}
        self.dropout = dropout
        self._undropped = lru_cache(REMEMBERED)(lambda word: self._merge(word, math.inf, Random()))
        self._made_of = scores, dropout

    def __reduce__(self):
        return type(self), self._made_of  # to other processes without what it remembers

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``, in which a character without a piece is alone."""
        # How many merges are made before the first is left out: mostly all, and the result is known.
        first = math.inf
        if self.dropout:
            first = math.floor(math.log(1 - random.random()) / math.log(1 - self.dropout))
        pieces, merges = self._undropped(word)
        return pieces if first >= merges else self._merge(word, first, random)[0]

    def _merge(self, word: str, first: float, random: Random) -> tuple[list[str], int]:
        """The pieces, and the number of merges that made them; the one after ``first`` merges is left out."""
        pieces, ranks = (
            list(word),
            self.ranks,
        )  # a piece is where it begins, "" follows where it was merged
        after, before = list(range(1, len(word) + 1)), list(range(-1, len(word) - 1))
        merges = chances = 0
        pairs = ((ranks.get(word[place : place + 2]), place) for place in range(len(word) - 1))
        agenda = [(rank, place) for rank, place in pairs if rank is not None]
        heapify(agenda)
        while agenda:
            rank, left = heappop(agenda)
            right = after[left]
            if (
                not pieces[left]
                or right == len(word)
                or ranks.get(pieces[left] + pieces[right]) != rank
            ):
                continue  # one of the two has become part of another piece
            chances += 1
            if chances > first and (chances == first + 1 or random.random() < self.dropout):
                continue
            merges += 1
            pieces[left], pieces[right] = pieces[left] + pieces[right], ""
            after[left] = following = after[right]
            if following < len(word):
                before[following] = left
            for one, other in ((before[left], left), (left, following)):
                if one >= 0 and other < len(word):
                    if (new := ranks.get(pieces[one] + pieces[other])) is not None:
                        heappush(agenda, (new, one))
        return [piece for piece in pieces if piece], merges


class UnigramSampling:
    """Draws a segmentation with its probability to the power ``alpha`` (Kudo 2018, section 3.2).

    ``scores`` are the log-probabilities of the pieces that text may consist of.
    """

    UNKNOWN = -10.0
    """Log-probability of a character without a piece, relative to the least probable piece."""

    def __init__(self, scores: dict[str, float], alpha: float):
        self.weights = {piece: alpha * score for piece, score in scores.items()}
        self.unknown = alpha * (min(scores.values(), default=0.0) + self.UNKNOWN)
        self.longest = max(map(len, scores), default=1)
        self._starts = lru_cache(REMEMBERED)(self._find_starts)
        self._made_of = scores, alpha

    def __reduce__(self):
        return type(self), self._made_of  # to other processes without what it remembers

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``, in which a character without a piece is alone."""
        pieces, end, found = [], len(word), self._starts(word)
        while end:
            starts, cumulative = found[end]
            chosen = bisect(cumulative, random.random() * cumulative[-1])
            start = starts[min(chosen, len(starts) - 1)]
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]

    def _find_starts(self, word: str) -> list[tuple[list[int], list[float]]]:
        """For each end of a piece: where the piece can start, and the cumulative probabilities of these starts."""
        totals = [
            0.0
        ]  # for each end, the log of the summed probabilities of all segmentations up to it
        found: list[tuple[list[int], list[float]]] = [([], [])]
        for end in range(1, len(word) + 1):
            starts, logs = [], []
            for start in range(max(0, end - self.longest), end):
                unknown = self.unknown if start == end - 1 else None
                weight = self.weights.get(word[start:end], unknown)
                if weight is not None:
                    starts.append(start)
                    logs.append(totals[start] + weight)
            top = max(logs)
            cumulative = list(accumulate(math.exp(each - top) for each in logs))
            totals.append(top + math.log(cumulative[-1]))
            found.append((starts, cumulative))
        return found
