"""Graceful stops: the first Ctrl-C or SIGTERM takes effect between two batches."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Interrupted(KeyboardInterrupt):
    """A run stopped on request, between two batches.

    Attributes:
        signal: The signal's number.
        exit_code: The exit code of a process that ends this way: 130 for Ctrl-C, 143 for SIGTERM,
            129 for a closed terminal.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.signal = number
        self.exit_code = 128 + number
        super().__init__(message or f"stopped by {signal.Signals(number).name}")


class _StopRequest:
    """The signal that asked for a stop, once it has arrived."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.number, self.on_first = 0, on_first

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note the first, end the process on the second."""
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):
                if sys.stderr is not None and sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), SHOW_CURSOR)
            os.kill(os.getpid(), number)
        self.number = number
        with suppress(Exception):  # the signal may have interrupted a write to the same stream
            self.on_first()


_active: ContextVar[_StopRequest | None] = ContextVar("stop_request", default=None)
_requested = threading.Event()


@contextmanager
def graceful_stop(on_first: Callable[[], None]) -> Iterator[None]:
    """Let the first signal request a stop while the body runs; a second ends the process.

    Signals that the process ignores (`nohup`) stay ignored. Nothing changes in the body of another
    `graceful_stop` or outside the main thread, where Python handles no signals.
    """
    if _active.get() is not None or not _in_main_thread():
        yield
        return
    request = _StopRequest(on_first)
    token = _active.set(request)
    try:
        with _handlers(SIGNALS, request.arrive):
            yield
    finally:
        _active.reset(token)


@contextmanager
def raise_on_signal(message: str = "") -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the body at once, as Ctrl-C does.

    Args:
        message: The message of the exception; by default, the name of the signal.
    """

    def arrive(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, message)

    with _handlers(SIGNALS[1:] if _in_main_thread() else (), arrive):
        yield


@contextmanager
def _handlers(
    signals: Sequence[int], arrive: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle signals while the body runs, except those that are ignored (`nohup`)."""
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


def request_stop() -> None:
    """Request a graceful stop from any thread. Does not count as a signal."""
    _requested.set()


def stop_if_asked() -> None:
    """Raise if a stop was requested; call it wherever a run may stop."""
    request = _active.get()
    if request is not None and request.number:
        raise Interrupted(request.number)
    if _requested.is_set():
        raise Interrupted(signal.SIGTERM)
