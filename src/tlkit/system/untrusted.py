"""Reading files that may come from strangers, or from a bad disk.

Everything in the folders that tlkit writes is read through here: only regular files, never through
a link, never without a limit, and JSON in which nothing has two meanings. Files that people name
themselves may be links.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.system.errors import RunFolderError

TEXT_BYTES = 64 << 20  # the confusion matrices of 1,000 classes take 48 MB
TABLE_BYTES = 512 << 20
MAX_DEPTH = 64
MAX_CONTAINERS = 1_000_000  # objects and arrays; bounds what small JSON takes in memory
MAX_DIGITS = 20  # of an integer
NOT_REGULAR = "is not a regular file"
IS_LINK = "is a link, and links are not followed"
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def opened(
    path: str | Path, max_bytes: int, *, follow: bool = False
) -> Iterator[tuple[io.BufferedReader, os.stat_result]]:
    """Open a regular file of limited size; never waits, as for a pipe."""
    try:
        # A device is not even opened; the second look, at the open file, cannot be deceived.
        _check(os.stat(path) if follow else os.lstat(path))  # noqa: PTH116  # may be a string
        handle = os.open(path, _FLAGS if follow else _FLAGS | _NO_FOLLOW)
    except ValueError:  # NUL
        raise OSError(errno.EINVAL, "has a NUL in its name", str(path)) from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _check(status)
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"has more than {max_bytes >> 20} MiB")
        yield file, status


def _check(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, IS_LINK)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, NOT_REGULAR)


def read_bytes(path: str | Path, max_bytes: int = TEXT_BYTES, *, follow: bool = False) -> bytes:
    """Return the content of a regular file of limited size; see `opened`."""
    with opened(path, max_bytes, follow=follow) as (file, status):
        content = file.read(status.st_size + 1)
    if len(content) > status.st_size:
        raise OSError(errno.EAGAIN, "grew while it was read")
    return content


def read_text(path: str | Path, max_bytes: int = TEXT_BYTES, *, follow: bool = False) -> str:
    """Return the content of a text file in UTF-8, with the line ends it has."""
    return read_bytes(path, max_bytes, follow=follow).decode()


def read_json(path: str | Path, *, follow: bool = False) -> Any:
    """Return the content of a JSON file; see `read_text` and `parse_json`."""
    return parse_json(read_text(path, follow=follow))


def parse_json(text: str) -> Any:
    """Return the value of strict JSON."""
    if text.count("{") + text.count("[") > MAX_CONTAINERS:
        raise ValueError(f"has more than {MAX_CONTAINERS:,} objects and arrays")
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_short,
        )
        _check_depth(value, MAX_DEPTH)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # raises for half a character
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; readers disagree about which of two members of one name counts."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} appears twice")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is too large a number")
    return value


def _short(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:80]} is too large a number")
    return int(text)


def _check_depth(value: Any, left: int) -> None:
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        if not left:
            raise ValueError("is nested too deeply")
        for one in inner:
            if isinstance(one, dict | list):
                _check_depth(one, left - 1)


def exists(path: Path) -> bool:
    """Tell whether there is anything of this name, a dangling link too; never raises."""
    return os.path.lexists(path)  # Path.exists raises for long names


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder of this name; never raises, as for long names."""
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises for long names


def require_own_folder(path: Path) -> None:
    """Check that a folder to write to is one, or is not there yet; never a link to elsewhere."""
    if exists(path) and (path.is_symlink() or not path.is_dir()):
        raise RunFolderError(f"{path}: must be a folder and no link to one; remove it")


def reason(error: Exception) -> str:
    """Return why a file could not be read, without its path."""
    return getattr(error, "strerror", None) or str(error)
