"""What each trick is worth: training steps of a small Transformer with one of them switched off.

    python benchmarks/tricks.py

One thread. The variants take each batch in turn; printed is the median of the CPU time of a forward and backward pass,
relative to the one with all tricks. ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 before
it limits the processor to AVX2.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from train_speed import SMOOTHING, VOCABULARY, batches

from mtcli.config import Transformer
from mtcli.models import build_model, layers, transformer
from mtcli.support import devices
from mtcli.training import trainer

BATCHES, ROUNDS = 8, 2  # the first round makes the kernels


def attention_kernel(self, query, keys, values, bias, maps):
    """PyTorch's own, for `MultiHeadAttention.attend`."""
    bias = bias.expand(query.shape[0], 1, query.shape[2], keys.shape[2])
    x = F.scaled_dot_product_attention(query, keys, values, bias)
    return self.output(x.transpose(1, 2).flatten(2))


def plain_loss(states, weight, bias, targets, smoothing):
    logits = F.linear(states, weight, bias)
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    return loss, loss.detach()


@contextmanager
def default_kernels() -> Iterator[None]:
    torch.set_float32_matmul_precision("highest")
    yield
    devices.choose_products(torch.device("cpu"))


WITHOUT: dict[str, Callable] = {
    "all tricks": lambda: patch.object(layers, "Dropout", layers.Dropout),
    "bias added last": lambda: patch.object(layers.Linear, "forward", nn.Linear.forward),
    "cheap dropout masks": lambda: patch.object(
        layers.Dropout, "forward", lambda self, x: F.dropout(x, self.probability, self.training)
    ),
    "attention written out": lambda: patch.object(
        transformer.MultiHeadAttention, "attend", attention_kernel
    ),
    "loss fused with projection": lambda: patch.object(trainer, "cross_entropy", plain_loss),
    "products by oneDNN": default_kernels,
}


def main() -> None:
    devices.prepare("cpu", 1)
    config = Transformer(hidden_size=128, feed_forward_size=512, dropout=0.3, tied_embeddings="all")
    step = trainer.TrainStep(build_model(config, VOCABULARY, VOCABULARY).train(), SMOOTHING)
    seconds: dict[str, list[float]] = {name: [] for name in WITHOUT}
    for _ in range(ROUNDS):
        for batch in batches(BATCHES):
            for name, without in WITHOUT.items():
                with without():
                    start = time.process_time()
                    step(batch)[0].backward()
                    step.zero_grad()
                    seconds[name].append(time.process_time() - start)
    for name, measured in seconds.items():
        pairs = list(zip(measured, seconds["all tricks"]))[BATCHES:]
        print(f"without {name:28} {statistics.median(a / b for a, b in pairs):.2f} times the time")


if __name__ == "__main__":
    main()
