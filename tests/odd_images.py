"""Odd image files: every mode, depth, byte order, photometric meaning, transparency and container.

Each file is written from samples that are known, so its right picture follows from them by the
stated rules, not from the decoder under test. PNG is written here, TIFF by tifffile, the photo
formats by Pillow and pillow-heif, DICOM by pydicom.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
from attrs import frozen
from PIL import Image

Array = npt.NDArray[Any]
ByteOrder = Literal["<", ">"]
ORDERS: tuple[ByteOrder, ...] = ("<", ">")
PNG_KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4),
             (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
BROKEN_EXIF = b"Exif\0\0not a TIFF"


@frozen(eq=False)
class OddImage:
    """An image file and what it is.

    Attributes:
        name: What is odd about it.
        content: The file.
        pixels: Its right picture, `(height, width)` or `(height, width, 3)`; None if refused.
        reason: A pattern of the reason for which it is refused.
        off: By how much pixels may be off: 0 where nothing is lost.
    """

    name: str
    content: bytes
    pixels: Array | None = None
    reason: str = ""
    off: int = 0


def samples(shape: tuple[int, ...], top: int, seed: int = 0) -> Array:
    """Return random samples from 0 to `top`, with both ends among them."""
    values = np.random.default_rng(seed).integers(0, top, shape, np.int64, endpoint=True)
    values.flat[:2] = (0, top)[: values.size]
    return values


def to_8_bits(values: Array, top: int) -> Array:
    """Return samples as 8 bits, rounded."""
    return np.floor(values * 255 / top + 0.5).astype(np.uint8)


def turned(pixels: Array, orientation: int) -> Array:
    """Return pixels as a camera's orientation, 1 to 8, means them."""
    flipped = pixels[:, ::-1] if orientation in {2, 4, 5, 7} else pixels
    return np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation])


# PNG.


