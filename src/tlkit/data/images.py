"""Image files of one size: from bytes to pixels, several files at a time.

`tlkit.data.decoding` has the rules by which a file becomes a picture. Gray is repeated to three
channels here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from attrs import field, frozen
from PIL import Image

from tlkit.data.decoding import LESS, ImageError, decoded
from tlkit.data.file_work import TOGETHER
from tlkit.data.pixel_store import PixelStore
from tlkit.system.errors import DataError, named_shortage
from tlkit.system.parallel import available_cores, in_parallel
from tlkit.system.text import printable

Pixels = npt.NDArray[np.uint8]
Resize = Literal["stretch", "pad", "crop"]


def to_pixels(
    content: bytes, size: int, resize: Resize = "stretch", mask_center: float = 0.0
) -> Pixels:
    """Return an image file's pixels at one size.

    Args:
        content: The file.
        size: Height and width of the result, in pixels.
        resize: `stretch` ignores the aspect ratio, `pad` adds black, `crop` cuts the longer side.
        mask_center: The share of each side that is blacked out at the center.

    Returns:
        `(size, size, 3)` uint8; bilinear with antialiasing.
    """
    with decoded(content) as image:
        return resized(image, size, resize, mask_center)


def resized(
    image: Image.Image,
    size: int,
    resize: Resize,
    mask_center: float,
    pixels: Pixels | None = None,
) -> Pixels:
    """Return a picture's pixels as `to_pixels` does; `pixels` are its own, if they are known."""
    if pixels is None or image.size != (size, size):
        pixels = np.asarray(_resized(image, size, resize), dtype=np.uint8)
    if mask_center:
        pixels = pixels.copy()
        edge = round(size * (1 - mask_center) / 2)
        pixels[edge : size - edge, edge : size - edge] = 0
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _resized(image: Image.Image, size: int, resize: Resize) -> Image.Image:
    box = None
    if resize == "pad":
        image = _padded(image, size)
    elif resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _padded(image: Image.Image, size: int) -> Image.Image:
    """Return the whole image on a black square; its shorter side keeps at least one pixel."""
    width, height = image.size
    if width == height:
        return image
    if width > height:
        inner = size, max(1, round(height / width * size))
    else:
        inner = max(1, round(width / height * size)), size
    square = Image.new(image.mode, (size, size))
    corner = round((size - inner[0]) * 0.5), round((size - inner[1]) * 0.5)
    square.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
    return square


@frozen
class Reader:
    """A reader of images by path that resizes them, several at a time.

    Attributes:
        read: Returns the bytes at a path.
        size: Height and width of the pixels.
        resize: How images that are not square are resized; see `to_pixels`.
        mask_center: The share of each side that is blacked out at the center.
        flip: Whether the pixels are those of the horizontal mirror image.
        workers: The number of images decoded at the same time; does not change the pixels.
        store: Keeps the pixels of images that have been decoded.
        on_decoded: Called with each file's path, its bytes and its picture.
    """

    read: Callable[[str], bytes]
    size: int
    resize: Resize = "stretch"
    mask_center: float = 0.0
    flip: bool = False
    workers: int = field(factory=available_cores)
    store: PixelStore | None = None
    on_decoded: Callable[[str, bytes, Image.Image], None] | None = None

    def __call__(self, path: str) -> Pixels:
        """Return the pixels of one image, `(size, size, 3)` uint8."""
        stored = self.store.get(path) if self.store else None
        if stored is not None:
            pixels = np.frombuffer(stored, np.uint8).reshape(self.size, self.size, 3)
        else:
            try:
                with named_shortage(printable(path), LESS):
                    content = self.read(path)
                    with decoded(content) as image:
                        pixels = self.keep(path, image)
                        if self.on_decoded:
                            self.on_decoded(path, content, image)
            except (OSError, ImageError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                raise DataError(f"{printable(path)}: {reason}") from None
        return pixels[:, ::-1] if self.flip else pixels

    def keep(self, path: str, image: Image.Image, pixels: Pixels | None = None) -> Pixels:
        """Return the pixels of a decoded image, not mirrored, and store them; see `resized`."""
        pixels = resized(image, self.size, self.resize, self.mask_center, pixels)
        if self.store:
            self.store.put(path, pixels.tobytes())
        return pixels

    def batches(self, paths: Sequence[str], batch: int) -> Iterator[Pixels]:
        """Yield the pixels in batches, in order, while later images are decoded."""
        ahead = max(2 * batch, 4 * self.workers)  # a small batch must not keep cores waiting
        size = max(1, min(TOGETHER, batch // (2 * self.workers)))
        parts = [paths[start : start + size] for start in range(0, len(paths), size)]
        some = in_parallel(lambda part: [*map(self, part)], parts, self.workers, -(-ahead // size))
        images = itertools.chain.from_iterable(some)
        while chunk := list(itertools.islice(images, batch)):
            yield np.stack(chunk)
