"""Atomic writes: every file and folder is there whole or not at all.

A file is written next to its destination under a hidden name, synced to the disk and renamed, and
the folder is synced: after a crash it has the old content or the new, never a part. A folder is
filled under a hidden name and renamed once.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tlkit.system.errors import PATH_ERRORS

T = TypeVar("T")
PARTIAL = ".partial"  # the suffix of hidden names
REPLACED = "another folder has taken its place since it was locked"


def exists(path: Path) -> bool:
    """Return whether there is something at a path; also for names that cannot be, such as too long.

    Python's own methods raise for some of these, so what a user names goes through here.
    """
    return _known(path.exists)


def is_file(path: Path) -> bool:
    """Return whether there is a file at a path; see `exists`."""
    return _known(path.is_file)


def is_dir(path: Path) -> bool:
    """Return whether there is a folder at a path; see `exists`."""
    return _known(path.is_dir)


def _known(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except ValueError:  # NUL
        return False
    except OSError as error:
        if error.errno in PATH_ERRORS:
            return False
        raise


def disk_operation(what: str, path: Path, do: Callable[[], T]) -> T:
    """Run one operation on the disk.

    Every operation of this module goes through here, so a test can count them and make one fail.
    """
    require_same_folder(path)
    return do()


# The folders that this process has locked, each with what tells whether it is still at its place.
locked_folders: dict[Path, Callable[[Path], bool]] = {}


def require_same_folder(path: Path) -> None:
    """Check that a locked folder that a path lies in has been neither renamed nor replaced."""
    for folder, is_same in list(locked_folders.items()):
        if folder in path.absolute().parents and not is_same(folder):
            raise OSError(errno.ESTALE, REPLACED, str(folder))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the body succeeds."""
    partial = disk_operation("make", path, lambda: _new_file(path))
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        _sync(partial)
        disk_operation("rename", path, lambda: partial.replace(path))
        _sync(path.parent)
    finally:
        disk_operation("remove", partial, lambda: partial.unlink(missing_ok=True))


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file atomically with a function that takes the path to write to."""
    with atomic_write(path) as partial:
        disk_operation("write", partial, lambda: writer(partial))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_with(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with the line ends it has."""
    write_bytes(path, text.encode())


def link(path: Path, source: Path) -> None:
    """Create a hard link to a file, or a copy where the file system has no hard links."""

    def link_or_copy() -> None:
        try:
            os.link(source, path)
        except OSError:
            copy_file(path, source)

    disk_operation("link", path, link_or_copy)


def copy_file(path: Path, source: Path) -> None:
    """Copy a file, atomically."""
    write_with(path, lambda partial: shutil.copyfile(source, partial))


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder next to `path`; remove it after the body unless it was renamed."""
    partial = disk_operation(
        "make", path, lambda: Path(tempfile.mkdtemp(PARTIAL, f".{path.name}-", path.parent))
    )
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
    finally:
        _remove_tree(partial)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `path`, which must not exist, when the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path) as partial:
        yield partial
        rename_folder(partial, path)


def rename_folder(partial: Path, path: Path) -> None:
    """Rename a filled folder, whose files are synced already."""
    _sync(partial)
    disk_operation("rename", path, lambda: _rename_folder(partial, path))
    _sync(path.parent)


def _rename_folder(partial: Path, path: Path) -> None:
    partial.rename(path)
    if is_same := locked_folders.pop(partial.absolute(), None):
        locked_folders[path.absolute()] = is_same


def remove_folder(path: Path) -> None:
    """Remove a folder.

    It is renamed first, so an interrupted removal never looks like a valid folder.
    """
    hidden = path.with_name(f".{path.name}-{secrets.token_hex(4)}{PARTIAL}")
    disk_operation("rename", hidden, lambda: path.rename(hidden))
    _remove_tree(hidden)


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    disk_operation("remove", path, lambda: path.unlink(missing_ok=True))


def remove_partial(folder: Path) -> None:
    """Remove what crashes left behind in a folder that no other process writes to."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            remove_file(path)


def _new_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=PARTIAL)
    os.close(handle)
    return Path(name)


def _remove_tree(path: Path) -> None:
    disk_operation("remove", path, lambda: shutil.rmtree(path, ignore_errors=True))


def _sync(path: Path) -> None:
    on_windows = os.name == "nt"
    if on_windows and path.is_dir():  # cannot be synced there
        return

    def sync() -> None:
        handle = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system cannot sync folders
                raise
        finally:
            os.close(handle)

    disk_operation("sync", path, sync)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