def png_file(
    values: Array, color: int, depth: int, chunks: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """Return a PNG of samples `(height, width, channels)`, written here."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    height, width, _ = values.shape
    rows = []
    for row in values.reshape(height, -1):
        bits = (row[:, None] >> np.arange(depth)[::-1]) & 1
        rows.append(b"\0" + np.packbits(bits.astype(np.uint8).ravel()).tobytes())
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png(
    color: int, depth: int, key: bool = False, height: int = 5, width: int = 7, seed: int = 0
) -> OddImage:
    """Return a PNG, with a clear color or palette entries if `key`."""
    top = 2**depth - 1
    values = samples((height, width, CHANNELS[color]), top, seed)
    chunks: list[tuple[bytes, bytes]] = []
    alpha = np.ones((height, width, 1))
    if color == 3:
        palette = np.random.default_rng(seed + 1).integers(0, 256, (top + 1, 3))
        chunks.append((b"PLTE", palette.astype(np.uint8).tobytes()))
        if key:
            clear = np.random.default_rng(seed + 2).integers(0, 256, top + 1)
            chunks.append((b"tRNS", clear.astype(np.uint8).tobytes()))
            alpha = clear[values] / 255
        shown = palette[values[..., 0]]
    else:
        if key:
            stated = values[height // 2, width // 2].copy()
            if depth == 16 and values[..., 0].size > 1:  # a neighbor that is not clear
                values[0, 0] = stated ^ 1
            chunks.append((b"tRNS", struct.pack(f">{len(stated)}H", *stated)))
            alpha = (values != stated).any(-1, keepdims=True).astype(float)
        if color in {4, 6}:
            alpha, values = values[..., -1:] / top, values[..., :-1]
        shown = values if depth == 16 else to_8_bits(values, top)
    pixels = to_8_bits(shown * alpha, top if depth == 16 else 255)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    # Pillow blends 8 bits in its own way.
    off = depth < 16 and (color in {4, 6} or (color == 3 and key))
    name = f"PNG color {color}, {depth} bits{', clear color' if key else ''}"
    return OddImage(name, png_file(_with_alpha(values, alpha, color, top), color, depth,
                                   tuple(chunks)), pixels, off=int(off))  # fmt: skip


def _with_alpha(values: Array, alpha: Array, color: int, top: int) -> Array:
    if color not in {4, 6}:
        return values
    return np.concatenate([values, np.rint(alpha * top).astype(np.int64)], axis=-1)


# TIFF.

TIFF_DEPTHS = {"u1": 255, "u2": 65535, "i2": 32767, "u4": 65535, "i4": 65535}
TIFF_BLACK, TIFF_WHITE = "minisblack", "miniswhite"


def tiff(
    kind: str,
    photometric: str,
    order: ByteOrder,
    compression: str | None = None,
    big: bool = False,
    orientation: int = 1,
    height: int = 5,
    width: int = 7,
    seed: int = 0,
    alpha: str | None = None,
    planes: bool = False,
) -> OddImage:
    """Return a TIFF of gray, or of color with `alpha` or in `planes`, written by tifffile."""
    color, top = photometric == "rgb", 255 if kind == "u1" else 65535
    channels = (3 + (alpha is not None),) if color else ()
    values = samples((height, width, *channels), TIFF_DEPTHS[kind], seed)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        (np.moveaxis(values, -1, 0) if planes else values).astype(f"{order}{kind}"),
        planarconfig=("separate" if planes else "contig") if color else None,
        extrasamples=[alpha] if alpha else None,
        byteorder=order,
        bigtiff=big,
        photometric=photometric,
        compression=compression,
        metadata=None,
        extratags=[(274, 3, 1, orientation, True)],
    )
    if alpha:
        share = values[..., 3:] / top if alpha == "unassalpha" else 1
        values = values[..., :3] * share
    shown = to_8_bits(top - values if photometric == TIFF_WHITE else values, top)
    ends = {"<": "little", ">": "big"}[order]
    name = f"TIFF {kind} {photometric} {ends}-endian{' Big' if big else ''} {compression or ''}"
    name += f" turned {orientation}{' ' + alpha if alpha else ''}{' in planes' if planes else ''}"
    if planes and alpha and (kind == "u2" or alpha == "assocalpha"):
        return OddImage(name, buffer.getvalue(), reason="^has colors and transparency in separate")
    # Of compressed planes, Pillow gives the upper 8 of 16 bits.
    off = int(planes and kind == "u2" and compression is not None)
    return OddImage(name, buffer.getvalue(), turned(shown, orientation), off=off)


def packed_12_bit_tiff() -> OddImage:
    """Return a TIFF of 12 bits per pixel."""
    values = samples((4, 6), 4095)
    buffer = io.BytesIO()
    packed = np.packbits(((values[..., None] >> np.arange(12)[::-1]) & 1).astype(np.uint8))
    tifffile.imwrite(buffer, values.astype("<u2"), byteorder="<", photometric=TIFF_BLACK,
                     metadata=None)  # fmt: skip
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        tags = file.pages[0].tags  # type: ignore[union-attr]  # a page, not a frame
        start = tags["StripOffsets"].value[0]
        content[start : start + packed.nbytes] = packed.tobytes()
        struct.pack_into("<H", content, tags["BitsPerSample"].valueoffset, 12)
        struct.pack_into("<H", content, tags["StripByteCounts"].valueoffset, packed.nbytes)
    return OddImage("TIFF of 12 bits", bytes(content), to_8_bits(values, 4095))


# Photo formats.


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as Pillow saves it."""
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # saving leaves its settings in the image
    return buffer.getvalue()


def photo() -> Image.Image:
    """Return a smooth color picture that survives lossy formats."""
    across, down = np.meshgrid(np.linspace(0, 200, 48), np.linspace(0, 200, 32))
    return Image.fromarray(np.stack([across, down, (across + down) / 2], -1).astype(np.uint8))


def exif(orientation: int) -> bytes:
    """Return EXIF data that state an orientation."""
    data = Image.Exif()
    data[274] = orientation
    return data.tobytes()


def exif_with_bad_rational(orientation: int) -> bytes:
    """Return EXIF data with an orientation and a rational whose value lies outside the file."""
    entries = [struct.pack("<HHII", 274, 3, 1, orientation),
               struct.pack("<HHII", 282, 5, 1, 0x7FFFFFFF)]  # fmt: skip
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)


