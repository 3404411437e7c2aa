"""Random segmentations of a word into pieces of subwords, for training. Knows no files, no text and no ids.

sentencepiece could draw them too, but from a generator that starts elsewhere in every process, whatever its seed.
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

    ``scores`` are those of the pieces that text may consist of: of all merges that can be made, that with the highest
    comes first, the leftmost of several.
    """

    def __init__(self, scores: dict[str, float], dropout: float):
        self.ranks = {
            piece: rank
            for rank, piece in enumerate(sorted(scores, key=scores.__getitem__, reverse=True))
        }
        self.dropout = dropout
        self._whole = lru_cache(REMEMBERED)(lambda word: self._merge(word, math.inf, Random()))
        self._made_of = scores, dropout

    def __reduce__(self):
        return type(self), self._made_of  # to other processes without what it remembers

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``; a character that is no piece stands alone."""
        # How many merges are made before the first is left out: mostly all, and the result is known.
        first = math.inf
        if self.dropout:
            first = math.floor(math.log(1 - random.random()) / math.log(1 - self.dropout))
        pieces, merges = self._whole(word)
        return pieces if first >= merges else self._merge(word, first, random)[0]

    def _merge(self, word: str, first: float, random: Random) -> tuple[list[str], int]:
        """The pieces, and how many merges made them. ``first`` merges are made before one is left out."""
        pieces: list[str | None] = list(word)
        after, before = list(range(1, len(word) + 1)), list(range(-1, len(word) - 1))
        ranks, merges, chances = self.ranks, 0, 0
        pairs = (
            (ranks.get(left + right), place)
            for place, (left, right) in enumerate(zip(word, word[1:]))
        )
        agenda = [pair for pair in pairs if pair[0] is not None]
        heapify(agenda)
        while agenda:
            rank, left = heappop(agenda)
            right = after[left]
            if (
                pieces[left] is None
                or right == len(word)
                or ranks.get(pieces[left] + pieces[right]) != rank
            ):
                continue  # one of the two has become part of another piece
            chances += 1
            if chances > first and (chances == first + 1 or random.random() < self.dropout):
                continue
            merges += 1
            pieces[left], pieces[right] = pieces[left] + pieces[right], None
            after[left] = following = after[right]
            if following < len(word):
                before[following] = left
            for one, other in ((before[left], left), (left, following)):
                if (
                    one >= 0
                    and other < len(word)
                    and (rank := ranks.get(pieces[one] + pieces[other])) is not None
                ):
                    heappush(agenda, (rank, one))
        return [piece for piece in pieces if piece], merges


class UnigramSampling:
    """Draws a segmentation with its probability to the power ``alpha`` (Kudo 2018, section 3.2).

    ``scores`` are the log-probabilities of the pieces that text may consist of.
    """

    UNKNOWN = -10.0  # of a character that is no piece: so much below the least probable piece

    def __init__(self, scores: dict[str, float], alpha: float):
        self.weights = {piece: alpha * score for piece, score in scores.items()}
        self.unknown = alpha * (min(scores.values(), default=0.0) + self.UNKNOWN)
        self.longest = max(map(len, scores), default=1)
        self._ways = lru_cache(REMEMBERED)(self._find_ways)
        self._made_of = scores, alpha

    def __reduce__(self):
        return type(self), self._made_of  # to other processes without what it remembers

    def __call__(self, word: str, random: Random) -> list[str]:
        """A segmentation of ``word``; a character that is no piece stands alone."""
        pieces, end, ways = [], len(word), self._ways(word)
        while end:
            starts, cumulative = ways[end]
            start = starts[
                min(bisect(cumulative, random.random() * cumulative[-1]), len(starts) - 1)
            ]
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]

    def _find_ways(self, word: str) -> list[tuple[list[int], list[float]]]:
        """For each end of a piece: where it can have begun, and the cumulative probability of each beginning."""
        totals = [0.0]  # log of the summed probabilities of all segmentations up to each place
        ways: list[tuple[list[int], list[float]]] = [([], [])]
        for end in range(1, len(word) + 1):
            starts, logs = [], []
            for start in range(max(0, end - self.longest), end):
                weight = self.weights.get(
                    word[start:end], self.unknown if start == end - 1 else None
                )
                if weight is not None:
                    starts.append(start)
                    logs.append(totals[start] + weight)
            top = max(logs)
            cumulative = list(accumulate(math.exp(each - top) for each in logs))
            totals.append(top + math.log(cumulative[-1]))
            ways.append((starts, cumulative))
        return ways
