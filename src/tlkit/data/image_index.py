"""What is image_index of image files that were found sound, so that they are decoded once only.

A file is known by the hash of its bytes, so nothing that is image_index goes stale. The table is
written whole: two processes at once lose at most what the other has just learnt.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import frozen

from tlkit.system.files import write_bytes

RULES = 1  # counts up when `tlkit.data.images.decode` accepts or makes other pictures
MOST = 300_000  # images; 45 MB


@frozen
class Picture:
    """What a sound image file shows.

    Attributes:
        pixels: A hash of its size and decoded pixels.
        width: In pixels.
        height: In pixels.
        flat: Whether all of it has one colour.
    """

    pixels: str
    width: int
    height: int
    flat: bool

    def __str__(self) -> str:
        return f"{self.pixels} {self.width} {self.height} {self.flat:d}"

    @classmethod
    def parse(cls, text: str) -> Picture:
        """Return what `str` wrote."""
        pixels, width, height, flat = text.split(" ")
        return cls(pixels, int(width), int(height), flat == "1")


@frozen
class DecodedImageIndex:
    """A table of pictures on disk, by the hash of their files.

    Attributes:
        folder: Where it is; made when something is written.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """Return the table of this tlkit's rules and the decoders that are installed."""
        decoders = "-".join(filter(None, map(_version, ("pillow", "pydicom"))))
        return self.folder / f"pictures-{RULES}-{decoders}.txt"

    def read(self) -> dict[str, Picture]:
        """Return all that is known; a table that is missing or damaged is empty."""
        try:
            digest, _, body = self.path.read_bytes().partition(b"\n")
            if digest.decode("ascii") != hashlib.sha256(body).hexdigest():
                return {}
            rows = (line.partition(" ") for line in body.decode("ascii").splitlines())
            return {file: Picture.parse(rest) for file, _, rest in rows}
        except (OSError, ValueError):
            return {}

    def add(self, found: Mapping[str, Picture]) -> None:
        """Write what is new beside what there is; where nothing can be written, nothing is."""
        known = {**self.read(), **found}
        rows = [f"{file} {picture}" for file, picture in known.items()][-MOST:]
        body = "\n".join(rows).encode("ascii")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # DICOM is an extra
        return ""
