"""Runs survive what happens to runs, in real processes: kills, signals, full disks, company, the death of a neighbour.

MTCLI_KILLS=100 kills the run of the first test a hundred times.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
import torch

from mtcli.run.directory import Run

resource = pytest.importorskip("resource", reason="limits of processes, as on Unix")

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("MTCLI_KILLS", 4))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATIENCE = 300 + 5 * KILLS  # seconds that any of this may take on a slow machine
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]
EVERYTHING = {
    "tokenizer": {"type": "subword", "vocabulary_size": 300, "dropout": 0.2},
    "training": {
        "max_updates": 30 + 8 * KILLS, "micro_batch_tokens": 60, "optimizer": "muon", "patience": 40,
        "schedule": {"type": "plateau", "patience": 1}, "best_by": "chrf", "keep_checkpoints": 1,
    },
}  # fmt: skip
SAVE_ALWAYS = "training.save_minutes=1e-9"


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def write_config(folder: Path, training: dict = {}, **options) -> Path:
    """As `tiny.write_config`, but with fewer lines of the log."""
    return tiny.write_config(folder, training={"log_every": 10, **training}, **options)


def arguments(folder: Path, run: str, *settings: str) -> list[str]:
    changes = [part for setting in settings for part in ("--set", setting)]
    return [
        "-m",
        "mtcli",
        "train",
        "--config",
        str(folder / "tiny.yaml"),
        "--run",
        str(folder / run),
        *changes,
    ]


def start(
    folder: Path, run: str, *settings: str, variables: dict[str, str] = {}, **options
) -> subprocess.Popen:
    command = [sys.executable, *arguments(folder, run, *settings)]
    environment = ENVIRONMENT | variables
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def end(process: subprocess.Popen, status: int) -> str:
    """Wait for it to end with ``status`` -> what it said."""
    try:
        told = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == status, told
    assert "Traceback" not in told, told
    return told


def train(folder: Path, run: str, *settings: str, status: int = 0, **options) -> str:
    return end(start(folder, run, *settings, **options), status)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Whether ``condition`` came true before the process ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.001)
    if process.poll() is None:
        process.kill()  # it hangs: do not leave it behind
    return condition()


def newest(run: Path) -> int:
    return max(Run(run).checkpoints(), default=0)


def log_of(run: Path) -> list[dict]:
    content = (run / "log.jsonl").read_bytes()
    assert content.endswith(b"\n")
    return [
        {key: value for key, value in entry.items() if key != "clock"}
        for entry in Run(run).read_log()
    ]


def assert_same(one: Path, other: Path) -> None:
    """Two finished runs: weights, logs, scores, optimizers, bit for bit."""
    assert log_of(one) == log_of(other)
    assert Run(one).best == Run(other).best
    assert newest(one) == newest(other)
    first, second = (Run(run).load_checkpoint("last", training=True) for run in (one, other))
    for mine, yours in ((first.model, second.model), (first.tensors, second.tensors)):
        assert mine.keys() == yours.keys()
        assert [name for name in mine if not torch.equal(mine[name], yours[name])] == []


def leftovers(run: Path) -> list[str]:
    return [path.name for place in (run, run / "checkpoints") for path in place.glob(".*")]


# --------------------------------------------------------------------------------------------------------------- kills


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(folder):
    write_config(folder, **EVERYTHING)
    train(folder, "whole")
    chance, run = random.Random(KILLS), folder / "killed"
    kills = 0
    while kills < KILLS:
        before = newest(run) if run.exists() else 0
        process = start(folder, "killed", SAVE_ALWAYS)
        kind = kills % 4
        if kind == 0:  # anywhere, such as while the vocabulary is built
            wait_for(run.exists, process)
            time.sleep(chance.uniform(0, 1))
        elif kind == 1:  # while a checkpoint is written
            wait_for(
                lambda: newest(run) > before and any(run.glob("checkpoints/.*.aside")), process
            )
        else:  # while it trains
            wait_for(lambda: newest(run) > before, process)
            time.sleep(chance.uniform(0, 0.1))
        assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.communicate()
        kills += 1
    told = train(folder, "killed")
    assert "continuing from update" in told
    assert_same(folder / "killed", folder / "whole")
    assert leftovers(run) == []


# -------------------------------------------------------------------------------------------- disks, company, signals


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(folder):
    write_config(folder, training={"schedule": "constant"})
    train(folder, "run", "training.max_updates=7")
    train(folder, "whole", "training.max_updates=7")
    train(folder, "whole")
    size = (folder / "run/checkpoints/7/model.safetensors").stat().st_size
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))  # noqa: E731
    told = train(folder, "run", status=1, preexec_fn=full)
    assert "checkpoints/14: the checkpoint could not be written: File too large" in told
    assert "saved up to update 7; to continue: " in told
    assert Run(folder / "run").checkpoints() == [7] and leftovers(folder / "run") == []
    assert "continuing from update 7" in train(folder, "run")
    assert_same(folder / "run", folder / "whole")


def test_a_run_has_one_training_and_can_be_used_meanwhile(folder):
    write_config(folder, training={"max_updates": 100_000})
    process = start(folder, "run", SAVE_ALWAYS)
    assert wait_for(lambda: newest(folder / "run") > 0, process)
    told = train(folder, "run", status=1)
    assert f"Another training is running on {folder / 'run'} (process {process.pid})." in told
    command = [sys.executable, "-m", "mtcli", "translate", "--run", str(folder / "run"), "abc"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    process.send_signal(signal.SIGINT)
    told = end(process, 130)
    assert f"saved up to update {newest(folder / 'run'):,}; to continue: " in told


def reader_of(pipe: Path, process: subprocess.Popen) -> int:
    """A descriptor to write to a named pipe, as soon as the process reads from it."""
    found: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):  # nobody reads
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    assert wait_for(is_read, process), process.communicate()
    return found[0]


@pytest.mark.parametrize(
    "number, status, vocabulary", [(signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)]
)
def test_a_signal_stops_a_training_that_waits_for_data(folder, number, status, vocabulary):
    """When defaults are chosen, or when the vocabulary is built, by data that never comes."""
    write_config(folder)
    pairs = (folder / "train.tsv").read_bytes()
    (folder / "train.tsv").unlink()
    os.mkfifo(folder / "train.tsv")
    process = start(folder, "run")
    while vocabulary and not (folder / "run/lock").exists():  # defaults read it more than once
        with suppress(OSError):  # nobody reads
            descriptor = os.open(folder / "train.tsv", os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, pairs)
            os.close(descriptor)
        assert process.poll() is None
        time.sleep(0.1)
    descriptor = reader_of(folder / "train.tsv", process)
    process.send_signal(number)
    assert "nothing was saved yet; to start again: mtcli train" in end(process, status)
    os.close(descriptor)
    assert (folder / "run").exists() == vocabulary


SECOND = """
import signal
from mtcli.support.signals import Signals
with Signals() as signals, signals.held():
    signal.raise_signal(signal.SIGINT)
    print("asked", signals.asked, flush=True)
    signal.raise_signal(signal.SIGINT)
    print("still here")
