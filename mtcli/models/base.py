"""The contract of a sequence-to-sequence model. Knows no architecture, no vocabulary and no search."""

# B rows, S source, T target, H hidden, V vocabulary

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Memory = dict[
    str, Tensor
]  # what the encoder said; a row is a sentence; constant while it is decoded
State = dict[
    str, Tensor
]  # where the decoder stands; only its model knows what is in it; new at every step
Step = Callable[
    [Tensor, State, Memory, bool], tuple[Tensor, State, Tensor | None]
]  # as `Seq2Seq.decode_step`


def select_rows(tensors: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Take ``rows`` (indices, repeats allowed) of every tensor, whose first dimension is the row."""
    return {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}


class Seq2Seq(nn.Module):
    """A source-to-target model that can be taught (`forward`) and stepped (`encode`, `init_state`, `decode_step`).

    Masks say ``True = real token``. Rows of a Memory are B sentences; a State is that of K·B hypotheses, any K >= 1.
    Those of a sentence stand side by side, and nothing of the encoder is copied per hypothesis.
    """

    max_positions: int | None = None
    """Tokens of the longest sentence that it can read or write, EOS included; None: no limit."""

    def forward(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor:
        """Teacher forcing: decoder states for every prefix of the target.

        source (B, S) ids, source_mask (B, S) bool, target_in (B, T) ids that begin with BOS -> (B, T, H).
        """
        raise NotImplementedError

    def project(self, states: Tensor) -> Tensor:
        """Logits of the next token: (…, H) -> (…, V)."""
        raise NotImplementedError

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        """source (B, S) ids, source_mask (B, S) bool -> Memory with B rows."""
        raise NotImplementedError

    def init_state(self, memory: Memory) -> State:
        """The State before the first step: one hypothesis a sentence."""
        raise NotImplementedError

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        """One step: tokens (K·B,), State of K·B hypotheses, Memory with B rows -> logits (K·B, V), State, attention.

        The attention is (K·B, S), the mean over heads of the last layer, or None where the model has none or it was
        not asked for. May write into the State it was given: the caller must use the one it gets back.
        """
        raise NotImplementedError

    def reorder(self, state: State, rows: Tensor, sentences: Tensor | None = None) -> State:
        """The State in which hypotheses ``rows`` (K·B,) go on, each in its own sentence; a hypothesis may do so several
        times, or not at all. ``sentences`` (B,) are those that are left, where some have ended.

        The State that was given must not be used any more. By default every tensor's first dimension is the hypothesis.
        """
        return select_rows(state, rows)

    def stepper(self) -> Step:
        """`decode_step` as a function for the many steps of one search, which may keep at hand what it needs of this
        model: use it no longer than the weights stay as they are."""
        return self.decode_step
