"""Image files: from bytes to pixels of one size, and what a file shows.

`tlkit.data.decoding` has the rules by which a file becomes a picture. Gray is repeated to three
channels here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from attrs import field, frozen
from PIL import Image

from tlkit.data.decoding import RULES, ImageError, decoded
from tlkit.data.near import Bits, difference_hash, difference_hashes
from tlkit.data.pixel_store import PixelStore
from tlkit.data.root import ImageRoot
from tlkit.system.errors import DataError, named_shortage
from tlkit.system.files import write_bytes
from tlkit.system.limits import decoding_budget
from tlkit.system.parallel import Forked, available_cores, can_fork, in_parallel
from tlkit.system.text import printable
from tlkit.system.untrusted import TABLE_BYTES, read_bytes

DARK = 16  # of 255: the white of 12-bit values in a 16-bit file
LOOKS_DARK = f"no value above {DARK} of 255, as 12-bit values in a 16-bit file"
LESS = "; free some, or lower TLKIT_DECODING_MB"
SMALL_PX = 64  # of a picture's sides, so that it is looked at together with others
TOGETHER = 32  # images per piece of work of a thread, if there are many
# Decoding smaller files is nearly all Python, which threads cannot share: with two threads on two
# cores, files of 2 to 10 kB took 1.1 to 1.3 times as long as with one, and 1.4 times the processor.
SMALL_FILE_BYTES = 10_000
AHEAD = 64  # files that threads have done, at least, before their results are used
MANY = 500  # files for which processes are worth their start, a few hundredths of a second
MAX_INDEXED = 300_000  # images; 65 MB

Pixels = npt.NDArray[np.uint8]
Resize = Literal["stretch", "pad", "crop"]
A = TypeVar("A")
B = TypeVar("B")


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


@contextlib.contextmanager
def over_files(
    work: Callable[[Sequence[A]], Sequence[B]],
    items: Sequence[A],
    read: Callable[[str], bytes],
    pack: Callable[[B], Any],
    unpack: Callable[[A, Any], B],
    file_bytes: float | None = None,
) -> Iterator[Iterable[B]]:
    """Yield the results of work on many files, in order.

    In a process of tlkit's own, forked processes begin with many files at once; elsewhere, threads
    begin when the results are asked for.

    Args:
        work: Returns a result for each of some items, whose files it decodes.
        items: What it is done for.
        read: How it reads a file.
        pack: Makes plain values of a result, to be sent by a process.
        unpack: Returns the result for an item, given these.
        file_bytes: The mean size of the files; None: it is not known.
    """
    cores = available_cores()
    size = max(1, min(TOGETHER, len(items) // (4 * cores)))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    # Another `read` may share something with its copies in other processes, such as an archive.
    own = isinstance(getattr(read, "__self__", None), ImageRoot)
    if own and cores > 1 and len(items) >= MANY and can_fork():
        forked = Forked(
            work,
            parts,
            cores,
            pack=lambda results: [*map(pack, results)],
            unpack=lambda part, plain: [*map(unpack, part, plain)],
            on_start=partial(setattr, decoding_budget, "processes", cores),
        )
        try:
            yield itertools.chain.from_iterable(forked)
        finally:
            forked.end()
        return
    threads = decoding_threads(file_bytes)
    ahead = AHEAD // size + 2 * threads
    yield itertools.chain.from_iterable(in_parallel(work, parts, threads, ahead))


def decoding_threads(file_bytes: float | None) -> int:
    """Return how many threads should decode files of a mean size; None: it is not known."""
    small = file_bytes is not None and file_bytes < SMALL_FILE_BYTES
    return 1 if small else available_cores()


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
