"""What an image file shows, and a table on disk of what is known about them."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen
from PIL import Image

from tlkit.data.decoding import LESS, RULES, ImageError, decoded
from tlkit.data.file_work import over_files
from tlkit.data.images import Pixels
from tlkit.data.near import Bits, difference_hash, difference_hashes
from tlkit.system.errors import named_shortage
from tlkit.system.files import write_bytes
from tlkit.system.text import printable
from tlkit.system.untrusted import TABLE_BYTES, read_bytes

DARK = 16  # of 255: the white of 12-bit values in a 16-bit file
LOOKS_DARK = f"no value above {DARK} of 255, as 12-bit values in a 16-bit file"
SMALL_PX = 64  # of a picture's sides, so that it is looked at together with others
MAX_INDEXED = 300_000  # images; 65 MB


@frozen
class Picture:
    """What a sound image file shows.

    Attributes:
        pixels: A hash of its size and decoded pixels: equal for two files with the same picture.
        width: In pixels.
        height: In pixels.
        flat: Whether it has only one color.
        brightest: The highest value of any channel, of 255.
        bits: Its difference hash in hexadecimal digits; see `tlkit.data.near`.
    """

    pixels: str
    width: int
    height: int
    flat: bool
    brightest: int = 255
    bits: str = "0" * 64

    @property
    def dark(self) -> bool:
        """Return whether hardly anything can be seen, although there is more than one color."""
        return not self.flat and self.brightest <= DARK

    def __str__(self) -> str:
        size = f"{self.width} {self.height}"
        return f"{self.pixels} {size} {self.flat:d} {self.brightest} {self.bits}"

    @classmethod
    def parse(cls, text: str) -> Picture:
        """Return the picture that `str` wrote."""
        pixels, width, height, flat, brightest, bits = text.split(" ")
        return cls(pixels, int(width), int(height), flat == "1", int(brightest), bits)


def picture_of(image: Image.Image) -> Picture:
    """Return what a decoded image shows. This is the only place that tells the same picture.

    Gray and color with three equal channels are the same picture.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 3 and _all_equal(pixels, pixels[..., :1]):
        pixels = pixels[..., 0]
    flat = _all_equal(pixels, np.broadcast_to(pixels[:1, :1], pixels.shape))
    bits = difference_hash(image.convert("L"))
    return _picture(pixels, flat, int(pixels.max()), bits)


def small_pixels(image: Image.Image) -> Pixels | None:
    """Return a picture's pixels if `pictures_of` takes it."""
    return np.asarray(image) if image.height <= image.width <= SMALL_PX else None


def pictures_of(images: Sequence[Pixels]) -> list[Picture]:
    """Return what `picture_of` does for each of some small pictures, quicker than one by one."""
    pictures: dict[int, Picture] = {}
    shapes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, pixels in enumerate(images):
        shapes[pixels.shape].append(place)
    for shape, places in shapes.items():
        stack = np.stack([images[place] for place in places])
        bits = difference_hashes(stack)
        gray = (stack == stack[..., :1]).all((1, 2, 3)) if len(shape) == 3 else [False] * len(stack)
        rest = tuple(range(1, stack.ndim))
        flat = (stack == stack[:, :1, :1]).all(rest)
        brightest = stack.max(rest)
        for n, place in enumerate(places):
            pixels = stack[n, ..., 0] if gray[n] else stack[n]
            pictures[place] = _picture(pixels, bool(flat[n]), int(brightest[n]), bits[n])
    return [pictures[place] for place in range(len(images))]


def _picture(pixels: Pixels, flat: bool, brightest: int, bits: Bits) -> Picture:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    height, width = pixels.shape[:2]
    return Picture(digest.hexdigest(), width, height, flat, brightest, bits.tobytes().hex())


def looks_dark(pixels: Pixels) -> bool:
    """Return whether hardly anything can be seen in pixels that have more than one color."""
    return bool(0 < pixels.max() <= DARK and pixels.min() < pixels.max())


