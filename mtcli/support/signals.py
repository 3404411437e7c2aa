"""Ctrl-C and SIGTERM as a request to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar


class Interrupted(BaseException):
    """A signal asked to stop; ``signal`` is its number, ``hint`` says how to continue."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal, self.hint = number, ""


class Signals:
    """While this is entered, the first Ctrl-C or SIGTERM asks to stop, and a second one ends the process at once.

    Being asked raises Interrupted on the spot, except within `held`: then ``asked`` is the number of the signal.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._held = False
        self._before: list[dict] = []

    def __enter__(self) -> Signals:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before.append({number: signal.signal(number, self._ask) for number in numbers})
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.pop().items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = number
        if not self._held:
            raise Interrupted(number)

    @contextmanager
    def held(self, held: bool = True) -> Iterator[None]:
        """Within this, work is not interrupted; it reads ``asked`` where it can stop."""
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this, also inside `held`, being asked raises Interrupted; so does having been asked before."""
        with self.held(False):
            if self.asked:
                raise Interrupted(self.asked)
            yield


Result = TypeVar("Result")


def run_interruptibly(work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises. It runs in another thread: this one gets signals while C++ code is running."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # the process ends without waiting for it
    while not future.done():
        wait([future], timeout=0.1)
    return future.result()
