"""From files to pixels of one size: resizing, and the reader."""

from __future__ import annotations

import numpy as np
import pytest
from tests.pictures import Pixels, encoded, random_pixels

import tlkit
from tlkit.data.images import Reader, Resize, to_pixels
from tlkit.parts.shapes import Shapes


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (32, 32), (31, 77)])
def test_any_shape_becomes_the_wanted_one(resize: Resize, shape: tuple[int, int]) -> None:
    found = to_pixels(encoded(random_pixels(*shape, channels=1)), 32, resize)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_left_alone(resize: Resize, channels: int) -> None:
    image = random_pixels(8, 8, channels)
    expected = image if channels == 3 else np.stack([image] * 3, axis=-1)
    np.testing.assert_array_equal(to_pixels(encoded(image), 8, resize), expected)


def test_the_centre_can_be_blacked_out() -> None:
    image = random_pixels(20, 20) | 1  # nothing in it is black
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
    files = {"good.png": encoded(random_pixels()), "bad.png": b"text"}
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
