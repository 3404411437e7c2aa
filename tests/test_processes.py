"""Pools of processes: results in order, errors, deaths, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch

from mtcli import config as configs
from mtcli.decoding.translator import Translator
from mtcli.run.directory import Run
from mtcli.support import processes
from mtcli.support.errors import UserError
from mtcli.support.files import lock
from mtcli.support.processes import Pool
from mtcli.training.trainer import Trainer

pytestmark = pytest.mark.skipif(
    not processes.can_fork(), reason="processes are forked on Linux only"
)

ROOT = Path(__file__).parents[1]
TASKS = list(range(40))


def nothing() -> None:
    pass


def pool(count: int = 2) -> Pool:
    return Pool(count, nothing, fork=True)


def slow(task: int) -> tuple[int, int]:
    time.sleep(0.01 * (task % 3))
    return task, os.getpid()


def seventh_is_bad(task: int) -> int:
    if task == 7:
        raise UserError("line 7 is bad")
    return task


def seventh_is_deadly(task: int) -> int:
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def endless(task: int) -> int:
    if task:
        time.sleep(1000)
    return os.getpid()


def own_number(task: int) -> int:
    return os.getpid()


def file_error(task: int) -> None:
    raise FileNotFoundError(2, "No such file", "x.txt")


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(numbers: set[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(alive, numbers)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, numbers))


def test_results_come_in_order_from_several_processes():
    three = pool(3)
    for _ in range(2):
        tasks, numbers = zip(*three.map(slow, TASKS))
        assert list(tasks) == TASKS and len(set(numbers)) == 3 and os.getpid() not in numbers
    three.close()
    assert gone(set(numbers))
    assert {each for _, each in three.map(slow, TASKS)}.isdisjoint(numbers)
    three.close()


def test_at_most_twice_as_many_tasks_as_processes_are_in_hand():
    taken = []
    two = pool()
    for done, _ in enumerate(two.map(abs, (taken.append(task) or task for task in TASKS))):
        assert len(taken) <= done + 4
    two.close()


def test_forked_processes_inherit_what_could_not_be_sent():
    inherited = Pool(1, setattr, (processes, "inherited", lambda: 42), fork=True)
    assert list(inherited.map(call_inherited, [1])) == [42]
    inherited.close()


def call_inherited(task: int) -> int:
    return processes.inherited()


def test_spawned_processes_start_empty():
    spawned = Pool(2, os.chdir, (str(ROOT),))
    assert list(spawned.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
    assert set(spawned.map(os.path.abspath, ["."])) == {str(ROOT)}
    spawned.close()


def test_an_error_in_a_process_is_raised_here():
    two, found = pool(), []
    with pytest.raises(UserError, match="^line 7 is bad$"):
        found.extend(two.map(seventh_is_bad, TASKS))
    assert found == TASKS[: len(found)] and len(found) <= 7
    assert list(two.map(seventh_is_bad, [1, 2, 3])) == [1, 2, 3]  # nothing of the first is left
    two.close()


def test_a_killed_process_is_a_user_error():
    with pytest.raises(UserError, match="died. Was it out of memory"):
        list(pool().map(seventh_is_deadly, TASKS))


def test_an_idle_process_that_was_killed_is_a_user_error_once():
    two = pool()
    numbers = set(two.map(own_number, TASKS))
    os.kill(min(numbers), signal.SIGKILL)
    assert gone(numbers)
    with pytest.raises(UserError, match="died. Was it out of memory"):
        list(two.map(own_number, TASKS))
    assert set(two.map(own_number, TASKS)).isdisjoint(numbers)
    two.close()


def test_a_file_error_of_the_work_stays_what_it_is():
    two = pool()
    with pytest.raises(FileNotFoundError, match="x.txt"):
        list(two.map(file_error, TASKS))
    two.close()


def test_processes_end_when_their_results_are_abandoned():
    two = pool()
    results = two.map(endless, TASKS)
    numbers = {next(results)}
    results.close()
    assert gone(numbers)
    tasks, others = zip(*two.map(slow, [7, 8, 9]))
    assert tasks == (7, 8, 9)  # nothing of what was left is in the way
    del two, results
    assert gone(numbers.union(others))


def test_several_threads_can_use_a_pool_at_once():
    two = pool()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: [task for task, _ in two.map(slow, TASKS)], range(4)))
        abandoned = two.map(slow, TASKS)  # by one, while others are at work
        after = threads.submit(lambda: [task for task, _ in two.map(slow, TASKS)])
        next(abandoned)
        abandoned.close()
        assert found == [TASKS] * 4 and after.result() == TASKS
    two.close()


PARENT = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from mtcli.support.files import lock
from test_processes import own_number, pool, slow
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background begins without it
three = pool(3)
with lock(Path({lock!r})):
    print(*{{number for _, number in three.map(slow, range(12))}}, flush=True)
    list(three.map(slow, range(100_000)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_and_locks_end_with_the_parent(ending, tmp_path):
    path = tmp_path / "lock"
    program = PARENT.format(tests=str(ROOT / "tests"), lock=str(path))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    with parent:
        numbers = {int(each) for each in parent.stdout.readline().split()}
        with pytest.raises(UserError, match=rf"^It is held \(process {parent.pid}\)\.$"):
            with lock(path, "It is held"):
                pass
        parent.send_signal(ending)
        parent.wait(timeout=60)
        if ending == signal.SIGKILL:
            with lock(path, "It is held"):  # at once
                pass
        assert len(numbers) > 1 and gone(numbers)
    with lock(path, "It is held"):
        pass


@pytest.mark.slow
def test_a_file_is_translated_the_same_by_several_processes(tmp_path):
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path, model="transformer", decoding={"batch_tokens": 40})
    run = Run.create(tmp_path / "run", path.read_text(), configs.load(path))
    Trainer(run, torch.device("cpu")).train()
    lines = [
        "abc",
        "",
        "fed cab",
        "苹果",
        "ab " * 300,
        *(("abcdef" * 3)[n % 7 :] for n in range(50)),
    ]
    options = dict(beam_size=3, n_best=3, attention=True)
    alone, together = (
        Translator.load(run.path, "cpu", processes=count).translate(lines, **options)
        for count in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.source == other.source
        assert [each.text for each in one.hypotheses] == [each.text for each in other.hypotheses]
        assert [each.score for each in one.hypotheses] == pytest.approx(
            [each.score for each in other.hypotheses], abs=1e-4
        )
