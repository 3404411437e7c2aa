"""Translation speed of a trained model: mtcli against CTranslate2 and Hugging Face's `generate`.

    python benchmarks/translate_speed.py --run runs/multi30k_transformer --input test2016.en

The input may be plain or .gz. Every contestant lives in a process of its own, with the same threads; they do each job in
turn, round after round, so that a noisy machine disturbs all alike. Printed are sentences/s and target tokens/s (medians;
EOS counts, and each contestant's own output) and, for each opponent, the median of the paired ratios of sentences/s
with its quartiles: above 1, mtcli is faster.

Jobs: the whole file, text to text, and `--singles` of its lines, one by one; each greedily and with a beam of 5.

Contestants: `mtcli` on the run itself; `ct2` and `ct2-int8`, CTranslate2 in float32 and int8 on the same weights, which
are exported first, with sentencepiece, batches of 64 sentences that it sorts by length (the fastest of several tried) and
its own way of ending a search; `ct2-workers`, the same in float32, by as many workers of one thread each; `hf`, Hugging
Face's MarianMTModel of the same dimensions, whose random weights are made to write as many tokens as mtcli's greedy search
does: a batch of 64 sources of like length as many as the longest of its translations has, since there every row goes on
until the last is done; `hf-tuned`, the same with mtcli's settings of PyTorch and of the memory allocator. Those that the
model has no engine for (a GRU has neither), or whose package is not installed, are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

JOBS = {"file greedy": 1, "file beam 5": 5, "singles greedy": 1, "singles beam 5": 5}
LENGTHS = "lengths.json"  # target tokens of each line as mtcli translates it greedily
PAUSE = 0.5  # seconds before each job: the threads of the one before wait for more work, busily, for up to 0.2
AT_ONCE = 64  # sentences, by CTranslate2 and Hugging Face

Translate = Callable[
    [list[int], int], tuple[list[int], int]
]  # line numbers, beam -> sentences done, target tokens


def mtcli_contestant(options, lines: list[str], export: str):
    from mtcli import Translator

    translator = Translator.load(options.run, "cpu", options.threads, options.threads)

    def translate(chosen, beam_size):
        results = translator.translate([lines[i] for i in chosen], beam_size=beam_size)
        return len(results), sum(len(each.hypotheses[0].tokens) + 1 for each in results)

    return translate


def ct2_contestant(
    options, lines: list[str], export: str, compute_type: str, workers: bool = False
):
    import ctranslate2
    import sentencepiece

    files = [Path(export, "tokenizer", f"{side}.model") for side in ("source", "target")]
    shared = Path(export, "tokenizer", "shared.model")
    source, target = (
        sentencepiece.SentencePieceProcessor(model_file=str(shared if shared.exists() else file))
        for file in files
    )
    inter, intra = (options.threads, 1) if workers else (1, options.threads)
    translator = ctranslate2.Translator(
        export, device="cpu", compute_type=compute_type, inter_threads=inter, intra_threads=intra
    )

    def translate(chosen, beam_size):
        tokens = source.encode([lines[i] for i in chosen], out_type=str)
        results = translator.translate_batch(tokens, beam_size=beam_size, max_batch_size=AT_ONCE)
        target.decode([result.hypotheses[0] for result in results])
        return len(results), sum(len(result.hypotheses[0]) + 1 for result in results)

    return translate


def hf_contestant(options, lines: list[str], export: str, tuned: bool = False):
    import numpy as np
    import torch
    from transformers import MarianConfig, MarianMTModel
    from transformers.utils import logging

    from mtcli.run.directory import Run
    from mtcli.support import devices
    from mtcli.text import codec
    from mtcli.text.vocab import BOS, EOS, PAD

    logging.set_verbosity_error()
    if tuned:
        devices.prepare("cpu", options.threads, kernels=256)
    run = Run.open(options.run)
    ours, sides = run.config.model, codec.load(run.path / "tokenizer", run.config)
    sources = [
        [*sides[0].vocabulary.encode(sides[0].tokenizer.tokenize(line)), EOS] for line in lines
    ]
    lengths = json.loads(Path(export, LENGTHS).read_text())
    config = MarianConfig(
        vocab_size=max(len(side.vocabulary) for side in sides), d_model=ours.hidden_size,
        encoder_layers=ours.encoder_layers, decoder_layers=ours.decoder_layers, encoder_attention_heads=ours.heads,
        decoder_attention_heads=ours.heads, encoder_ffn_dim=ours.feed_forward_size, decoder_ffn_dim=ours.feed_forward_size,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, forced_eos_token_id=None, decoder_start_token_id=BOS,
        scale_embedding=True, activation_function="relu",
    )  # fmt: skip
    model = MarianMTModel(config).eval()

    def translate(chosen, beam_size):
        order, tokens = sorted(chosen, key=lambda i: -len(sources[i])), 0
        batches = [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]
        for batch in batches:
            ids = np.full((len(batch), max(len(sources[i]) for i in batch)), PAD)
            for row, i in enumerate(batch):
                ids[row, : len(sources[i])] = sources[i]
            ids = torch.from_numpy(ids)
            length = max(lengths[i] for i in batch)
            model.generate(
                input_ids=ids, attention_mask=(ids != PAD).long(), num_beams=beam_size, do_sample=False,
                min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
            tokens += sum(lengths[i] for i in batch)
        return len(order), tokens

    return translate


CONTESTANTS = {
    "mtcli": (mtcli_contestant, ()),
    "ct2": (ct2_contestant, ("float32",)),
    "ct2-workers": (ct2_contestant, ("float32", True)),
    "ct2-int8": (ct2_contestant, ("int8",)),
    "hf": (hf_contestant, ()),
    "hf-tuned": (hf_contestant, (True,)),
}
PACKAGES = {
    "mtcli": "mtcli",
    "hf": "transformers",
    "hf-tuned": "transformers",
}  # the others': ctranslate2


def live(name: str, options, lines: list[str], export: str, pipe) -> None:
    """A contestant: does every job that it is sent and answers with sentences/s and tokens/s."""
    import torch

    torch.set_num_threads(options.threads)
    build, arguments = CONTESTANTS[name]
    translate = build(options, lines, export, *arguments)
    everything = list(range(len(lines)))
    singles = [[i] for i in everything[:: max(1, len(lines) // options.singles)][: options.singles]]
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        todo = [everything] if job.startswith("file") else singles
        start = time.perf_counter()
        done = [translate(chosen, JOBS[job]) for chosen in todo]
        seconds = time.perf_counter() - start
        pipe.send([sum(each) / seconds for each in zip(*done)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run directory")
    parser.add_argument(
        "--input", type=Path, required=True, help="sentences to translate, one a line"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--singles", type=int, default=50, help="lines that are also translated one by one"
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(
        options.threads
    )  # of the contestants, before their libraries are loaded

    from mtcli import config as configs
    from mtcli.text.corpus import read_lines

    lines = [line for line in read_lines(options.input) if line.strip()]
    names = [
        name
        for name in CONTESTANTS
        if name in options.contestants
        and importlib.util.find_spec(PACKAGES.get(name, "ctranslate2"))
    ]
    if configs.load(options.run / "config.yaml").model.type != "transformer":
        names = ["mtcli"]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        export = str(Path(folder, "exported"))
        maker = context.Process(
            target=prepare, args=(options.run, lines, export, bool(set(names) - set(PACKAGES)))
        )
        maker.start()
        maker.join()
        pipes = {}
        for name in names:
            pipes[name], other = context.Pipe()
            context.Process(target=live, args=(name, options, lines, export, other)).start()
            pipes[name].recv()

        print(
            f"{options.run}, {len(lines):,} lines, {options.threads} threads, {options.rounds} rounds after one to warm up"
        )
        for job in options.jobs:
            speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for turn in range(options.rounds + 1):
                shift = turn % len(names)
                for name in names[shift:] + names[:shift]:
                    time.sleep(PAUSE)
                    pipes[name].send(job)
                    speeds[name].append(pipes[name].recv())
            report(job, {name: each[1:] for name, each in speeds.items()})
        for pipe in pipes.values():
            pipe.send(None)


def prepare(run: Path, lines: list[str], path: str, exported: bool) -> None:
    """What the others are given: the exported model, if one of them runs it, and how long the translations are."""
    from mtcli import Translator
    from mtcli.decoding.exported import export
    from mtcli.run.directory import Run

    if exported:
        export(Run.open(run), Path(path), "ctranslate2")
    Path(path).mkdir(exist_ok=True)
    results = Translator.load(run, "cpu").translate(lines, beam_size=1)
    Path(path, LENGTHS).write_text(
        json.dumps([len(each.hypotheses[0].tokens) + 1 for each in results])
    )


def report(job: str, speeds: dict[str, list[tuple[float, float]]]) -> None:
    for name, measured in speeds.items():
        sentences, tokens = (statistics.median(each) for each in zip(*measured))
        line = f"{job:15} {name:11} {sentences:>7,.1f} sentences/s {tokens:>7,.0f} tokens/s"
        if job.startswith("singles"):
            line += f" {1000 / sentences:>6.1f} ms each"
        if name != "mtcli" and "mtcli" in speeds:
            ratios = [ours[0] / theirs[0] for ours, theirs in zip(speeds["mtcli"], measured)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            line += f"   mtcli is {middle:.2f} times as fast ({low:.2f} to {high:.2f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
