"""The folder that images lie below, and reading them from there and from nowhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from attrs import field, frozen

# Uncompressed, the largest picture that is decoded takes 81 million pixels of 6 bytes.
MAX_FILE_BYTES = 512 << 20
# A FIFO must not block, whenever it took the place of a file.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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
    _folders: dict[str, str] = field(factory=dict, init=False, eq=False, repr=False)

    @_real.default
    def _where(self) -> str:
        return os.path.realpath(self.path)

    def problem(self, name: str) -> str:
        """Return why there is no image file of this name, or nothing; opens no file."""
        folder, _, last = name.rpartition("/")
        try:
            if folder not in self._folders:  # most files share theirs
                self._folders[folder] = os.path.realpath(self.path / folder)
            path = os.path.join(self._folders[folder], last)  # noqa: PTH118  # one a row of many
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                path = os.path.realpath(path)
                found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):  # ValueError: NUL
            return f"there is no file {name!r}"
        if not self._holds(path):
            return f"{name!r} is a link that leads out of {self.path}"
        return "" if stat.S_ISREG(found.st_mode) else f"{name!r} is no ordinary file"

    def _holds(self, real: str) -> bool:
        return self.follow_links or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file.

        Where it lies is looked at again once it is open, so that a link that is put in its place
        meanwhile leads nowhere.

        Raises:
            OSError: If it cannot be read, is no ordinary file, is too large or lies outside.
        """
        path = self.path / name
        handle = os.open(path, _OPEN)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is no ordinary file")
            if found.st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"has more than {MAX_FILE_BYTES >> 20} MiB")
            if not self.follow_links:
                real = os.path.realpath(path)
                if not self._holds(real) or not os.path.samestat(found, os.stat(real)):  # noqa: PTH116
                    raise OSError(errno.EACCES, f"leads out of {self.path}")
            return file.read()
