"""Weights: finding or fetching a source's file and loading it, with every mismatch an error."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.model.graph import named_weights
from tlkit.system.errors import WeightsError
from tlkit.system.files import atomic_write
from tlkit.weights.files import HDF5, Arrays, NamedSource

if TYPE_CHECKING:
    import keras
    import numpy as np

WeightsSource = NamedSource | Path

BSDS500_IS_VGG16 = "backbone.weights: bsds500 has the layers of vgg16 and of no other backbone"
CONNECT_SECONDS = 5
TOTAL_SECONDS = 1800  # 60 MB at 33 kB a second; what is slower is as good as not there
READ_SECONDS = 15  # a server that accepts and then says nothing is given up after this


class NotAvailableError(WeightsError):
    """A source that is not there; the next one is tried. Anything else that is wrong ends it."""


@frozen
class RemoteFile:
    """A file that Keras publishes.

    Attributes:
        url: Where it is.
        checksum: Its MD5 or SHA-256, whichever Keras publishes; empty if it publishes none.
        name: What it is called in Keras's own place; empty: as in the address.
    """

    url: str
    checksum: str
    name: str = ""

    @property
    def path(self) -> Path:
        """Return Keras's own place for it."""
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        return Path(home) / "models" / (self.name or self.url.rpartition("/")[2])


def load_first(
    model: keras.Model,
    sources: Sequence[WeightsSource],
    arrays: Callable[[WeightsSource], Arrays],
) -> dict[str, str]:
    """Load the first available source into a model.

    Args:
        model: A flat model whose layer names are those in the files.
        sources: What to try, in order.
        arrays: Reads one source; raises `NotAvailableError` if it is not there.

    Returns:
        `source`, `file` (its name) and `sha256` of what was used, and why earlier ones were not
        (`passed_over`).

    Raises:
        WeightsError: If no source is available, or one is broken or does not fit.
    """
    missing: list[str] = []
    for source in sources:
        if source == "none":
            return _record("none", passed_over=missing)
        try:
            found = arrays(source)
        except NotAvailableError as error:
            missing.append(f"{source}: {error}")
            continue
        assign(model, found)
        return _record(str(source) if isinstance(source, str) else "path", found, missing)
    raise WeightsError("backbone.weights: none is available\n" + "\n".join(missing))


def _record(
    source: str, found: Arrays | None = None, passed_over: Sequence[str] = ()
) -> dict[str, str]:
    record = {"source": source}
    if found is not None:
        record |= {"file": found.path.name, "sha256": found.sha256}
    if passed_over:
        record["passed_over"] = "; ".join(passed_over)
    return record


def assign(model: keras.Model, arrays: Arrays) -> None:
    """Put arrays into the variables of the same name, and nothing else anywhere.

    Raises:
        WeightsError: If names or shapes differ, with what differs in both directions.
    """
    variables = {
        f"{layer.name}/{name}": variable
        for layer in model.layers
        for name, variable in named_weights(layer)
    }
    named = _by_variable_name(model, arrays.named)
    lacking = sorted(variables.keys() - named.keys())
    surplus = sorted(named.keys() - variables.keys())
    if lacking or surplus:
        raise WeightsError(
            f"{arrays.path}: does not fit {model.name}; "
            f"missing in the file: {_some(lacking)}; only in the file: {_some(surplus)}"
        )
    unlike = [
        f"{name} has shape {tuple(named[name].shape)}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if tuple(named[name].shape) != tuple(variable.shape)
    ]
    if unlike:
        raise WeightsError(f"{arrays.path}: {_some(unlike, '; ')}")
    for name in variables:
        if not _finite(named[name]):
            raise WeightsError(f"{arrays.path}: {name} has values that are not finite")
    for name, variable in variables.items():
        variable.assign(named[name])


def _by_variable_name(model: keras.Model, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the arrays of a Keras 3 file, numbered within a layer, their variables' names."""
    names = {
        f"{layer.name}/{index}": f"{layer.name}/{name}"
        for layer in model.layers
        for index, (name, _) in enumerate(named_weights(layer))
    }
    return {names.get(key, key): array for key, array in named.items()}


def _some(names: Sequence[str], joint: str = ", ") -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return joint.join(names[:4]) + more if names else "nothing"


def _finite(array: np.ndarray[Any, Any]) -> bool:
    import numpy as np

    return bool(np.isfinite(array).all())


def installed_file(distribution: str, name: str) -> Path:
    """Return a data file of an installed distribution without importing it.

    Raises:
        NotAvailableError: If the distribution or the file is not installed.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise NotAvailableError(
            f"the package {distribution} is not installed; pip install 'tlkit[offline]'"
        ) from None
    for file in files:
        if file.as_posix() == name:
            return Path(str(file.locate()))
    raise NotAvailableError(f"the package {distribution} has no file {name}")


def fetch(
    remote: RemoteFile, connect_s: float = CONNECT_SECONDS, read_s: float = READ_SECONDS
) -> Path:
    """Return the path of a published file, downloading it into Keras's own place if need be.

    Args:
        remote: The file.
        connect_s: How long a connection may take, in seconds.
        read_s: How long the server may be silent, in seconds.

    Raises:
        NotAvailableError: If it cannot be had: no connection, no answer, not found.
        WeightsError: If its hash is wrong.
    """
    if remote.path.is_file():
        return _checked(remote, remote.path)
    import requests
    import urllib3

    whole = {"Accept-Encoding": "identity"}  # the hash is that of the file itself
    try:
        with requests.get(
            remote.url, headers=whole, stream=True, timeout=(connect_s, read_s)
        ) as answer:
            if answer.status_code == 404:
                raise NotAvailableError(f"{remote.url}: not found")
            answer.raise_for_status()
            # One read of the connection at a time: `iter_content` waits for a whole chunk, however
            # slowly its bytes drip in.
            return _store(remote, iter(lambda: answer.raw.read1(1 << 16), b""))
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
    """Return a path with the home folder written as `~`: messages are kept in run folders."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _store(remote: RemoteFile, chunks: Iterable[bytes]) -> Path:
    end = time.monotonic() + TOTAL_SECONDS
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(remote.path) as partial:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                if time.monotonic() > end:
                    raise NotAvailableError(f"{remote.url}: took more than {TOTAL_SECONDS} s")
        _checked(remote, partial)
    return remote.path


def _checked(remote: RemoteFile, path: Path) -> Path:
    """Return the path of a file that is what it should be, in its place or just fetched."""
    kind = "sha256" if len(remote.checksum) == 64 else "md5"
    in_place = path == remote.path
    where, way_out = (str(path), "; delete it or replace it") if in_place else (remote.url, "")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{short(path)}: cannot be read: {error.strerror}") from None
    found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if remote.checksum and found != remote.checksum:
        raise WeightsError(
            f"{where}: has {kind.upper()} {found}, expected {remote.checksum}{way_out}"
        )
    if not remote.checksum and not content.startswith(HDF5):  # a network's login page, say
        raise WeightsError(f"{where}: is no HDF5 file, it begins with {content[:15]!r}{way_out}")
    return path
