"""From the bytes of an image file to its picture, in mode `L` or `RGB`, by stated rules.

The content decides the format, not the suffix. Palettes and CMYK become RGB, transparency is put
on black, gray of more than 8 bits is scaled to 8, white-is-zero is inverted, and rotation noted by
the camera is applied if it can be read. Of a photo with further pictures in the same file (MPO,
HEIF, reduced copies in a TIFF), the main one is taken. `tlkit.data.dicom` has the rules for DICOM.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tlkit.data.dicom import DicomError, gray_picture, is_dicom

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 81_000_000  # 9,000 × 9,000; an image that declares more is refused before decoding
RULES = 2  # increase when `decode` accepts other files or makes other pictures
HEAD_BYTES = 132  # enough of a file for `image_format`
HEIF = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
MISSING_HEIF = "is a HEIC file; to read it: pip install 'tlkit[heic]'"

_MAGIC = {
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 254, 258, 262, 274, 277, 339
_PNG_DEPTH = 24  # the place of the byte


class ImageError(ValueError):
    """An image file cannot be used, and why."""


def image_format(head: bytes) -> str:
    """Return the format that the first bytes of a file state, or an empty string.

    >>> image_format(b"GIF89a"), image_format(b"P5 2 2 255 "), image_format(b"text")
    ('GIF', 'PPM', '')
    """
    if is_dicom(head):
        return "DICOM"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand[:3] == b"avi" else "HEIF" if brand in HEIF else ""
    return "PPM" if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() else ""


def decode(content: bytes) -> Image.Image:
    """Return an image file's picture in mode `L` or `RGB`.

    Raises:
        ImageError: If it is not an image of the allowed formats, is broken, has several frames or
            declares too many pixels.
    """
    if not content:
        raise ImageError("is empty")
    kind = image_format(content[:HEAD_BYTES])
    if kind == "DICOM":
        return _from_dicom(content)
    try:
        return _decoded(content, kind)
    except ImageError:
        raise
    except UnidentifiedImageError:
        if kind:
            why = f"is a {kind} file that is damaged or of a kind that is not read"
            raise ImageError(why) from None
        raise ImageError(f"is not an image; {', '.join(FORMATS)} and DICOM are read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"declares too many pixels, more than {MAX_PIXELS:,}") from None
    except Exception as error:  # on hostile bytes a decoder may raise anything
        raise ImageError(f"cannot be decoded: {error}") from None


def stored_as(content: bytes) -> tuple[str, str]:
    """Return the format of a sound image file and Pillow's name for its kind of pixels."""
    kind = image_format(content[:HEAD_BYTES])
    if kind == "DICOM":
        return kind, "L"
    with _opened(content, kind) as image:
        return kind or image.format or "", image.mode


def _from_dicom(content: bytes) -> Image.Image:
    try:
        return Image.fromarray(gray_picture(content, MAX_PIXELS))
    except DicomError as error:
        raise ImageError(str(error)) from None


def _decoded(content: bytes, kind: str) -> Image.Image:
    image = _opened(content, kind)
    _check_header(image)
    image.load()
    return _turned(_plain(image, content), image)


