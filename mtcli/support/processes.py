"""Processes that do the same work side by side, each on one core. Knows nothing of models or text."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from .errors import UserError


class Workers:
    """Copies of this process, forked when there is first work for them: what ``work`` refers to is theirs as it was
    then, in the same memory. They end with this object, whose pipes close, with this process, or when `map` is left
    while they work."""

    def __init__(self, work: Callable[[Any], Any], count: int):
        self.work, self.count = work, count
        self.pipes: list[Connection] = []

    def map(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """``work(task)`` of each, in order. Raises what work raises; UserError if a process dies."""
        results: dict[int, Any] = {}
        busy: dict[Connection, int] = {}
        begun = 0
        if not self.pipes:
            self._start()
        try:
            for number in range(len(tasks)):
                while number not in results:
                    for pipe in self.pipes:
                        if pipe not in busy and begun < len(tasks):
                            with self._contact():
                                pipe.send(tasks[begun])
                            busy[pipe] = begun
                            begun += 1
                    for pipe in wait(list(busy)):
                        with self._contact():
                            done, result = pipe.recv()
                        if not done:
                            raise result
                        results[busy.pop(pipe)] = result
                yield results.pop(number)
        finally:
            if busy:
                self.close()

    @contextmanager
    def _contact(self) -> Iterator[None]:
        """Within this, a pipe to a process that is gone raises UserError; the others end, and a later `map` begins anew."""
        try:
            yield
        except (EOFError, OSError):
            self.close()
            raise UserError(
                "A process that worked for this one died. Was it out of memory? With --threads 1 there is only one."
            ) from None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        gc.freeze()  # what there is stays: to look it through for garbage takes 0.2 s, and in each process copies it
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            context.Process(
                target=_serve, args=(self.work, theirs, [*self.pipes, ours]), daemon=True
            ).start()
            theirs.close()
            self.pipes.append(ours)

    def close(self) -> None:
        """Let the processes end, after what they are at; those of a later `map` are new."""
        while self.pipes:
            self.pipes.pop().close()


def possible() -> bool:
    """Whether this process can be copied: elsewhere than on Linux the system's own threads do not survive it."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _serve(work: Callable[[Any], Any], pipe: Connection, others: list[Connection]) -> None:
    import torch

    for (
        other
    ) in others:  # held open here too, they would hide from other workers that the parent is gone
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # also since OpenMP's threads are not copied with a process
    try:
        while True:
            task = pipe.recv()
            try:
                answer = True, work(task)
            except Exception as error:
                answer = False, error
            pipe.send(answer)
    except (EOFError, OSError):  # the parent has no more use for this process, or is gone
        os._exit(0)
