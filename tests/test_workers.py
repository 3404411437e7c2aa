"""Processes that work side by side: in order, and what becomes of them when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
import torch

from mtcli import config as configs
from mtcli.decoding.translator import Translator
from mtcli.run.directory import Run
from mtcli.support import processes as workers
from mtcli.support.errors import UserError
from mtcli.support.processes import Workers
from mtcli.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not workers.possible(), reason="processes are forked on Linux only")

TASKS = list(range(40))


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(processes: set[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, processes))


def test_answers_come_in_order_from_several_processes():
    def work(task):
        time.sleep(0.01 * (task % 3))
        return task, os.getpid()

    pool = Workers(work, 3)
    for _ in range(2):
        tasks, processes = zip(*pool.map(TASKS))
        assert list(tasks) == TASKS and len(set(processes)) == 3 and os.getpid() not in processes
    pool.close()
    assert gone(set(processes))
    assert {each for _, each in pool.map(TASKS)}.isdisjoint(processes)


def test_an_error_in_a_process_is_raised_here():
    def work(task):
        if task == 7:
            raise UserError("line 7 is bad")
        return task

    pool, found = Workers(work, 2), []
    with pytest.raises(UserError, match="^line 7 is bad$"):
        found.extend(pool.map(TASKS))
    assert found == TASKS[: len(found)] and len(found) <= 7
    assert list(pool.map([1, 2, 3])) == [1, 2, 3]  # nothing of the first is left over


def test_a_process_that_is_killed_is_missed():
    pool = Workers(lambda task: os.kill(os.getpid(), signal.SIGKILL) if task == 7 else task, 2)
    with pytest.raises(UserError, match="died. Was it out of memory"):
        list(pool.map(TASKS))


def test_a_process_that_died_with_nothing_to_do_is_missed_once():
    pool = Workers(lambda task: os.getpid(), 2)
    processes = set(pool.map(TASKS))
    os.kill(min(processes), signal.SIGKILL)
    assert gone({min(processes)})
    with pytest.raises(UserError, match="died. Was it out of memory"):
        list(pool.map(TASKS))
    assert set(pool.map(TASKS)).isdisjoint(processes)


def test_a_file_error_of_the_work_stays_what_it_is():
    def work(task):
        raise FileNotFoundError(2, "No such file", "x.txt")

    with pytest.raises(FileNotFoundError, match="x.txt"):
        list(Workers(work, 2).map(TASKS))


def test_processes_end_when_nobody_wants_their_answers():
    pool = Workers(lambda task: (task, os.getpid()), 2)
    answers = pool.map(TASKS)
    processes = {next(answers)[1]}
    answers.close()
    tasks, others = zip(*pool.map([7, 8, 9]))
    assert tasks == (7, 8, 9)  # nothing of what was left is in the way
    del pool, answers
    assert gone(processes.union(others))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_one_that_began_them(ending):
    program = """
import os, signal, time
from mtcli.workers import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background begins without it
pool = Workers(lambda task: (time.sleep(0.1), os.getpid())[1], 3)
print(*set(pool.map(range(12))), flush=True)
list(pool.map(range(10_000)))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with parent:
        processes = {int(each) for each in parent.stdout.readline().split()}
        parent.send_signal(ending)
        assert len(processes) > 1 and gone(processes)


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
        Translator.load(run.path, "cpu", threads).translate(lines, **options) for threads in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.source == other.source
        assert [each.text for each in one.hypotheses] == [each.text for each in other.hypotheses]
        assert [each.score for each in one.hypotheses] == pytest.approx(
            [each.score for each in other.hypotheses], abs=1e-4
        )