def _all_equal(pixels: npt.NDArray[Any], others: npt.NDArray[Any]) -> bool:
    """Compare the first row first: most pictures differ there, and the rest takes time."""
    return bool((pixels[:1] == others[:1]).all() and (pixels == others).all())


@frozen
class DecodedImageIndex:
    """A table on disk of the pictures in sound image files, so that each is decoded only once.

    A file is known by the hash of its bytes, so entries never go stale. The table is written whole:
    of two processes at once, one may lose what it added.

    Attributes:
        folder: Where the table is; created when something is written.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """Return the table for these rules and the installed decoders."""
        decoders = "-".join(filter(None, map(_version, ("pillow", "pydicom", "pillow-heif"))))
        return self.folder / f"pictures-{RULES}-{decoders}.txt"

    def read(self) -> dict[str, Picture]:
        """Return all entries by the file's hash; none if the table is missing or damaged."""
        try:
            digest, _, body = read_bytes(self.path, TABLE_BYTES).partition(b"\n")
            if digest.decode("ascii") != hashlib.sha256(body).hexdigest():
                return {}
            rows = (line.partition(" ") for line in body.decode("ascii").splitlines())
            return {file: Picture.parse(rest) for file, _, rest in rows}
        except (OSError, ValueError):
            return {}

    def add(self, pictures: Mapping[str, Picture]) -> None:
        """Add entries; does nothing where nothing can be written."""
        known = {**self.read(), **pictures}
        rows = [f"{file} {picture}" for file, picture in known.items()][-MAX_INDEXED:]
        body = "\n".join(rows).encode("ascii")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def look_at(
    read: Callable[[str], bytes],
    paths: Sequence[str],
    hashes: Sequence[str],
    index: DecodedImageIndex,
    on_image: Callable[[int, int], None] = lambda done, count: None,
    unreadable: bool = False,
) -> list[tuple[str, Picture | None]]:
    """Return each file's hash and what it shows; None if it cannot be decoded.

    Only files that the index does not know are decoded, and then added. With `unreadable`, a file
    that cannot be read counts as one that has its name as content.
    """
    known = index.read()

    def look(file: tuple[str, str]) -> tuple[str, Picture | None]:
        path, sha256 = file
        if sha256 in known:
            return sha256, known[sha256]
        with named_shortage(printable(path), LESS):
            try:
                content = read(path)
            except OSError:
                if not unreadable:
                    raise
                content = path.encode(errors="replace")
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 in known:
                return sha256, known[sha256]
            try:
                with decoded(content) as image:
                    return sha256, picture_of(image)
            except ImageError:
                return sha256, None

    looks: list[tuple[str, Picture | None]] = []
    files = [*zip(paths, hashes, strict=True)]
    pack, unpack = _pack_look, _unpack_look
    with over_files(lambda some: [*map(look, some)], files, read, pack, unpack) as found:
        for each in found:
            looks.append(each)
            on_image(len(looks), len(paths))
    new = {sha256: picture for sha256, picture in looks if picture}
    if new.keys() - known.keys():
        index.add(new)
    return looks


def _pack_look(look: tuple[str, Picture | None]) -> list[str]:
    sha256, picture = look
    return [sha256, str(picture or "")]


def _unpack_look(file: object, plain: Sequence[str]) -> tuple[str, Picture | None]:
    sha256, picture = plain
    return sha256, Picture.parse(picture) if picture else None


class Looks:
    """What images show, noted while a `Reader` decodes them, so that none is decoded twice.

    Args:
        index: The pictures known so far.
    """

    def __init__(self, index: DecodedImageIndex) -> None:
        self.index, self.known = index, index.read()
        self.seen: dict[str, tuple[str, Picture]] = {}  # by path

    def __call__(self, path: str, content: bytes, image: Image.Image) -> None:
        """Note the hash of a file and what it shows."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.seen[path] = sha256, self.known.get(sha256) or picture_of(image)

    def save(self) -> None:
        """Add new pictures to the index."""
        pictures = dict(self.seen.values())
        if pictures.keys() - self.known.keys():
            self.index.add(pictures)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # DICOM is an extra
        return ""