"""


def test_a_second_ctrl_c_leaves_at_once():
    done = subprocess.run(
        [sys.executable, "-c", SECOND], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "asked 2\n")


# --------------------------------------------------------------------------------------------------- several processes


def together(count: int) -> list[dict[str, str]]:
    """The variables that torchrun sets, for each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start_together(count: int, folder: Path, run: str, *settings: str) -> list[subprocess.Popen]:
    return [start(folder, run, *settings, variables=variables) for variables in together(count)]


EXACT = """
import hashlib, sys
from pathlib import Path
import torch
torch.set_default_dtype(torch.float64)
from mtcli import config as configs
from mtcli.run.checkpoint import to_tensors
from mtcli.run.directory import Run
from mtcli.support import distributed
from mtcli.training.trainer import Trainer
distributed.init("cpu")
path, place = map(Path, sys.argv[1:])
config = configs.load(path, ["model.dropout=0.0"])
with distributed.main_first():
    run = Run.create(place, "", config) if distributed.is_main() else Run(place)
run.config = config
job = Trainer(run, torch.device("cpu"))
shares = [list(job.plan.micro_batches(rows, 0)) for rows in job.plan.epoch(0)]
counts = [[len(parts), parts[0].weight] for parts in shares]
job.train()
weights = b"".join(tensor.numpy().tobytes() for tensor in to_tensors(job.model).values())
told = distributed.gather_json([counts, hashlib.sha256(weights).hexdigest()])
if distributed.is_main():
    print(told)
distributed.shutdown()
threads = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]  # on Linux; elsewhere none
assert not [name for name in threads if "gloo" in name], "one that still runs when Python ends may abort the process"
"""


