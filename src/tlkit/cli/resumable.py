"""Rows of `tlkit predict --resume`: kept when it is interrupted, so that it can go on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import typer
from attrs import define, field

from tlkit.data.sources import Rejected
from tlkit.runfolder.folder import CALIBRATION, ENSEMBLE, PLAN, WEIGHTS
from tlkit.system.errors import TlkitError
from tlkit.system.files import exists, write_text
from tlkit.system.seal import hash_of
from tlkit.system.text import printable
from tlkit.system.untrusted import read_json

T = TypeVar("T")
SAVE_EVERY_S = 5.0


def named_by(run: Path, images: Sequence[str | Rejected], *settings: object) -> str:
    """Return a hash of what rows depend on: a run, the images' names, and the output's form."""
    files = [run / name for name in (PLAN, WEIGHTS, CALIBRATION, ENSEMBLE)]
    hashes = [hash_of(file).sha256 for file in files if exists(file)]
    text = json.dumps([hashes, [str(setting) for setting in settings], [*map(str, images)]])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@define
class Rows:
    """The rows so far, in `FILE.unfinished`; `FILE.unfinished.json` says what they are.

    Attributes:
        of: What they depend on; see `named_by`.
        file: The file of the rows, at its end.
        place: Where it says how far they are.
        images: How many images are done.
        rejected: Those that have no row.
        dark: Those that are nearly black.
    """

    of: str
    file: BinaryIO
    place: Path
    images: int = 0
    rejected: list[Rejected] = field(factory=list)
    dark: list[str] = field(factory=list)
    _written: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), init=False)
    _saved_s: float = field(factory=time.monotonic, init=False)

    @property
    def begun(self) -> bool:
        """Return whether there are lines already."""
        return self._written[1] > 0

    def count(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the same items, and count them; they are done when `write` comes."""
        for item in items:
            self.images += 1
            yield item

    def write(self, line: str) -> None:
        """Write the row of the last item that was counted, or the column names."""
        self.file.write(f"{line}\n".encode())
        self.mark()
        if time.monotonic() >= self._saved_s + SAVE_EVERY_S:
            self.save()

    def mark(self) -> None:
        """Take everything so far as done."""
        self._written = self.images, self.file.tell(), len(self.rejected), len(self.dark)

    def save(self) -> None:
        """Put the rows on the disk, and how far they are."""
        self.file.flush()
        os.fsync(self.file.fileno())
        images, size, rejected, dark = self._written
        state = {
            "of": self.of,
            "images": images,
            "bytes": size,
            "rejected": [[entry.path, entry.reason] for entry in self.rejected[:rejected]],
            "dark": self.dark[:dark],
        }
        write_text(self.place, json.dumps(state))
        self._saved_s = time.monotonic()


@contextmanager
def resumable(out: Path, of: str) -> Iterator[Rows]:
    """Yield the rows of a file, after those of an interrupted command; they become `out`.

    Raises:
        BadParameter: If there are rows of other images, of another run or in another form.
    """
    unfinished = out.with_name(f"{out.name}.unfinished")
    place = out.with_name(f"{unfinished.name}.json")
    with unfinished.open("ab") as file:
        rows = Rows(of, file, place)
        if exists(place):
            state = _state(place)
            if state.get("of") != of or file.tell() < state["bytes"]:
                message = "is of another run or other images; delete it to begin again"
                raise typer.BadParameter(printable(f"{place}: {message}"), param_hint="--resume")
            file.truncate(state["bytes"])
            rows.images, rows.dark = state["images"], state["dark"]
            rows.rejected = [Rejected(*entry) for entry in state["rejected"]]
        else:
            file.truncate(0)
        file.seek(0, os.SEEK_END)
        rows.mark()
        try:
            yield rows
        finally:
            rows.save()
    unfinished.replace(out)
    with suppress(OSError):
        place.unlink()


def _state(place: Path) -> dict[str, Any]:
    try:
        state = read_json(place)
        kinds = {"of": str, "images": int, "bytes": int, "rejected": list, "dark": list}
        if all(isinstance(state[key], kind) for key, kind in kinds.items()):
            return dict(state)
    except (TlkitError, OSError, ValueError, KeyError, TypeError):
        pass
    return {"bytes": 0}
