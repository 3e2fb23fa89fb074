"""Being asked to stop: the first Ctrl-C or SIGTERM is noticed between two batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did, between two batches.

    Attributes:
        signal: The signal's number.
        exit_code: What a process that ends by it returns: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.signal = number
        self.exit_code = 128 + number
        super().__init__(message or f"stopped by {signal.Signals(number).name}")


class _Wish:
    """The wish to stop, once it has arrived."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.number, self.on_first = 0, on_first

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        self.on_first()


_wishes: list[_Wish] = []  # at most one: signals are the process's


@contextmanager
def noticed(on_first: Callable[[], None]) -> Iterator[None]:
    """Take the first signal as a wish to stop while the body runs; a second ends the process.

    Signals that the process ignores (`nohup`) stay ignored. Outside the main thread, where Python
    does not allow it, and in the body of another `noticed`, nothing is changed.

    Args:
        on_first: Called when the wish arrives.
    """
    if _wishes or threading.current_thread() is not threading.main_thread():
        yield
        return
    wish = _Wish(on_first)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _wishes.append(wish)
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, wish.arrive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _wishes.clear()


def check() -> None:
    """Raise if the process was asked to stop; called where a run can be left.

    Raises:
        Interrupted: If it was.
    """
    if _wishes and _wishes[0].number:
        raise Interrupted(_wishes[0].number)
