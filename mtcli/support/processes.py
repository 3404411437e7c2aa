"""Processes that do the same work side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from .errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Pool:
    """``count`` processes, started when there is first work for them; they end with this object and with this process.

    ``initializer(*initargs)`` runs in each of them first. With ``fork`` they are copies of this process, which inherit
    ``initargs``; otherwise they start empty. `map` may be called from several threads at once.
    """

    def __init__(
        self, count: int, initializer: Callable[..., None], initargs: tuple = (), fork: bool = False
    ):
        self.count, self.context = count, multiprocessing.get_context("fork" if fork else "spawn")
        self.initargs = initializer, initargs
        self.executor: ProcessPoolExecutor | None = None
        self.changing = threading.RLock()  # of the executor, and of the number of maps that use it
        self.maps = 0

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """``function(task)`` of each, in order; at most twice as many as there are processes are in hand.

        Raises what the function raises, and UserError if a process dies. The processes end if they are still at work
        when this is left, unless another thread uses them.
        """
        with self.changing:
            if self.executor is None:
                self.executor = ProcessPoolExecutor(self.count, self.context, _start, self.initargs)
            executor = self.executor
            self.maps += 1
        waiting: deque[Future[Result]] = deque()
        broken = False
        try:
            for task in tasks:
                waiting.append(executor.submit(function, task))
                if len(waiting) == 2 * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            broken = True
            raise UserError(
                "A process that worked for this one died. Was it out of memory? With --threads 1 there is only one."
            ) from None
        finally:
            for future in waiting:
                future.cancel()
            with self.changing:
                self.maps -= 1
                busy = not all(future.done() for future in waiting)
                if self.executor is executor and (broken or busy and not self.maps):
                    self.close()

    def close(self) -> None:
        """End the processes; a later `map` starts new ones."""
        with self.changing:
            executor, self.executor = self.executor, None
            if executor is not None:
                for process in list((executor._processes or {}).values()):
                    process.terminate()  # without it the executor would wait for the work in hand
                executor.shutdown(cancel_futures=True)


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not every system has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def can_fork() -> bool:
    """Whether this process can be forked: elsewhere than on Linux the system's own threads do not survive it."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _start(initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    initializer(*initargs)


def _follow_parent() -> None:
    """End with the parent, which may be killed before it could end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
