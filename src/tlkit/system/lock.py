"""The lock of a run folder: one process writes to it, and the lock is freed however that ends."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tlkit.system.errors import ResourceError, RunFolderError
from tlkit.system.files import locked_folders, remove_file
from tlkit.system.untrusted import NOT_REGULAR, exists, read_bytes

LOCK = ".lock"
# A link named `.lock` is refused: what it points to would be overwritten.
FLAGS = os.O_RDWR
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
    FLAGS |= getattr(os, _flag, 0)
NAME_OFFSET = 1  # Windows locks the first byte for readers too; the holder's name follows it


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while the body runs; it stays with the folder if that is renamed.

    Nothing is written to the folder any more once another one has taken its place.
    """
    try:
        handle = os.open(folder / LOCK, FLAGS | os.O_CREAT, 0o666)
    except OSError as error:
        if exists(folder / LOCK) and not _is_file(folder / LOCK):
            raise RunFolderError(f"{folder / LOCK}: {NOT_REGULAR}; remove it") from None
        raise ResourceError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RunFolderError(f"{folder / LOCK}: {NOT_REGULAR}; remove it")
        if not _acquire(handle):
            raise RunFolderError(f"{folder}: {holder(folder)} is writing to it")
        with suppress(OSError):  # the disk is full; the lock holds without the name
            _write_name(handle)
        locked_folders[folder.absolute()] = is_same = partial(_has_lock, os.fstat(handle))
        try:
            yield
        finally:
            for path in [path for path, held in locked_folders.items() if held is is_same]:
                del locked_folders[path]
    finally:
        os.close(handle)


def _has_lock(status: os.stat_result, folder: Path) -> bool:
    """Tell whether a folder's lock is the file with this status."""
    try:
        return os.path.samestat((folder / LOCK).lstat(), status)
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return False


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def unlock(folder: Path) -> None:
    """Remove the lock file; call it when nothing more will be written to the folder."""
    with suppress(PermissionError):  # Windows does not remove a file that is open
        remove_file(folder / LOCK)
    locked_folders.pop(folder.absolute(), None)


def holder(folder: Path) -> str:
    """Return the name of the process that locked a folder last, for messages."""
    try:
        return read_bytes(folder / LOCK)[NAME_OFFSET:].decode() or "another process"
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
