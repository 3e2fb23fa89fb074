"""The feature cache: what frozen layers make of images, kept on disk between runs.

An entry is named by a hash of all that its content depends on, so it never goes stale; it is
written beside its place and renamed, so two runs may share a cache; it is checked when it is read,
so it need not be synced: what a crash leaves of it is noticed then.
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

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_BYTES = 20 << 30
PARTIAL = ".partial-"
DATA, META = "data.npy", "meta.json"
ABANDONED_S = 3600  # what nobody has written to for so long, a killed process has left


@frozen
class Entry:
    """One array in the cache.

    Attributes:
        key: Its name.
        size_bytes: What it takes on the disk.
        used_s: When it was last used, in seconds since 1970.
    """

    key: str
    size_bytes: int
    used_s: float


def entry_key(**what: Any) -> str:
    """Return the name of the entry that depends on `what` and nothing else.

    >>> entry_key(cut=18) == entry_key(cut=18) != entry_key(cut=17)
    True
    """
    text = json.dumps(what, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def default_folder() -> Path:
    """Return `$TLKIT_CACHE`, or `tlkit` in the user's cache folder."""
    if chosen := os.environ.get("TLKIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tlkit"


@frozen
class FeatureCache:
    """Arrays on disk by key.

    Attributes:
        folder: Where they are; made when the first is written.
        most_bytes: What they may take together; unset: 20 GiB, or a quarter of the disk space
            that is free or theirs, if that is less.
    """

    folder: Path
    most_bytes: int | None = None

    def entries(self) -> list[Entry]:
        """Return what there is, the least recently used first."""
        found = []
        for path in self.folder.glob(f"*/{META}"):
            if path.parent.name.startswith(PARTIAL) or not path.with_name(DATA).exists():
                continue
            try:
                size = sum(file.stat().st_size for file in path.parent.iterdir())
                found.append(Entry(path.parent.name, size, path.stat().st_mtime))
            except FileNotFoundError:  # another run has just removed it
                continue
        return sorted(found, key=lambda entry: entry.used_s)

    def limit(self) -> int:
        """Return how many bytes the entries may take together."""
        if self.most_bytes is not None:
            return self.most_bytes
        top = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        own = sum(entry.size_bytes for entry in self.entries())
        return min(MOST_BYTES, (shutil.disk_usage(top).free + own) // 4)

    def make_room(self, size_bytes: int, keep: Collection[str] = ()) -> bool:
        """Remove what was not used for longest until `size_bytes` more fit.

        Returns:
            Whether they fit; if not, nothing is removed.
        """
        for path in self._partial():
            if _age_s(path) > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        entries = self.entries()
        removable = [entry for entry in entries if entry.key not in keep]
        over = sum(entry.size_bytes for entry in entries) + size_bytes - self.limit()
        if over > sum(entry.size_bytes for entry in removable):
            return False
        for entry in removable:
            if over <= 0:
                break
            shutil.rmtree(self.folder / entry.key, ignore_errors=True)
            over -= entry.size_bytes
        return True

    def get(self, key: str) -> npt.NDArray[Any] | None:
        """Return an array, mapped from its file, or None; a damaged one is removed."""
        import numpy as np

        path = self.folder / key
        try:
            meta = json.loads((path / META).read_text(encoding="utf-8"))
            if _sha256(path / DATA) == meta["sha256"]:
                os.utime(path / META)
                found: npt.NDArray[Any] = np.load(path / DATA, mmap_mode="r")
                return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # damaged
            pass
        shutil.rmtree(path, ignore_errors=True)
        return None

    def about(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the name of every entry and what was said of it, the last used first."""
        for entry in reversed(self.entries()):
            try:
                text = (self.folder / entry.key / META).read_text(encoding="utf-8")
                said = json.loads(text).get("about")
            except (OSError, ValueError, AttributeError):  # gone, or damaged
                continue
            if isinstance(said, dict):
                yield entry.key, said

    def put(
        self,
        key: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        chunks: Iterator[npt.NDArray[Any]],
        about: Mapping[str, Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Write an array from its rows, chunk by chunk, and return it, mapped from its file.

        Args:
            key: Its name.
            shape: Its shape.
            dtype: Its type.
            chunks: Its rows, some at a time.
            about: What `about` is to tell of it, as plain values.

        Raises:
            OSError: If it cannot be written; then nothing is left behind.
        """
        import numpy as np

        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=self.folder, prefix=PARTIAL))
        try:
            # Not through a mapped file: where the disk is full, that ends the process.
            sha256 = hashlib.sha256()
            with (partial / DATA).open("wb") as file:
                for content in _npy(shape, dtype, chunks):
                    file.write(content)
                    sha256.update(content)
            meta = {"sha256": sha256.hexdigest(), "about": dict(about or {})}
            (partial / META).write_text(json.dumps(meta), encoding="utf-8")
            try:
                partial.rename(self.folder / key)
            except OSError:  # another run was faster, and its array is the same; or a damaged one
                if self.get(key) is None:
                    shutil.rmtree(self.folder / key, ignore_errors=True)
                    partial.rename(self.folder / key)
            found: npt.NDArray[Any] = np.load(self.folder / key / DATA, mmap_mode="r")
            return found
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def clear(self) -> int:
        """Remove every entry and return how many bytes that frees."""
        entries = self.entries()
        for name in (*(entry.key for entry in entries), *(path.name for path in self._partial())):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return sum(entry.size_bytes for entry in entries)

    def _partial(self) -> list[Path]:
        """Return what is being written, or was when a process was killed."""
        return list(self.folder.glob(f"{PARTIAL}*"))


def _npy(
    shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: Iterator[npt.NDArray[Any]]
) -> Iterator[bytes | memoryview]:
    """Yield the content of a `.npy` file with an array of so many rows."""
    import numpy as np

    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    fields = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for chunk in chunks:
        yield np.ascontiguousarray(chunk, dtype).reshape(-1).data


def _age_s(folder: Path) -> float:
    """Return for how long nobody has written to a folder's files, in seconds."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:  # it is done, or gone
        return 0.0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
