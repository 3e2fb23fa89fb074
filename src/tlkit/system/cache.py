"""The feature cache: outputs of frozen layers, kept on disk between runs.

The key of an entry is a hash of everything its content depends on, so entries never go stale. An
entry is written under a temporary name and renamed, so runs can share a cache. It is checked when
it is read, which also catches what a crash leaves behind; so nothing needs to be synced.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.system.errors import ResourceError
from tlkit.system.rows import ArrayFile, Rows
from tlkit.system.seal import MAX_FILE_BYTES
from tlkit.system.untrusted import opened, read_json

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_BYTES = 20 << 30
PARTIAL = ".partial-"
DATA, META = "data.npy", "meta.json"
LAYERS = "layers"  # the folder of tables of layers; see `tlkit.model.graph.cached_table`
ABANDONED_S = 3600  # a partial entry not written to for this long was left by a killed process


@frozen
class Entry:
    """One array in the cache.

    Attributes:
        key: Its key.
        size_bytes: Its size on disk.
        used_s: When it was last used, in seconds since 1970.
    """

    key: str
    size_bytes: int
    used_s: float


def entry_key(**parts: Any) -> str:
    """Return the key of an entry that depends on `parts` and nothing else.

    >>> entry_key(cut=18) == entry_key(cut=18) != entry_key(cut=17)
    True
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def default_folder() -> Path:
    """Return `$TLKIT_CACHE`, or `tlkit` in the user's cache folder."""
    if folder := os.environ.get("TLKIT_CACHE"):
        return Path(folder)
    import platformdirs

    if not os.environ.get("XDG_CACHE_HOME"):
        home_folder()
    return platformdirs.user_cache_path("tlkit", appauthor=False)


def home_folder() -> Path:
    """Return the user's home folder."""
    try:
        return Path.home()
    except RuntimeError:
        raise ResourceError(
            "this user has no home folder; set HOME, or TLKIT_CACHE and KERAS_HOME to folders"
        ) from None


@frozen
class FeatureCache:
    """Arrays on disk by key.

    Attributes:
        folder: The cache's folder; created with the first entry.
        max_bytes: The most that all entries may take; unset: 20 GiB, or a quarter of the disk
            space that is free or the cache's own, whichever is less.
    """

    folder: Path
    max_bytes: int | None = None

    def entries(self) -> list[Entry]:
        """Return all entries, the least recently used first."""
        entries = []
        for path in self.folder.glob(f"*/{META}"):
            if path.parent.name.startswith(PARTIAL) or not path.with_name(DATA).exists():
                continue
            try:
                size = sum(file.stat().st_size for file in path.parent.iterdir())
                entries.append(Entry(path.parent.name, size, path.stat().st_mtime))
            except FileNotFoundError:  # another run has just removed it
                continue
        return sorted(entries, key=lambda entry: entry.used_s)

    def limit(self) -> int:
        """Return how many bytes all entries together may take."""
        if self.max_bytes is not None:
            return self.max_bytes
        top = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        own = sum(entry.size_bytes for entry in self.entries())
        return min(MAX_BYTES, (shutil.disk_usage(top).free + own) // 4)

    def make_room(self, size_bytes: int, keep: Collection[str] = ()) -> bool:
        """Remove the least recently used entries until so much fits; False: it never will."""
        for path in self._partial():
            if _age_s(path) > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        entries = self.entries()
        removable = [entry for entry in entries if entry.key not in keep]
        excess = sum(entry.size_bytes for entry in entries) + size_bytes - self.limit()
        if excess > sum(entry.size_bytes for entry in removable):
            return False
        for entry in removable:
            if excess <= 0:
                break
            shutil.rmtree(self.folder / entry.key, ignore_errors=True)
            excess -= entry.size_bytes
        return True

    def get(self, key: str) -> Rows | None:
        """Return an array's rows or None; a damaged entry is removed."""
        path = self.folder / key
        try:
            rows = _rows(path / DATA, _read_meta(path)["sha256"])
            os.utime(path / META)
            return rows
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # damaged
            pass
        shutil.rmtree(path, ignore_errors=True)
        return None

    def about(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each entry's key and description, the most recently used first."""
        for entry in reversed(self.entries()):
            try:
                about = _read_meta(self.folder / entry.key).get("about")
            except (OSError, ValueError):  # gone or damaged
                continue
            if isinstance(about, dict):
                yield entry.key, about

    def put(
        self,
        key: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        chunks: Iterator[npt.NDArray[Any]],
        about: Mapping[str, Any] | None = None,
    ) -> Rows:
        """Write an array chunk by chunk and return its rows.

        Args:
            key: Its key.
            shape: Its shape.
            dtype: Its dtype.
            chunks: Its rows, some at a time.
            about: A description for `about`, in plain values.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=self.folder, prefix=PARTIAL))
        try:
            # Not through a memory map: on a full disk, writing to one kills the process.
            sha256 = hashlib.sha256()
            with (partial / DATA).open("wb") as file:
                for content in _npy(shape, dtype, chunks):
                    file.write(content)
                    sha256.update(content)
            meta = {"key": key, "sha256": sha256.hexdigest(), "about": dict(about or {})}
            text = json.dumps({**meta, "meta_sha256": entry_key(**meta)})
            (partial / META).write_text(text, encoding="utf-8")
            try:
                partial.rename(self.folder / key)
            except OSError:  # another run wrote the same array first, or a damaged one is there
                if self.get(key) is None:
                    shutil.rmtree(self.folder / key, ignore_errors=True)
                    partial.rename(self.folder / key)
            return _rows(self.folder / key / DATA)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def clear(self) -> int:
        """Remove all entries and tables of layers; return how many bytes that frees."""
        entries, layers = self.entries(), self.folder / LAYERS
        freed = sum(entry.size_bytes for entry in entries)
        freed += sum(path.lstat().st_size for path in layers.glob("*"))
        keys = (entry.key for entry in entries)
        for name in (*keys, *(path.name for path in self._partial()), LAYERS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return freed

    def _partial(self) -> list[Path]:
        """Return the entries being written, or left unfinished by a killed process."""
        return list(self.folder.glob(f"{PARTIAL}*"))


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return what an entry's folder says of it."""
    meta = read_json(folder / META)
    if not isinstance(meta, dict):
        raise ValueError("must be an object")
    known = meta.pop("meta_sha256", None)  # entries of earlier versions have none
    if known is not None and (known != entry_key(**meta) or meta["key"] != folder.name):
        raise ValueError("has changed since it was written")
    return meta


def _rows(path: Path, sha256: str | None = None) -> Rows:
    """Return the rows of a `.npy` file whose content has a hash; raise ValueError if not."""
    import numpy as np

    with opened(path, MAX_FILE_BYTES) as (file, status):
        if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError("has changed since it was written")
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        rows = Rows(ArrayFile(path, file), shape, dtype, file.tell())
        if dtype.hasobject or file.tell() + rows.size_bytes != status.st_size:
            raise ValueError("is not as tlkit writes it")
    return rows


def _npy(
    shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: Iterator[npt.NDArray[Any]]
) -> Iterator[bytes | memoryview]:
    """Yield the content of a `.npy` file."""
    import numpy as np

    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    fields = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for chunk in chunks:
        yield np.ascontiguousarray(chunk, dtype).reshape(-1).data


def _age_s(folder: Path) -> float:
    """Return the seconds since a folder's files were last written to."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:  # renamed or removed meanwhile
        return 0.0
