"""Transformer encoder-decoder (Vaswani et al. 2017), with the variants that later work kept."""

# B sentences, R rows (B targets, or B·K hypotheses), T positions of each, Q queries of a sentence
# (T, or K·T), S source, C positions of a cache, H hidden, A heads, G key/value heads, D size of one

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Transformer as TransformerConfig
from ..support.errors import UserError
from .base import Maps, Memory, Rows, Seq2Seq, State
from .layers import Dropout, Embedding, Linear
from .positions import POSITIONS, Rotation

CHUNK = 16  # positions by which a cache grows


@dataclass
class KVCache(Rows):
    """Keys and values (R, G, C, D) of the positions that were decoded, the first ``length`` of C."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one position, (R, G, 1, D). Returns all keys and values, (R, G, length, D)."""
        if torch.compiler.is_compiling():  # a graph, for ONNX, has no room to spare
            self.keys = torch.cat((self.keys, keys), 2)
            self.values = torch.cat((self.values, values), 2)
            return self.keys, self.values
        if self.length == self.keys.shape[2]:
            self.keys = F.pad(self.keys, (0, 0, 0, CHUNK))
            self.values = F.pad(self.values, (0, 0, 0, CHUNK))
        self.keys.narrow(2, self.length, 1).copy_(keys)
        self.values.narrow(2, self.length, 1).copy_(values)
        self.length += 1
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)


@dataclass
class TransformerMemory(Memory):
    bias: Tensor
    """(B, 1, 1, S): 0 for a real token, -∞ for padding."""
    keys: list[Tensor]
    """For each decoder layer, of its attention to the source, (B, G, S, D)."""
    values: list[Tensor]


@dataclass
class TransformerState(State):
    caches: list[KVCache]
    """For each decoder layer."""


class TransformerSeq2Seq(Seq2Seq):
    """Encoder and decoder stacks between tied or untied embeddings."""

    def __init__(self, config: TransformerConfig, source_size: int, target_size: int):
        super().__init__()
        self.config = config
        hidden, tied = config.hidden_size, config.tied_embeddings
        self.source_embedding = Embedding(source_size, hidden)
        self.target_embedding = (
            self.source_embedding if tied == "all" else Embedding(target_size, hidden)
        )
        self.positions = POSITIONS[config.positions](config)
        self.max_positions = config.max_positions if config.positions == "learned" else None
        self.embedding_dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config, i) for i in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config, i) for i in range(config.decoder_layers))
        # Post-norm layers end in a norm already.
        self.encoder_norm = _norm(config) if config.norm_position == "pre" else nn.Identity()
        self.decoder_norm = _norm(config) if config.norm_position == "pre" else nn.Identity()
        self.projection = Linear(hidden, target_size)
        if not self.projection.weight.is_meta:
            self._initialise()
        if tied != "none":
            self.projection.weight = self.target_embedding.weight

    def _initialise(self) -> None:
        """Xavier for matrices (queries, keys, values and gates each on their own), zero for biases.

        Embeddings are multiplied by √H on the way in: unit variance there, and logits of unit
        variance where they are tied.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.zeros_(module.bias)
                for block in module.weight.split(getattr(module, "sizes", module.out_features)):
                    nn.init.xavier_uniform_(block)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=self.config.hidden_size**-0.5)

    def _embed(self, embedding: nn.Embedding, ids: Tensor, start: int = 0) -> Tensor:
        """ids (R, T) at positions from ``start`` -> (R, T, H)"""
        vectors = embedding(ids) * math.sqrt(self.config.hidden_size)
        return self.embedding_dropout(self.positions.add(vectors, start))

    def encode(
        self, source: Tensor, source_mask: Tensor, maps: Maps | None = None
    ) -> TransformerMemory:
        x = self._embed(self.source_embedding, source)
        bias = _bias(source_mask, x)[:, None, None]
        rotation = self.positions.rotation(0, source.shape[1], x)
        for layer in self.encoder:
            x = layer(x, bias, rotation, maps)
        x = self.encoder_norm(x)
        keys, values = zip(*(layer.cross_attention.keys_and_values(x) for layer in self.decoder))
        return TransformerMemory(source_mask, bias, list(keys), list(values))

    def init_state(self, memory: Memory) -> TransformerState:
        assert isinstance(memory, TransformerMemory)
        empty = memory.keys[0][:, :, :0]
        return TransformerState(0, [KVCache(empty, empty) for _ in self.decoder])

    def forward(
        self, source: Tensor, source_mask: Tensor, target_in: Tensor, maps: Maps | None = None
    ) -> Tensor:
        memory = self.encode(source, source_mask, maps)
        steps = torch.arange(target_in.shape[1], device=target_in.device)
        # Padding is behind the real tokens, which therefore never see it.
        return self._decode(target_in, 0, steps <= steps[:, None], memory, maps=maps)

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, maps: Maps | None = None
    ) -> tuple[Tensor, TransformerState]:
        assert isinstance(state, TransformerState)
        states = self._decode(tokens[:, None], state.position, None, memory, state.caches, maps)
        return self.project(states[:, 0]), TransformerState(state.position + 1, state.caches)

    def _decode(
        self,
        tokens: Tensor,
        start: int,
        past: Tensor | None,
        memory: Memory,
        caches: list[KVCache] | None = None,
        maps: Maps | None = None,
    ) -> Tensor:
        """tokens (R, T) at positions from ``start`` -> states (R, T, H).

        past: which positions each one sees of its own target, (T, T); None, with caches: all.
        """
        assert isinstance(memory, TransformerMemory)
        x = self._embed(self.target_embedding, tokens, start)
        rotation = self.positions.rotation(start, tokens.shape[1], x)
        own = None if past is None else _bias(past, x)
        for index, layer in enumerate(self.decoder):
            source = Source(memory.keys[index], memory.values[index], memory.bias)
            x = layer(x, own, rotation, source, caches[index] if caches else None, maps)
        return self.decoder_norm(x)


def _bias(visible: Tensor, like: Tensor) -> Tensor:
    """What is added to scores so that only what is visible gets a weight: 0, or -∞."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill_(~visible, -math.inf)


