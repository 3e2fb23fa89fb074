"""A model's variables: named the same in every process, saved and restored without a copy."""

from __future__ import annotations

import hashlib
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
from tlkit.system.rows import Rows
from tlkit.weights.files import safetensors_rows

Variables = Mapping[str, Any]  # keras.Variable by name
Tensors = Mapping[str, tf.Tensor]
CHUNK_BYTES = 8 << 20


def numbered_weights(model: keras.Model, layers: LayerTable) -> dict[str, Any]:
    """Return a model's variables by `NNN.LAYER/VARIABLE`, which is the same in every process."""
    of_name = {layer.name: layer for layer in model.layers}
    return {
        f"{number:03d}.{layer.name}/{name}": variable
        for number, layer in layers
        for name, variable in named_weights(of_name[layer.name])
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
        arrays = safetensors_rows(path)
        _check(path, arrays, variables)
        for name, variable in variables.items():
            for index, values in _chunks(arrays[name]):
                if not np.isfinite(values).all():
                    raise WeightsError(f"{path}: {name} has values that are not finite")
                # As a whole, the array would be in memory three times.
                variable.value[index].assign(values)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None


def _check(path: Path, arrays: Mapping[str, Rows], variables: Variables) -> None:
    """Raise unless names, shapes and dtypes are those of the variables."""
    different = sorted(arrays.keys() ^ variables.keys())
    if different:
        raise WeightsError(f"{path}: does not fit the model: {', '.join(different[:4])}")
    for name, variable in variables.items():
        shape, dtype = arrays[name].shape, arrays[name].dtype
        if shape != tuple(variable.shape) or dtype != variable.dtype:
            raise WeightsError(
                f"{path}: {name} is {dtype} {shape}, "
                f"expected {variable.dtype} {tuple(variable.shape)}"
            )


def _chunks(array: Rows) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """Yield an array piece by piece: an index along its first axis, and the values there."""
    if array.size_bytes == 0:
        return
    if array.size_bytes <= CHUNK_BYTES or not array.shape:
        yield ..., array.whole()
        return
    count = max(1, CHUNK_BYTES * len(array) // array.size_bytes)
    for start in range(0, len(array), count):
        yield slice(start, start + count), array[start : start + count]
