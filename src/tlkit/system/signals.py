"""Being asked to stop: the first Ctrl-C or SIGTERM is noticed between two batches."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar has hidden it


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did, between two batches.

    Attributes:
        signal: The signal's number.
        exit_code: What a process that ends by it returns: 130 for Ctrl-C, 143 for SIGTERM, 129
            for a terminal that was closed.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.signal = number
        self.exit_code = 128 + number
        super().__init__(message or f"stopped by {signal.Signals(number).name}")


class _StopRequest:
    """The wish to stop, once it has arrived."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.number, self.on_first = 0, on_first

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):
                if sys.stderr is not None and sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), SHOW_CURSOR)
            os.kill(os.getpid(), number)
        self.number = number
        with suppress(Exception):  # it came in the middle of a write to the same stream, maybe
            self.on_first()


_wishes: list[_StopRequest] = []  # at most one: signals are the process's
_asked = threading.Event()


@contextmanager
def graceful_stop(on_first: Callable[[], None]) -> Iterator[None]:
    """Take the first signal as a wish to stop while the body runs; a second ends the process.

    Signals that the process ignores (`nohup`) stay ignored. Outside the main thread, where Python
    does not allow it, and in the body of another `noticed`, nothing is changed.

    Args:
        on_first: Called when the wish arrives.
    """
    if _wishes or not _in_main_thread():
        yield
        return
    wish = _StopRequest(on_first)
    _wishes.append(wish)
    try:
        with _handled(SIGNALS, wish.arrive):
            yield
    finally:
        _wishes.clear()


@contextmanager
def raise_on_signal(message: str = "") -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the body as Ctrl-C does, at once.

    Args:
        message: What is to be said then; unset: which signal it was.
    """

    def arrive(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, message)

    with _handled(SIGNALS[1:] if _in_main_thread() else (), arrive):
        yield


@contextmanager
def _handled(
    signals: Sequence[int], arrive: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle those signals in the body that are not ignored (`nohup`)."""
    before = {number: signal.getsignal(number) for number in signals}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, arrive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ask() -> None:
    """Ask this process to stop, from any of its threads; it is no first signal and no second."""
    _asked.set()


def stop_if_asked() -> None:
    """Raise if the process was asked to stop; called where a run can be left.

    Raises:
        Interrupted: If it was.
    """
    if _wishes and _wishes[0].number:
        raise Interrupted(_wishes[0].number)
    if _asked.is_set():
        raise Interrupted(signal.SIGTERM)
