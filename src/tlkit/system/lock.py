"""The lock of a run folder: one process writes to it, and the lock is freed however that ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlkit.system.errors import ResourceError, RunFolderError
from tlkit.system.files import remove_file

LOCK = ".lock"
# A link named `.lock` is refused: what it points to would be overwritten.
FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
NAME_OFFSET = 1  # Windows locks the first byte for readers too; the holder's name follows it


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while the body runs; it stays with the folder if that is renamed.

    Raises:
        RunFolderError: If another process holds it.
        ResourceError: If the folder cannot be written to.
    """
    try:
        handle = os.open(folder / LOCK, FLAGS | os.O_CREAT, 0o666)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        if not _acquire(handle):
            raise RunFolderError(f"{folder}: {holder(folder)} is writing to it")
        with suppress(OSError):  # the disk is full; the lock holds without the name
            _write_name(handle)
        yield
    finally:
        os.close(handle)


def unlock(folder: Path) -> None:
    """Remove the lock file; call it when nothing more will be written to the folder."""
    with suppress(PermissionError):  # Windows does not remove a file that is open
        remove_file(folder / LOCK)


def holder(folder: Path) -> str:
    """Return the name of the process that locked a folder last, for messages."""
    try:
        with (folder / LOCK).open("rb") as file:
            file.seek(NAME_OFFSET)
            return file.read().decode() or "another process"
    except (OSError, ValueError):
        return "another process"


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds a folder's lock now."""
    try:
        handle = os.open(folder / LOCK, FLAGS)
    except OSError:
        return False
    try:
        return not _acquire(handle)
    finally:
        os.close(handle)


def _acquire(handle: int) -> bool:
    """Lock an open file and tell whether it was free; closing the file releases it."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:  # a file system without locks, as on some clusters
        return True


def _write_name(handle: int) -> None:
    if os.fstat(handle).st_nlink > 1:  # the file has another name and is not only a lock
        return
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, f"\nprocess {os.getpid()} on {platform.node()}".encode())
