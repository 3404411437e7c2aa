"""``mtcli export``."""

from __future__ import annotations

from pathlib import Path

from typer import Option

from ..support.errors import log, visible
from .options import CheckpointOption, RunOption, ThreadsOption
from .tables import command


def export(
    format: str = Option(..., help="ctranslate2 (Transformers; fast, no PyTorch) or onnx."),
    output: Path = Option(..., "--output", "-o", help="Directory to write: a --run to use."),
    run: RunOption = None,
    checkpoint: CheckpointOption = "best",
    quantization: str = Option(
        "none", help="ctranslate2: none, int8, int16, float16 or bfloat16: smaller, less exact."
    ),
    threads: ThreadsOption = None,
) -> None:
    """Write a trained model for another engine, and check that it computes the same."""
    from ..decoding import exported
    from ..run.directory import Run
    from ..support import devices

    devices.prepare("cpu", threads)
    origin = Run.open(run) if run else Run.latest()
    parity = exported.export(origin, output, format, quantization, threads, checkpoint)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    told = (
        f"{output}: {format}, {size / 1e6:.1f} MB. Log-probabilities of "
        f"{parity.tokens:,} tokens, computed in {parity.computed_in}, differ by "
        f"{parity.mean_difference:.2g} on average, {parity.largest_difference:.2g} at most; "
        f"greedy translations of {parity.greedy_equal} of {parity.sentences} sentences are the same."
    )
    print(visible(told))
    log.info(f"next: {command('translate', '--run', output)}")
