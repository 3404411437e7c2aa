"""A Transformer's decoder step for one sentence by itself, in as few operations as PyTorch lets it have.

For a row of a small model, to call an operation (1 to 2 µs) takes as long as what it computes. `transformer.py` says
the same for any number of sentences, in twice as many operations.
"""

# K hypotheses of the sentence, L layers, S source, C room for written tokens, H hidden, A attention heads, G key/value
# heads, D size of a head

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Memory, Seq2Seq, State, Step
from .layers import plain

CHUNK = 16  # target positions by which the room for queries, keys and values grows


def single_state(model: Seq2Seq, memory: Memory) -> State:
    """State: ``past`` (1, L, C, 3H), the queries, keys and values that the hypotheses wrote in each layer, side by side,
    never moved; ``unseen`` (K, C) is 0 where a hypothesis finds its own tokens, else -∞; ``position`` and ``written`` (K,)
    count steps and tokens."""
    like = memory["keys.0"]
    past = like.new_zeros(1, len(model.decoder), 0, 3 * model.config.hidden_size)
    none = torch.zeros(1, dtype=torch.long, device=like.device)
    return {"past": past, "unseen": like.new_zeros(1, 0), "position": none, "written": none}


def single_step(model: Seq2Seq) -> Step:
    """`Seq2Seq.decode_step` of states made by `single_state`."""
    layers = [_layer(layer) for layer in model.decoder]
    heads = model.config.heads
    folds = [
        (_fold(layer.cross_attention), f"keys.{i}", f"values.{i}")
        for i, layer in enumerate(model.decoder)
    ]
    embed, norm, project = model.embedder(), plain(model.decoder_norm), model.projector()
    at = seen = None
    folded: list[tuple[Tensor, Tensor, Tensor]] = []
    rooms: list[tuple[Tensor, Tensor, Tensor]] = []

    def step(
        tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        nonlocal at, seen, folded, rooms
        width = tokens.shape[0]
        position, written = int(state["position"][0]), int(state["written"][0])
        unseen, past = state["unseen"], state["past"]
        if written + width > unseen.shape[1]:
            room = max(CHUNK, CHUNK // 2 * width)
            unseen = F.pad(unseen, (0, room), value=-math.inf)
            past = F.pad(past, (0, 0, 0, room))
        if seen is not past:
            seen, rooms = past, [_views(each, heads) for each in past[0]]
        if at is not memory["keys.0"]:
            at, padding = memory["keys.0"], torch.zeros_like(memory["mask"], dtype=unseen.dtype)
            padding.masked_fill_(~memory["mask"], -math.inf)
            folded = [fold(memory[keys], memory[values], padding) for fold, keys, values in folds]
        unseen.narrow(1, written, width).diagonal().fill_(0)
        x, rotate = embed(tokens, position)
        weights = None
        for layer, own, cross in zip(layers, rooms, folded):
            x, weights = layer(x, written, own, unseen, cross, rotate)
        weights = weights.view(width, heads, -1).mean(1) if attention else None
        counts = {"position": state["position"] + 1, "written": state["written"] + width}
        return project(norm(x)), {**counts, "past": past, "unseen": unseen}, weights

    return step


def _views(room: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room (C, 3H) itself, the keys in it (A, D, C) and the values (A, C, D)."""
    _, keys, values = room.unflatten(1, (3, heads, -1)).unbind(1)  # (C, A, D)
    return room, keys.permute(1, 2, 0), values.transpose(0, 1)


def _layer(layer: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """x (K, H), tokens written before, views of the room for own keys, unseen, the folded source, rotation -> (K, H) and
    the weights of cross-attention (K, A·S)."""
    sublayers = layer.around_self_attention, layer.around_cross_attention, layer.around_feed_forward
    norm_1, norm_2, norm_3 = (plain(each.norm) for each in sublayers)
    pre = layer.around_self_attention.pre
    own = layer.self_attention
    heads, size, scale = own.heads, own.size, own.scale
    hidden = heads * size
    pack, pack_bias = _pack(own)
    output, output_bias, feed_forward = (
        own.output.weight,
        own.output.bias,
        layer.feed_forward.step(F.linear),
    )

    def step(x, written, rooms, unseen, cross, rotate):
        width = x.shape[0]
        room, keys, values = rooms
        new = room.narrow(0, written, width)  # (K, 3H)
        torch.addmm(pack_bias, norm_1(x) if pre else x, pack, out=new)
        if rotate is not None:
            turned = new.view(width, 3 * heads, size).narrow(1, 0, 2 * heads)
            turned.copy_(rotate(turned))
        query = new.as_strided((heads, width, size), (size, 3 * hidden, 1))
        scores = torch.baddbmm(unseen, query, keys, alpha=scale)  # (A, K, C)
        y = torch.bmm(scores.softmax(2), values)  # (A, K, D)
        x = x + F.linear(y.transpose(0, 1).reshape(width, hidden), output, output_bias)
        if not pre:
            x = norm_1(x)

        to_scores, bias, to_outputs = cross
        weights = torch.addmm(bias, norm_2(x) if pre else x, to_scores)  # (K, A·S)
        weights = weights.view(width, heads, -1).softmax(2).view(width, -1)
        x = torch.addmm(x, weights, to_outputs)
        if not pre:
            x = norm_2(x)
            return norm_3(x + feed_forward(x)), weights
        return x + feed_forward(norm_3(x)), weights

    return step


def _pack(attention: nn.Module) -> tuple[Tensor, Tensor]:
    """Weights (H, 3H) and biases of queries, keys and values; keys that heads share are there for each of them."""
    linear = attention.query_key_value
    if attention.groups == attention.heads:
        return linear.weight.t(), linear.bias
    repeats = attention.heads // attention.groups
    parts = []
    for each in (linear.weight, linear.bias):
        query, *others = each.split(attention.sizes)
        others = (
            part.unflatten(0, (attention.groups, -1)).repeat_interleave(repeats, 0).flatten(0, 1)
            for part in others
        )
        parts.append(torch.cat([query, *others]))
    return parts[0].t().contiguous(), parts[1]


def _fold(
    attention: nn.Module,
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A function of the source's keys and values (1, G, S, D) and padding (1, S), -∞ there, else 0, that gives the keys
    times the query's weights, (H, A·S), with their bias (A·S,), and the values times the output's weights, (A·S, H).

    With a softmax between them, that is cross-attention, in a third of the operations. The output's bias is in its rows,
    since the weights of each head have the sum one. For many sentences it would be A times as much to compute.
    """
    heads, size, repeats = attention.heads, attention.size, attention.heads // attention.groups
    query = (attention.query.weight * attention.scale).view(heads, size, -1)
    query_bias = (attention.query.bias * attention.scale).view(heads, size, 1)
    output, output_bias = (
        attention.output.weight.t().reshape(heads, size, -1),
        attention.output.bias / heads,
    )

    def fold(keys: Tensor, values: Tensor, padding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = keys[0], values[0]  # (G, S, D)
        if repeats > 1:
            keys, values = keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0)
        to_scores = torch.bmm(keys, query)  # (A, S, H)
        bias = torch.bmm(keys, query_bias).squeeze(2) + padding  # (A, S)
        to_outputs = torch.baddbmm(output_bias, values, output)  # (A, S, H)
        return to_scores.flatten(0, 1).t().contiguous(), bias.flatten(), to_outputs.flatten(0, 1)

    return fold