def containers() -> Iterator[OddImage]:
    """Yield photos in all formats and orientations, with sound and with broken metadata."""
    image = photo()
    pixels = np.asarray(image)
    gray = image.convert("L")
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 97, "subsampling": 0},
        "PNG": {},
        "WEBP": {"quality": 97},
        "AVIF": {"quality": 97},
    }
    for kind, options in kinds.items():
        off = 0 if kind == "PNG" else 8
        for orientation in range(1, 9):
            content = saved(image, kind, exif=exif(orientation), **options)
            yield OddImage(f"{kind} turned {orientation}", content, turned(pixels, orientation),
                           off=off)  # fmt: skip
    for kind in ("JPEG", "PNG", "WEBP"):
        off = 0 if kind == "PNG" else 8
        content = saved(image, kind, exif=BROKEN_EXIF, **kinds[kind])
        yield OddImage(f"{kind} whose EXIF is no TIFF", content, pixels, off=off)
        content = saved(image, kind, exif=exif_with_bad_rational(6), **kinds[kind])
        yield OddImage(f"{kind} turned, with a bad rational", content, turned(pixels, 6), off=off)
    raw = (b"tEXt", b"Raw profile type exif\0\nexif\n      8\nno hexadecimal digits\n")
    gray_samples = np.asarray(gray, np.int64)[..., None]
    content = png_file(gray_samples, 0, 8, (raw,))
    yield OddImage("PNG with a bad raw profile", content, np.asarray(gray))
    for kind in ("BMP", "GIF", "PPM", "TIFF"):
        yield OddImage(f"{kind} gray", saved(gray, kind), np.asarray(gray))
    for kind in ("BMP", "PPM", "TIFF"):
        yield OddImage(f"{kind} color", saved(image, kind), pixels)
    deep = samples((4, 6), 65535)
    content = b"P5 6 4 65535\n" + deep.astype(">u2").tobytes()
    yield OddImage("PPM of 16 bits", content, to_8_bits(deep, 65535))
    deep = samples((4, 2, 3), 65535)
    content = b"P6 2 4 65535\n" + deep.astype(">u2").tobytes()
    yield OddImage("PPM of 16 bits per color", content, to_8_bits(deep, 65535))
    yield from _several_pictures(image)


