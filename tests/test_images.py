"""From bytes to pixels: what is read, by which rules, and what is refused."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tlkit
from tlkit.data.decoding import decode
from tlkit.data.images import (
    SMALL_FILE_BYTES,
    Reader,
    Resize,
    decoding_threads,
    picture_of,
    pictures_of,
    small_pixels,
    to_pixels,
)
from tlkit.parts.shapes import Shapes

Pixels = npt.NDArray[Any]
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")


def noise(height: int = 16, width: int = 24, channels: int = 3) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> Pixels:
    return np.asarray(decode(content))


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_come_back_to_the_bit(kind: str, channels: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = noise(channels=channels)
    found = decoded(encoded(expected, kind, **options))
    grey_in_webp = kind == "WEBP" and channels == 1  # which knows colour only
    np.testing.assert_array_equal(found[..., 0] if grey_in_webp else found, expected)


def test_jpeg_comes_back_as_jpeg_does() -> None:
    content = encoded(noise(), "JPEG")
    np.testing.assert_array_equal(decoded(content), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize(
    "content",
    [b"just text", b"<html>error</html>", encoded(noise(), "EPS")],
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
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"^has 2 frames, one is expected$"):
        decode(content)


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused_and_never_filled_with_grey(kind: str, tenth: int) -> None:
    content = encoded(noise(64, 64), kind)
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


def test_what_a_picture_shows_does_not_depend_on_how_it_is_stored() -> None:
    grey = noise(channels=1)
    three = np.repeat(grey[..., None], 3, axis=2)
    files = [encoded(grey), encoded(grey, "TIFF"), encoded(three, "BMP"), encoded(three)]
    assert len({picture_of(decode(content)) for content in files}) == 1
    others = [grey.T, grey[:, :-1], 255 - grey, np.dstack([grey, grey, 255 - grey])]
    found = {picture_of(decode(encoded(pixels))).pixels for pixels in (grey, *others)}
    assert len(found) == 5


def test_a_picture_knows_its_size_and_whether_it_has_one_colour() -> None:
    found = picture_of(decode(encoded(noise(4, 7))))
    assert (found.width, found.height, found.flat) == (7, 4, False)
    for colour in (9, (1, 2, 3)):
        image = Image.new("L" if colour == 9 else "RGB", (5, 5), colour)
        assert picture_of(image).flat
        image.putpixel((4, 4), 0)
        assert not picture_of(image).flat


def test_small_pictures_that_are_looked_at_together_show_what_each_does() -> None:
    gray = noise(9, 12, channels=1)
    shown = [gray, np.dstack([gray] * 3), noise(9, 12), noise(64, 64), noise(3, 8) // 128 * 255]
    shown += [np.full((9, 12), 7, np.uint8), np.full((9, 12, 3), 255, np.uint8), noise(1, 1)]
    images = [Image.fromarray(pixels) for pixels in shown]
    small = [pixels for image in images if (pixels := small_pixels(image)) is not None]
    assert len(small) == len(images)
    assert pictures_of(small) == [picture_of(image) for image in images]
    assert small_pixels(Image.new("L", (65, 2))) is small_pixels(Image.new("L", (2, 3))) is None


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (32, 32), (31, 77)])
def test_any_shape_becomes_the_wanted_one(resize: Resize, shape: tuple[int, int]) -> None:
    found = to_pixels(encoded(noise(*shape, channels=1)), 32, resize)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_left_alone(resize: Resize, channels: int) -> None:
    image = noise(8, 8, channels)
    expected = image if channels == 3 else np.stack([image] * 3, axis=-1)
    np.testing.assert_array_equal(to_pixels(encoded(image), 8, resize), expected)


def test_the_centre_can_be_blacked_out() -> None:
    image = noise(20, 20) | 1  # nothing in it is black
    found = to_pixels(encoded(image), 20, mask_center=0.5)
    np.testing.assert_array_equal((found == 0).all(-1), np.pad(np.ones((10, 10), bool), 5))
    seen = (found != 0).all(-1)
    np.testing.assert_array_equal(found[seen], image[seen])


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 1.5])
def test_only_a_share_of_the_image_can_be_blacked_out(wrong: float) -> None:
    with pytest.raises(tlkit.FieldError, match=r"^mask_center: must be at least 0 and below 1"):
        Shapes(mask_center=wrong)


STRIPES = np.array([[0, 0, 200, 200, 0, 0, 0, 0]] * 4, np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize(
    ("image", "resize", "rows"),
    [
        (STRIPES, "stretch", [[0, 200, 0, 0]] * 4),
        (STRIPES, "crop", [[200, 200, 0, 0]] * 4),
        (STRIPES, "pad", [[0, 0, 0, 0], [0, 200, 0, 0], [0, 200, 0, 0], [0, 0, 0, 0]]),
        (STRIPES.T, "stretch", [[0] * 4, [200] * 4, [0] * 4, [0] * 4]),
        (STRIPES.T, "crop", [[200] * 4, [200] * 4, [0] * 4, [0] * 4]),
        (STRIPES.T, "pad", [[0] * 4, [0, 200, 200, 0], [0] * 4, [0] * 4]),
    ],
    ids=["wide stretch", "wide crop", "wide pad", "tall stretch", "tall crop", "tall pad"],
)
def test_what_is_not_square_is_stretched_cropped_or_padded(
    image: Pixels, resize: Resize, rows: list[list[int]]
) -> None:
    """A bar a quarter of the width from the left: where it goes, and how wide it gets."""
    found = to_pixels(encoded(image), 32, resize)[..., 0]
    middles = found[4::8, 4::8]  # of a grid of four by four, away from blurred edges
    np.testing.assert_array_equal(middles, rows)


def test_making_small_averages_and_does_not_pick() -> None:
    checks = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 200
    assert np.abs(to_pixels(encoded(checks), 8)[1:-1, 1:-1].astype(int) - 100).max() <= 2


def test_the_reader_names_what_it_cannot_read() -> None:
    files = {"good.png": encoded(noise()), "bad.png": b"text"}
    reader = Reader(files.__getitem__, size=8)
    np.testing.assert_array_equal(reader("good.png"), to_pixels(files["good.png"], 8))
    with pytest.raises(tlkit.DataError, match=r"^bad\.png: is not an image"):
        reader("bad.png")


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_keep_the_order_whatever_the_workers(workers: int) -> None:
    files = {str(n): encoded(np.full((2, 2), n, np.uint8)) for n in range(7)}
    reader = Reader(files.__getitem__, size=2, workers=workers)
    batches = list(reader.batches(list(files), 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], range(7))


@pytest.mark.parametrize(
    ("file_bytes", "threads"), [(1, 1), (SMALL_FILE_BYTES - 1, 1), (SMALL_FILE_BYTES, 8), (None, 8)]
)
def test_small_files_are_decoded_by_one_thread(
    file_bytes: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert decoding_threads(file_bytes) == threads


def with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return encoded(noise(8, 8), kind, **({} if kind == "BMP" else {"exif": exif}))


PICTURES = {kind: with_exif(kind) for kind in FORMATS}


@given(kind=st.sampled_from(FORMATS), place=st.integers(0), byte=st.integers(0, 255))
@settings(max_examples=600)
def test_a_damaged_byte_gives_an_image_or_a_value_error(kind: str, place: int, byte: int) -> None:
    """Whatever a decoder makes of it: nothing else reaches the user, and nothing hangs."""
    content = bytearray(PICTURES[kind])
    content[place % len(content)] = byte
    with contextlib.suppress(ValueError):
        assert decode(bytes(content)).mode in {"L", "RGB"}