@pytest.mark.parametrize(
    ("model", "processes", "settings"),
    [
        ("transformer", 2, {"batch_tokens": 80}),
        ("transformer", 2, {"batch_tokens": 300, "micro_batch_tokens": 40}),
        ("gru", 3, {"batch_sentences": 2}),  # there is nothing for the third to do
    ],
)
def test_several_processes_do_what_one_does(folder, model, processes, settings):
    """In float64, without dropout, the same to 1e-9 after ten updates by Adam; the same weights on every process."""
    common = {"max_updates": 10, "log_every": 1, "validate_every": 5, "schedule": "plateau"}
    path = write_config(folder, model=model, training={**common, "batch_tokens": None, **settings})
    for name, variables in (("one", [{}]), ("several", together(processes))):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", EXACT, str(path), str(folder / name)],
                env=ENVIRONMENT | each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for each in variables
        ]  # fmt: skip
        out = [process.communicate(timeout=PATIENCE) for process in started]
        assert [process.returncode for process in started] == [0] * len(started), out
        told = eval(out[0][0])
    assert len({weights for _, weights in told}) == 1
    counts = [count for count, _ in told]
    if "micro_batch_tokens" in settings:
        assert any(mine[0] != yours[0] for mine, yours in zip(*counts)), (
            "uneven shares are meant to be tested"
        )
    assert (processes == 3) == any(weight == 0 for count in counts for _, weight in count)
    one, several = (Run(folder / name) for name in ("one", "several"))
    first, second = (run.load_checkpoint("last", training=True) for run in (one, several))
    for mine, yours in ((first.model, second.model), (first.tensors, second.tensors)):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, yours[name], rtol=0, atol=1e-9)
    for mine, yours in zip(log_of(one.path), log_of(several.path), strict=True):
        mine, yours = (entry | entry.pop("validation", {}) for entry in (mine, yours))
        for name in ("examples", "data"):
            assert mine.pop(name, None) == yours.pop(name, None)
        assert mine == pytest.approx(yours, rel=1e-9, abs=1e-9)


def test_under_torchrun_a_killed_process_is_replaced_and_nothing_changes(folder):
    write_config(
        folder, **{**EVERYTHING, "training": {**EVERYTHING["training"], "max_updates": 30}}
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
    ]
    told = {}
    for name in ("whole", "killed"):
        # The -- keeps torchrun from taking --run for a short form of its own --run-path.
        command = [
            *torchrun,
            "--max-restarts",
            "1",
            "-m",
            "--",
            *arguments(folder, name, SAVE_ALWAYS)[1:],
        ]
        job = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        if name == "killed":
            assert wait_for(lambda: newest(folder / name) > 3, job)
            os.kill(int((folder / name / "lock.pid").read_text()), signal.SIGKILL)
        told[name] = job.communicate(timeout=PATIENCE)[1]
        assert job.returncode == 0, told[name]
    assert (
        "continuing from update" in told["killed"] and "continuing from update" not in told["whole"]
    )
    assert_same(folder / "killed", folder / "whole")


def test_the_death_of_a_process_ends_the_others_with_a_message(folder):
    write_config(folder, training={"max_updates": 100_000})
    main, other = start_together(2, folder, "run", SAVE_ALWAYS)
    assert wait_for(lambda: newest(folder / "run") > 3, main)
    other.kill()
    assert "Process 0 of 2 lost contact with the others: " in end(main, 1)
    other.communicate()


def test_a_signal_to_one_process_stops_all_after_the_same_update(folder):
    write_config(folder, training={"max_updates": 100_000, "schedule": "constant"})
    processes = start_together(2, folder, "run", SAVE_ALWAYS)
    assert wait_for(lambda: newest(folder / "run") > 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    told = [end(process, 143) for process in processes]
    update = newest(folder / "run")
    assert f"saved up to update {update:,}; to continue: " in told[0]
    again = start_together(2, folder, "run", f"training.max_updates={update + 3}")
    assert f"continuing from update {update:,}" in end(again[0], 0)
    end(again[1], 0)
    assert newest(folder / "run") == update + 3
