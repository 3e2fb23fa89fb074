"""From the bytes of an image file to its picture, in mode `L` or `RGB`, by stated rules.

The content decides the format, not the suffix. Palettes and CMYK become RGB, transparency is put
on black, more than 8 bits are rounded to 8, white-is-zero is inverted, and rotation noted by the
camera is applied if it can be read. Of a photo with further pictures in the same file (MPO, HEIF,
reduced copies in a TIFF), the main one is taken. `tlkit.data.dicom` has the rules for DICOM.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from tlkit.data.dicom import DicomError, gray_picture, is_dicom
from tlkit.data.tiff import BITS, PHOTOMETRIC, TiffTags, readable_tiff

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 81_000_000  # 9,000 × 9,000; an image that declares more is refused before decoding
RULES = 3  # increase when `decode` accepts other files or makes other pictures
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
_SUBFILE, _ORIENTATION, _PLANES, _EXTRA = 254, 274, 284, 338
_PNG_DEPTH = 24  # the place of the byte
_ROWS = 256  # of 16-bit color, which are rounded together


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
    deep = _deep_color(image, content, kind)
    image.load()
    return _turned(_plain(image, content) if deep is None else deep, image)


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
    image: Any = Image.open(io.BytesIO(readable_tiff(content)), formats=FORMATS)
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
    if _is_blended_in_planes(image):
        raise ImageError("has colors and transparency in separate planes, which are not read")
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
        tags = TiffTags(content)
        white = 4095 if tags.get(BITS, 1) == 12 else white
        if tags.get(PHOTOMETRIC, 1) == 0:
            values = white - values.astype(np.int32)
    values = (values.astype(np.uint32) * 255 + white // 2) // white
    return Image.fromarray(np.where(clear, 0, values).astype(np.uint8))


def _without_key(image: Image.Image, content: bytes) -> Image.Image:
    """Return a PNG with the pixels of its clear color black; the key has the depth of the file."""
    key, depth = np.atleast_1d(image.info["transparency"]), content[_PNG_DEPTH]
    pixels = np.array(image.convert("L") if image.mode == "1" else image)
    channels = pixels.reshape(*pixels.shape[:2], -1)
    scale = 1 if image.mode == "1" else 255 // (2**depth - 1)
    clear = (channels == (key & 255 if depth == 8 else key) * scale).all(-1)
    pixels[clear] = 0
    return Image.fromarray(pixels)


def _deep_color(image: Any, content: bytes, kind: str) -> Image.Image | None:
    """Return the picture in a file with 16 bits per color, of which Pillow gives only the upper 8.

    Returns None for any other file. Of compressed planes of a TIFF, there is no way to get more.
    """
    modes = [str(np.atleast_1d(tile.args)[0]) for tile in image.tile]
    if len(modes) > 1 and _is_deep_tiff(image):  # one tile per color, whose depth Pillow forgets
        order = "L" if content.startswith(b"II") else "B"
        modes = [f"{mode};16{order}" if len(mode) == 1 else mode for mode in modes]
    if image.mode.startswith("I") or not modes or not all(";16" in mode for mode in modes):
        return None
    if modes[0].startswith("LA"):
        four = np.asarray(_read_as(content, kind, ["RGBA"]))
        upper, lower = four[..., ::2], four[..., 1::2]
    else:
        # Colors that are already multiplied by their alpha are those on black.
        modes = [mode.replace("RGBa", "RGBA") for mode in modes]
        other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
        halves = modes, [mode[:-1] + other[mode[-1]] for mode in modes]
        upper, lower = (np.asarray(_read_as(content, kind, half)) for half in halves)
    blended = image.mode == "RGBA" and not any("RGBa" in str(t.args) for t in image.tile)
    key = image.info.get("transparency")
    rows = []
    for start in range(0, len(upper), _ROWS):
        block = slice(start, start + _ROWS)
        values, white = upper[block].astype(np.int64) << 8 | lower[block], 65535
        clear = False if key is None else (values == key).all(-1, keepdims=True)
        if blended:
            values, white = values[..., :-1] * values[..., -1:], white * white
        rounded = np.where(clear, 0, (values * 255 + white // 2) // white)
        rows.append(rounded[..., : 3 if image.mode == "RGBA" else None].astype(np.uint8))
    pixels = np.concatenate(rows)
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels, image.mode if image.mode == "CMYK" else "RGB").convert("RGB")


def _is_deep_tiff(image: Any) -> bool:
    return image.format == "TIFF" and {*image.tag_v2.get(BITS, ())} == {16}


def _is_blended_in_planes(image: Any) -> bool:
    """Tell whether a TIFF has one plane per color and one for alpha, which Pillow mixes up."""
    if image.format != "TIFF" or image.tag_v2.get(_PLANES) != 2:
        return False
    extra = image.tag_v2.get(_EXTRA, ())
    return bool(extra) and (extra[0] == 1 or _is_deep_tiff(image))


def _read_as(content: bytes, kind: str, modes: list[str]) -> Image.Image:
    """Return an image file's picture with its samples read as others of the same size."""
    image: Any = _opened(content, kind)
    image.tile = [
        tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
        for tile, mode in zip(image.tile, modes, strict=True)
    ]
    image.load()
    return image  # type: ignore[no-any-return]  # its `tile` is of another type than declared


def _turned(image: Image.Image, origin: Image.Image) -> Image.Image:
    """Apply the rotation that the camera noted, if it can be read; Pillow turns TIFFs itself."""
    orientation = None
    if origin.format != "TIFF":
        with contextlib.suppress(Exception):  # whatever broken metadata may raise
            orientation = origin.getexif().get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
