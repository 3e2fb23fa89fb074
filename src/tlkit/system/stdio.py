"""Standard streams that break or are used by others.

`head` has read enough, or the terminal is closed; or a part prints, where results are expected.

A message that cannot be shown does not stop a run: its folder holds everything. Only at the end
does the process report that results could not be written to standard output.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.system.errors import ResourceError


def quiet() -> bool:
    """Tell whether only results and errors are shown: `-q`, or the level of the logger `tlkit`."""
    return logging.getLogger("tlkit").level > logging.INFO


@contextmanager
def tolerate_broken_pipes() -> Iterator[None]:
    """Keep the body running when standard output or standard error breaks.

    Replaced streams, such as those of a notebook, are left alone.
    """
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(sys.stdout, _Results)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(sys.stderr, io.TextIOWrapper)
    try:
        yield
    finally:
        error = _output_error()
        if error is not None and not isinstance(error, BrokenPipeError):
            raise ResourceError(f"standard output: cannot be written to: {error.strerror}")


class _Working(threading.local):
    """How many calls this thread is in during which nothing printed is a result."""

    calls = 0


_working = _Working()


@contextmanager
def prints_on_stderr() -> Iterator[None]:
    """Send what the body prints to standard error, if a command's results go to standard output.

    So does whatever other threads print: none of them shows results.
    """
    _working.calls += 1
    try:
        yield
    finally:
        _working.calls -= 1


class _Results(io.TextIOWrapper):
    """Standard output, for results only."""

    def write(self, text: str) -> int:
        in_main = threading.current_thread() is threading.main_thread()
        if _working.calls or not in_main:
            return sys.stderr.write(text) if sys.stderr is not None else len(text)
        return super().write(text)


def stdout_is_broken() -> bool:
    """Tell whether standard output has failed, so that printing more is pointless."""
    return _output_error() is not None


def _output_error() -> OSError | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Raw):
        return None
    sys.stdout.flush()
    return raw.error


class _Raw(io.FileIO):
    """The file behind a stream; after its first error it accepts everything and writes nothing."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.error = self.error or error
            with Path(os.devnull).open("wb") as devnull:  # for native code, which writes there too
                os.dup2(devnull.fileno(), self.fileno())
            return len(content)


def _tolerant(stream: Any, kind: Any) -> io.TextIOWrapper[Any]:
    stream.flush()
    tolerant: io.TextIOWrapper[Any] = kind(
        io.BufferedWriter(_Raw(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",  # characters that the terminal cannot show
        line_buffering=stream.line_buffering,
    )
    return tolerant