def _several_pictures(image: Image.Image) -> Iterator[OddImage]:
    """Yield files that hold more than one picture."""
    pixels, other = np.asarray(image), Image.new("RGB", image.size, "red")
    two: dict[str, Any] = {"save_all": True, "quality": 97}
    content = saved(image, "MPO", append_images=[other.copy()], **two)
    yield OddImage("JPEG with a second picture (MPO)", content, pixels, off=8)
    content = saved(
        image, "MPO", save_all=True, append_images=[other.copy()], exif=exif(8), quality=97
    )
    yield OddImage("JPEG with a second picture, turned", content, turned(pixels, 8), off=8)
    for kind in ("GIF", "PNG", "TIFF", "WEBP", "AVIF"):
        content = saved(image, kind, save_all=True, append_images=[other.copy()])
        yield OddImage(f"{kind} of 2 frames", content, reason="^has 2 frames, one is expected$")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=True, byteorder=">") as writer:
        for _ in range(2):
            writer.write(pixels, photometric="rgb", metadata=None)
    yield OddImage(
        "TIFF of 2 pages, Big, big-endian", buffer.getvalue(), reason="^has 2 frames, one"
    )
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(pixels, photometric="rgb", metadata=None)
        writer.write(pixels[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    yield OddImage("TIFF with a reduced copy", buffer.getvalue(), pixels)


def heic() -> Iterator[OddImage]:
    """Yield HEIC files, in all orientations and with two pictures."""
    import pillow_heif

    image = photo()
    for orientation in (1, 3, 6, 8):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=95, exif=exif(orientation))
        yield OddImage(f"HEIC turned {orientation}", buffer.getvalue(),
                       turned(np.asarray(image), orientation), off=16)  # fmt: skip


def refused() -> Iterator[OddImage]:
    """Yield files that have no picture by the rules."""
    for order in ORDERS:
        buffer = io.BytesIO()
        values = np.array([[0.5, 1.0]], f"{order}f4")
        tifffile.imwrite(buffer, values, byteorder=order, photometric=TIFF_BLACK, metadata=None)
        yield OddImage(f"TIFF of floats {order}", buffer.getvalue(),
                       reason="^has floating-point gray values")  # fmt: skip
        for photometric in (TIFF_BLACK, TIFF_WHITE):
            buffer = io.BytesIO()
            values = np.array([[0, 65536]], f"{order}u4")
            tifffile.imwrite(buffer, values, byteorder=order, photometric=photometric,
                             metadata=None)  # fmt: skip
            yield OddImage(f"TIFF of 17 bits {photometric} {order}", buffer.getvalue(),
                           reason="^has gray values outside 0-65535$")  # fmt: skip
    unread = "^is a TIFF file that is damaged or of a kind that is not read$"
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 4, 5), np.uint8), photometric=TIFF_BLACK,
                     planarconfig="contig", metadata=None)  # fmt: skip
    yield OddImage("TIFF of 5 channels", buffer.getvalue(), reason=unread)
    for name, content in (("text", b"not an image"), ("HTML", b"<html>error</html>"),
                          ("PDF", b"%PDF-1.7"), ("EPS", saved(photo(), "EPS"))):  # fmt: skip
        yield OddImage(name, content, reason="^is not an image; AVIF, BMP, .* and DICOM are read$")
    yield OddImage("nothing", b"", reason="^is empty$")
    damaged = r"^is an? .* file that is damaged|^cannot be decoded: "
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF"):
        content = saved(photo(), kind)
        for tenth in (2, 5, 9):
            cut = content[: len(content) * tenth // 10]
            yield OddImage(f"{kind} cut off at {tenth}0 %", cut, reason=damaged)


def all_odd_images() -> Iterator[OddImage]:
    """Yield every file but DICOM, whose tables are in `test_dicom.py`."""
    for (color, depth), key in itertools.product(PNG_KINDS, (False, True)):
        if not (key and color in {4, 6}):  # which have alpha
            yield png(color, depth, key)
    grays = itertools.product(TIFF_DEPTHS, (TIFF_BLACK, TIFF_WHITE), ORDERS,
                              (None, "deflate", "lzw", "packbits"))  # fmt: skip
    for kind, photometric, order, compression in grays:
        yield tiff(kind, photometric, order, compression)
    colors = itertools.product(("u1", "u2"), ORDERS, (None, "lzw"), (False, True), (False, True))
    for kind, order, compression, big, planes in colors:
        yield tiff(kind, "rgb", order, compression, big, planes=planes)
    for order, compression in itertools.product(ORDERS, (None, "lzw")):
        for alpha, planes in itertools.product(("assocalpha", "unassalpha"), (False, True)):
            yield tiff("u2", "rgb", order, compression, alpha=alpha, planes=planes)
    for kind, photometric, order in itertools.product(
        ("u1", "u2"), (TIFF_BLACK, TIFF_WHITE), ORDERS
    ):
        yield tiff(kind, photometric, order, big=True)
        for orientation in range(1, 9):
            yield tiff(kind, photometric, order, orientation=orientation)
    yield packed_12_bit_tiff()
    yield from containers()
    yield from heic()
    yield from refused()
