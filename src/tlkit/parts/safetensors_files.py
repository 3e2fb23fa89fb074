"""Reading safetensors files: all arrays at once, or where each lies and then by portions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.errors import WeightsError

PORTION_BYTES = 8 << 20
# What safetensors calls NumPy's dtypes.
DTYPES = {
    f"{letter}{8 * size}": f"{kind}{8 * size}"
    for letter, kind, sizes in (
        ("F", "float", (2, 4, 8)),
        ("I", "int", (1, 2, 4, 8)),
        ("U", "uint", (1, 2, 4, 8)),
    )
    for size in sizes
} | {"BOOL": "bool"}


def unpack_safetensors(path: Path, content: bytes) -> dict[str, Any]:
    """Return every array of a safetensors file under the name it has there.

    Args:
        path: The file, for messages.
        content: Its bytes.

    Raises:
        WeightsError: If it is broken or hostile.
    """
    from safetensors.numpy import load

    try:
        arrays = load(content)
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=_once)
    except KeyError as error:
        raise WeightsError(f"{path}: arrays of type {error} cannot be read") from None
    except Exception as error:  # of its own kinds, and NumPy's for shapes that NumPy cannot have
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    found: dict[str, Any] = arrays
    return found


@frozen
class Place:
    """Where an array lies in a safetensors file, and what it is.

    Attributes:
        dtype: Its dtype as NumPy calls it, or as the file does if NumPy has none such.
        shape: Its shape.
        offset: Its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int

    def portions(self, path: Path) -> Iterator[tuple[Any, Any]]:
        """Yield the array by portions: an index along its first axis, and what stands there.

        Nothing else of the file is read, and no more than a portion is held.
        """
        import numpy as np

        dtype = np.dtype(self.dtype)
        rows, *row = self.shape or (1,)
        numbers = math.prod(row)  # in a row
        count = max(1, PORTION_BYTES // max(1, numbers * dtype.itemsize))
        for start in range(0, max(1, rows), count):
            offset = self.offset + start * numbers * dtype.itemsize
            values = np.fromfile(path, dtype, min(count, rows - start) * numbers, offset=offset)
            if count >= rows:
                yield ..., values.reshape(self.shape)
            else:
                yield slice(start, start + count), values.reshape(-1, *row)


def safetensors_places(path: Path) -> dict[str, Place]:
    """Return where the arrays of a safetensors file lie, by name; only its header is read.

    Raises:
        WeightsError: If it is broken or hostile.
        OSError: If it cannot be opened.
    """
    from safetensors import safe_open

    with path.open("rb") as file:
        try:
            with safe_open(path, framework="numpy"):
                pass  # the header is sound, and all of it lies in the file
            data = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(data - 8), object_pairs_hook=_once)
        except Exception as error:  # of its own kinds
            raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    header.pop("__metadata__", None)
    return {
        name: Place(
            DTYPES.get(array["dtype"], array["dtype"]),
            tuple(array["shape"]),
            data + array["data_offsets"][0],
        )
        for name, array in header.items()
    }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; readers differ on which of two members of one name they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found
