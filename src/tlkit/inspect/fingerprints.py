"""Each image looked at once: its file, its size, its hashes and two small pictures of it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from attrs import field, frozen
from PIL import Image

from tlkit.data.dicom import is_dicom
from tlkit.data.images import ImageError, decode, in_parallel
from tlkit.data.sources import Collection, Listed

HASH_SIDE = 16  # 256 bits: with 64, 1 of 1,000 pairs of different radiographs differs in 4 or fewer
THUMB_SIDE = 48

Bits = npt.NDArray[np.uint8]
Thumb = npt.NDArray[np.uint8]


@frozen(kw_only=True)
class ImageFacts:
    """What one image is.

    Attributes:
        image: Which.
        width: In pixels.
        height: In pixels.
        format: The file's format.
        mode: Pillow's name for its kind of pixels, before it is converted.
        bytes: The file's length.
        sha256: The file's hash.
        pixels: The pixels' hash; the same picture saved twice has one.
        bits: Its difference hash: `(32,)` uint8.
        thumb: The picture made small: `(48, 48)` uint8.
    """

    image: Listed
    width: int
    height: int
    format: str
    mode: str
    bytes: int
    sha256: str
    pixels: str
    bits: Bits = field(eq=False, repr=False)
    thumb: Thumb = field(eq=False, repr=False)


def all_image_facts(
    collection: Collection, on_image: Callable[[int, int], None] = lambda done, count: None
) -> tuple[list[ImageFacts], list[str]]:
    """Look at every image.

    Args:
        collection: The images.
        on_image: Told how many of how many are done.

    Returns:
        What was seen, in order, and what is wrong with those that cannot be read.
    """

    def attempt(image: Listed) -> ImageFacts | str:
        try:
            return image_facts(image, collection.read(image))
        except (OSError, ImageError) as error:
            return f"{image.where}: {error}"

    looks: list[ImageFacts] = []
    problems: list[str] = []
    results: Iterable[ImageFacts | str] = in_parallel(
        attempt, collection.images, os.cpu_count() or 1
    )
    for done, found in enumerate(results, start=1):
        if isinstance(found, ImageFacts):
            looks.append(found)
        else:
            problems.append(found)
        on_image(done, len(collection.images))
    return looks, problems


def image_facts(image: Listed, content: bytes) -> ImageFacts:
    """Look at one image.

    Raises:
        ImageError: If it is no sound image.
    """
    picture = decode(content)
    grey = picture.convert("L")
    kind, mode = ("DICOM", "L") if is_dicom(content) else _header(content)
    return ImageFacts(
        image=image,
        width=picture.width,
        height=picture.height,
        format=kind,
        mode=mode,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels=hashlib.sha256(f"{picture.size}".encode() + _colours(picture)).hexdigest(),
        bits=difference_hash(grey),
        thumb=np.asarray(grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)),
    )


def difference_hash(grey: Image.Image) -> Bits:
    """Return whether it becomes brighter to the right, in 16 rows of 16 places: `(32,)` uint8.

    Size, compression and contrast hardly change it. Of 398,278 pairs of different X-rays
    none differed in fewer than 17 of the 256 bits; halving, JPEG at quality 40 or noise of standard
    deviation 5 change 9 or fewer in 95 of 100.
    """
    small = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1])


def _header(content: bytes) -> tuple[str, str]:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.format or "", picture.mode


def _colours(picture: Image.Image) -> bytes:
    """Return the pixels as RGB: a grey picture saved in colour is the same picture."""
    return picture.convert("RGB").tobytes()
