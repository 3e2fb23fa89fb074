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
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from tlkit.data.dicom import STRIP_PIXELS, DicomError, gray_picture, is_dicom
from tlkit.data.jpeg import JpegError, JpegMarkers
from tlkit.data.tiff import BITS, PHOTOMETRIC, TiffError, TiffTags, full_pages, readable_tiff
from tlkit.system.errors import ResourceError
from tlkit.system.limits import DECODED_BYTES, beyond, decoding_budget, limit

# Not by way of `Image.open`, whose registry and limit other packages may change.
_OPENERS: Mapping[str, Callable[..., Any]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
FORMATS = (*_OPENERS,)
RULES = 4  # increase when `decode` accepts other files or makes other pictures
FILLED_UP = (
    "PIL.ImageFile.LOAD_TRUNCATED_IMAGES: is on in this process, so that damaged images would be "
    "filled up with gray; set it to False"
)
LESS = "; free some, or lower TLKIT_DECODING_MB"  # where memory does not suffice for a picture
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
_ORIENTATION, _PLANES, _EXTRA = 274, 284, 338
_PNG_DEPTH = 24  # the place of the byte
UNCOUNTED_BYTES = 1 << 20  # so little may be decoded without asking for memory
CUT_OFF = "is cut off: it ends before the picture is complete"
_FILLED = {127, 128}  # what missing data of a JPEG become in every channel
_MORE = bytes(number * 89 % 251 for number in range(512))  # no marker among them
LOWERED = "PIL.Image.MAX_IMAGE_PIXELS: was lowered in this process; set it to None"


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
    """Return an image file's picture in mode `L` or `RGB`."""
    with decoded(content) as image:
        return image


@contextlib.contextmanager
def decoded(content: bytes) -> Iterator[Image.Image]:
    """Yield what `decode` returns, holding its share of the memory that decoding threads have."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ResourceError(FILLED_UP)
    if not content:
        raise ImageError("is empty")
    kind = image_format(content[:HEAD_BYTES])
    with contextlib.ExitStack() as held:
        yield _from_dicom(content, held) if kind == "DICOM" else _from_image(content, kind, held)


def _from_image(content: bytes, kind: str, held: contextlib.ExitStack) -> Image.Image:
    try:
        return _decoded(content, kind, held)
    except (ImageError, ResourceError, MemoryError):
        raise
    except (JpegError, TiffError) as error:
        raise ImageError(str(error)) from None
    except UnidentifiedImageError:
        if kind:
            why = f"is a {kind} file that is damaged or of a kind that is not read"
            raise ImageError(why) from None
        raise ImageError(f"is not an image; {', '.join(FORMATS)} and DICOM are read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        if (Image.MAX_IMAGE_PIXELS or 0) < limit("TLKIT_MAX_PIXELS"):  # asked for TIFF and GIF
            raise ResourceError(LOWERED) from None
        raise ImageError(f"declares {beyond('TLKIT_MAX_PIXELS')} pixels") from None
    except Exception as error:  # on hostile bytes a decoder may raise anything
        if "out of memory" in str(error):  # as Pillow says of its decoders
            raise MemoryError(str(error)) from None
        why = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded: {why}") from None


def stored_as(content: bytes) -> tuple[str, str]:
    """Return the format of a sound image file and Pillow's name for its kind of pixels."""
    kind = image_format(content[:HEAD_BYTES])
    if kind == "DICOM":
        return kind, "L"
    with _opened(content, kind) as image:
        return kind or image.format or "", image.mode


def _from_dicom(content: bytes, held: contextlib.ExitStack) -> Image.Image:
    try:
        return Image.fromarray(gray_picture(content, held))
    except DicomError as error:
        raise ImageError(str(error)) from None


def _decoded(content: bytes, kind: str, held: contextlib.ExitStack) -> Image.Image:
    markers = JpegMarkers(content) if kind == "JPEG" else None
    image = _opened(content, kind)
    _check_header(image, content)
    size = DECODED_BYTES * image.width * image.height + len(content)
    if size > UNCOUNTED_BYTES:
        held.enter_context(decoding_budget.holding(size))
    deep = _deep_color(image, content, kind)
    image.load()
    if markers:
        _check_complete(image, markers)
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
    if kind not in _OPENERS:
        raise UnidentifiedImageError
    file = io.BytesIO(readable_tiff(content) if kind == "TIFF" else content)
    try:
        image: Any = _OPENERS[kind](file)
    except (SyntaxError, IndexError, TypeError, struct.error):  # as `Image.open` takes them
        raise UnidentifiedImageError from None
    if kind == "TIFF":
        # libtiff gives compressed numbers in the machine's byte order, which Pillow forgets here.
        swapped = {"I;16BS": "I;16NS", "I;32BS": "I;32NS"}
        image.tile = [
            tile._replace(args=(swapped.get(tile.args[0], tile.args[0]), *tile.args[1:]))
            if tile.codec_name == "libtiff"
            else tile
            for tile in image.tile
        ]
    return image  # type: ignore[no-any-return]  # its `tile` is of another type than declared


def _check_header(image: Image.Image, content: bytes) -> None:
    """Refuse a picture before its pixels take memory."""
    if image.width * image.height > limit("TLKIT_MAX_PIXELS"):
        size = f"{image.width}×{image.height}"
        raise ImageError(f"declares {size} pixels, {beyond('TLKIT_MAX_PIXELS')}")
    if _is_blended_in_planes(image):
        raise ImageError("has colors and transparency in separate planes, which are not read")
    frames = full_pages(content) if image.format == "TIFF" else getattr(image, "n_frames", 1)
    # In a photo with further pictures (a second view, a gain map), the main one is the current one.
    if frames > 1 and image.format not in {"MPO", "HEIF"}:
        raise ImageError(f"has {frames} frames, one is expected")


def _check_complete(image: Image.Image, markers: JpegMarkers) -> None:
    """Refuse a JPEG that was cut off and got a new end marker.

    Decoders fill what is missing with gray, or leave it blurred, and only warn of it; Pillow does
    not pass the warning on. But then more data in front of the end marker change the picture. This
    decodes it again, so it is done only for progressive files, and for others whose last pixel is
    what missing data become.
    """
    if not markers.end:
        return
    if not markers.is_complete:
        raise ImageError(CUT_OFF)
    last = image.getpixel((image.width - 1, image.height - 1))
    channels = {*last} if isinstance(last, tuple) else {last}
    if not markers.is_progressive and not channels <= _FILLED:
        return
    longer = markers.content[: markers.end] + _MORE + b"\xff\xd9"
    with JpegImagePlugin.JpegImageFile(io.BytesIO(longer)) as other:
        if any(other.crop(box).tobytes() != image.crop(box).tobytes() for box in _strips(image)):
            raise ImageError(CUT_OFF)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of a picture's strips, so that work on large ones takes little memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


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
        return _on_black(image)
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_black(image: Image.Image) -> Image.Image:
    """Return a picture with its transparency put on black."""
    plain = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box).convert("RGBA")
        black = Image.new("RGBA", strip.size, (0, 0, 0, 255))
        plain.paste(Image.alpha_composite(black, strip).convert("RGB"), box)
    return plain