# --------------------------------------------------------------------------------------------- layers


def _norm(config: TransformerConfig) -> nn.Module:
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm](config.hidden_size, eps=1e-6)


class Source(NamedTuple):
    """What a decoder layer sees of the source: keys, values (B, G, S, D), bias (B, 1, 1, S)."""

    keys: Tensor
    values: Tensor
    bias: Tensor


class Sublayer(nn.Module):
    """Norm, dropout and residual: x + f(norm(x)) (pre-norm) or norm(x + f(x)) (post-norm)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm = _norm(config)
        self.dropout = Dropout(config.dropout)
        self.pre = config.norm_position == "pre"

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre else x

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + (self.dropout(y) if self.training else y)
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; Vaswani et al. 2017, section 3.1."""

    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        self.self_attention = SelfAttention(config, f"encoder.{index}")
        self.feed_forward = FeedForward(config)
        self.around_attention = Sublayer(config)
        self.around_feed_forward = Sublayer(config)

    def forward(
        self, x: Tensor, bias: Tensor, rotation: Rotation | None, maps: Maps | None
    ) -> Tensor:
        y = self.self_attention(self.around_attention.enter(x), bias, rotation, None, maps)
        x = self.around_attention.leave(x, y)
        y = self.feed_forward(self.around_feed_forward.enter(x))
        return self.around_feed_forward.leave(x, y)


class DecoderLayer(nn.Module):
    """Self-attention over the past, attention to the source, then feed-forward; Vaswani et al.
    2017, section 3.1. Teacher forcing sees all positions at once, a step one, with a cache."""

    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        self.self_attention = SelfAttention(config, f"decoder.{index}")
        self.cross_attention = CrossAttention(config, f"cross.{index}")
        self.feed_forward = FeedForward(config)
        self.around_self_attention = Sublayer(config)
        self.around_cross_attention = Sublayer(config)
        self.around_feed_forward = Sublayer(config)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        rotation: Rotation | None,
        source: Source,
        cache: KVCache | None,
        maps: Maps | None,
    ) -> Tensor:
        y = self.self_attention(self.around_self_attention.enter(x), bias, rotation, cache, maps)
        x = self.around_self_attention.leave(x, y)
        y = self.cross_attention(self.around_cross_attention.enter(x), source, maps)
        x = self.around_cross_attention.leave(x, y)
        y = self.feed_forward(self.around_feed_forward.enter(x))
        return self.around_feed_forward.leave(x, y)


class PackedLinear(Linear):
    """Several linear layers of one input, computed as one; ``sizes`` are their outputs."""

    def __init__(self, inputs: int, sizes: list[int]):
        super().__init__(inputs, sum(sizes))
        self.sizes = sizes


