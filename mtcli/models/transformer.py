"""Transformer encoder-decoder (Vaswani et al. 2017), with the variants that later work kept."""

# B rows, S source, T target, H hidden, V vocabulary, K hypotheses of a sentence, R = B·K, L layers,
# A attention heads, G key/value heads, D size of a head

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Transformer as TransformerConfig
from ..support.errors import UserError
from .base import Memory, Seq2Seq, State, Step, select_rows
from .layers import Dropout, Linear, kernels_for, linear, plain
from .single import CHUNK, single_state, single_step

KEPT = 256  # positions by which the vectors that are added to embeddings are made


class TransformerSeq2Seq(Seq2Seq):
    """Encoder and decoder stacks between tied or untied embeddings."""

    def __init__(self, config: TransformerConfig, source_size: int, target_size: int):
        super().__init__()
        self.config = config
        self.source_embedding = nn.Embedding(source_size, config.hidden_size)
        if config.tied_embeddings == "all":
            self.target_embedding = self.source_embedding
        else:
            self.target_embedding = nn.Embedding(target_size, config.hidden_size)
        self.positions = POSITIONS[config.positions](config)
        self.max_positions = config.max_positions if config.positions == "learned" else None
        self.embedding_dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        # Post-norm layers end in a norm already.
        self.encoder_norm = _norm(config) if config.norm_position == "pre" else nn.Identity()
        self.decoder_norm = _norm(config) if config.norm_position == "pre" else nn.Identity()
        self.projection = Linear(config.hidden_size, target_size)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, PackedLinear):
                for block in module.weight.split(module.sizes):
                    nn.init.xavier_uniform_(block)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        # Embeddings are multiplied by √H on the way in: unit variance there, and logits of unit variance where tied.
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=self.config.hidden_size**-0.5)
        if self.config.tied_embeddings != "none":
            self.projection.weight = self.target_embedding.weight

    def _embed(self, embedding: nn.Embedding, ids: Tensor, start: int = 0) -> Tensor:
        """ids (…, T) -> (…, T, H), the first of them standing at position ``start``."""
        vectors = embedding(ids) * math.sqrt(self.config.hidden_size)
        return self.embedding_dropout(self.positions.add(vectors, start))

    def _encode(self, source: Tensor, source_mask: Tensor) -> Tensor:
        """(B, S) -> (B, S, H)"""
        x = self._embed(self.source_embedding, source)
        rotate = self.positions.rotation(0, source.shape[1], x)
        mask = source_mask[:, None, None, :]  # (B, 1, 1, S)
        for layer in self.encoder:
            x = layer(x, mask, rotate)
        return self.encoder_norm(x)

    def forward(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor:
        encoded = self._encode(source, source_mask)
        x = self._embed(self.target_embedding, target_in)
        rotate = self.positions.rotation(0, target_in.shape[1], x)
        for layer in self.decoder:
            x = layer(
                x,
                layer.cross_attention.keys_and_values(encoded),
                source_mask[:, None, None, :],
                rotate,
            )
        return self.decoder_norm(x)

    def project(self, states: Tensor) -> Tensor:
        return self.projection(states)

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        """Memory: ``mask`` (B, S) and, for each decoder layer i, what its cross-attention looks at, ``keys.i`` and
        ``values.i`` (B, G, S, D)."""
        encoded = self._encode(source, source_mask)
        memory = {"mask": source_mask}
        for index, layer in enumerate(self.decoder):
            keys, values = layer.cross_attention.keys_and_values(encoded)
            memory[f"keys.{index}"] = keys.contiguous()
            memory[f"values.{index}"] = values.contiguous()
        return memory

    def init_state(self, memory: Memory) -> State:
        """State: for each layer i its self-attention's ``past_keys.i`` and ``past_values.i`` (B, G, C, D), in room for C
        tokens. Whatever the hypotheses of a sentence wrote stands there side by side and never moves; ``unseen`` (R, C)
        is 0 where a hypothesis finds its own tokens, else -∞. ``position`` and ``written`` (R,) count steps and tokens.

        To copy the past of each hypothesis at every step instead, as it moves, made a beam search 1.06 times as long.
        One sentence by itself has another State, see `single.py`; but not for gradients, since it is written in place.
        """
        sentences, groups, _, size = memory["keys.0"].shape
        if sentences == 1 and not torch.is_grad_enabled():
            return single_state(self, memory)
        counts = torch.zeros(sentences, dtype=torch.long, device=memory["mask"].device)
        state = {
            "position": counts,
            "written": counts,
            "unseen": memory["keys.0"].new_zeros(sentences, 0),
        }
        for index in range(len(self.decoder)):
            for name in (f"past_keys.{index}", f"past_values.{index}"):
                state[name] = memory["keys.0"].new_zeros(sentences, groups, 0, size)
        return state

    def reorder(self, state: State, rows: Tensor, sentences: Tensor | None = None) -> State:
        past = {name: tensor for name, tensor in state.items() if name.startswith("past")}
        moved = {name: tensor for name, tensor in state.items() if name not in past}
        return select_rows(moved, rows) | (
            past if sentences is None else select_rows(past, sentences)
        )

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        return self.stepper()(tokens, state, memory, attention)

    def stepper(self) -> Step:
        step_at, single, project = self.step_at(), single_step(self), self.projector()

        def step(
            tokens: Tensor, state: State, memory: Memory, attention: bool = False
        ) -> tuple[Tensor, State, Tensor | None]:
            if "past" in state:
                return single(tokens, state, memory, attention)
            position, written, unseen = (
                int(state["position"][0]),
                int(state["written"][0]),
                state["unseen"],
            )
            past = {name: tensor for name, tensor in state.items() if name.startswith("past_")}
            width = len(tokens) // len(past["past_keys.0"])  # hypotheses of a sentence: K
            if written + width > unseen.shape[1]:
                room = max(CHUNK, CHUNK // 2 * width)
                unseen = F.pad(unseen, (0, room), value=-math.inf)
                past = {name: F.pad(tensor, (0, 0, 0, room)) for name, tensor in past.items()}
            own = unseen[:, written : written + width].view(-1, width, width)
            own.diagonal(dim1=1, dim2=2).fill_(0)
            states, weights = step_at(position, written, tokens, past, unseen, memory, attention)
            counts = {"position": state["position"] + 1, "written": state["written"] + width}
            return project(states), {**counts, "unseen": unseen, **past}, weights

        return step

    def projector(self) -> Callable[[Tensor], Tensor]:
        """`project` as a function of states (R, H)."""
        projection, bias = self.projection.weight, self.projection.bias

        def project(states: Tensor) -> Tensor:
            with kernels_for(
                len(states), few=2
            ):  # oneDNN takes 56 µs, not 123, for 5 rows times 128 x 4,000
                return linear(states, projection, bias)

        return project

    def embedder(self) -> Callable[[Tensor, int], tuple[Tensor, Rotation | None]]:
        """A function of tokens (R,) and their position that gives their vectors (R, H) and the rotation there."""
        embedding, scale, positions = (
            self.target_embedding.weight,
            math.sqrt(self.config.hidden_size),
            self.positions,
        )

        def embed(tokens: Tensor, position: int) -> tuple[Tensor, Rotation | None]:
            x, added = F.embedding(tokens, embedding), positions.table(position, 1, embedding)
            x = x * scale if added is None else torch.add(added, x, alpha=scale)
            return x, positions.rotation(position, 1, x)

        return embed

    def step_at(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """A function (position, written, tokens, past, unseen, memory, attention) -> states (R, H) and attention after
        the tokens at that position, whose keys and values it writes into the past, behind what is written there."""
        layers = [layer.step() for layer in self.decoder]
        kinds = ("past_keys", "past_values", "keys", "values")
        names = [[f"{kind}.{index}" for kind in kinds] for index in range(len(layers))]
        embed, norm, heads = self.embedder(), plain(self.decoder_norm), self.config.heads
        mask = padding = None

        def step(
            position: int,
            written: int,
            tokens: Tensor,
            past: dict[str, Tensor],
            unseen: Tensor,
            memory: Memory,
            attention: bool,
        ) -> tuple[Tensor, Tensor | None]:
            nonlocal mask, padding
            x, rotate = embed(tokens, position)
            if mask is not memory["mask"]:
                mask = memory["mask"]
                padding = torch.zeros_like(mask, dtype=x.dtype).masked_fill_(
                    ~mask, -math.inf
                )  # (B, S)
                padding = padding.repeat_interleave(memory["keys.0"].shape[1], dim=0).unsqueeze(
                    1
                )  # (B·G, 1, S)
            sentences, groups, room, _ = past["past_keys.0"].shape
            hidden = unseen.view(sentences, 1, -1, room).expand(-1, heads, -1, -1)  # (B, A, K, C)
            hidden = hidden.reshape(sentences * groups, -1, room)  # (B·G, A / G · K, C)
            weights = None
            for layer, (past_keys, past_values, keys, values) in zip(layers, names):
                own, cross = (past[past_keys], past[past_values]), (memory[keys], memory[values])
                x, weights = layer(x, own, written, hidden, cross, padding, rotate)
            weights = weights.mean(1).flatten(0, 1) if attention else None  # (B, A, K, S) -> (R, S)
            return norm(x), weights

        return step


# -------------------------------------------------------------------------------------------------------------- layers


def _norm(config: TransformerConfig) -> nn.Module:
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm](config.hidden_size, eps=1e-6)


class Sublayer(nn.Module):
    """Norm, dropout and the way around: x + f(norm(x)) (pre-norm) or norm(x + f(x)) (post-norm)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm = _norm(config)
        self.dropout = Dropout(config.dropout)
        self.pre = config.norm_position == "pre"

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre else x

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + (
            self.dropout(y) if self.training else y
        )  # each call of a module that does nothing costs a microsecond
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; Vaswani et al. 2017, section 3.1."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.around_attention = Sublayer(config)
        self.around_feed_forward = Sublayer(config)

    def forward(self, x: Tensor, mask: Tensor, rotate: Rotation | None) -> Tensor:
        y = self.around_attention.enter(x)
        x = self.around_attention.leave(x, self.self_attention(y, mask, rotate))
        return self.around_feed_forward.leave(
            x, self.feed_forward(self.around_feed_forward.enter(x))
        )


class DecoderLayer(nn.Module):
    """Self-attention over the past, attention over the source, then feed-forward; Vaswani et al. 2017, section 3.1."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attention = MultiHeadAttention(config)
        self.cross_attention = MultiHeadAttention(config, cross=True)
        self.feed_forward = FeedForward(config)
        self.around_self_attention = Sublayer(config)
        self.around_cross_attention = Sublayer(config)
        self.around_feed_forward = Sublayer(config)

    def forward(
        self, x: Tensor, cross: tuple[Tensor, Tensor], mask: Tensor, rotate: Rotation | None
    ) -> Tensor:
        y = self.around_self_attention.enter(x)
        x = self.around_self_attention.leave(x, self.self_attention(y, None, rotate))
        y = self.around_cross_attention.enter(x)
        x = self.around_cross_attention.leave(x, self.cross_attention.attend(y, *cross, mask))
        return self.around_feed_forward.leave(
            x, self.feed_forward(self.around_feed_forward.enter(x))
        )

    def step(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """One position as a function: x (R, H), own keys and values (B, G, C, D), how many of them are written, unseen,
        the source's keys and values (B, G, S, D), padding, rotation -> (R, H), weights (B, A, K, S)."""
        attend, look, feed_forward = (
            self.self_attention.step(),
            self.cross_attention.look(),
            self.feed_forward.step(),
        )
        sublayers = (
            self.around_self_attention,
            self.around_cross_attention,
            self.around_feed_forward,
        )
        pre = self.around_feed_forward.pre
        norm_1, norm_2, norm_3 = (plain(sublayer.norm) for sublayer in sublayers)

        def step(x, own, written, unseen, cross, padding, rotate):
            if pre:
                x = x + attend(norm_1(x), *own, written, unseen, rotate)
                y, weights = look(norm_2(x), *cross, padding)
                x = x + y
                return x + feed_forward(norm_3(x)), weights
            x = norm_1(x + attend(x, *own, written, unseen, rotate))
            y, weights = look(x, *cross, padding)
            x = norm_2(x + y)
            return norm_3(x + feed_forward(x)), weights

        return step


class PackedLinear(Linear):
    """Several linear layers of one input, computed as one; each block of rows is initialised as a layer of its own."""

    def __init__(self, inputs: int, sizes: list[int]):
        super().__init__(inputs, sum(sizes))
        self.sizes = sizes


class FeedForward(nn.Module):
    """W₂ f(W₁ x): Vaswani et al. 2017, eq. 2; swiglu: W₂ (swish(W x) ⊙ V x): Shazeer 2020, eq. 6."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.activation = {"relu": F.relu_, "gelu": F.gelu, "swiglu": F.silu}[config.activation]
        size = config.feed_forward_size
        hidden = config.hidden_size
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

    def step(
        self, product: Callable[[Tensor, Tensor, Tensor], Tensor] = linear
    ) -> Callable[[Tensor], Tensor]:
        """`forward` without dropout, as a function."""
        gated, activation = self.gated, self.activation
        inner, outer = plain(self.inner, product), plain(self.outer, product)

        def step(x: Tensor) -> Tensor:
            x = inner(x)
            if not gated:
                return outer(activation(x))
            gate, x = x.chunk(2, dim=-1)
            return outer(activation(gate) * x)

        return step


class MultiHeadAttention(nn.Module):
    """softmax(QKᵀ/√D)V in several heads; Vaswani et al. 2017, section 3.2; grouped keys: Ainslie et al. 2023."""

    def __init__(self, config: TransformerConfig, cross: bool = False):
        super().__init__()
        self.heads = config.heads
        self.groups = config.key_value_heads or config.heads
        if config.hidden_size % self.heads or self.heads % self.groups:
            raise UserError(
                f"model.hidden_size is {config.hidden_size}, heads {self.heads}, key_value_heads {self.groups}; each "
                "must divide the one before it."
            )
        self.size = config.hidden_size // self.heads
        self.scale = self.size**-0.5
        keys = self.groups * self.size
        self.sizes = [config.hidden_size, keys, keys]
        self.counts = [self.heads, self.groups, self.groups]
        self.dropout = config.attention_dropout
        if cross:
            self.query = Linear(config.hidden_size, config.hidden_size)
            self.key_value = PackedLinear(config.hidden_size, self.sizes[1:])
        else:
            self.query_key_value = PackedLinear(config.hidden_size, self.sizes)
        self.output = Linear(config.hidden_size, config.hidden_size)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, heads·D) -> (B, heads, T, D)"""
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        """query (B, A, T, D), keys and values (B, G, S, D), mask broadcast to (B, A, T, S) -> (B, T, H)"""
        dropout = self.dropout if self.training else 0.0
        if query.device.type == "cpu":
            x = self._attend_plainly(query, keys, values, mask, causal, dropout)
        else:
            x = F.scaled_dot_product_attention(
                query, keys, values, mask, dropout, causal, enable_gqa=self.groups != self.heads
            )
        return self.output(x.transpose(1, 2).flatten(2))

    def _attend_plainly(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        causal: bool,
        dropout: float,
    ) -> Tensor:
        """Step by step, as the paper has it: on the CPU, for sentences, 1.5 to 2 times as fast as PyTorch's kernel."""
        if self.groups != self.heads:
            keys, values = (
                x.repeat_interleave(self.heads // self.groups, dim=1) for x in (keys, values)
            )
        scores = (query * self.scale) @ keys.transpose(2, 3)  # (B, A, T, S)
        if causal:
            future = torch.full(scores.shape[2:], -math.inf, dtype=scores.dtype).triu(1)
            scores = scores + future
        elif mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return F.dropout(scores.softmax(dim=-1), dropout) @ values

    def forward(self, x: Tensor, mask: Tensor | None, rotate: Rotation | None) -> Tensor:
        """Self-attention within x (B, T, H): over what the mask lets through or, without one, over the past.

        Padding stands behind the real tokens, so that these never see it in the past.
        """
        query, keys, values = map(self._split, self.query_key_value(x).split(self.sizes, dim=-1))
        if rotate is not None:
            query, keys = rotate(query), rotate(keys)
        return self._attend(query, keys, values, mask, causal=mask is None)

    def step(self) -> Callable[..., Tensor]:
        """One position x (R, H) over itself and the past, keys and values (B, G, C, D), to which it is added, as a
        function of x, keys, values, how many are written, unseen and rotation.

        ``unseen`` (B·G, A / G · K, C) is -∞ where something else than a hypothesis's own past stands, or nothing.
        """
        pack, output, counts, over = (
            plain(self.query_key_value),
            plain(self.output),
            self.counts,
            self._over,
        )

        def step(x, keys, values, written, unseen, rotate):
            sentences, groups, _, size = keys.shape
            rows = x.shape[0]  # not len(x): a graph that is traced for ONNX would keep that number
            query, key, value = (
                pack(x).view(rows, -1, size).split_with_sizes(counts, 1)
            )  # (R, A or G, D)
            if rotate is not None:
                query, key = rotate(query), rotate(key)
            width = rows // sentences
            for room, new in ((keys, key), (values, value)):
                room.narrow(2, written, width).copy_(
                    new.view(sentences, width, groups, size).transpose(1, 2)
                )
            # Over all C, since whole tensors need no copy.
            return output(over(query, keys, values, unseen)[0])

        return step

    def look(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Cross-attention of x (R, H) over keys and values (B, G, S, D) -> (R, H), weights (B, A, K, S), as a function
        of x, keys, values and padding. ``padding`` (B·G, 1, S) is -∞ there, else 0."""
        ask, output, over = plain(self.query), plain(self.output), self._over

        def look(x, keys, values, padding):
            context, weights = over(ask(x), keys, values, padding)
            return output(context), weights

        return look

    def _over(
        self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention of R queries, K of each of B sentences, over keys and values (B, G, S, D); ``bias`` is added to its
        scores -> (R, H), weights (B, A, K, S). A sentence's hypotheses ask side by side, and so do the heads that share
        keys."""
        sentences, groups, length, size = keys.shape
        queries = query.reshape(
            sentences, -1, groups, self.heads // groups, size
        )  # (B, K, G, A / G, D)
        width = queries.shape[1]
        queries = queries.permute(0, 2, 3, 1, 4).reshape(
            sentences * groups, -1, size
        )  # (B·G, A / G · K, D)
        with kernels_for(1):
            scores = torch.baddbmm(bias, queries, keys.flatten(0, 1).mT, alpha=self.scale)
            weights = scores.softmax(2)
            context = torch.bmm(weights, values.flatten(0, 1))  # (B·G, A / G · K, D)
        context = context.view(sentences, self.heads, width, size).transpose(1, 2)  # (B, K, A, D)
        return context.reshape(query.shape[0], -1), weights.view(
            sentences, self.heads, width, length
        )

    def keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """encoded (B, S, H) -> keys and values (B, G, S, D)"""
        keys, values = self.key_value(encoded).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Cross-attention of x (B, T, H) over keys and values (B, G, S, D), mask (B, 1, 1, S)."""
        return self._attend(self._split(self.query(x)), keys, values, mask)


# ----------------------------------------------------------------------------------------------------------- positions


class SinusoidalPositions(nn.Module):
    """sin and cos of geometrically spaced frequencies, added to the embeddings; Vaswani et al. 2017, section 3.5."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.size = config.hidden_size
        self.known: Tensor | None = (
            None  # the first positions, kept: a sentence by itself takes 0.05 ms less
        )

    def table(self, start: int, length: int, like: Tensor) -> Tensor:
        """(length, H): the sines stand before the cosines, an order that the embeddings do not care about."""
        if torch.compiler.is_compiling():
            return self._made(start, length, like)
        known = self.known
        if (
            known is None
            or len(known) < start + length
            or known.dtype != like.dtype
            or known.device != like.device
        ):
            with torch.inference_mode(False):  # training may use what was made for a translation
                self.known = known = self._made(0, KEPT * -(-(start + length) // KEPT), like)
        return known[start : start + length]

    def _made(self, start: int, length: int, like: Tensor) -> Tensor:
        angles = _angles(start, length, (self.size + 1) // 2, like)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, : self.size].to(like.dtype)

    def add(self, x: Tensor, start: int) -> Tensor:
        return x + self.table(start, x.shape[1], x)

    def rotation(self, start: int, length: int, like: Tensor) -> None:
        return None


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the embeddings (Gehring et al. 2017)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.max_positions, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=config.hidden_size**-0.5)

    def table(self, start: int, length: int, like: Tensor) -> Tensor:
        if start + length > self.embedding.num_embeddings:
            raise UserError(
                f"A sentence of {start + length} tokens is longer than the {self.embedding.num_embeddings} positions "
                "that this model has learned; split it, or train with a larger model.max_positions."
            )
        return self.embedding.weight[start : start + length]

    def add(self, x: Tensor, start: int) -> Tensor:
        return x + self.table(start, x.shape[1], x)

    def rotation(self, start: int, length: int, like: Tensor) -> None:
        return None


class RotaryPositions(nn.Module):
    """Queries and keys of self-attention are turned by their position (Su et al. 2021); nothing is added."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.size = config.hidden_size // config.heads

    def add(self, x: Tensor, start: int) -> Tensor:
        return x

    def table(self, start: int, length: int, like: Tensor) -> None:
        return None

    def rotation(self, start: int, length: int, like: Tensor) -> Rotation:
        return Rotation(_angles(start, length, self.size // 2, like), like.dtype)


class Rotation:
    """Turns the pairs (i, i + D/2) of every vector by angles (T, D/2)."""

    def __init__(self, angles: Tensor, dtype: torch.dtype):
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, T, D) -> the same, turned"""
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            [first * self.cos - second * self.sin, second * self.cos + first * self.sin], dim=-1
        )


def _angles(start: int, length: int, frequencies: int, like: Tensor) -> Tensor:
    """position · 10000^(-i / frequencies): (length, frequencies)"""
    dtype = torch.promote_types(like.dtype, torch.float32)
    positions = torch.arange(start, start + length, device=like.device, dtype=dtype)
    powers = torch.arange(frequencies, device=like.device, dtype=dtype) / frequencies
    return positions[:, None] * 10000.0**-powers


POSITIONS = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}
