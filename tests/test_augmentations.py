"""Augmentations: exact where geometry is exact, within bounds, and a function of the key alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tlkit
from tlkit.parts.augmentations import Covidx, CovidxPublished, NoAugmentation, moved, uniforms

Floats = npt.NDArray[np.float32]
SIDE = 8
EVERY = [Covidx(), CovidxPublished()]

shifts = st.integers(-SIDE, SIDE)
keys = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))


def pictures(count: int = 2, side: int = SIDE) -> Floats:
    values = np.random.default_rng(0).integers(0, 256, (count, side, side, 3))
    return values.astype(np.float32)


def many_keys(count: int, view: int = 7) -> npt.NDArray[np.int32]:
    """What the engine gives: one seed for the view, and each image's number."""
    return np.stack([np.full(count, view), np.arange(count)], axis=1).astype(np.int32)


def augmented(augmentation: tlkit.Augmentation, images: Floats, keys: Any) -> Floats:
    """Augment as the engine does, in a graph."""
    result: Floats = tf.function(augmentation.augment)(images, tf.constant(keys)).numpy()
    return result


def draws_for(keys: Any, count: int) -> Floats:
    result: Floats = tf.function(uniforms)(tf.constant(keys, tf.int32), count).numpy()
    return result


def moved_by(images: Floats, draw: tuple[float, float, float], degrees: float, shift: float) -> Any:
    return moved(images, tf.constant([draw] * len(images), tf.float32), degrees, shift).numpy()


def test_none_does_nothing_and_says_so() -> None:
    assert not NoAugmentation().changes
    np.testing.assert_array_equal(augmented(NoAugmentation(), pictures(), many_keys(2)), pictures())


@pytest.mark.parametrize(
    "augmentation",
    [
        Covidx(rotation_deg=0, shift_frac=0),
        CovidxPublished(rotation_deg=0, shift_frac=0, flip=False, brightness_frac=0),
    ],
    ids=["covidx", "covidx_published"],
)
def test_with_everything_at_0_it_is_the_identity(augmentation: tlkit.Augmentation) -> None:
    assert augmentation.changes
    found = augmented(augmentation, pictures(), many_keys(2))
    np.testing.assert_array_equal(found, pictures())


@given(down=shifts, right=shifts)
@settings(max_examples=30)
def test_a_shift_by_whole_pixels_is_exact_and_brings_in_black(down: int, right: int) -> None:
    expected = np.zeros_like(pictures())
    rows, columns = np.indices((SIDE, SIDE)) - np.array([down, right])[:, None, None]
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    expected[:, inside] = np.roll(pictures(), (down, right), axis=(1, 2))[:, inside]
    found = moved_by(pictures(), (0, down / SIDE, right / SIDE), 90, 1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("draw", "turns"), [(1, 3), (-1, 1), (2, 2)])
@pytest.mark.parametrize("side", [7, 8])
def test_a_positive_angle_turns_clockwise_about_the_centre(
    draw: float, turns: int, side: int
) -> None:
    found = moved_by(pictures(side=side), (draw, 0, 0), 90, 0)
    expected = np.rot90(pictures(side=side), turns, axes=(1, 2))  # which turns against the clock
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_what_is_rotated_in_from_outside_is_black() -> None:
    white = np.full((1, 33, 33, 3), 255, np.float32)
    found = moved_by(white, (1, 0, 0), 45, 0)[0, ..., 0]
    assert found[0, 0] == found[0, -1] == found[-1, 0] == found[-1, -1] == 0
    assert found[16, 16] == found[16, 0] == 255


@pytest.mark.parametrize("axis", [1, 2], ids=["down", "right"])
def test_it_is_rotated_first_and_shifted_then(axis: int) -> None:
    """So the shift is along the sides of the result, whatever the angle."""
    turned = np.rot90(pictures(), 3, axes=(1, 2))
    expected = np.zeros_like(turned)
    np.moveaxis(expected, axis, 0)[2:] = np.moveaxis(turned, axis, 0)[:-2]
    draw = (1, 0.25, 0) if axis == 1 else (1, 0, 0.25)
    np.testing.assert_allclose(moved_by(pictures(), draw, 90, 1), expected, atol=0.01)


