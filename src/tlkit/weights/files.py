"""Reading weights files: arrays by name, never code, and nothing from outside the file."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from attrs import evolve, field, frozen

from tlkit.system.errors import WeightsError
from tlkit.system.rows import ArrayFile, Rows
from tlkit.system.seal import MAX_FILE_BYTES
from tlkit.system.text import nearest
from tlkit.system.untrusted import opened, parse_json, read_bytes
from tlkit.weights.earlier_run import WEIGHTS, EarlierRun
from tlkit.weights.shelf import ARRAYS, Card

if TYPE_CHECKING:
    import numpy as np

HDF5 = b"\x89HDF\r\n\x1a\n"  # how its files begin
NamedSource = Literal["imagenet", "bsds500", "none"]
SOURCES: tuple[str, ...] = get_args(NamedSource)
NO_SOURCE = f", and the only named sources are {', '.join(SOURCES)}; none leaves them random"
KERAS_3_OPTIMIZER = "optimizer/"  # files of a trained model hold its optimizer's arrays too
# Weights hardly compress: an array that declares more than this is a bomb, unless it is small
# anyway, such as a bias of zeros.
MAX_COMPRESSION = 20
SMALL_BYTES = 16 << 20
MAX_HEADER_BYTES = 100 << 20  # of a safetensors file, as safetensors has it
MAX_AXES, MAX_NUMBERS = 32, 1 << 48  # of an array in it
DTYPES = {  # NumPy's names by those of safetensors
    f"{letter}{8 * size}": f"{kind}{8 * size}"
    for letter, kind, sizes in (
        ("F", "float", (2, 4, 8)),
        ("I", "int", (1, 2, 4, 8)),
        ("U", "uint", (1, 2, 4, 8)),
    )
    for size in sizes
} | {"BOOL": "bool"}
# Array names in files of Keras 1: `block1_conv1/block1_conv1_W_1:0`.
OLD_VARIABLES = {"W": "kernel", "b": "bias"}


@frozen
class Arrays:
    """The arrays of one weights file.

    Attributes:
        named: Arrays by `LAYER/VARIABLE`, or by `LAYER/NUMBER` in files of Keras 3.
        path: The file.
        sha256: The SHA-256 of its content.
        order: The names in the order in which the file lists them; only files of Keras 2 do.
        packed_from: What was packed, if `tlkit weights pack` has written the file.
        lineage: The run whose weights they are: its name, and what it began with; else empty.
    """

    named: Mapping[str, np.ndarray[Any, Any]]
    path: Path
    sha256: str
    order: tuple[str, ...] = ()
    packed_from: str = ""
    lineage: Mapping[str, str] = field(factory=dict)

    def in_order_of(self, names: Sequence[str]) -> Arrays:
        """Return the arrays renamed by order, if the file lists as many names and other ones.

        Layer names in files of Keras 2 depend on how many layers Keras had built before, so Keras
        itself goes by order. Shapes are checked when the arrays are assigned.
        """
        if len(self.order) != len(names) or set(self.order) == set(names):
            return self
        named = {new: self.named[old] for new, old in zip(names, self.order, strict=True)}
        return evolve(self, named=named, order=tuple(names))


def read_arrays(path: Path, skip: Sequence[str] = (), by_place: bool = False) -> Arrays:
    """Read the arrays of a `.h5` or `.safetensors` file, of a packed folder, or of a run.

    Args:
        path: The file or folder.
        skip: The beginnings of the names of layers to leave out.
        by_place: Name the arrays of a Keras 3 file by their places in it, not by their layers.

    Raises:
        WeightsError: If the file is missing, broken, hostile or of another format.
    """
    if run := EarlierRun.at(path):
        named, sha256 = run.arrays("backbone")
        kept = {name: array for name, array in named.items() if not name.startswith(tuple(skip))}
        return Arrays(kept, run.folder / WEIGHTS, sha256, lineage=run.record)
    if path.is_dir():
        return _read_packed(path)
    require_file(path)
    try:
        content = read_bytes(path, MAX_FILE_BYTES, follow=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    head = content[:200].lstrip().lower()
    if head.startswith((b"version https://git-lfs", b"<!doctype", b"<html")):
        raise WeightsError(
            f"{path}: is a pointer or a web page, not weights; fetch the file itself"
        )
    order: tuple[str, ...] = ()
    if content.startswith(HDF5):
        named, order = _read_h5(path, content, tuple(skip), by_place)
    elif path.suffix == ".safetensors":
        named = _read_safetensors(path, content)
    else:
        way_out = ""
        if path.suffix == ".keras":  # may hold code, which is never run
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


def _read_packed(folder: Path) -> Arrays:
    """Read a folder that `tlkit weights pack` has written."""
    card = Card.read(folder)
    arrays = read_arrays(folder / ARRAYS)
    if arrays.sha256 != card.sha256:
        raise WeightsError(
            f"{arrays.path}: has SHA-256 {arrays.sha256}, expected {card.sha256}; pack it again"
        )
    return evolve(arrays, packed_from=f"{card.backbone} {card.source} {card.file_sha256}")


def require_file(path: Path) -> None:
    """Raise `WeightsError` if there is no such file or folder."""
    if not path.exists():
        raise WeightsError(
            f"backbone.weights: there is no file {path}"
            f"{nearest(path.name, SOURCES) or ('' if path.suffix else NO_SOURCE)}"
        )


def _read_safetensors(path: Path, content: bytes) -> dict[str, Any]:
    """Return every array of a safetensors file, without the layer numbers that tlkit writes."""
    from safetensors.numpy import load

    try:
        arrays = load(content)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        parse_json(header.decode())
    except KeyError as error:
        raise WeightsError(f"{path}: arrays of type {error} cannot be read") from None
    except MemoryError:
        raise
    except Exception as error:  # its own errors, and NumPy's for shapes that NumPy cannot have
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    return {re.sub(r"^\d{3}\.", "", name): array for name, array in arrays.items()}


def safetensors_rows(path: Path) -> dict[str, Rows]:
    """Return the arrays of a safetensors file by name; only its header is read."""
    with opened(path, MAX_FILE_BYTES) as (file, status):
        try:
            return _listed_rows(path, file, status.st_size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None


def _listed_rows(path: Path, file: io.BufferedReader, size: int) -> dict[str, Rows]:
    """Return the arrays that the header lists; they fill the rest of the file without gaps."""
    import numpy as np

    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError("its header is too long")
    table = parse_json(file.read(length).decode())
    table.pop("__metadata__", None)
    start = end = 8 + length
    opened_file, found = ArrayFile(path, file), dict[str, Rows]()
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        letters, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if letters not in DTYPES:
            raise ValueError(f"arrays of type {letters!r}, such as {name}")
        numbers = (first, last, *shape)
        possible = all(type(number) is int and number >= 0 for number in numbers)
        if not possible or len(shape) > MAX_AXES or math.prod(n or 1 for n in shape) > MAX_NUMBERS:
            raise ValueError(f"{name} has an impossible shape or place")
        rows = Rows(opened_file, tuple(shape), np.dtype(DTYPES[letters]), start + first)
        if start + first != end or last - first != rows.size_bytes:
            raise ValueError(f"{name} has not as many bytes as its shape needs")
        end, found[name] = start + last, rows
    if end != size:
        raise ValueError(f"its arrays need {end} bytes, and it has {size}")
    return found


def _read_h5(
    path: Path, content: bytes, skip: tuple[str, ...], by_place: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return every array by layer and variable or number, and the order of names of Keras 2.

    The file is read from memory, where HDF5 has no folder to look for the target of a link.
    """
    import h5py
    import numpy as np

    named: dict[str, Any] = {}
    left = SMALL_BYTES + MAX_COMPRESSION * len(content)

    def visit(key: str, item: Any) -> None:
        nonlocal left
        if not isinstance(item, h5py.Dataset) or key.startswith((KERAS_3_OPTIMIZER, *skip)):
            return
        if by_place and item.dtype.kind in "iu":  # a dropout's state, or the numbers of positions
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {key} points outside the file")
        if item.dtype.kind != "f":  # text would become numbers
            raise WeightsError(f"{path}: {key} must hold floating-point numbers, got {item.dtype}")
        # A whole chunk is unpacked to read one number of it. Python's integers never overflow.
        declared = 4 * max(math.prod(item.shape), math.prod(item.chunks or ()))
        left -= declared
        if left < 0 or declared > SMALL_BYTES + MAX_COMPRESSION * item.id.get_storage_size():
            raise WeightsError(f"{path}: {key} declares far more numbers than the file holds")
        # Keras 3 stores it next to the numbered arrays.
        layer = None if by_place else _attribute(item.parent, "name", len(content))
        name = f"{layer}/{key.rpartition('/')[2]}" if layer else _h5_name(key)
        if name in named:
            raise WeightsError(f"{path}: there are two arrays called {name}")
        named[name] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(visit)  # follows neither soft nor external links
            order = tuple(name for name in _listed_names(file, len(content)) if name in named)
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # on hostile bytes HDF5 may raise anything
        raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
    return named, order


def _attribute(item: Any, name: str, most: int) -> Any:
    """Return an attribute, or an empty tuple; it may not declare more bytes than the file has."""
    if name not in item.attrs:
        return ()
    stored = item.attrs.get_id(name)
    if math.prod(stored.shape) * stored.dtype.itemsize > most:
        raise ValueError(f"the attribute {name} declares more than the file holds")
    return item.attrs[name]


def _listed_names(file: Any, size: int) -> Iterator[str]:
    """Yield the array names that a file of Keras 2 lists, layer by layer."""
    import h5py

    for layer in _attribute(file, "layer_names", size):
        name = _text(layer)
        parts = name.split("/")
        steps = ("/".join(parts[: end + 1]) for end in range(len(parts)))
        if not all(isinstance(file.get(step, getlink=True), h5py.HardLink) for step in steps):
            continue  # a link might lead into another file, and the arrays behind it are not read
        for array in _attribute(file[name], "weight_names", size):
            yield _h5_name(f"{name}/{_text(array)}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5_name(key: str) -> str:
    """Return `LAYER/VARIABLE` for an array in a file of Keras 1 or 2; other keys as they are.

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
