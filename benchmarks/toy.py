"""The README's table on the toy corpus: three models, three seeds, `test` and `test_long`, beside the baselines.

    python benchmarks/toy.py              # about twenty minutes on two cores

Trains what is missing under runs/ (a finished run is not trained again), scores it, and prints the table: mean over
seeds and, where they differ, the lowest and the highest; CPU time of training, all threads together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

MODELS = ["toy_gru", "toy_gru_attention", "toy_transformer"]


def mtcli(*arguments: str) -> tuple[str, float]:
    """stdout and CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mtcli", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float], form: str = "{:.1f}") -> str:
    mean = form.format(sum(values) / len(values))
    low, high = form.format(min(values)), form.format(max(values))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(
        "| model | parameters | CPU seconds | test: exact match | test_long: exact match | test_long: chrF |"
    )
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        columns: dict[str, list[float]] = {name: [] for name in ("cpu", "test", "long", "chrf")}
        parameters = 0
        for seed in range(1, options.seeds + 1):
            run = Path("runs") / f"{model}-{seed}"
            config = [
                "--config",
                f"configs/{model}.yaml",
                "--set",
                f"training.seed={seed}",
                "--run",
                str(run),
            ]
            _, seconds = mtcli("train", *config, "--threads", str(options.threads))
            notes = run / "cpu_seconds"  # of the training itself, for when this script is run again
            if not notes.exists():
                notes.write_text(f"{seconds}\n", encoding="utf-8")
            columns["cpu"].append(float(notes.read_text(encoding="utf-8")))
            for name, file in [("test", "test"), ("long", "test_long")]:
                printed, _ = mtcli(
                    "eval", "--run", str(run), "--data", f"data/toy/{file}.tsv", "--json"
                )
                scores = json.loads(printed)
                columns[name].append(scores["exact_match"])
            columns["chrf"].append(scores["chrf"])
            parameters = count_parameters(run)
        row = [
            spread(columns["cpu"], "{:.0f}"),
            *(spread(columns[name]) for name in ("test", "long", "chrf")),
        ]
        print(f"| `{model}` | {parameters:,} | {' | '.join(row)} |", flush=True)
    subprocess.run([sys.executable, "data/toy/baselines.py"], check=True)


def count_parameters(run: Path) -> int:
    from safetensors import safe_open

    best = json.loads((run / "best.json").read_text(encoding="utf-8"))["update"]
    with safe_open(run / "checkpoints" / str(best) / "model.safetensors", framework="np") as file:
        total = 0
        for name in file.keys():
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            total += size
    return total


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
