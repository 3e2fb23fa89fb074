"""The lock of a run folder: one process writes to it, and its end frees it, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlkit.system.errors import ResourceError, RunFolderError
from tlkit.system.files import remove_file

LOCK = ".lock"  # who holds it stands in the file, for messages; the system alone decides


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while the body runs; it stays with the folder if that is renamed.

    Raises:
        RunFolderError: If another process holds it.
        ResourceError: If the folder cannot be written to.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        if not _taken(handle):
            raise RunFolderError(f"{folder}: {holder(folder)} is writing to it")
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def unlock(folder: Path) -> None:
    """Remove the lock's file, when nothing will be written to the folder any more."""
    remove_file(folder / LOCK)


def holder(folder: Path) -> str:
    """Return who says to hold a folder's lock, for messages."""
    try:
        return (folder / LOCK).read_text(encoding="utf-8") or "another process"
    except (OSError, ValueError):
        return "another process"


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds a folder's lock now."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _taken(handle)
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    """Take the lock of an open file, and tell whether it was free; it goes with the handle."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without such locks, as some clusters have
        return True
    return True
