"""Reading weights files: arrays by name, never code, and nothing from outside the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.errors import WeightsError
from tlkit.registry import nearest

if TYPE_CHECKING:
    import numpy as np

KERAS_3_OPTIMIZER = "optimizer/"  # a trained model's file has its optimizer's arrays too
MOST_COMPRESSED = 100  # weights hardly compress; what declares more than this is a bomb
# Array names in files of Keras 2's time: `block1_conv1/block1_conv1_W_1:0` and the like.
OLD_VARIABLES = {"W": "kernel", "b": "bias"}


@frozen
class Arrays:
    """The arrays of one weights file.

    Attributes:
        named: Array by `LAYER/VARIABLE`, or by `LAYER/NUMBER` in files of Keras 3.
        path: The file.
        sha256: Its hash.
        order: The names as the file lists them, if it does: files of Keras 2's time.
    """

    named: Mapping[str, np.ndarray[Any, Any]]
    path: Path
    sha256: str
    order: tuple[str, ...] = ()

    def in_order_of(self, names: Sequence[str]) -> Arrays:
        """Return the same arrays under other names, if the file lists as many and other ones.

        Files of Keras 2's time have layer names that Keras made up while it counted on from model
        to model; Keras itself goes by their order. Shapes are compared when they are assigned.
        """
        if len(self.order) != len(names) or set(self.order) == set(names):
            return self
        named = {new: self.named[old] for new, old in zip(names, self.order, strict=True)}
        return evolve(self, named=named, order=tuple(names))


def read_arrays(path: Path, skip: Sequence[str] = ()) -> Arrays:
    """Read a `.h5`, `.weights.h5` or `.safetensors` file; only arrays, never code.

    Args:
        path: The file.
        skip: Layers to leave out, by the beginning of their names.

    Raises:
        WeightsError: If the file is missing, or is none of these.
    """
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights: there is no file {path}"
            f"{nearest(path.name, ('imagenet', 'bsds500', 'none'))}"
        )
    content = path.read_bytes()
    head = content[:200].lstrip().lower()
    if head.startswith((b"version https://git-lfs", b"<!doctype", b"<html")):
        raise WeightsError(
            f"{path}: is a pointer or a web page, not weights; fetch the file itself"
        )
    order: tuple[str, ...] = ()
    if content[:8] == b"\x89HDF\r\n\x1a\n":
        named, order = _read_h5(path, tuple(skip))
    elif path.suffix == ".safetensors":
        named = _read_safetensors(path, content)
    else:
        raise WeightsError(f"{path}: must be a .h5 or .safetensors file, got neither")
    if not named:
        raise WeightsError(f"{path}: holds no arrays")
    return Arrays(named, path, hashlib.sha256(content).hexdigest(), order)


def _read_h5(path: Path, skip: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return every array by layer and variable, or by layer and number in files of Keras 3.

    And their names in the order in which a file of Keras 2's time lists them.
    """
    import h5py
    import numpy as np

    named: dict[str, Any] = {}

    def visit(key: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or key.startswith((KERAS_3_OPTIMIZER, *skip)):
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {key} points outside the file")
        if not np.issubdtype(item.dtype, np.floating):
            raise WeightsError(f"{path}: {key} must hold floating-point numbers")
        if item.nbytes > MOST_COMPRESSED * item.id.get_storage_size():
            raise WeightsError(f"{path}: {key} declares far more numbers than it holds")
        layer = item.parent.attrs.get("name")  # Keras 3 notes it beside the numbered arrays
        name = f"{layer}/{key.rpartition('/')[2]}" if layer else _h5_name(key)
        if name in named:
            raise WeightsError(f"{path}: there are two arrays called {name}")
        named[name] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)  # follows neither soft nor external links
            order = tuple(name for name in _listed(file) if name in named)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    return named, order


def _listed(file: Any) -> Iterator[str]:
    """Yield the array names that a file of Keras 2's time lists, layer by layer."""
    for layer in file.attrs.get("layer_names", ()):
        name = _text(layer)
        for array in file[name].attrs.get("weight_names", ()):
            yield _h5_name(f"{name}/{_text(array)}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5_name(key: str) -> str:
    """Return `LAYER/VARIABLE` for an array of Keras 2's time; other keys as they are.

    >>> _h5_name("block1_conv1/block1_conv1_W_1:0")
    'block1_conv1/kernel'
    >>> _h5_name("other/array")
    'other/array'
    """
    match = re.fullmatch(r"(?:.*/)?([^/]+)/(?:\1[_/])?([^/:]+?)(?:_\d+)?:0", key)
    if not match:
        return key
    layer, variable = match.groups()
    return f"{layer}/{OLD_VARIABLES.get(variable, variable)}"


def _read_safetensors(path: Path, content: bytes) -> dict[str, Any]:
    """Return every array; names as tlkit writes them lose their layer number."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except SafetensorError as error:
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    return {re.sub(r"^\d{3}\.", "", name): array for name, array in arrays.items()}
