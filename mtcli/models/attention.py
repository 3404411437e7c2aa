"""How a recurrent decoder looks at the source: a registry of scores."""

# B sentences, Q queries of each, S source, H hidden

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Linear


class Attention(nn.Module):
    """The mean of the values, weighted by the softmax of a score of query and key (Luong et al. 2015, section 3.1).

    The queries of a sentence may be its target positions or its hypotheses: they do not see one another. `size` is H,
    of queries and values alike.
    """

    def __init__(self, size: int) -> None:
        super().__init__()

    def keys(self, values: Tensor) -> Tensor:
        """What queries are compared with, computed once a sentence: values (B, S, H) -> (B, S, H)."""
        return values

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries (B, Q, H), keys (B, S, H) -> (B, Q, S)."""
        raise NotImplementedError

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """queries (B, Q, H), keys and values (B, S, H), mask (B, S) -> context (B, Q, H), weights (B, Q, S).

        True in the mask is a real token; every sentence has at least one. The rest gets a weight of exactly 0.
        """
        scores = self.score(queries, keys).masked_fill(~mask.unsqueeze(1), -torch.inf)
        weights = scores.softmax(-1)
        return weights @ values, weights


class Additive(Attention):
    """v·tanh(W q + U k); Bahdanau et al. 2015, A.1.2.

    Written with tanh x = 2σ(2x) - 1, since σ is faster on a CPU; without the -1, which moves all scores of a query
    alike, so that the softmax does not see it.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.from_query = Linear(size, size, bias=False)
        self.from_value = Linear(size, size)
        self.v = Linear(size, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        return 2 * self.from_value(values)

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        pairs = (2 * self.from_query(queries)).unsqueeze(2) + keys.unsqueeze(1)  # (B, Q, S, H): 2x
        return 2 * self.v(pairs.sigmoid_()).squeeze(-1)


class Dot(Attention):
    """q·k; Luong et al. 2015, eq. 8."""

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.mT


class General(Dot):
    """q·W k; Luong et al. 2015, eq. 8."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.from_value = Linear(size, size, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        return self.from_value(values)


ATTENTIONS: dict[str, type[Attention]] = {"additive": Additive, "dot": Dot, "general": General}
