"""How many operations an update and a decoding step dispatch: on a GPU each is at least one kernel to launch.

    python benchmarks/launches.py
    python benchmarks/launches.py --layers 4 --hidden 256 --vocabulary 8000

A Transformer of base size (6 + 6 layers of 512) and a batch of 8,000 target tokens, on the meta device, which computes
nothing and takes the path of a GPU. Views and allocations do not count. A GPU launches fewer: there attention is one
kernel each way and so is dropout, both of which the meta device writes out.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtcli.config import Muon, Transformer
from mtcli.decoding.torch_engine import describe
from mtcli.models.batches import Sequences, padded_batch
from mtcli.training import optim
from mtcli.training.trainer import TrainStep

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
VIEWS = {"_unsafe_view", "_reshape_alias"}  # not marked as such


class Operations(TorchDispatchMode):
    """Counts by name what is dispatched inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if not function.is_view and name not in ALLOCATIONS | VIEWS and ":" not in name:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--tokens", type=int, default=8000, help="target tokens of the update")
    parser.add_argument("--most", type=int, default=0, help="print the most frequent operations")
    options = parser.parse_args()
    hidden, vocabulary = options.hidden, options.vocabulary
    config = Transformer(
        hidden_size=hidden, feed_forward_size=4 * hidden, heads=hidden // 64, encoder_layers=options.layers,
        decoder_layers=options.layers, tied_embeddings="all", dropout=0.1,
    )  # fmt: skip
    model = describe(config, [vocabulary, vocabulary]).train()
    sentences = Sequences.of([4] * 25 for _ in range(options.tokens // 25))
    batch = padded_batch(sentences, sentences).to(torch.device("meta"))
    optimizers = optim.build(model, Muon())
    parts: dict[str, Operations] = {}

    def counted(name: str) -> Operations:
        return parts.setdefault(name, Operations())

    with counted("model, forward"):
        states = model(batch.source, batch.source_mask, batch.target_in)
    with counted("model, backward"):
        states.backward(torch.empty_like(states))
    model.zero_grad()
    with counted("update, forward"):
        loss, _ = TrainStep(model, 0.1)(batch)
    with counted("update, backward"):
        loss.backward()
    optimizers[0].step()  # the first one makes its momentum
    with counted("Muon"):
        optimizers[0].step()
    memory = model.eval().encode(batch.source, batch.source_mask)
    state = model.init_state(memory)
    tokens = batch.target_in[:, 0]
    with torch.inference_mode():
        for _ in range(2):
            step = Operations()
            with step:
                _, state = model.decode_step(tokens, state, memory)
    parts["a decoding step"] = step
    for name, operations in parts.items():
        print(f"{name:18} {operations.counts.total():>6,}")
        for operation, count in operations.counts.most_common(options.most):
            print(f"    {operation:30} {count:>6,}")


if __name__ == "__main__":
    main()
