"""Safe reading of image files below a folder."""

from __future__ import annotations

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from attrs import field, frozen

from tlkit.system.limits import beyond, limit
from tlkit.system.seal import MAX_FILE_BYTES
from tlkit.system.untrusted import NOT_REGULAR, opened

LOOKED_AT = 100  # files whose size is asked for


@frozen
class ImageRoot:
    """A folder with images.

    Attributes:
        path: The folder.
        follow_links: Whether symbolic links may lead out of it.
    """

    path: Path
    follow_links: bool = False
    _real: str = field(init=False, eq=False, repr=False)
    _text: str = field(init=False, eq=False, repr=False)
    _folders: dict[str, str] = field(factory=dict, init=False, eq=False, repr=False)
    _names: dict[str, dict[str, str]] = field(factory=dict, init=False, eq=False, repr=False)

    @_real.default
    def _real_path(self) -> str:
        return os.path.realpath(self.path)

    @_text.default
    def _path_as_text(self) -> str:
        return str(self.path)

    def problem(self, name: str) -> str:
        """Return why there is no usable file of this name, or an empty string; opens no file."""
        folder, _, last = name.rpartition("/")
        try:
            if folder not in self._folders:  # most files share theirs
                self._folders[folder] = os.path.realpath(self.path / folder)
            path = os.path.join(self._folders[folder], last)  # noqa: PTH118  # called per row
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = os.path.realpath(path)
                status = os.stat(path)  # noqa: PTH116  # a string, not a Path
        except (OSError, ValueError):  # ValueError: NUL
            return f"there is no file {name!r}{self._similar(name)}"
        if not self._holds(path):
            return f"{name!r} is a link that leads out of {self.path}"
        return "" if stat.S_ISREG(status.st_mode) else f"{name!r} {NOT_REGULAR}"

    def _similar(self, name: str) -> str:
        """Return ``"; there is 'x.png'"`` with the file that a missing name may mean, or nothing.

        Its suffix may be missing or another one, or its name in another case or Unicode form.
        """
        folder, _, last = name.rpartition("/")
        if folder not in self._names:
            self._names[folder] = self._listed(folder)
        known = self._names[folder]
        other = known.get(_folded(last)) or known.get(_folded(PurePath(last).stem))
        return (
            f"; there is {f'{folder}/{other}'.lstrip('/')!r}" if other not in {None, last} else ""
        )

    def _listed(self, folder: str) -> dict[str, str]:
        """Return the names in a folder by their folded names and stems."""
        path = self.path / folder
        try:
            inside = self._holds(os.path.realpath(path) + os.sep)
            names = sorted(os.listdir(path)) if inside else []  # noqa: PTH208  # names, not paths
        except OSError:
            return {}
        stems = {_folded(PurePath(name).stem): name for name in reversed(names)}
        return stems | {_folded(name): name for name in reversed(names)}

    def _holds(self, real: str) -> bool:
        return self.follow_links or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file.

        The location is checked after the file is open, so replacing the file by a link in between
        gains nothing.
        """
        path = os.path.join(self._text, name)  # noqa: PTH118  # called per image
        with _opened(path) as (file, status):
            if not self.follow_links and not self._holds(_place(file)):
                real = os.path.realpath(path)
                if not self._holds(real) or not os.path.samestat(status, os.stat(real)):  # noqa: PTH116  # a string, not a Path
                    raise OSError(errno.EACCES, f"leads out of {self.path}")
            return file.read()


def _place(file: io.BufferedReader) -> str:
    """Return where an open file is, as Linux knows at once; empty if it is not known."""
    try:
        return os.readlink(f"/proc/self/fd/{file.fileno()}")  # noqa: PTH115  # called per image
    except OSError:
        return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def read_file(path: str | Path) -> bytes:
    """Return the bytes of an image file anywhere."""
    with _opened(path) as (file, _):
        return file.read()


def mean_file_bytes(paths: Sequence[str], folder: str | Path = "") -> float | None:
    """Return the mean size of a few of the files in a folder; None if it is not known."""
    sizes = []
    for path in paths[:: max(1, -(-len(paths) // LOOKED_AT))]:
        with suppress(OSError, ValueError):  # a missing file is told when it is read
            sizes.append(Path(folder, path).stat().st_size)
    return sum(sizes) / len(sizes) if sizes else None


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[io.BufferedReader, os.stat_result]]:
    """Open a regular file that is not too large; never waits for one that is a pipe."""
    with opened(path, MAX_FILE_BYTES, follow=True) as (file, status):
        if status.st_size > limit("TLKIT_MAX_FILE_MB") << 20:
            raise OSError(errno.EFBIG, f"has {beyond('TLKIT_MAX_FILE_MB', ' MB')}")
        yield file, status
