"""Training speed of mtcli against other ways to write the same training step: whole updates, optimizer included.

    python benchmarks/train_speed.py transformer
    python benchmarks/train_speed.py gru

Every contestant lives in a process of its own, with the same threads, and gets the same batches; they take each batch
in turn, so that a noisy machine disturbs all alike. Printed are target tokens/s (median) and, for each opponent, the
median of the paired ratios of times with its quartiles, and the share of this machine's peak that mtcli's arithmetic
reaches (without the optimizer's), the peak (a 1024³ matrix product) being measured between the batches.

mtcli updates with Muon, its default; `mtcli-adamw`, the same with AdamW, shows what that costs; all others update with
AdamW, as their users do.

Contestants: `mtcli`; `nn.Transformer` with cross-entropy over all positions; `careful`, a loop with
scaled_dot_product_attention and the projection on real positions only; `marian`, Hugging Face's MarianMTModel of the same
dimensions (needs `pip install transformers`; left out where it is missing). For the GRU: `mtcli-additive`
(attention before the cell), `mtcli-luong` (dot attention after it), each with AdamW too, and the same two as tutorials write them, a decoder
step with its projection at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import statistics
import time

import numpy as np

HIDDEN, FEED_FORWARD, HEADS, LAYERS, VOCABULARY, DROPOUT, SMOOTHING = 128, 256, 4, 4, 8000, 0.3, 0.1
BATCH_TOKENS = 2000
PAD, BOS = 0, 2


def batches(count: int):
    """Padded batches of random ids whose lengths are spread like those of image captions in two languages."""
    from mtcli.models.batches import Sequences, padded_batch
    from mtcli.training.plan import plan_epoch

    generator = np.random.default_rng(0)
    source_lengths = np.clip(generator.gamma(9, 1.5, 20_000), 3, 45).astype(int)
    target_lengths = np.clip(source_lengths + generator.normal(0, 2, 20_000), 3, 50).astype(int)
    sides = [
        Sequences.of(generator.integers(4, VOCABULARY, n) for n in lengths)
        for lengths in (source_lengths, target_lengths)
    ]
    plan = plan_epoch(source_lengths, target_lengths, BATCH_TOKENS, "tokens", 1, 0)
    return [padded_batch(*(side.take(rows) for side in sides)) for rows in plan[:count]]


# --------------------------------------------------------------------------------------------------------- contestants


def mtcli_step(config):
    import torch

    from mtcli.models import build_model
    from mtcli.training.trainer import TrainStep

    model = build_model(config, VOCABULARY, VOCABULARY)
    step = TrainStep(model, SMOOTHING)
    return model, lambda batch: step(batch)[0] / len(batch.target_places), torch


def mtcli_transformer():
    from mtcli.config import Transformer

    return mtcli_step(
        Transformer(
            hidden_size=HIDDEN, feed_forward_size=FEED_FORWARD, heads=HEADS, encoder_layers=LAYERS, decoder_layers=LAYERS,
            dropout=DROPOUT, tied_embeddings="all", norm_position="post",
        )
    )  # fmt: skip


def positions(length):
    import torch

    angles = torch.arange(length)[:, None] * 10000.0 ** -(torch.arange(HIDDEN // 2) / (HIDDEN // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def nn_transformer():
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
            self.transformer = nn.Transformer(
                HIDDEN, HEADS, LAYERS, LAYERS, FEED_FORWARD, DROPOUT, batch_first=True
            )
            self.dropout = nn.Dropout(DROPOUT)
            self.projection = nn.Linear(HIDDEN, VOCABULARY)
            self.projection.weight = self.embedding.weight
            self.register_buffer("table", positions(512))

        def embed(self, ids):
            return self.dropout(
                self.embedding(ids) * math.sqrt(HIDDEN) + self.table[: ids.shape[1]]
            )

        def forward(self, batch):
            causal = nn.Transformer.generate_square_subsequent_mask(batch.target_in.shape[1])
            states = self.transformer(
                self.embed(batch.source), self.embed(batch.target_in), tgt_mask=causal, tgt_is_causal=True,
                src_key_padding_mask=~batch.source_mask, memory_key_padding_mask=~batch.source_mask,
            )  # fmt: skip
            logits = self.projection(states)
            return F.cross_entropy(
                logits.flatten(0, 1),
                batch.target_out.flatten(),
                ignore_index=PAD,
                label_smoothing=SMOOTHING,
            )

    model = Model()
    return model, model, torch


def careful_loop():
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))

        def forward(self, x, y, mask=None, causal=False):
            q, k, v = (
                f(z).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for f, z in ((self.q, x), (self.k, y), (self.v, y))
            )
            return self.o(
                F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
                .transpose(1, 2)
                .flatten(2)
            )

    class Layer(nn.Module):
        def __init__(self, cross):
            super().__init__()
            self.attention, self.cross = Attention(), Attention() if cross else None
            self.feed_forward = nn.Sequential(
                nn.Linear(HIDDEN, FEED_FORWARD), nn.ReLU(), nn.Linear(FEED_FORWARD, HIDDEN)
            )
            self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(3))
            self.dropout = nn.Dropout(DROPOUT)

        def forward(self, x, mask, memory=None):
            x = self.norms[0](
                x
                + self.dropout(
                    self.attention(x, x, None if self.cross else mask, self.cross is not None)
                )
            )
            if self.cross:
                x = self.norms[1](x + self.dropout(self.cross(x, memory, mask)))
            return self.norms[2](x + self.dropout(self.feed_forward(x)))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
            self.encoder = nn.ModuleList(Layer(False) for _ in range(LAYERS))
            self.decoder = nn.ModuleList(Layer(True) for _ in range(LAYERS))
            self.dropout = nn.Dropout(DROPOUT)
            self.projection = nn.Linear(HIDDEN, VOCABULARY)
            self.projection.weight = self.embedding.weight
            self.register_buffer("table", positions(512))

        def embed(self, ids):
            return self.dropout(
                self.embedding(ids) * math.sqrt(HIDDEN) + self.table[: ids.shape[1]]
            )

        def forward(self, batch):
            mask = batch.source_mask[:, None, None]
            memory = self.embed(batch.source)
            for layer in self.encoder:
                memory = layer(memory, mask)
            x = self.embed(batch.target_in)
            for layer in self.decoder:
                x = layer(x, mask, memory)
            real = batch.target_out != PAD
            return F.cross_entropy(
                self.projection(x[real]), batch.target_out[real], label_smoothing=SMOOTHING
            )

    model = Model()
    return model, model, torch


def marian():
    import torch
    import torch.nn.functional as F
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=FEED_FORWARD, decoder_ffn_dim=FEED_FORWARD, dropout=DROPOUT,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=3, decoder_start_token_id=BOS, scale_embedding=True,
        activation_function="relu",
    )  # fmt: skip
    model = MarianMTModel(config)

    def loss(batch):
        logits = model(
            input_ids=batch.source,
            attention_mask=batch.source_mask.long(),
            decoder_input_ids=batch.target_in,
            use_cache=False,
        ).logits
        return F.cross_entropy(
            logits.flatten(0, 1),
            batch.target_out.flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
        )

    return model, loss, torch


def mtcli_gru(attention, at):
    from mtcli.config import Recurrent

    return mtcli_step(
        Recurrent(
            embedding_size=256,
            hidden_size=256,
            dropout=DROPOUT,
            attention=attention,
            attention_at=at,
        )
    )


def tutorial_gru(additive):
    """A bidirectional encoder and a decoder that is called for a step at a time, keys, projection and loss included."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    size = 256

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source_embedding, self.target_embedding = (
                nn.Embedding(VOCABULARY, size),
                nn.Embedding(VOCABULARY, size),
            )
            self.encoder = nn.GRU(size, size // 2, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(size, size)
            self.decoder = nn.GRU(size * 2 if additive else size, size, batch_first=True)
            if additive:
                self.query, self.key, self.energy = (
                    nn.Linear(size, size),
                    nn.Linear(size, size),
                    nn.Linear(size, 1),
                )
            self.combine = nn.Linear(2 * size, size)
            self.projection = nn.Linear(size, VOCABULARY)
            self.dropout = nn.Dropout(DROPOUT)

        def attend(self, state, memory, mask):
            if additive:
                scores = self.energy(torch.tanh(self.query(state) + self.key(memory)))[..., 0]
            else:
                scores = (memory @ state.transpose(1, 2))[..., 0]
            return scores.masked_fill(~mask, -1e9).softmax(-1)[:, None] @ memory

        def forward(self, batch):
            memory, final = self.encoder(self.dropout(self.source_embedding(batch.source)))
            state = torch.tanh(self.bridge(torch.cat([final[0], final[1]], -1)))[None]
            loss = 0.0
            for step in range(batch.target_in.shape[1]):
                x = self.dropout(self.target_embedding(batch.target_in[:, step : step + 1]))
                if additive:
                    context = self.attend(state[0][:, None], memory, batch.source_mask)
                    output, state = self.decoder(torch.cat([x, context], -1), state)
                else:
                    output, state = self.decoder(x, state)
                    context = self.attend(output, memory, batch.source_mask)
                hidden = self.dropout(torch.tanh(self.combine(torch.cat([output, context], -1))))
                logits = self.projection(hidden[:, 0])
                loss = loss + F.cross_entropy(
                    logits,
                    batch.target_out[:, step],
                    ignore_index=PAD,
                    label_smoothing=SMOOTHING,
                    reduction="sum",
                )
            return loss / len(batch.target_places)

    model = Model()
    return model, model, torch


CONTESTANTS = {
    "transformer": {"mtcli": (mtcli_transformer, ()), "mtcli-adamw": (mtcli_transformer, ()), "nn.Transformer": (nn_transformer, ()), "careful": (careful_loop, ()),
                    "marian": (marian, ())},
    "gru": {"mtcli-luong": (mtcli_gru, ("dot", "after")), "mtcli-luong-adamw": (mtcli_gru, ("dot", "after")), "tutorial-luong": (tutorial_gru, (False,)),
            "mtcli-additive": (mtcli_gru, ("additive", "before")), "tutorial-additive": (tutorial_gru, (True,))},
}  # fmt: skip
AGAINST = {"mtcli-adamw": "mtcli", "mtcli-luong-adamw": "mtcli-luong", "nn.Transformer": "mtcli", "careful": "mtcli", "marian": "mtcli", "tutorial-luong": "mtcli-luong",
           "tutorial-additive": "mtcli-additive"}  # fmt: skip


def live(kind: str, name: str, threads: int, pipe) -> None:
    """A contestant: trains on every batch it is sent and answers with seconds; on None, measures the matmul peak."""
    import torch

    if name.startswith("mtcli"):
        from mtcli.support import devices

        devices.prepare("cpu")  # as `mtcli train` does
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    build, arguments = CONTESTANTS[kind][name]
    model, loss, _ = build(*arguments)
    model.train()
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4)]
    if name.startswith("mtcli"):
        from mtcli import config
        from mtcli.training import optim

        optimizers = optim.build(model, config.AdamW() if name.endswith("adamw") else config.Muon())
    pipe.send(sum(parameter.numel() for parameter in model.parameters()))
    data = batches(pipe.recv())
    square = torch.randn(1024, 1024)
    while (index := pipe.recv()) is not None:
        start = time.perf_counter()
        if index < 0:
            for _ in range(10):
                square @ square
            pipe.send(10 * 2 * 1024**3 / (time.perf_counter() - start))
            continue
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(data[index]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        pipe.send(time.perf_counter() - start)


def transformer_flops(batch) -> float:
    """Multiplications and additions of one training step (three times the forward pass), padding included."""
    rows, source = batch.source.shape
    target, real = batch.target_in.shape[1], len(batch.target_places)
    layer = 4 * HIDDEN**2 + 2 * HIDDEN * FEED_FORWARD
    encoder = LAYERS * rows * source * (layer + 2 * source * HIDDEN)
    decoder = (
        LAYERS
        * rows
        * (
            target * (layer + 2 * HIDDEN**2 + 2 * (target + source) * HIDDEN)
            + source * 2 * HIDDEN**2
        )
    )
    return 3 * 2 * (encoder + decoder + real * HIDDEN * VOCABULARY)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=CONTESTANTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=3)
    options = parser.parse_args()
    names = [
        name
        for name in CONTESTANTS[options.kind]
        if name != "marian" or importlib.util.find_spec("transformers")
    ]
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], other = context.Pipe()
        context.Process(
            target=live, args=(options.kind, name, options.threads, other), daemon=True
        ).start()
    parameters = {name: pipe.recv() for name, pipe in pipes.items()}
    total = options.batches + options.warm_up
    for pipe in pipes.values():
        pipe.send(total)
    data = batches(total)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks = []

    def ask(name: str, index: int) -> float:
        pipes[name].send(index)
        return pipes[name].recv()

    for index in range(total):
        order = names[index % len(names) :] + names[: index % len(names)]
        for name in order:
            seconds[name].append(ask(name, index))
        peaks.append(ask(names[0], -1))
    for pipe in pipes.values():
        pipe.send(None)
    measured = range(options.warm_up, total)
    tokens = [len(batch.target_places) for batch in data]
    print(
        f"{options.kind}, {options.threads} threads, {options.batches} batches of about {BATCH_TOKENS} target tokens"
    )
    for name in names:
        speed = statistics.median(tokens[i] / seconds[name][i] for i in measured)
        line = f"{name:18} {parameters[name]:>10,} parameters  {speed:>8,.0f} tokens/s"
        if name in AGAINST:
            ratios = [seconds[name][i] / seconds[AGAINST[name]][i] for i in measured]
            low, middle, high = statistics.quantiles(ratios, n=4)
            line += f"   {AGAINST[name]} is {middle:.2f} times as fast ({low:.2f} to {high:.2f})"
        print(line)
    if options.kind == "transformer":
        shares = [transformer_flops(data[i]) / seconds["mtcli"][i] / peaks[i] for i in measured]
        peak = statistics.median(peaks) / 1e9
        print(
            f"mtcli reaches {statistics.median(shares):.0%} of the matmul peak, {peak:.0f} GFLOP/s"
        )


if __name__ == "__main__":
    main()
