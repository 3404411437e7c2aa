"""How fast a Transformer of base size trains and decodes on a GPU (`gpu.sh` runs this): one JSON, or its table.

    python benchmarks/gpu_speed.py --output gpu.json
    python benchmarks/gpu_speed.py --table gpu.json

6 + 6 layers of 512, a vocabulary of 32,000, random sentences of 10 to 50 tokens. An update is complete: batches from
pinned memory, forward, backward, clipping, optimizers. The share is of the fastest product of two bfloat16 matrices
that this device was measured to make. Hugging Face's Marian trains on the same batches by AdamW, where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mtcli import config as c
from mtcli.decoding.engine import Request
from mtcli.decoding.torch_engine import TorchEngine
from mtcli.models import build_model
from mtcli.models.batches import Batch, Sequences, padded_batch
from mtcli.support import devices
from mtcli.text.vocab import BOS, EOS, PAD
from mtcli.training import optim
from mtcli.training.step import TrainStep, average_and_clip

SMOOTHING, DROPOUT = 0.1, 0.1


class Size:
    def __init__(self, tiny: bool):
        self.layers, self.hidden, self.heads, self.vocabulary = (
            (1, 16, 2, 50) if tiny else (6, 512, 8, 32_000)
        )
        self.tokens = [100] if tiny else [4_000, 16_000]  # target tokens of an update
        self.updates = 2 if tiny else 20
        self.square = 64 if tiny else 8192
        self.sentences, self.length = (4, 5) if tiny else (256, 30)  # of decoding


def batches(size: Size, tokens: int, device: torch.device) -> list[Batch]:
    """Pairs of similar lengths together, as a plan makes them."""
    generator = np.random.default_rng(0)
    made = []
    for length in np.linspace(10, 50, size.updates).astype(int):
        lengths = generator.integers(length - 2, length + 3, (2, max(1, tokens // length)))
        sides = [
            Sequences.of(generator.integers(4, size.vocabulary, n).tolist() + [EOS] for n in side)
            for side in lengths
        ]
        made.append(padded_batch(*sides).packed(device.type == "cuda"))
    return made


def floating_point_operations(size: Size, batch: Batch) -> float:
    """Multiplications and additions of an update: three times those of the forward pass, padding included."""
    (rows, source), target = batch.source.shape, batch.target_in.shape[1]
    h, layer = size.hidden, 12 * size.hidden**2  # of attention 4, of feed-forward 8
    encoder = source * (layer + 2 * source * h)
    decoder = target * (layer + 2 * h**2 + 2 * (target + source) * h) + source * 2 * h**2
    words = len(batch.target_places) * h * size.vocabulary
    return 3 * 2 * (size.layers * rows * (encoder + decoder) + words)


def wait(device: torch.device) -> float:
    """The time, when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(device: torch.device, work: list[Callable[[], Any]]) -> float:
    """All of this takes, after it was done once."""
    for _ in range(2):
        start = wait(device)
        for each in work:
            each()
    return wait(device) - start


def matmul_peak(size: Size, device: torch.device) -> float:
    """Operations per second of a product of bfloat16 matrices; the best of five."""
    one, other = (torch.randn(size.square, size.square, device=device).bfloat16() for _ in range(2))
    return max(2 * size.square**3 / seconds(device, [lambda: one @ other]) for _ in range(5))


def ours(size: Size, device: torch.device, config: Any, precision: str) -> Callable[[Batch], None]:
    """One complete update of mtcli."""
    model = build_model(transformer(size), size.vocabulary, size.vocabulary).to(device).train()
    step, optimizers = TrainStep(model, SMOOTHING), optim.build(model, config)
    autocast, _ = devices.autocast(device, precision)

    def update(batch: Batch) -> None:
        model.zero_grad()
        with autocast():
            loss, _ = step(batch.to(device))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = average_and_clip(gradients, len(batch.target_places), 1.0)
        optim.step(optimizers, norm.isfinite())

    return update


def transformer(size: Size) -> c.Transformer:
    return c.Transformer(
        hidden_size=size.hidden, feed_forward_size=4 * size.hidden, heads=size.heads, encoder_layers=size.layers,
        decoder_layers=size.layers, dropout=DROPOUT, tied_embeddings="all",
    )  # fmt: skip


