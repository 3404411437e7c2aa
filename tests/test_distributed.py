"""One process is alone and changes nothing; several tell each other the truth, and notice a death."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
