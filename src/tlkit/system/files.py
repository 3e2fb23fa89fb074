"""Writing files and folders so that each is there whole or not at all.

A file is written beside its place under a hidden name, synced to the disk, renamed into place, and
the folder is synced: after a crash there is the old content or the new, never a part. A folder is
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

T = TypeVar("T")
PARTIAL = ".partial"  # how hidden names end


def disk_operation(what: str, path: Path, do: Callable[[], T]) -> T:
    """Let one operation reach the disk.

    All of this module pass here and nowhere else, so that a test can count them and break one off.

    Args:
        what: `write`, `sync`, `rename`, `link`, `make` or `remove`.
        path: What it acts on.
        do: Does it.
    """
    return do()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the body succeeds, what was written there becomes `path`."""
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
    """Write a whole file by a function that is given the path to write to."""
    with atomic_write(path) as partial:
        disk_operation("write", partial, lambda: writer(partial))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file."""
    write_with(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write a whole text file: UTF-8, line ends as given."""
    write_bytes(path, text.encode())


def link(path: Path, source: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such names."""

    def linked() -> None:
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)
            _sync(path)

    disk_operation("link", path, linked)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a new hidden folder beside `path`, and remove what is left of it after the body."""
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
    """Give a folder to fill; when the body succeeds it becomes `path`, which must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(path) as partial:
        yield partial
        rename_folder(partial, path)


def rename_folder(partial: Path, path: Path) -> None:
    """Give a filled folder its name. Its files are synced by whoever wrote them.

    Raises:
        OSError: If something is there already, other than an empty folder.
    """
    _sync(partial)
    disk_operation("rename", path, lambda: partial.rename(path))
    _sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; it loses its name first, so that nobody takes what is left of it for it."""
    hidden = path.with_name(f".{path.name}-{secrets.token_hex(4)}{PARTIAL}")
    disk_operation("rename", hidden, lambda: path.rename(hidden))
    _remove_tree(hidden)


def remove_file(path: Path) -> None:
    """Remove a file if it is there."""
    disk_operation("remove", path, lambda: path.unlink(missing_ok=True))


def remove_partial(folder: Path) -> None:
    """Remove what crashes have left in a folder that nobody else writes to."""
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
    def synced() -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system on which folders cannot be synced
                raise
        finally:
            os.close(handle)

    disk_operation("sync", path, synced)


def _umask() -> int:
    """Return the process's umask; there is no way to read it without setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