def marian(size: Size, device: torch.device) -> Callable[[Batch], None]:
    """The same by Hugging Face's Marian under bfloat16, with fused AdamW."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=size.vocabulary, d_model=size.hidden, encoder_layers=size.layers, decoder_layers=size.layers,
        encoder_attention_heads=size.heads, decoder_attention_heads=size.heads, encoder_ffn_dim=4 * size.hidden,
        decoder_ffn_dim=4 * size.hidden, dropout=DROPOUT, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        decoder_start_token_id=BOS, scale_embedding=True, activation_function="relu",
    )  # fmt: skip
    model = MarianMTModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def update(batch: Batch) -> None:
        batch = batch.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(
                input_ids=batch.source, attention_mask=batch.source_mask.long(), decoder_input_ids=batch.target_in,
                use_cache=False,
            ).logits  # fmt: skip
            loss = F.cross_entropy(
                logits.flatten(0, 1), batch.target_out.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING
            )  # fmt: skip
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def train(size: Size, device: torch.device, peak: float) -> list[dict[str, Any]]:
    """A row for each contestant, precision and size of an update."""
    kinds = [(f"mtcli, {each}", c.Muon(), each) for each in ("float32", "tf32", "bf16")]
    makers = {name: (lambda p=p, o=o: ours(size, device, o, p)) for name, o, p in kinds}
    makers["mtcli, bf16, AdamW"] = lambda: ours(size, device, c.AdamW(), "bf16")
    if importlib.util.find_spec("transformers"):
        makers["Hugging Face Marian, bf16, AdamW"] = lambda: marian(size, device)
    rows = []
    for name, make in makers.items():
        for tokens in size.tokens:
            data = batches(size, tokens, device)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            update = make()
            spent = seconds(device, [lambda batch=batch: update(batch) for batch in data])
            real = sum(len(batch.target_places) for batch in data)
            done = sum(floating_point_operations(size, batch) for batch in data) / spent
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
            rows.append({"name": name, "batch_tokens": tokens, "tokens_per_second": real / spent,
                         "share_of_peak": done / peak, "gib": memory})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def decode(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Tokens of the best hypotheses a second; they are as long as the sources, since the model is untrained."""
    model = build_model(transformer(size), size.vocabulary, size.vocabulary).to(device).eval()
    autocast, _ = devices.autocast(device, "bf16" if device.type == "cuda" else "float32")
    engine = TorchEngine(model, device, autocast)
    sources = [[*range(4, 4 + size.length), EOS]] * size.sentences
    rows = []
    for beam in (1, 4):
        decoding = c.Decoding(
            beam_size=beam, max_length_ratio=1, max_length_offset=0, min_length_ratio=1
        )
        request = Request(sources, decoding=decoding)
        tokens = sum(len(found[0].ids) for found in engine.search(request))
        speed = tokens / seconds(device, [lambda: engine.search(request)])
        rows.append({"name": f"decoding, beam of {beam}", "tokens_per_second": speed})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(result: dict[str, Any]) -> str:
    """The Markdown that docs/scaling.md holds."""
    peak = result["peak"] / 1e12
    lines = [
        f"{result['device']}, PyTorch {result['torch']}; bfloat16 products at {peak:,.3g} TFLOP/s."
    ]
    lines += [
        "",
        "| | tokens of an update | tokens/s | share of the peak | GiB |",
        "|---|---|---|---|---|",
    ]
    for row in result["train"]:
        memory = "" if row["gib"] is None else f"{row['gib']:.1f}"
        lines.append(f"| {row['name']} | {row['batch_tokens']:,} | {row['tokens_per_second']:,.0f} | "
                     f"{row['share_of_peak']:.0%} | {memory} |")  # fmt: skip
    lines += [
        f"| {row['name']} | | {row['tokens_per_second']:,.0f} | | |" for row in result["decode"]
    ]
    if not result["transformers"]:
        lines += ["", "transformers was not installed: Marian was not measured."]
    return "\n".join([*lines, "", f"Tests: {result['tests']}."])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tests", default="not run", help="what pytest said at its end")
    parser.add_argument("--tiny", action="store_true", help="sizes for a rehearsal")
    parser.add_argument("--table", type=Path, help="print the table of an earlier result")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    device, size = devices.prepare(options.device), Size(options.tiny)
    cuda = device.type == "cuda"
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": importlib.util.find_spec("transformers") is not None,
        "tests": options.tests,
        "peak": matmul_peak(size, device),
    }  # fmt: skip
    result["train"], result["decode"] = train(size, device, result["peak"]), decode(size, device)
    options.output.write_text(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
