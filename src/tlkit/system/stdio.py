"""Standard streams whose other end goes away: `head` has read enough, the terminal is closed.

What cannot be shown any more is no reason to stop: a run goes on, and its folder has it all. The
process is only told at its end, if results could not be written to where they were sent.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.system.errors import ResourceError


@contextmanager
def tolerate_broken_pipes() -> Iterator[None]:
    """Let the body survive what becomes of the process's standard streams, and what comes after it.

    Streams that something else has put in their place are left alone.

    Raises:
        ResourceError: When the body ends, if standard output could not be written to, other than
            because its reader has gone.
    """
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr)
    try:
        yield
    finally:
        error = _output_error()
        if error is not None and not isinstance(error, BrokenPipeError):
            raise ResourceError(f"standard output: cannot be written to: {error.strerror}")


def is_unread() -> bool:
    """Tell whether what is still printed on standard output gets nowhere."""
    return _output_error() is not None


def _output_error() -> OSError | None:
    """Return why standard output could not be written to, if it could not."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Raw):
        return None
    sys.stdout.flush()
    return raw.error


class _Raw(io.FileIO):
    """The file behind a stream; once it has failed it takes everything and writes nothing."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.error = self.error or error
            with Path(os.devnull).open("wb") as nowhere:  # native code writes there
                os.dup2(nowhere.fileno(), self.fileno())
            return len(content)


def _guarded(stream: Any) -> io.TextIOWrapper[Any]:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",  # one that cannot show a letter writes it out
        line_buffering=stream.line_buffering,
    )
