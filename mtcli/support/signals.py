"""Ctrl-C and SIGTERM as a request to stop. Knows nothing of training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; ``signal`` is its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


class Signals:
    """While this is entered, the first Ctrl-C or SIGTERM asks to stop, and a second one ends the process at once.

    Being asked raises Interrupted on the spot, unless it is `held`: then the number of the signal stands in ``asked``.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._held = False
        self._before: list[dict] = []

    def __enter__(self) -> Signals:
        self._before.append(
            {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        )
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
    def held(self) -> Iterator[None]:
        """Within this, work is not interrupted; it looks at ``asked`` where it can stop."""
        with self._holding(True):
            yield

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within this, also inside `held`, being asked raises Interrupted; so does having been asked before."""
        with self._holding(False):
            if self.asked:
                raise Interrupted(self.asked)
            yield

    @contextmanager
    def _holding(self, held: bool) -> Iterator[None]:
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before


Result = TypeVar("Result")


def hearing(work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises. It runs in another thread: this one hears signals while C++ is at work."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)  # nothing waits for it when the process ends
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failures:
        raise failures[0]
    return results[0]