def _shallow(image: Image.Image, content: bytes) -> Image.Image:
    """Return gray of 12 or 16 bits, or of 32 that stay below 65536, as 8 bits."""
    deep, white, inverted = np.asarray(image), 65535, False
    if deep.min() < 0 or deep.max() > white:
        raise ImageError("has gray values outside 0-65535")
    if image.format == "TIFF":
        tags = TiffTags(content)
        white = 4095 if tags.get(BITS, 1) == 12 else white
        inverted = tags.get(PHOTOMETRIC, 1) == 0
    shallow = np.empty(deep.shape, np.uint8)
    for _, top, _, bottom in _strips(image):
        values = deep[top:bottom]
        clear = values == image.info.get("transparency", -1)
        if inverted:
            values = white - values.astype(np.int32)
        values = (values.astype(np.uint32) * 255 + white // 2) // white
        shallow[top:bottom] = np.where(clear, 0, values).astype(np.uint8)
    return Image.fromarray(shallow)


def _without_key(image: Image.Image, content: bytes) -> Image.Image:
    """Return a PNG with the pixels of its clear color black; the key has the depth of the file."""
    key, depth = np.atleast_1d(image.info["transparency"]), content[_PNG_DEPTH]
    gray = image.convert("L") if image.mode == "1" else image
    scale = 1 if image.mode == "1" else 255 // (2**depth - 1)
    plain = Image.new(gray.mode, gray.size)
    for box in _strips(image):
        pixels = np.array(gray.crop(box))
        channels = pixels.reshape(*pixels.shape[:2], -1)
        pixels[(channels == (key & 255 if depth == 8 else key) * scale).all(-1)] = 0
        plain.paste(Image.fromarray(pixels), box)
    return plain


def _deep_color(image: Any, content: bytes, kind: str) -> Image.Image | None:
    """Return the picture in a file with 16 bits per color, of which Pillow gives only the upper 8.

    Returns None for any other file. Of compressed planes of a TIFF, there is no way to get more.
    """
    args = [tile.args for tile in image.tile]
    modes = [str(given[0] if isinstance(given, tuple) and given else given) for given in args]
    if len(modes) > 1 and _is_deep_tiff(image):  # one tile per color, whose depth Pillow forgets
        order = "L" if content.startswith(b"II") else "B"
        modes = [f"{mode};16{order}" if len(mode) == 1 else mode for mode in modes]
    if image.mode.startswith("I") or not modes or not all(";16" in mode for mode in modes):
        return None
    if modes[0].startswith("LA"):
        halves = [_read_as(content, kind, ["RGBA"])]
    else:
        # Colors that are already multiplied by their alpha are those on black.
        modes = [mode.replace("RGBa", "RGBA") for mode in modes]
        other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
        lower = [mode[:-1] + other[mode[-1]] for mode in modes]
        halves = [_read_as(content, kind, half) for half in (modes, lower)]
    blended = image.mode == "RGBA" and not any("RGBa" in str(t.args) for t in image.tile)
    key = image.info.get("transparency")
    pixels = None
    for box in _strips(image):
        parts = [np.asarray(half.crop(box)) for half in halves]
        upper, low = parts if len(parts) == 2 else (parts[0][..., ::2], parts[0][..., 1::2])
        wide: npt.NDArray[Any] = upper.astype(np.int64 if blended else np.uint32)
        values, white = wide << 8 | low, 65535
        clear = False if key is None else (values == key).all(-1, keepdims=True)
        if blended:
            values, white = values[..., :-1] * values[..., -1:], white * white
        rounded = np.where(clear, 0, (values * 255 + white // 2) // white)
        rounded = rounded[..., : 3 if image.mode == "RGBA" else None].astype(np.uint8)
        if pixels is None:
            pixels = np.empty((image.height, image.width, rounded.shape[-1]), np.uint8)
        pixels[box[1] : box[3]] = rounded
    assert pixels is not None
    del halves  # a large picture has no room for more
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    if image.mode == "CMYK":
        return Image.fromarray(pixels, "CMYK").convert("RGB")
    return Image.fromarray(pixels, "RGB")


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
    if origin.info and origin.format != "TIFF":  # without any, there is no metadata to read
        with contextlib.suppress(Exception):  # whatever broken metadata may raise
            orientation = origin.getexif().get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
