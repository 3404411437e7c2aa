"""More data than memory: trains twice on millions of synthetic pairs; prints memory and the time to the first update.

    python benchmarks/large_data.py --pairs 5000000

Anonymous resident memory (RssAnon of /proc, so Linux only) is what a process needs for itself, its helpers included;
pages of mapped files are not in it, since the system takes them back whenever it likes. The model is tiny: what is left
is the data's share. Needs about 300 bytes of disk a pair, in --folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import yaml

WORDS = 50_000
BLOCK = 100_000  # pairs made at once


def write_pairs(path: Path, count: int, seed: int) -> None:
    """Sentences of 3 to 60 made-up words, the n-th drawn with a probability of about 1/n; the target is in capitals."""
    generator = np.random.default_rng(seed)
    spelling = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"]
    words = np.array(
        ["".join(spelling.choice(syllables, spelling.integers(1, 5))) for _ in range(WORDS)],
        dtype=object,
    )
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, count, BLOCK):
            lengths = np.clip(generator.gamma(3, 5, min(BLOCK, count - start)), 3, 60).astype(int)
            drawn = words[np.exp(generator.random(lengths.sum()) * np.log(WORDS)).astype(int)]
            for sentence in np.split(drawn, np.cumsum(lengths)[:-1]):
                text = " ".join(sentence)
                file.write(f"{text}\t{text.upper()}\n")


def anonymous(pid: int) -> int:
    """RssAnon in bytes of a process and all that it started."""
    total = 0
    for each in (pid, *children(pid)):
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:  # it has ended
            continue
        if "RssAnon:" in status:
            total += int(status.split("RssAnon:")[1].split()[0]) << 10
    return total


def children(pid: int) -> list[int]:
    try:
        texts = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    own = [int(each) for text in texts for each in text.split()]
    return own + [each for child in own for each in children(child)]


def processor_seconds(pid: int) -> float:
    """Time that the processors worked for a process, its ended helpers included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def train(folder: Path, updates: int) -> None:
    """Run `mtcli train` until so many updates are done; print what it said, when, and with how much memory."""
    command = [
        sys.executable,
        "-m",
        "mtcli",
        "train",
        "--config",
        "large.yaml",
        "--run",
        "run",
        "--device",
        "cpu",
    ]
    command += ["--set", f"training.max_updates={updates}"]
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
    )
    curve: list[tuple[float, int]] = []

    def watch() -> None:
        while process.poll() is None:
            curve.append((time.perf_counter() - started, anonymous(process.pid)))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    first = first_work = None
    for line in process.stderr:
        seconds = time.perf_counter() - started
        if line.startswith("update") and first is not None:
            continue
        if line.startswith("update"):
            first, first_work = seconds, processor_seconds(process.pid)
        print(f"  {seconds:7.1f} s  {line.rstrip()}", flush=True)
    watcher.join()
    if process.returncode:
        sys.exit(process.returncode)
    print("  RssAnon in MiB, the highest of each twentieth of the time:")
    print("  " + " ".join(f"{max(size for _, size in part) >> 20}" for part in parts_of(curve, 20)))
    when, most = max(curve, key=lambda point: point[1])
    print(f"  peak {most >> 20:,} MiB at {when:.1f} s")
    print(
        f"  first update done after {first:.1f} s, of which the process computed {first_work:.1f} s\n",
        flush=True,
    )


def parts_of(curve: list[tuple[float, int]], count: int) -> list[list[tuple[float, int]]]:
    size = max(1, -(-len(curve) // count))
    return [curve[start : start + size] for start in range(0, len(curve), size)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where to work, and to leave everything (default: temporary)"
    )
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of subwords: text is kept, and cut at every use"
    )
    options = parser.parse_args()
    config = {
        "data": {"train": "train.tsv", "validation": "validation.tsv"},
        "tokenizer": {"type": "subword", "vocabulary_size": 4000, "shared": True, "dropout": options.dropout},
        "model": {"type": "transformer", "hidden_size": 32, "feed_forward_size": 64, "heads": 2, "encoder_layers": 1,
                  "decoder_layers": 1},
        "training": {"batch_tokens": 2000, "schedule": "constant", "optimizer": "adam", "log_every": 1, "examples": 0,
                     "validation_metrics": [], "validate_every": 1000},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "large.yaml").write_text(yaml.safe_dump(config))
        write_pairs(folder / "train.tsv", options.pairs, seed=1)
        write_pairs(folder / "validation.tsv", 100, seed=2)
        print(
            f"{options.pairs:,} pairs, {(folder / 'train.tsv').stat().st_size / 1e9:.2f} GB of text"
        )
        for name, updates in (("first start", 200), ("second start", 210)):
            print(f"{name}:")
            train(folder, updates)


if __name__ == "__main__":
    main()
