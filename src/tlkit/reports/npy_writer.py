"""Arrays written row by row, however many there will be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tlkit.system.files import atomic_write


@contextmanager
def npy_rows(path: Path) -> Iterator[Callable[[npt.NDArray[np.float32]], None]]:
    """Give a function that adds a row to a `.npy` file, which is there when the body succeeds.

    Args:
        path: The file, `(rows, ...)` float32 in the end; without any row `(0, 0)`.
    """
    count, shape = 0, (0,)
    with atomic_write(path) as partial, partial.open("w+b") as file:
        start = _write_header(file, (0, 0))

        def add(row: npt.NDArray[np.float32]) -> None:
            nonlocal count, shape
            if not count:
                shape = row.shape
                file.seek(0)
                _write_header(file, (0, *shape))
            file.write(np.ascontiguousarray(row, np.float32).tobytes())
            count += 1

        yield add
        begun = file.seek(0, 1) - 4 * count * int(np.prod(shape))
        file.seek(0)
        # NumPy leaves room in the header for the first axis to grow.
        assert _write_header(file, (count, *shape)) == (begun if count else start)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write the header of a float32 array at the file's place and return where it ends."""
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
