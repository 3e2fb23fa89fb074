"""Arrays in files, read when they are asked for and never mapped into memory.

A file that is cut short while it is mapped, on a failing disk or by another program, ends the
process with SIGBUS and no message. Cut short while it is read, it is an error like any other.
"""

from __future__ import annotations

import errno
import io
import itertools
import math
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CUT_OFF = "was cut off while it was read"


class ArrayFile:
    """A file that stays open until nobody reads from it any more; threads may share it."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self.path = path
        self._file = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def read(self, offset: int, content: memoryview) -> None:
        """Fill a buffer with what is in the file from a place on."""
        with self._lock:
            self._file.seek(offset)
            while content:
                if not (count := self._file.readinto(content)):
                    raise OSError(errno.EIO, CUT_OFF, str(self.path))
                content = content[count:]


@frozen
class Rows:
    """An array in a file.

    Attributes:
        file: The file.
        shape: The array's shape.
        dtype: Its dtype.
        start: Where it begins in the file.
    """

    file: ArrayFile
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def size_bytes(self) -> int:
        """Return the size of the array."""
        return self.dtype.itemsize * math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return some rows: a slice, or those with these numbers."""
        import numpy as np

        # Called for every batch, so no step may take longer the more rows there are.
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        numbers = np.asarray(index, np.int64)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"there are {len(self)} rows, got {index}")
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        content = rows.reshape(-1).view(np.uint8).data
        jumps = np.flatnonzero(np.diff(numbers) != 1) + 1  # what lies together is read together
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        for first, end in itertools.pairwise([0, *jumps.tolist(), len(numbers)]):
            if first < end:
                place = self.start + int(numbers[first]) * row_bytes
                self.file.read(place, content[first * row_bytes : end * row_bytes])
        return rows

    def whole(self) -> npt.NDArray[Any]:
        """Return the whole array, which may have no axes."""
        import numpy as np

        array = np.empty(self.shape, self.dtype)
        self.file.read(self.start, array.reshape(-1).view(np.uint8).data)
        return array
