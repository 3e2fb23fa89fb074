"""Reading weights files of PyTorch before 1.6: arrays by name, without PyTorch and never code.

Such a file is a series of pickles, one of which names the tensors, followed by their numbers.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle  # restricted to four names, see `_TensorUnpickler`
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tlkit.system.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of such a file
PROTOCOL = 1001
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read_torch(path: Path, sha256: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a `.pth` file whose content is known."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise WeightsError(f"{path}: has SHA-256 {found}, expected {sha256}; reinstall its package")
    return arrays_of(content, str(path))


def arrays_of(content: bytes, where: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in the bytes of a `.pth` file; `where` begins the messages."""
    import numpy as np

    file = io.BytesIO(content)
    try:
        magic, protocol, system, tensors, keys = (_TensorUnpickler(file).load() for _ in range(5))
        if (magic, protocol, system["little_endian"]) != (MAGIC, PROTOCOL, True):
            raise ValueError("of another format")
        storages = {}
        dtypes = {t["key"]: DTYPES[t["kind"]] for t in tensors.values()}
        for key in keys:
            dtype, count = np.dtype(dtypes[key]), int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
        if file.read(1):
            raise ValueError("longer than its tensors")
        return {name: _array(storages[t["key"]], t) for name, t in tensors.items()}
    except Exception as error:  # on hostile bytes pickle may raise anything
        raise WeightsError(f"{where}: is not a weights file of PyTorch's: {error}") from None


class _TensorUnpickler(pickle.Unpickler):
    """Makes a dictionary of plain descriptions of tensors; refuses every other object."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *tensor: _description(*tensor),
        ("torch", "FloatStorage"): "FloatStorage",
        ("torch", "LongStorage"): "LongStorage",
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, _, view = pid
        if view is not None:
            raise pickle.UnpicklingError("it has a view of a storage")
        return {"kind": kind, "key": key}


def _description(
    storage: dict[str, str], offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
    *_: Any,
) -> dict[str, Any]:  # fmt: skip
    return {**storage, "offset": offset, "shape": shape, "strides": strides}


def _array(storage: np.ndarray[Any, Any], tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return a tensor in rows; it may be stored in any order, but within its storage."""
    import numpy as np

    offset, shape, strides = (tensor[key] for key in ("offset", "shape", "strides"))
    if min((offset, *shape, *strides)) < 0 or len(shape) != len(strides):
        raise ValueError("a tensor has no such shape")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if last >= storage.size or math.prod(shape) > storage.size:
        raise ValueError("a tensor is larger than its storage")
    steps = [step * storage.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
    return np.ascontiguousarray(view).reshape(shape)
