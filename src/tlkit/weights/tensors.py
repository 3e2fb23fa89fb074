"""Variables to and from safetensors files, without a second copy of them in memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
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
from tlkit.weights.files import safetensors_places

Variables = Mapping[str, Any]  # keras.Variable by name
Tensors = Mapping[str, tf.Tensor]


def numbered_weights(model: keras.Model, layers: LayerTable) -> dict[str, Any]:
    """Return a model's variables by `NNN.LAYER/VARIABLE`, which is the same in every process."""
    return {
        f"{number:03d}.{layer.name}/{name}": variable
        for number, layer in layers
        for name, variable in named_weights(model.get_layer(layer.name))
    }


def snapshot(variables: Variables) -> Tensors:
    """Return the values of now. None is copied: what changes later is written elsewhere."""
    return {name: tf.identity(variable.value) for name, variable in variables.items()}


def view(tensor: tf.Tensor) -> npt.NDArray[Any]:
    """Return a tensor's values as an array, which is copied only from another device."""
    with tf.device("CPU:0"):
        return np.asarray(memoryview(tf.identity(tensor)))


def sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of the values of some tensors, in order."""
    found = hashlib.sha256()
    for tensor in tensors.values():
        found.update(view(tensor).reshape(-1).data)
    return found.hexdigest()


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a file of tensors, whole."""
    write_arrays(path, {name: view(tensor) for name, tensor in tensors.items()})


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a safetensors file, whole.

    Raises:
        OSError: If it cannot be written; safetensors has an error of its own for that.
    """

    def write(partial: Path) -> None:
        try:
            save_file(dict(arrays), partial)
        except SafetensorError as error:
            if not (number := re.search(r"os error (\d+)", str(error))):
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_with(path, write)


def read_tensors(path: Path, variables: Variables) -> None:
    """Put a file's arrays into variables.

    Raises:
        WeightsError: If the file is missing, broken or hostile, or names, shapes or dtypes differ;
            then no variable is changed.
    """
    try:
        places = safetensors_places(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    different = sorted(places.keys() ^ variables.keys())
    if different:
        raise WeightsError(f"{path}: does not fit the model: {', '.join(different[:4])}")
    for name, variable in variables.items():
        place = places[name]
        if place.shape != tuple(variable.shape) or place.dtype != variable.dtype:
            raise WeightsError(
                f"{path}: {name} is {place.dtype} {place.shape}, "
                f"expected {variable.dtype} {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        for where, values in places[name].portions(path):
            variable.value[where].assign(values)  # as a whole it would be in memory three times
