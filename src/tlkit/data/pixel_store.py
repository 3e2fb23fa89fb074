"""`PixelStore`: decoded and resized pixels of a run's images, so that each is decoded once."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 2 << 30  # or a quarter of the free disk, whichever is smaller


class PixelStore:
    """Pixels of one size in a temporary file, which vanishes with the process.

    Images beyond the limit, and those for which there is no room, are not kept. The file is not
    mapped, so it takes no memory that the system cannot take back. Forked processes write to it
    too; what they have written is `add`ed here.

    Args:
        folder: Where the file is, or in the nearest folder above it that is there.
        paths: The images.
        size: Height and width of the pixels.
    """

    def __init__(self, folder: Path, paths: Iterable[str], size: int) -> None:
        self._bytes = size * size * 3
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._kept: set[str] = set()
        with contextlib.suppress(OSError):
            while not folder.exists():
                folder = folder.parent
            limit = min(MAX_BYTES, shutil.disk_usage(folder).free // 4)
            self._file = tempfile.TemporaryFile(prefix=".pixels-", dir=folder, buffering=0)  # noqa: SIM115  # it stays open
            weakref.finalize(self, self._file.close)
            self._rows = {p: n for n, p in enumerate(paths) if (n + 1) * self._bytes <= limit}

    def get(self, path: str) -> bytes | None:
        """Return an image's pixels; None if they are not kept."""
        if path not in self._kept:
            return None
        with self._lock:
            return _read_at(self._file.fileno(), self._bytes, self._rows[path] * self._bytes)

    def put(self, path: str, pixels: bytes) -> None:
        """Keep an image's pixels if there is room."""
        if path not in self._rows or path in self._kept:
            return
        with self._lock:
            try:
                written = _write_at(self._file.fileno(), pixels, self._rows[path] * self._bytes)
            except OSError:
                written = 0
            if written < self._bytes:  # the disk is full
                self._rows = {known: self._rows[known] for known in self._kept}
                return
        self._kept.add(path)

    def __contains__(self, path: str) -> bool:
        return path in self._kept

    def add(self, path: str) -> None:
        """Note that a forked process has put an image's pixels."""
        self._kept.add(path)


if sys.platform == "win32":

    def _read_at(file: int, count: int, place: int) -> bytes:
        os.lseek(file, place, os.SEEK_SET)
        return os.read(file, count)

    def _write_at(file: int, content: bytes, place: int) -> int:
        os.lseek(file, place, os.SEEK_SET)
        return os.write(file, content)

else:  # forked processes share the file's position, so it must not matter
    _read_at, _write_at = os.pread, os.pwrite
