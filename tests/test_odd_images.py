"""Odd image files are read right, or refused with the true reason; see `odd_images.py`."""

from __future__ import annotations

import io
import sys
from collections import Counter

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.odd_images import (
    CHANNELS,
    ORDERS,
    PNG_KINDS,
    TIFF_BLACK,
    TIFF_DEPTHS,
    TIFF_WHITE,
    ByteOrder,
    OddImage,
    all_odd_images,
    png,
    saved,
    tiff,
)

from tlkit.data.decoding import ImageError, decode, image_format
from tlkit.data.images import Resize, to_pixels

ODD = list(all_odd_images())


def check(odd: OddImage) -> str:
    """Check what `decode` makes of a file; return whether it was read or refused."""
    if odd.pixels is None:
        with pytest.raises(ImageError, match=odd.reason):
            decode(odd.content)
        return "refused"
    found = np.asarray(decode(odd.content)).astype(int)
    expected = odd.pixels.astype(int)
    if found.ndim == 3 and expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= odd.off
    return "read"


@pytest.mark.parametrize("odd", ODD, ids=[odd.name for odd in ODD])
def test_an_odd_file_is_read_right_or_refused_with_the_true_reason(odd: OddImage) -> None:
    check(odd)


def test_the_counts_of_odd_files_are_known() -> None:
    counts = Counter("refused" if odd.pixels is None else "read" for odd in ODD)
    assert counts == {"read": 274, "refused": 50}


sides = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


@given(kind=st.sampled_from(PNG_KINDS), key=st.booleans(), height=sides, width=sides, seed=seeds)
def test_any_png_is_read_right(
    kind: tuple[int, int], key: bool, height: int, width: int, seed: int
) -> None:
    color, depth = kind
    odd = png(color, depth, key and color not in {4, 6}, height, width, seed)
    check(odd)


@given(
    kind=st.sampled_from([*TIFF_DEPTHS]),
    photometric=st.sampled_from([TIFF_BLACK, TIFF_WHITE]),
    order=st.sampled_from(ORDERS),
    compression=st.sampled_from([None, "deflate", "lzw", "packbits"]),
    orientation=st.integers(1, 8),
    height=sides,
    width=sides,
    seed=seeds,
)
def test_any_gray_tiff_is_read_right(
    kind: str,
    photometric: str,
    order: ByteOrder,
    compression: str | None,
    orientation: int,
    height: int,
    width: int,
    seed: int,
) -> None:
    check(tiff(kind, photometric, order, compression, False, orientation, height, width, seed))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_the_written_pngs_are_what_an_independent_decoder_reads(color: int, depth: int) -> None:
    if (color, depth) not in PNG_KINDS:
        pytest.skip("PNG has no such kind")
    odd = png(color, depth)
    found = imagecodecs.png_decode(odd.content)
    found = found.astype(int)[..., None] if found.ndim == 2 else found.astype(int)
    assert found.shape[-1] == CHANNELS[color]
    top = 65535 if depth == 16 else 255
    shown = found * 255 / top
    if color in {4, 6}:
        shown = shown[..., :-1] * (found[..., -1:] / top)
    ours = np.atleast_3d(np.asarray(decode(odd.content))).astype(int)
    assert np.abs(ours - shown).max() <= max(odd.off, 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", TIFF_DEPTHS)
def test_the_written_tiffs_are_what_an_independent_decoder_reads(
    kind: str, order: ByteOrder
) -> None:
    for photometric in (TIFF_BLACK, TIFF_WHITE):
        odd = tiff(kind, photometric, order, "lzw")
        found = tifffile.imread(io.BytesIO(odd.content)).astype(int)
        top = 255 if kind == "u1" else 65535
        shown = (top - found if photometric == TIFF_WHITE else found) * 255 / top
        assert np.abs(np.asarray(decode(odd.content)) - shown).max() <= 0.5
    if kind in {"u1", "u2"}:
        for planes in (False, True):
            odd = tiff(kind, "rgb", order, None if planes else "lzw", big=True, planes=planes)
            shown = tifffile.imread(io.BytesIO(odd.content)) * 255.0 / top
            shown = np.moveaxis(shown, 0, -1) if planes else shown
            assert np.abs(np.asarray(decode(odd.content)) - shown).max() <= 0.5


@given(
    kind=st.sampled_from(["u1", "u2"]),
    order=st.sampled_from(ORDERS),
    compression=st.sampled_from([None, "deflate", "lzw"]),
    big=st.booleans(),
    alpha=st.sampled_from([None, "assocalpha", "unassalpha"]),
    planes=st.booleans(),
    orientation=st.integers(1, 8),
    height=sides,
    width=sides,
    seed=seeds,
)
def test_any_color_tiff_is_read_right(
    kind: str,
    order: ByteOrder,
    compression: str | None,
    big: bool,
    alpha: str | None,
    planes: bool,
    orientation: int,
    height: int,
    width: int,
    seed: int,
) -> None:
    if kind == "u1":
        alpha = None  # Pillow blends 8 bits in its own way
    check(
        tiff(kind, "rgb", order, compression, big, orientation, height, width, seed, alpha, planes)
    )


@pytest.mark.parametrize("odd", ODD[::7], ids=[odd.name for odd in ODD[::7]])
@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_odd_files_become_pixels_of_one_size(odd: OddImage, resize: Resize) -> None:
    if odd.pixels is None:
        with pytest.raises(ImageError, match=odd.reason):
            to_pixels(odd.content, 8, resize)
    else:
        assert to_pixels(odd.content, 8, resize).shape == (8, 8, 3)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), size=st.sampled_from([8, 32]))
def test_a_padded_picture_is_the_whole_picture_on_black(width: int, height: int, size: int) -> None:
    found = to_pixels(saved(Image.new("L", (width, height), 200), "PNG"), size, "pad")[..., 0]
    rows, columns = (found == 200).any(1).sum(), (found == 200).any(0).sum()
    assert {*np.unique(found)} <= {0, 200}
    assert max(rows, columns) == size
    assert min(rows, columns) == max(1, round(size * min(width, height) / max(width, height)))


def test_heic_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = next(odd for odd in ODD if odd.name.startswith("HEIC"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"^is a HEIC file; to read it: pip install 'tlkit\[heic"):
        decode(odd.content)


@pytest.mark.parametrize("odd", ODD, ids=[odd.name for odd in ODD])
def test_the_first_bytes_tell_the_format(odd: OddImage) -> None:
    known = image_format(odd.content[:132])
    assert known == "" or odd.name.startswith((known, "HEIC", "JPEG"))
    assert known or odd.name in {"text", "HTML", "PDF", "EPS", "nothing"}