@given(first=keys, second=keys)
@settings(max_examples=30)
def test_draws_are_equal_if_and_only_if_keys_are(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    one, same, other = draws_for([first, first, second], 3)
    assert one.tobytes() == same.tobytes()
    assert (one.tobytes() == other.tobytes()) == (first == second)


def test_draws_are_even_over_the_range_and_independent_of_each_other() -> None:
    draws = draws_for(many_keys(4000), 5)
    assert -1 <= draws.min() < -0.99 < 0.99 < draws.max() < 1
    shares = [np.histogram(column, bins=8, range=(-1, 1))[0] / 4000 for column in draws.T]
    np.testing.assert_allclose(shares, 1 / 8, atol=0.025)
    neighbours = np.concatenate([draws[:-1], draws[1:]], axis=1)  # two images, side by side
    correlations = np.corrcoef(neighbours.T) - np.eye(10)
    assert np.abs(correlations).max() < 0.06


def test_another_view_draws_anew() -> None:
    assert not np.array_equal(draws_for(many_keys(3, view=8), 3), draws_for(many_keys(3), 3))


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: type(a).__name__)
def test_an_image_depends_on_its_key_and_not_on_its_batch(augmentation: Any) -> None:
    images, numbers = pictures(4), many_keys(4)
    together = augmented(augmentation, images, numbers)
    for order in ([0], [3, 1], [2, 0, 3, 1]):
        found = augmented(augmentation, images[order], numbers[order])
        np.testing.assert_array_equal(found, together[order])
    assert not np.array_equal(together, images)


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: type(a).__name__)
def test_pixels_stay_pixels(augmentation: tlkit.Augmentation) -> None:
    found = augmented(augmentation, pictures(50), many_keys(50))
    assert found.dtype == np.float32
    assert found.shape == (50, SIDE, SIDE, 3)
    assert found.min() >= 0
    assert found.max() <= 255


def centre_of(images: Floats) -> npt.NDArray[np.float64]:
    """Where the light is: rows and columns from the middle, in pixels."""
    light = images[..., 0].astype(np.float64)
    places = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    total = light.sum(axis=(1, 2))
    return np.stack([light.sum(axis=axis) @ places / total for axis in (2, 1)], axis=1)


def test_shifts_reach_their_bound_both_ways_and_not_beyond() -> None:
    spot = np.zeros((300, 40, 40, 3), np.float32)
    spot[:, 19:21, 19:21] = 255
    found = centre_of(augmented(Covidx(rotation_deg=0, shift_frac=0.1), spot, many_keys(300)))
    assert found.max() <= 4 + 1e-3
    assert found.min() >= -4 - 1e-3
    assert (found.max(axis=0) > 3.7).all()
    assert (found.min(axis=0) < -3.7).all()


def test_angles_reach_their_bound_both_ways_and_not_beyond() -> None:
    spot = np.zeros((300, 41, 41, 3), np.float32)
    spot[:, 20, 36:39] = 255  # 17 pixels right of the middle
    found = centre_of(augmented(Covidx(rotation_deg=30, shift_frac=0), spot, many_keys(300)))
    angles = np.degrees(np.arctan2(found[:, 0], found[:, 1]))
    assert np.abs(angles).max() <= 30 + 0.5
    assert angles.max() > 28
    assert angles.min() < -28


def test_about_every_second_image_is_mirrored_left_to_right() -> None:
    still = CovidxPublished(rotation_deg=0, shift_frac=0, brightness_frac=0)
    images = np.repeat(pictures(1), 1000, axis=0)
    found = augmented(still, images, many_keys(1000))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == images).all(axis=(1, 2, 3)) | mirrored).all()
    assert 440 < mirrored.sum() < 560


def test_brightness_is_a_factor_cut_off_at_white() -> None:
    still = CovidxPublished(rotation_deg=0, shift_frac=0, flip=False, brightness_frac=0.5)
    images = np.zeros((300, 2, 2, 3), np.float32)
    images[:, 0], images[:, 1] = 100, 240
    found = augmented(still, images, many_keys(300))
    factors = found[:, 0, 0, 0] / 100
    assert 0.5 <= factors.min() < 0.53
    assert 1.47 < factors.max() <= 1.5
    expected = np.minimum(240 * factors, 255)
    np.testing.assert_allclose(found[:, 1, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (Covidx, {"rotation_deg": -1}, r"^rotation_deg: must be from 0 to 180, got -1$"),
        (Covidx, {"rotation_deg": 181}, r"^rotation_deg: must be from 0 to 180, got 181$"),
        (Covidx, {"shift_frac": 1}, r"^shift_frac: must be at least 0 and below 1, got 1$"),
        (CovidxPublished, {"brightness_frac": -0.1}, r"^brightness_frac: must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, float], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)
