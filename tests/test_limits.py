"""Limits: what one file may cost is stated, settable, and named in the message."""

from __future__ import annotations

import errno
import io
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.battery.hostile import plain_tiff
from tests.odd_images import all_odd_images
from tests.test_dicom import dicom

from tlkit.data import decoding, jpeg
from tlkit.data import dicom as dicom_module
from tlkit.data.decoding import ImageError, decode
from tlkit.data.images import Reader, to_pixels
from tlkit.system.errors import ResourceError, named_shortage
from tlkit.system.limits import LIMITS, MemoryBudget, limit

NOISE = np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8)


def saved(kind: str, pixels: np.ndarray = NOISE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def deflated(content: bytes) -> bytes:
    """Return a DICOM file in the deflated syntax with more bytes at its end, ten thousandfold."""
    head = dicom(np.zeros((4, 4), np.uint8))
    length = struct.unpack_from("<I", head, 140)[0]
    plain, deflate = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    meta = head[132 : 144 + length].replace(
        struct.pack("<H", len(plain)) + plain, struct.pack("<H", len(deflate)) + deflate
    )
    meta = meta[:8] + struct.pack("<I", length + 2) + meta[12:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = packer.compress(head[144 + length :] + content) + packer.flush()
    return head[:132] + meta + data


def paged(pages: int) -> bytes:
    """Return a TIFF whose second and later pages are reduced copies, as in a pyramid."""
    content = plain_tiff(8, 8, 0)
    tags = content[10:106]
    size = 2 + 12 * 9 + 4
    entry = struct.pack("<HHII", decoding_subfile, 4, 1, 1)
    first, start = content[:106], len(content)
    places = [start + n * size for n in range(pages - 1)] + [0]
    rest = b"".join(
        struct.pack("<H", 9) + entry + tags + struct.pack("<I", places[n + 1])
        for n in range(pages - 1)
    )
    return first + struct.pack("<I", places[0]) + content[110:] + rest


decoding_subfile = 254


@pytest.mark.parametrize(
    ("variable", "value", "content", "message"),
    [
        ("TLKIT_MAX_PIXELS", 7679, lambda: saved("PNG"), "80×96 pixels, more than 7,679"),
        ("TLKIT_MAX_SCANS", 5, lambda: saved("JPEG", progressive=True), "has more than 5"),
        ("TLKIT_MAX_PAGES", 3, lambda: paged(5), "has more than 3"),
        ("TLKIT_MAX_UNPACKED_MB", 1, lambda: deflated(bytes(2 << 20)), "unpacks to more than 1 MB"),
        (
            "TLKIT_MAX_METADATA_MB",
            1,
            lambda: saved("JPEG", comment=b"c" * 65_000).replace(
                b"\xff\xfe",
                (b"\xff\xfe" + struct.pack(">H", 65_000) + bytes(64_998)) * 20 + b"\xff\xfe",
            ),
            "has more than 1 MB",
        ),
    ],
)
def test_a_limit_is_named_and_can_be_set(
    variable: str,
    value: int,
    content: Callable[[], bytes],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = content()
    assert decode(file).width
    monkeypatch.setenv(variable, str(value))
    with pytest.raises(ImageError, match=rf"^[^\n]*{message} \({variable}\)"):
        decode(file)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "²"])
def test_a_limit_that_is_no_number_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_MAX_SCANS", text)
    with pytest.raises(ResourceError, match="TLKIT_MAX_SCANS: must be a whole number above 0"):
        limit("TLKIT_MAX_SCANS")


def test_every_limit_is_on_the_page_with_its_default() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/limits.md").read_text(encoding="utf-8")
    for name, default in LIMITS.items():
        assert f"| `{name}` | {default:,} |" in page


def test_a_deflated_dicom_within_the_limit_is_read() -> None:
    assert np.asarray(decode(deflated(b""))).shape == (4, 4)


def test_pages_take_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_MAX_PAGES", "100000")
    file, start = paged(20_000), time.process_time()
    decode(file)
    assert time.process_time() - start < 2  # Pillow's own count took 3 s


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_jpeg_cut_off_before_an_end_marker_is_refused(
    options: dict[str, object], mode: str, tenth: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(buffer, "JPEG", **options)
    content = buffer.getvalue()
    start = content.index(b"\xff\xda")
    cut = content[: start + (len(content) - start) * tenth // 10].rstrip(b"\xff")
    assert decode(content).size == (80, 96)
    with pytest.raises(ImageError, match=rf"^{decoding.CUT_OFF}|^cannot be decoded|^is a JPEG"):
        decode(cut + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("gray", [0, 127, 128, 255])
def test_a_whole_jpeg_of_one_gray_is_read(options: dict[str, object], gray: int) -> None:
    file = saved("JPEG", np.full((33, 47, 3), gray, np.uint8), **options)
    assert decode(file).size == (47, 33)


def test_an_image_filled_up_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ResourceError, match=r"LOAD_TRUNCATED_IMAGES: .*set it to False"):
        decode(saved("PNG"))


def test_other_peoples_limit_and_openers_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    monkeypatch.setattr(Image, "OPEN", {})
    assert decode(saved("PNG")).size == (80, 96)
    with pytest.raises(ResourceError, match="MAX_IMAGE_PIXELS: was lowered in this process"):
        decode(saved("TIFF"))


@pytest.mark.parametrize("odd", [odd for odd in all_odd_images() if odd.pixels is not None][::3])
def test_strips_do_not_change_a_picture(odd: object, monkeypatch: pytest.MonkeyPatch) -> None:
    content: bytes = odd.content  # type: ignore[attr-defined]  # an OddImage
    whole = decode(content)
    for module in (decoding, dicom_module):
        monkeypatch.setattr(module, "STRIP_PIXELS", 1)
    assert decode(content) == whole


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EMFILE, "x"), OSError(errno.EIO, "x")]
)
def test_a_shortage_is_never_a_bad_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> bytes:
        raise error

    with pytest.raises(ResourceError, match=r"^a\.png: .*TLKIT_DECODING_MB$"):
        Reader(read, 8)("a.png")


def test_memory_that_is_short_in_a_decoder_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError, match="out of memory"):
        decode(saved("BMP"))
    with pytest.raises(ResourceError, match=r"^a\.bmp: memory is too short for it; free some"):
        Reader(lambda path: saved("BMP"), 8)("a.bmp")


def test_a_thread_that_cannot_start_is_a_shortage() -> None:
    with pytest.raises(ResourceError, match="images: no more threads can be started"), \
            named_shortage("images"):  # fmt: skip
        raise RuntimeError("can't start new thread")
    with pytest.raises(RuntimeError, match="another"), named_shortage("images"):
        raise RuntimeError("another")


def test_threads_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_DECODING_MB", "10")
    budget, most, lock = MemoryBudget(), [0], threading.Lock()

    def work(size: int) -> None:
        with budget.holding(size << 20):
            with lock:
                most[0] = max(most[0], budget.used)
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [3, 4, 50, 5, 6, 1] * 10))
    assert most[0] == 50 << 20  # alone: with another it would be more
    assert budget.used == 0


def test_a_picture_larger_than_the_budget_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_DECODING_MB", "1")
    file = saved("PNG", np.zeros((400, 400), np.uint8))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: to_pixels(file, 8).sum(), range(8)))
    assert found == [0] * 8


def test_markers_inside_a_thumbnail_are_no_scans() -> None:
    inner = saved("JPEG", progressive=True)
    exif = b"Exif\0\0" + inner
    content = saved("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert jpeg.JpegMarkers(content[:2] + segment + content[2:]).scans == 1
