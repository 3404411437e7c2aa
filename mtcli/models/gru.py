"""Recurrent encoder-decoder, with attention or without.

With e_t the embedding of the token before position t, s_t the top decoder layer and c_t the context:

    attention_at: after       s_t = cell(e_t, s_{t-1})         c_t = attend(s_t)        o_t = tanh(W [s_t; c_t])
    attention_at: before      s_t = cell([e_t; c_t], s_{t-1})  c_t = attend(s_{t-1})    o_t = tanh(W [s_t; c_t; e_t])
    no attention, every_step  s_t = cell([e_t; c], s_{t-1})    c = last encoder state   o_t = tanh(W [s_t; c; e_t])
    no attention, init        s_t = cell(e_t, s_{t-1})                                  o_t = tanh(W s_t)

(Luong et al. 2015, eq. 5; Bahdanau et al. 2015, A.2.2; Cho et al. 2014; Sutskever et al. 2014), and the logits are a
linear function of o_t. In a deep decoder the context of `before` goes into the lowest layer and is asked for by the
lowest layer's previous state (as in Wu et al. 2016, section 3), so that the layers above run over all steps at once.
"""

# B sentences, R rows (hypotheses, B of them or a multiple), S source, T target, E embedding, H hidden, V vocabulary,
# L layers, W width of a layer's state

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Recurrent
from .attention import ATTENTIONS, Attention
from .base import Maps, Memory, Seq2Seq, State
from .layers import Dropout, Embedding, Linear, MetaFriendly, autocast_off, autocast_type


