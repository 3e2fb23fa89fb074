"""The feature cache: what frozen layers make of images, kept on disk between runs.

An entry is named by a hash of all that its content depends on, so it never goes stale; it is
written beside its place and renamed, so two runs may share a cache; it is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_BYTES = 20 << 30
PARTIAL = ".partial-"


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
        for path in self.folder.glob("*/meta.json"):
            if path.parent.name.startswith(PARTIAL):
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
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            if _sha256(path / "data.npy") == meta["sha256"]:
                os.utime(path / "meta.json")
                found: npt.NDArray[Any] = np.load(path / "data.npy", mmap_mode="r")
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
                text = (self.folder / entry.key / "meta.json").read_text(encoding="utf-8")
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
            array = np.lib.format.open_memmap(
                partial / "data.npy", mode="w+", dtype=dtype, shape=shape
            )
            start = 0
            for chunk in chunks:
                array[start : start + len(chunk)] = chunk
                start += len(chunk)
            array.flush()
            del array  # or its pages would count as this process's memory
            meta = {"sha256": _sha256(partial / "data.npy"), "about": dict(about or {})}
            (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            try:
                partial.rename(self.folder / key)
            except OSError:  # another run was faster; its array is the same
                if not (self.folder / key).is_dir():
                    raise
            found: npt.NDArray[Any] = np.load(self.folder / key / "data.npy", mmap_mode="r")
            return found
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def clear(self) -> int:
        """Remove everything and return how many bytes that frees."""
        freed = sum(entry.size_bytes for entry in self.entries())
        shutil.rmtree(self.folder, ignore_errors=True)
        return freed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
