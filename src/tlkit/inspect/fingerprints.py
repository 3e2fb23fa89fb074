"""The facts about each image that the checks compare: file, size, hashes, a thumbnail."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from attrs import field, frozen
from PIL import Image

from tlkit.data.decoding import ImageError, decoded, stored_as
from tlkit.data.images import LESS, in_parallel, picture_of
from tlkit.data.near import Bits, difference_hash
from tlkit.data.sources import LabeledImage, LabeledImages
from tlkit.system.errors import named_shortage

THUMB_SIDE = 48

Thumb = npt.NDArray[np.uint8]


@frozen(kw_only=True)
class ImageFacts:
    """What is known about one image after it was decoded.

    Attributes:
        image: The image.
        width: In pixels.
        height: In pixels.
        format: The file format.
        mode: Pillow's name for the kind of pixels, before conversion.
        bytes: The file size.
        sha256: The hash of the file.
        pixels: The hash of the picture; see `tlkit.data.images.picture_of`.
        brightest: The highest value of any channel.
        bits: The difference hash, `(32,)` uint8.
        thumb: A thumbnail, `(48, 48)` uint8.
    """

    image: LabeledImage
    width: int
    height: int
    format: str
    mode: str
    bytes: int
    sha256: str
    pixels: str
    brightest: int = 255
    bits: Bits = field(eq=False, repr=False)
    thumb: Thumb = field(eq=False, repr=False)


def all_image_facts(
    labeled: LabeledImages, on_image: Callable[[int, int], None] = lambda done, count: None
) -> tuple[list[ImageFacts], list[str]]:
    """Read every image once."""

    def attempt(image: LabeledImage) -> ImageFacts | str:
        try:
            with named_shortage(image.where, LESS):
                return image_facts(image, labeled.root.read(image.path))
        except OSError as error:
            return f"{image.where}: cannot be read: {error.strerror or error}"
        except ImageError as error:
            return f"{image.where}: {error}"

    facts: list[ImageFacts] = []
    problems: list[str] = []
    results: Iterable[ImageFacts | str] = in_parallel(attempt, labeled.images, os.cpu_count() or 1)
    for done, result in enumerate(results, start=1):
        if isinstance(result, ImageFacts):
            facts.append(result)
        else:
            problems.append(result)
        on_image(done, len(labeled.images))
    return facts, problems


def image_facts(image: LabeledImage, content: bytes) -> ImageFacts:
    """Return the facts about one image."""
    with decoded(content) as picture:
        kind, mode = stored_as(content)
        gray = picture.convert("L")
        shown = picture_of(picture)
    return ImageFacts(
        image=image,
        width=shown.width,
        height=shown.height,
        format=kind,
        mode=mode,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels=shown.pixels,
        brightest=shown.brightest,
        bits=difference_hash(gray),
        thumb=np.asarray(gray.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)),
    )
