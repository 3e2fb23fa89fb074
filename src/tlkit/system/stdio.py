"""Standard streams that break: `head` has read enough, or the terminal is closed.

A message that cannot be shown does not stop a run: its folder holds everything. Only at the end
does the process report that results could not be written to standard output.
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
    """Keep the body running when standard output or standard error breaks.

    Replaced streams, such as those of a notebook, are left alone.

    Raises:
        ResourceError: When the body ends, if standard output could not be written to for another
            reason than a reader that went away.
    """
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(sys.stdout)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(sys.stderr)
    try:
        yield
    finally:
        error = _output_error()
        if error is not None and not isinstance(error, BrokenPipeError):
            raise ResourceError(f"standard output: cannot be written to: {error.strerror}")


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


def _tolerant(stream: Any) -> io.TextIOWrapper[Any]:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",  # characters that the terminal cannot show
        line_buffering=stream.line_buffering,
    )
