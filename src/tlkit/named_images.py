"""The images that a user names: files, folders, patterns, CSV manifests, lists of paths."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from tlkit.escapes import csv_text, printable

STDIN = "-"


@frozen
class Rejected:
    """Something that was named and has no answer.

    Attributes:
        path: What was named.
        reason: Why it has none.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def image_files(named: Sequence[str], stdin: Iterable[str] = ()) -> Iterator[str | Rejected]:
    """Yield the images that are named, in order; nothing that is named vanishes in silence.

    Args:
        named: Each an image file, a folder (every image file below it, sorted), a pattern such as
            ``images/**/*.png``, a CSV file with a column `path` (relative to its folder), or ``-``
            for a path a line from `stdin`. What exists is no pattern, whatever its name.
        stdin: The lines of standard input.
    """
    for name in named:
        nothing, found = _named(name, stdin)
        first = None
        for first in found:
            yield first
        if first is None:
            yield Rejected(name, nothing)


def _named(name: str, stdin: Iterable[str]) -> tuple[str, Iterable[str | Rejected]]:
    """Return the images that one argument names, and what to say if there are none."""
    from tlkit.parts.datasets import SUFFIXES

    path = Path(name)
    if name == STDIN:
        lines = (line.rstrip("\r\n") for line in stdin)
        return "standard input names no image", (line for line in lines if line)
    if path.is_dir():
        return f"no image below this folder ({', '.join(sorted(SUFFIXES))})", _below(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return "the manifest has no rows", _rows(path)
    if not os.path.lexists(path) and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # Path takes no absolute one
        return "no file matches this pattern", (m for m in matches if Path(m).is_file())
    return "", [name]


def _below(top: Path) -> Iterator[str]:
    """Yield the image files below a folder; links to folders are not followed, hidden are left."""
    from tlkit.parts.datasets import SUFFIXES

    for folder, inner, names in os.walk(top):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] != "." and path.suffix.lower() in SUFFIXES and path.is_file():
                yield str(path)


def _rows(path: Path) -> Iterator[str | Rejected]:
    """Yield the images of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "path" not in (reader.fieldnames or ()):
                yield Rejected(str(path), "has no column 'path'")
                return
            for row in reader:
                if row["path"]:
                    yield str(path.parent / csv_text(row["path"]))
                else:
                    yield Rejected(f"{path}: row {reader.line_num}", "path: is empty")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield Rejected(str(path), f"cannot be read: {error}")


def read_regular(path: str) -> bytes:
    """Return a file's bytes; what may never end, such as a pipe, is refused."""
    file = Path(path)
    if file.exists() and not file.is_file():
        raise OSError("is no regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise OSError(error.strerror) from None  # without the path, which is said already