def _opened(content: bytes, kind: str) -> Image.Image:
    if kind == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            raise ImageError(MISSING_HEIF) from None
        heif: Any = pillow_heif.HeifImageFile
        opened: Image.Image = heif(io.BytesIO(content))
        return opened
    if kind != "TIFF":
        return Image.open(io.BytesIO(content), formats=FORMATS)
    image: Any = Image.open(io.BytesIO(_readable_tiff(content)), formats=FORMATS)
    # libtiff gives compressed numbers in the machine's byte order, which Pillow forgets for these.
    swapped = {"I;16BS": "I;16NS", "I;32BS": "I;32NS"}
    image.tile = [
        tile._replace(args=(swapped.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff"
        else tile
        for tile in image.tile
    ]
    return image  # type: ignore[no-any-return]  # its `tile` is of another type than declared


def _check_header(image: Image.Image) -> None:
    """Refuse a picture before its pixels take memory."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"declares {image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
    frames = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and frames > 1:
        frames = _full_pages(image, frames)
    # In a photo with further pictures (a second view, a gain map), the main one is the current one.
    if frames > 1 and image.format not in {"MPO", "HEIF"}:
        raise ImageError(f"has {frames} frames, one is expected")


def _full_pages(image: Any, frames: int) -> int:
    """Return the number of a TIFF's pages that are not reduced copies of another; ends at 0."""
    full = 1
    for number in range(1, frames):
        image.seek(number)
        full += not image.tag_v2.get(_SUBFILE, 0) & 1
    image.seek(0)
    return full


def _readable_tiff(content: bytes) -> bytes:
    """Return a TIFF of deep gray as one that Pillow opens: black is zero, 32 bits are signed.

    Pillow knows few of these combinations. What the original states is used by `_shallow`.
    """
    try:
        tags = _TiffTags(content)
    except struct.error:  # cut off; Pillow will say so
        return content
    if tags.get(_BITS, 1) not in {12, 16, 32} or tags.get(_SAMPLES, 1) != 1:
        return content
    changed = {}
    if tags.get(_PHOTOMETRIC, 1) == 0:
        changed[_PHOTOMETRIC] = 1
    if tags.get(_BITS, 1) == 32 and tags.get(_SAMPLE_FORMAT, 1) == 1:
        changed[_SAMPLE_FORMAT] = 2
    return tags.rewritten(changed) if changed else content


class _TiffTags:
    """The tags of a TIFF's first page, of which those with one short number can be changed."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.order = "<" if content[:2] == b"II" else ">"
        self.big = content[2:4] in {b"+\0", b"\0+"}
        self.forms = ("Q", "Q", "HHQ8s") if self.big else ("I", "H", "HHI4s")
        self.entries: dict[int, tuple[int, int, bytes]] = {}
        (place,) = self._numbers(self.forms[0], 8 if self.big else 4)
        (count,) = self._numbers(self.forms[1], place)
        place += self._size(self.forms[1])
        for _ in range(min(count, 65536)):
            tag, *entry = self._numbers(self.forms[2], place)
            self.entries[tag] = tuple(entry)
            place += self._size(self.forms[2])
        (self.next_page,) = self._numbers(self.forms[0], place)

    def _size(self, form: str) -> int:
        return struct.calcsize(self.order + form)

    def _numbers(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + form, self.content, place)

    def get(self, tag: int, default: int) -> int:
        """Return the value of a tag that has one short number."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        return struct.unpack(f"{self.order}H", value[:2])[0] if (kind, count) == (3, 1) else default

    def rewritten(self, changed: Mapping[int, int]) -> bytes:
        """Return the file with other values, as a copy of the tags at its end."""
        width = 8 if self.big else 4
        for tag, value in changed.items():
            number = struct.pack(f"{self.order}H", value).ljust(width, b"\0")
            self.entries[tag] = (3, 1, number)
        place, count, entry = (self.order + form for form in self.forms)
        table = [struct.pack(entry, tag, *rest) for tag, rest in sorted(self.entries.items())]
        start = struct.pack(place, len(self.content))
        head = self.content[: 8 if self.big else 4]
        tail = self.content[len(head) + len(start) :]
        end = struct.pack(place, self.next_page)
        return b"".join([head, start, tail, struct.pack(count, len(table)), *table, end])


def _plain(image: Image.Image, content: bytes) -> Image.Image:
    """Return a loaded image in mode `L` or `RGB`."""
    if image.mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # deep gray: Pillow's own conversion would clip it
        return _shallow(image, content)
    if image.mode == "F":
        raise ImageError("has floating-point gray values, whose range is not defined")
    if image.format == "PNG" and image.mode in {"1", "L", "RGB"} and "transparency" in image.info:
        return _without_key(image, content)
    if image.mode in {"LA", "RGBA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _shallow(image: Image.Image, content: bytes) -> Image.Image:
    """Return gray of 12 or 16 bits, or of 32 that stay below 65536, as 8 bits."""
    values, white = np.asarray(image), 65535
    if values.min() < 0 or values.max() > white:
        raise ImageError("has gray values outside 0-65535")
    clear = values == image.info.get("transparency", -1)
    if image.format == "TIFF":
        tags = _TiffTags(content)
        white = 4095 if tags.get(_BITS, 1) == 12 else white
        if tags.get(_PHOTOMETRIC, 1) == 0:
            values = white - values.astype(np.int32)
    values = (values.astype(np.uint32) * 255 + white // 2) // white
    return Image.fromarray(np.where(clear, 0, values).astype(np.uint8))


def _without_key(image: Image.Image, content: bytes) -> Image.Image:
    """Return a PNG with the pixels of its clear color black; the key has the depth of the file."""
    key, depth = np.atleast_1d(image.info["transparency"]), content[_PNG_DEPTH]
    pixels = np.array(image.convert("L") if image.mode == "1" else image)
    channels = pixels.reshape(*pixels.shape[:2], -1)
    if depth == 16:  # color, of which Pillow gives the upper half
        clear = (channels == key >> 8).all(-1) & (_lower_halves(content) == key & 255).all(-1)
    else:
        scale = 1 if image.mode == "1" else 255 // (2**depth - 1)
        clear = (channels == (key & 255 if depth == 8 else key) * scale).all(-1)
    pixels[clear] = 0
    return Image.fromarray(pixels)


def _lower_halves(content: bytes) -> npt.NDArray[np.uint8]:
    """Return the lower bytes of a PNG with 16 bits per color."""
    image = Image.open(io.BytesIO(content), formats=("PNG",))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    return np.asarray(image)


def _turned(image: Image.Image, origin: Image.Image) -> Image.Image:
    """Apply the rotation that the camera noted, if it can be read; Pillow turns TIFFs itself."""
    orientation = None
    if origin.format != "TIFF":
        with contextlib.suppress(Exception):  # whatever broken metadata may raise
            orientation = origin.getexif().get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
