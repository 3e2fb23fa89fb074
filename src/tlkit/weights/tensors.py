"""A model's variables: named the same in every process, saved and restored without a copy."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tlkit.model.graph import named_weights
from tlkit.model.layers import LayerTable
from tlkit.system.errors import WeightsError
from tlkit.system.files import write_with
from tlkit.system.keras import keras, tf
from tlkit.weights.files import safetensors_slices

Variables = Mapping[str, Any]  # keras.Variable by name
Tensors = Mapping[str, tf.Tensor]
CHUNK_BYTES = 8 << 20
DTYPES = {  # NumPy's names by those of safetensors
    f"{letter}{8 * size}": f"{kind}{8 * size}"
    for letter, kind, sizes in (
        ("F", "float", (2, 4, 8)),
        ("I", "int", (1, 2, 4, 8)),
        ("U", "uint", (1, 2, 4, 8)),
    )
    for size in sizes
} | {"BOOL": "bool"}


def numbered_weights(model: keras.Model, layers: LayerTable) -> dict[str, Any]:
    """Return a model's variables by `NNN.LAYER/VARIABLE`, which is the same in every process."""
    return {
        f"{number:03d}.{layer.name}/{name}": variable
        for number, layer in layers
        for name, variable in named_weights(model.get_layer(layer.name))
    }


def write_weights(path: Path, model: keras.Model, layers: LayerTable) -> None:
    """Write all arrays of a model, the frozen ones too."""
    write_tensors(path, snapshot(numbered_weights(model, layers)))


def read_weights(path: Path, model: keras.Model, layers: LayerTable) -> None:
    """Load all arrays of a model; see `read_tensors`."""
    read_tensors(path, numbered_weights(model, layers))


def snapshot(variables: Variables) -> Tensors:
    """Return the current values; nothing is copied, since updates are written elsewhere."""
    return {name: tf.identity(variable.value) for name, variable in variables.items()}


def view(tensor: tf.Tensor) -> npt.NDArray[Any]:
    """Return a tensor as an array, which is a copy only if it comes from another device."""
    with tf.device("CPU:0"):
        return np.asarray(memoryview(tf.identity(tensor)))


def sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of the values of tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(view(tensor).reshape(-1).data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors to a safetensors file, atomically."""
    write_arrays(path, {name: view(tensor) for name, tensor in tensors.items()})


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a safetensors file, atomically."""

    def write(partial: Path) -> None:
        try:
            save_file(dict(arrays), partial)
        except SafetensorError as error:
            if not (number := re.search(r"os error (\d+)", str(error))):
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_with(path, write)


def read_tensors(path: Path, variables: Variables) -> None:
    """Assign a file's arrays to variables."""
    try:
        with safetensors_slices(path) as slices:
            _check(path, slices, variables)
            for name, variable in variables.items():
                for index, values in _chunks(slices[name], variable.dtype):
                    if not np.isfinite(values).all():
                        raise WeightsError(f"{path}: {name} has values that are not finite")
                    # As a whole, the array would be in memory three times.
                    variable.value[index].assign(values)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None


def _check(path: Path, slices: Mapping[str, Any], variables: Variables) -> None:
    """Raise unless names, shapes and dtypes are those of the variables."""
    different = sorted(slices.keys() ^ variables.keys())
    if different:
        raise WeightsError(f"{path}: does not fit the model: {', '.join(different[:4])}")
    for name, variable in variables.items():
        shape, dtype = tuple(slices[name].get_shape()), slices[name].get_dtype()
        dtype = DTYPES.get(dtype, dtype)
        if shape != tuple(variable.shape) or dtype != variable.dtype:
            raise WeightsError(
                f"{path}: {name} is {dtype} {shape}, "
                f"expected {variable.dtype} {tuple(variable.shape)}"
            )


def _chunks(array: Any, dtype: str) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """Yield an array piece by piece: an index along its first axis, and the values there."""
    rows, *row = array.get_shape() or [1]
    row_bytes = math.prod(row) * np.dtype(dtype).itemsize
    count = max(1, CHUNK_BYTES // max(1, row_bytes))
    if rows * row_bytes == 0:
        return
    if count >= rows:
        yield ..., array[...]
        return
    for start in range(0, rows, count):
        yield slice(start, start + count), array[start : min(start + count, rows)]
