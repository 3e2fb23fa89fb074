"""From a file's bytes to its picture: what is read, by which rules, and what is refused."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import Pixels, encoded, random_pixels

from tlkit.data.decoding import decode

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")


def decoded(content: bytes) -> Pixels:
    return np.asarray(decode(content))


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_come_back_to_the_bit(kind: str, channels: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = random_pixels(channels=channels)
    found = decoded(encoded(expected, kind, **options))
    grey_in_webp = kind == "WEBP" and channels == 1  # which knows colour only
    np.testing.assert_array_equal(found[..., 0] if grey_in_webp else found, expected)


def test_jpeg_comes_back_as_jpeg_does() -> None:
    content = encoded(random_pixels(), "JPEG")
    np.testing.assert_array_equal(decoded(content), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize(
    "content",
    [b"just text", b"<html>error</html>", encoded(random_pixels(), "EPS")],
    ids=["text", "html", "EPS"],
)
def test_other_content_is_no_image_and_the_formats_are_listed(content: bytes) -> None:
    with pytest.raises(
        ValueError,
        match=r"^is not an image; AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP and DICOM are read$",
    ):
        decode(content)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.fromarray(random_pixels()), Image.fromarray(255 - random_pixels())]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"^has 2 frames, one is expected$"):
        decode(content)


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused_and_never_filled_with_grey(kind: str, tenth: int) -> None:
    content = encoded(random_pixels(64, 64), kind)
    with pytest.raises(
        ValueError, match=r"^(is empty$|is not an image; |is a .* damaged|cannot be dec)"
    ):
        decode(content[: len(content) * tenth // 10])


def png_that_declares(width: int, height: int) -> bytes:
    """A picture of a few bytes whose header promises more."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_001, 10_000, 20_000])
def test_too_many_declared_pixels_are_refused_before_decoding(side: int) -> None:
    content = png_that_declares(side, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"pixels"):
        decode(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # in kB


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 257, 300, 32896, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 128, 255]], np.uint8)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(values, kind)), expected)


def test_32_bit_grey_is_read_where_it_is_16_bit_grey() -> None:
    content = encoded(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF")
    np.testing.assert_array_equal(decoded(content), [[0, 255]])
    for wrong in (-1, 65536):
        content = encoded(Image.fromarray(np.array([[0, wrong]], np.int32)), "TIFF")
        with pytest.raises(ValueError, match=r"has gray values outside 0-65535$"):
            decode(content)


def test_floating_point_grey_is_refused() -> None:
    content = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"has floating-point gray values"):
        decode(content)


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decoded(encoded(image)), [[0, 255]])


def test_a_palette_becomes_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    np.testing.assert_array_equal(decoded(encoded(image)), [[[10, 20, 30], [200, 100, 50]]])


def test_cmyk_becomes_rgb() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    content = encoded(Image.fromarray(inks, "CMYK"), "TIFF")
    np.testing.assert_array_equal(decoded(content), [[[255] * 3, [0, 255, 255], [0] * 3]])


WHITE, HALF, CLEAR = (255, 255), (255, 128), (255, 0)


def clear_white(mode: str) -> Image.Image:
    """Two white pixels, of which the second is transparent."""
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette([255] * 6)
        return image
    return Image.new(mode, (2, 1), "white")


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.fromarray(np.array([[WHITE, HALF, CLEAR]], np.uint8), "LA"), {}, [255, 128, 0]),
        (
            Image.fromarray(np.array([[[255, 255, *p] for p in (WHITE, CLEAR)]], np.uint8), "RGBA"),
            {},
            [255, 0],
        ),
        (clear_white("P"), {"transparency": bytes([255, 0])}, [255, 0]),
        (clear_white("RGB"), {"transparency": (255, 255, 255)}, [0, 0]),
        (clear_white("L"), {"transparency": 255}, [0, 0]),
    ],
    ids=["LA", "RGBA", "palette", "a clear colour", "a clear grey"],
)
def test_transparency_is_laid_over_black(
    image: Image.Image, options: dict[str, Any], expected: list[int]
) -> None:
    found = decoded(encoded(image, **options))
    np.testing.assert_array_equal(found[0, ..., 0] if found.ndim == 3 else found[0], expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)], ids=["none", "180", "270", "90"]
)
def test_rotation_noted_by_the_camera_is_applied(kind: str, orientation: int, turns: int) -> None:
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 32), np.uint8))
    image = Image.fromarray(np.stack([quarters] * 3, axis=-1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(encoded(image, kind, exif=exif)).astype(int)
    expected = np.rot90(np.asarray(image), turns)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 4  # JPEG and WEBP lose a little


def with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return encoded(random_pixels(8, 8), kind, **({} if kind == "BMP" else {"exif": exif}))


PICTURES = {kind: with_exif(kind) for kind in FORMATS}


@given(kind=st.sampled_from(FORMATS), place=st.integers(0), byte=st.integers(0, 255))
@settings(max_examples=600)
def test_a_damaged_byte_gives_an_image_or_a_value_error(kind: str, place: int, byte: int) -> None:
    """Whatever a decoder makes of it: nothing else reaches the user, and nothing hangs."""
    content = bytearray(PICTURES[kind])
    content[place % len(content)] = byte
    with contextlib.suppress(ValueError):
        assert decode(bytes(content)).mode in {"L", "RGB"}