class FeedForward(nn.Module):
    """W₂ f(W₁ x): Vaswani et al. 2017, eq. 2; swiglu: W₂ (swish(W x) ⊙ V x): Shazeer 2020, eq. 6."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.activation = {"relu": F.relu_, "gelu": F.gelu, "swiglu": F.silu}[config.activation]
        size, hidden = config.feed_forward_size, config.hidden_size
        self.inner = PackedLinear(hidden, [size, size]) if self.gated else Linear(hidden, size)
        self.outer = Linear(size, hidden)
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        return self.outer(self.dropout(x) if self.training else x)


class MultiHeadAttention(nn.Module):
    """softmax(QKᵀ/√D)V in several heads; Vaswani et al. 2017, section 3.2; grouped keys: Ainslie
    et al. 2023. ``name`` is what its weights are called in maps."""

    output: Linear

    def __init__(self, config: TransformerConfig, name: str):
        super().__init__()
        self.name = name
        self.heads = config.heads
        self.groups = config.key_value_heads or config.heads
        if config.hidden_size % self.heads or self.heads % self.groups:
            raise UserError(
                f"model.hidden_size is {config.hidden_size}, heads {self.heads}, key_value_heads "
                f"{self.groups}; each must divide the one before it."
            )
        self.size = config.hidden_size // self.heads
        self.dropout = config.attention_dropout

    def split(self, x: Tensor) -> Tensor:
        """(B, T, heads·D) -> (B, heads, T, D)"""
        return x.view(*x.shape[:2], -1, self.size).transpose(1, 2)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, maps: Maps | None
    ) -> Tensor:
        """query (B, A, T, D), keys and values (B, G, S, D), bias broadcast to (B, A, T, S) ->
        (B, T, H). Written out for several queries on the CPU, where PyTorch's kernel is slow for
        short sentences."""
        dropout = self.dropout if self.training else 0.0
        if maps is None and (query.device.type != "cpu" or query.shape[2] == 1):
            x = F.scaled_dot_product_attention(
                query, keys, values, bias, dropout, enable_gqa=self.groups != self.heads
            )
        else:
            # Heads that share keys ask side by side: (B, G, A / G · T, D).
            grouped = (query * self.size**-0.5).reshape(*keys.shape[:2], -1, self.size)
            scores = (grouped @ keys.mT).view(*query.shape[:3], -1)
            weights = (scores if bias is None else scores + bias).softmax(-1)
            if maps is not None:
                maps[self.name] = weights
            weights = F.dropout(weights, dropout) if dropout else weights
            x = (weights.view(*grouped.shape[:3], -1) @ values).view(query.shape)
        return self.output(x.transpose(1, 2).flatten(2))


class SelfAttention(MultiHeadAttention):
    """Attention of x (R, T, H) to itself or, with a cache, to what was decoded before it."""

    def __init__(self, config: TransformerConfig, name: str):
        super().__init__(config, name)
        keys = self.groups * self.size
        self.query_key_value = PackedLinear(config.hidden_size, [config.hidden_size, keys, keys])
        self.output = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        rotation: Rotation | None,
        cache: KVCache | None,
        maps: Maps | None,
    ) -> Tensor:
        packed = self.query_key_value(x)
        query, keys, values = map(self.split, packed.split(self.query_key_value.sizes, dim=-1))
        if rotation is not None:
            query, keys = rotation(query), rotation(keys)
        if cache is not None:
            keys, values = cache.append(keys, values)
        return self.attend(query, keys, values, bias, maps)


class CrossAttention(MultiHeadAttention):
    """Attention of x (R, T, H) to the source: all positions of a sentence's rows are its queries."""

    def __init__(self, config: TransformerConfig, name: str):
        super().__init__(config, name)
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key_value = PackedLinear(config.hidden_size, [self.groups * self.size] * 2)
        self.output = Linear(config.hidden_size, config.hidden_size)

    def keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """encoded (B, S, H) -> keys and values (B, G, S, D)"""
        keys, values = self.key_value(encoded).chunk(2, dim=-1)
        return self.split(keys).contiguous(), self.split(values).contiguous()

    def forward(self, x: Tensor, source: Source, maps: Maps | None) -> Tensor:
        sentences, (rows, length, hidden) = source.keys.shape[0], x.shape
        query = self.split(self.query(x).view(sentences, -1, hidden))  # (B, A, Q, D)
        y = self.attend(query, source.keys, source.values, source.bias, maps)
        if maps is not None:  # (B, A, Q, S) -> (R, A, T, S)
            weights = maps[self.name].unflatten(2, (rows // sentences, length))
            maps[self.name] = weights.transpose(1, 2).flatten(0, 1)
        return y.view(rows, length, hidden)