def in_own_precision(method: Callable) -> Callable:
    """A recurrent layer's method, computed in the type of its weights also under autocast: not every processor, nor
    every cuDNN, has recurrent layers in bfloat16."""

    @wraps(method)
    def exact(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        dtype = self.weight_hh_l0.dtype
        with autocast_off(inputs):
            return method(self, inputs.to(dtype), None if state is None else state.to(dtype))

    return exact


class GRULayer(MetaFriendly, nn.GRU):
    """A layer of gated recurrent units; its state is its output."""

    parts = 1  # width of the state in units of H

    @in_own_precision
    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All steps at once: inputs (R, T, I), state (R, W), zeros if None -> outputs (R, T, H), last state (R, W)."""
        if state is not None:
            state = state.unsqueeze(0).contiguous()
        outputs, last = super().forward(inputs, state)
        return outputs, last.squeeze(0)

    @in_own_precision
    def step(self, gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step, by the equations of nn.GRU, from what its input says: gates (R, 3H), state -> output, state."""
        recurrent = F.linear(state, self.weight_hh_l0, self.bias_hh_l0)
        sizes = (2 * self.hidden_size, self.hidden_size)
        (gates, candidate), (recurrent, memory) = gates.split(sizes, 1), recurrent.split(sizes, 1)
        reset, update = (gates + recurrent).sigmoid().chunk(2, 1)
        state = torch.lerp(torch.addcmul(candidate, reset, memory).tanh(), state, update)
        return state, state


class LSTMLayer(MetaFriendly, nn.LSTM):
    """A layer of long short-term memory; its state is its output and its cell, in this order. Methods as in GRULayer."""

    parts = 2

    @in_own_precision
    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if state is not None:
            state = tuple(part.contiguous() for part in state.unsqueeze(0).chunk(2, 2))
        outputs, last = super().forward(inputs, state)
        return outputs, torch.cat(last, 2).squeeze(0)

    @in_own_precision
    def step(self, gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, cell = state.chunk(2, 1)
        gates = gates + F.linear(output, self.weight_hh_l0, self.bias_hh_l0)
        write, forget, candidate, show = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + write.sigmoid() * candidate.tanh()
        output = show.sigmoid() * cell.tanh()
        return output, torch.cat((output, cell), 1)


CELLS: dict[str, type[GRULayer] | type[LSTMLayer]] = {"gru": GRULayer, "lstm": LSTMLayer}


class Encoder(nn.Module):
    """Layers over the source, in one direction or two.

    The backward direction is a second layer over each sentence's reversed tokens. So padding comes last for both and
    cannot reach a real token, without packing and without lengths on the CPU.
    """

    def __init__(self, config: Recurrent) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        inputs = [config.embedding_size] + [config.hidden_size] * (config.encoder_layers - 1)
        cell, hidden = CELLS[config.cell], config.hidden_size // directions
        self.layers = nn.ModuleList(cell(size, hidden, batch_first=True) for size in inputs)
        self.backward_layers = nn.ModuleList(
            cell(size, hidden, batch_first=True) for size in inputs if config.bidirectional
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """inputs (B, S, E), mask (B, S) -> the top layer's outputs (B, S, H), each layer's last one (B, H).

        The last output is the one of the last real token, in either direction's order of reading.
        """
        positions = torch.arange(mask.size(1), device=mask.device)
        last = mask.sum(1, keepdim=True) - 1
        mirrored = torch.where(mask, last - positions, positions)  # reverses each sentence's tokens
        finals = []
        for index, layer in enumerate(self.layers):
            inputs = self.dropout(inputs) if index else inputs
            outputs, _ = layer(inputs)
            final = _reorder(outputs, last)
            if self.backward_layers:
                mirror, _ = self.backward_layers[index](_reorder(inputs, mirrored))
                final = torch.cat((final, _reorder(mirror, last)), 2)
                outputs = torch.cat((outputs, _reorder(mirror, mirrored)), 2)
            finals.append(final.squeeze(1))
            inputs = outputs
        return inputs, finals


def _reorder(sequence: Tensor, positions: Tensor) -> Tensor:
    """Each sentence's choice of positions: sequence (B, S, H), positions (B, N) -> (B, N, H)."""
    return sequence.gather(1, positions.unsqueeze(2).expand(-1, -1, sequence.size(2)))


@dataclass
class RecurrentMemory(Memory):
    start: Tensor  # (B, L, W): the decoder's first state
    keys: Tensor | None  # (B, S, H): what queries are compared with; None without attention
    values: Tensor | None  # (B, S, H): the encoder's outputs; None without attention
    context: Tensor | None  # (B, H): the encoder's last state, where it is an input of every step


@dataclass
class RecurrentState(State):
    layers: Tensor  # (R, L, W)


class RecurrentSeq2Seq(Seq2Seq):
    """Encoder, decoder, and what is between and around them; see above for the equations.

    Decoder layers start from the last outputs of encoder layers, counted from the top (the lowest ones of a deeper
    decoder share the encoder's lowest), through a tanh layer each (Bahdanau et al. 2015, A.2.2) or unchanged. An LSTM's
    cell starts from the same output: its share of the bridge, or a copy.
    """

    def __init__(self, config: Recurrent, source_size: int, target_size: int) -> None:
        super().__init__()
        hidden, embedding = config.hidden_size, config.embedding_size
        self.target_embedding = Embedding(target_size, embedding)
        tied = config.tied_embeddings
        self.source_embedding = (
            self.target_embedding if tied == "all" else Embedding(source_size, embedding)
        )
        self.encoder = Encoder(config)

        self.attention: Attention | None = None
        if config.attention != "none":
            self.attention = ATTENTIONS[config.attention](hidden)
        self.attends_before = self.attention is not None and config.attention_at == "before"
        self.constant_context = self.attention is None and config.context == "every_step"
        into_cell = self.attends_before or self.constant_context

        cell = CELLS[config.cell]
        inputs = [embedding + hidden * into_cell] + [hidden] * (config.decoder_layers - 1)
        self.layers = nn.ModuleList(cell(size, hidden, batch_first=True) for size in inputs)
        self.parts = cell.parts
        self.bridges = nn.ModuleList(
            Linear(hidden, cell.parts * hidden) for _ in inputs if config.bridge
        )

        width = hidden if tied == "none" else embedding
        context = hidden if self.attention is not None or into_cell else 0
        self.readout = Linear(hidden + context + embedding * into_cell, width)
        self.projection = Linear(width, target_size)
        self.dropout = Dropout(config.dropout)
        if not self.projection.weight.is_meta:
            self._initialise()
        if tied != "none":
            self.projection.weight = self.target_embedding.weight

    def _initialise(self) -> None:
        """Xavier for matrices (each gate's separately), zero for biases, one for the LSTM's forget gate."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            elif isinstance(module, (nn.Linear, nn.RNNBase)):
                linear = isinstance(module, nn.Linear)
                outputs = module.out_features if linear else module.hidden_size
                for parameter in module.parameters():
                    fill = nn.init.xavier_uniform_ if parameter.dim() == 2 else nn.init.zeros_
                    for block in parameter.split(outputs):
                        fill(block)
                if isinstance(module, nn.LSTM):
                    nn.init.ones_(module.bias_ih_l0.chunk(4)[1])

    def encode(self, source: Tensor, source_mask: Tensor) -> RecurrentMemory:
        values, finals = self.encoder(self.dropout(self.source_embedding(source)), source_mask)
        starts = ([finals[0]] * len(self.layers) + finals)[-len(self.layers) :]
        if self.bridges:
            starts = [torch.tanh(bridge(start)) for bridge, start in zip(self.bridges, starts)]
        else:
            starts = [start.repeat(1, self.parts) for start in starts]
        return RecurrentMemory(
            mask=source_mask,
            start=torch.stack(starts, 1),
            keys=None if self.attention is None else self.attention.keys(values),
            values=None if self.attention is None else values,
            context=finals[-1] if self.constant_context else None,
        )

    def init_state(self, memory: Memory) -> RecurrentState:
        assert isinstance(memory, RecurrentMemory)
        return RecurrentState(0, memory.start)

    def forward(
        self, source: Tensor, source_mask: Tensor, target_in: Tensor, maps: Maps | None = None
    ) -> Tensor:
        memory = self.encode(source, source_mask)
        return self._decode(target_in, memory.start, memory, maps)[0]

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, maps: Maps | None = None
    ) -> tuple[Tensor, RecurrentState]:
        assert isinstance(state, RecurrentState)
        states, layers = self._decode(tokens.unsqueeze(1), state.layers, memory, maps)
        return self.project(states.squeeze(1)), RecurrentState(state.position + 1, layers)

    def _decode(
        self, tokens: Tensor, layers: Tensor, memory: Memory, maps: Maps | None
    ) -> tuple[Tensor, Tensor]:
        """Steps on given tokens (R, T), from the layers' states (R, L, W) -> o (R, T, width), last states."""
        assert isinstance(memory, RecurrentMemory)
        embedded = self.dropout(self.target_embedding(tokens))  # (R, T, E)
        states, weights = list(layers.unbind(1)), None
        seen: list[Tensor] = []  # by the readout, besides the top layer
        if self.attends_before:
            step = self._attend_and_step(embedded, states[0], memory)
            outputs, states[0], context, weights = step
            seen = [context, embedded]
        elif memory.context is not None:  # the same for every step of every row
            rows, length = tokens.shape
            context = memory.context[:, None, None]
            context = context.expand(-1, rows // context.size(0), length, -1).flatten(0, 1)
            seen = [context, embedded]
            outputs, states[0] = self.layers[0](torch.cat((embedded, context), 2), states[0])
        else:
            outputs, states[0] = self.layers[0](embedded, states[0])
        for index in range(1, len(self.layers)):
            outputs, states[index] = self.layers[index](self.dropout(outputs), states[index])
        if self.attention is not None and not self.attends_before:
            context, weights = self._attend(outputs, memory)
            seen = [context]
        if maps is not None and weights is not None:
            maps["cross.0"] = weights.unsqueeze(1)
        readout = self.dropout(torch.tanh(self.readout(torch.cat([outputs, *seen], 2))))
        return readout, torch.stack(states, 1)

    def _attend_and_step(
        self, embedded: Tensor, state: Tensor, memory: RecurrentMemory
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lowest layer where a step's context needs the step before: a loop of what cannot be done at once.

        embedded (R, T, E), state (R, W) -> outputs (R, T, H), state (R, W), contexts (R, T, H),
        weights (R, T, S).
        """
        layer = self.layers[0]
        sizes = embedded.size(2), layer.hidden_size
        from_embedding, from_context = layer.weight_ih_l0.split(sizes, 1)
        from_context = from_context.to(autocast_type(embedded) or from_context.dtype)  # once
        output, outputs, contexts, weights = state[:, : layer.hidden_size], [], [], []
        for gates in F.linear(embedded, from_embedding, layer.bias_ih_l0).unbind(1):  # (R, gates)
            context, weight = self._attend(output.unsqueeze(1), memory)
            gates = torch.addmm(gates, context.squeeze(1), from_context.t())
            output, state = layer.step(gates, state)
            outputs.append(output)
            contexts.append(context)
            weights.append(weight)
        return torch.stack(outputs, 1), state, torch.cat(contexts, 1), torch.cat(weights, 1)

    def _attend(self, queries: Tensor, memory: RecurrentMemory) -> tuple[Tensor, Tensor]:
        """queries (R, T, H) -> context (R, T, H), weights (R, T, S); all rows of a sentence at once."""
        assert memory.keys is not None and self.attention is not None
        together = queries.reshape(memory.keys.size(0), -1, queries.size(2))  # (B, R / B · T, H)
        context, weights = self.attention(together, memory.keys, memory.values, memory.mask)
        return context.view(queries.shape), weights.view(*queries.shape[:2], -1)
