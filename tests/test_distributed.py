"""One process is alone and changes nothing; several tell each other the truth, and notice a death."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from mtcli.support import distributed
from mtcli.support.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def spawn(code: str, world_size: int = 2) -> list[tuple[int, str, str]]:
    """Run ``code`` in ``world_size`` processes, set up as torchrun does -> (exit code, stdout, stderr) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    shared |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs)]


def test_one_process_is_the_identity():
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (0, 0, 1)
    assert distributed.is_main()
    distributed.init("cpu")
    assert distributed.broadcast_json({"a": [1, 0.1, "ä\ud800"]}) == {"a": [1, 0.1, "ä\ud800"]}
    assert distributed.gather_json((1, 2)) == [[1, 2]]
    distributed.shutdown()


def test_importing_needs_no_torch():
    code = "import sys, mtcli.support.distributed as d; d.gather_json(1); assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


COLLECTIVES = """
from mtcli.support import distributed as d
d.init("cpu")
me = d.rank()
assert d.world_size() == 2 and d.local_rank() == me and d.is_main() == (me == 0)
assert d.gather_json({"rank": me, "text": "é" * 50 * me}) == [{"rank": 0, "text": ""}, {"rank": 1, "text": "é" * 50}]
assert d.gather_json(0.1 + 0.2) == [0.1 + 0.2] * 2
assert d.broadcast_json(["from", me]) == ["from", 0]
d.shutdown()
print("done", me)
"""


@pytest.mark.slow
def test_two_processes_agree():
    assert [(code, out) for code, out, _ in spawn(COLLECTIVES)] == [
        (0, "done 0\n"),
        (0, "done 1\n"),
    ]


DEATH = """
import os
from mtcli.support import distributed as d
from mtcli.support.errors import UserError
d.init("cpu")
d.gather_json(None)
if d.rank() == 1:
    os.kill(os.getpid(), 9)
try:
    d.gather_json("anybody there?")
except UserError as error:
    print(error, flush=True)
    os._exit(1)
"""


@pytest.mark.slow
def test_a_death_is_told_by_the_others():
    (code, out, _), (killed, _, _) = spawn(DEATH)
    assert killed == -9 and code == 1
    assert out.startswith("Process 0 of 2 lost contact with the others: ")


SLOW = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from mtcli import config as configs
from mtcli.run.directory import Run
from mtcli.support import distributed
from mtcli.training import data, trainer
import torch

def slowly(place, name, rank):
    work = getattr(place, name)
    def slow(*arguments):
        if distributed.rank() == rank:
            time.sleep(6)
        return work(*arguments)
    setattr(place, name, slow)

distributed.LIMIT = timedelta(seconds=4)
slowly(data.codec, "learn", 0)
slowly(trainer, "answer_share", 1)
slowly(trainer.evaluation, "score", 0)
slowly(Run, "save_checkpoint", 0)
distributed.init("cpu")
path = Path(sys.argv[1])
config = configs.load(path, ["training.max_updates=1"])
run = Run(path.parent / "run")
with distributed.main_first():
    if distributed.is_main():
        run = Run.create(run.path, "", config)
run.config = config
job = trainer.Trainer(run, torch.device("cpu"))
job.train()
print("done", job.progress.update)
distributed.shutdown()
"""


@pytest.mark.slow
def test_waiting_for_what_one_process_does_alone_has_no_time_limit(tmp_path):
    """Learning a vocabulary, validating, scoring and saving each take longer than gradients may take."""
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path)
    code = SLOW.replace("sys.argv[1]", repr(str(path)))
    assert [(code, out) for code, out, _ in spawn(code)] == [(0, "done 1\n")] * 2


TELLING = """
from mtcli.support import distributed as d
from mtcli.support.errors import UserError
d.init("cpu")
me = d.rank()
with d.told_once():
    if me != 2 and {common}:
        raise UserError("the disk is full")
    if me == 1:
        {failure}
    with d.contact():
        d.meet()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("raise UserError('out of memory')", ["out of memory"]),
        ("raise RuntimeError('a bug')", ["a bug"]),
        ("__import__('os')._exit(1)", ["lost contact"]),
        (None, ["the disk is full"]),
    ],
)
def test_an_error_is_told_once_by_a_process_that_had_it(failure, told):
    code = TELLING.format(common=failure is None, failure=failure)
    ends = spawn(code, 3)
    assert [status for status, *_ in ends] == [1, 1, 1]
    shown = "".join(error for *_, error in ends)
    kinds = ["out of memory", "a bug", "lost contact", "the disk is full"]
    assert [kind for kind in kinds if kind in shown] == told
    assert sum("Error: " in error for *_, error in ends) == 1


def test_an_error_that_is_not_of_an_exchange_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="^mat1 and mat2"), distributed.contact():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"RANK": "first"}, "environment variable RANK is 'first'"),
        ({"WORLD_SIZE": "0"}, "environment variable WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "Process 0 of 2 cannot reach the others: .*MASTER_ADDR"),
    ],
)
def test_a_wrong_environment_is_told(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.rank()
        distributed.init("cpu")


def test_only_cpu_and_cuda_can_be_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="not on mps"):
        distributed.init("mps")
