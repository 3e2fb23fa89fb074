"""Reading weights files: arrays by name, never code, and nothing from outside the file."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from attrs import evolve, frozen

from tlkit.system.errors import WeightsError
from tlkit.system.text import nearest

if TYPE_CHECKING:
    import numpy as np


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


HDF5 = b"\x89HDF\r\n\x1a\n"  # what its files begin with
NamedSource = Literal["imagenet", "bsds500", "none"]
SOURCES: tuple[str, ...] = get_args(NamedSource)
NO_SOURCE = f", and no source of that name but {', '.join(SOURCES)}; none leaves them random"
KERAS_3_OPTIMIZER = "optimizer/"  # a trained model's file has its optimizer's arrays too
# Weights hardly compress: what declares more than this is a bomb, unless it is small anyway, such
# as a bias of zeros.
MOST_COMPRESSED = 20
SMALL_BYTES = 16 << 20
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
            f"{nearest(path.name, SOURCES) or ('' if path.suffix else NO_SOURCE)}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    head = content[:200].lstrip().lower()
    if head.startswith((b"version https://git-lfs", b"<!doctype", b"<html")):
        raise WeightsError(
            f"{path}: is a pointer or a web page, not weights; fetch the file itself"
        )
    order: tuple[str, ...] = ()
    if content.startswith(HDF5):
        named, order = _read_h5(path, content, tuple(skip))
    elif path.suffix == ".safetensors":
        arrays = unpack_safetensors(path, content)
        # Names as tlkit writes them lose their layer number.
        named = {re.sub(r"^\d{3}\.", "", name): array for name, array in arrays.items()}
    else:
        way_out = ""
        if path.suffix == ".keras":  # it may hold code, which nothing here would run
            way_out = "; of a whole model save the arrays: model.save_weights('x.weights.h5')"
        raise WeightsError(f"{path}: must be a .h5 or .safetensors file, got neither{way_out}")
    for name, array in named.items():
        if array.dtype.kind != "f":
            raise WeightsError(
                f"{path}: {name} must hold floating-point numbers, got {array.dtype}"
            )
    if not named:
        raise WeightsError(f"{path}: holds no arrays")
    return Arrays(named, path, hashlib.sha256(content).hexdigest(), order)


def _read_h5(
    path: Path, content: bytes, skip: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return every array by layer and variable, or by layer and number in files of Keras 3.

    And their names in the order in which a file of Keras 2's time lists them. The file is read from
    memory: HDF5 has no folder then in which it could find what a link names.
    """
    import h5py
    import numpy as np

    named: dict[str, Any] = {}
    left = SMALL_BYTES + MOST_COMPRESSED * len(content)

    def visit(key: str, item: Any) -> None:
        nonlocal left
        if not isinstance(item, h5py.Dataset) or key.startswith((KERAS_3_OPTIMIZER, *skip)):
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {key} points outside the file")
        if item.dtype.kind != "f":  # text would become numbers
            raise WeightsError(f"{path}: {key} must hold floating-point numbers, got {item.dtype}")
        # A chunk is unpacked whole for a single number of it. Python's integers never overflow.
        declared = 4 * max(math.prod(item.shape), math.prod(item.chunks or ()))
        left -= declared
        if left < 0 or declared > SMALL_BYTES + MOST_COMPRESSED * item.id.get_storage_size():
            raise WeightsError(f"{path}: {key} declares far more numbers than the file holds")
        layer = item.parent.attrs.get("name")  # Keras 3 notes it beside the numbered arrays
        name = f"{layer}/{key.rpartition('/')[2]}" if layer else _h5_name(key)
        if name in named:
            raise WeightsError(f"{path}: there are two arrays called {name}")
        named[name] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(visit)  # follows neither soft nor external links
            order = tuple(name for name in _listed(file) if name in named)
    except WeightsError:
        raise
    except Exception as error:  # on hostile bytes HDF5 may raise anything
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    return named, order


def _listed(file: Any) -> Iterator[str]:
    """Yield the array names that a file of Keras 2's time lists, layer by layer."""
    import h5py

    for layer in file.attrs.get("layer_names", ()):
        name = _text(layer)
        parts = name.split("/")
        steps = ("/".join(parts[: end + 1]) for end in range(len(parts)))
        if not all(isinstance(file.get(step, getlink=True), h5py.HardLink) for step in steps):
            continue  # a link might lead into another file; what is behind it is not read either
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
