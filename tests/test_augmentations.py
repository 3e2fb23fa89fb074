"""Augmentations: exact where geometry is exact, within bounds, and a function of the key alone."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

import tlkit
from tlkit.parts.augmentations import (
    Affine,
    Natural,
    NoAugmentation,
    StrengthAugmentation,
    XraySafe,
    adjust_saturation,
    adjust_tone,
    affine_transform,
    uniforms,
)
from tlkit.parts.keras_cv_augmentations import GridMask, RandAugment
from tlkit.parts.kinds import registries
from tlkit.parts.shapes import draw_shape

Floats = npt.NDArray[np.float32]
SIDE = 8
NAMES = [name for name in registries.augmentations.names() if name != "compose"]  # its own tests
PRESETS = [registries.augmentations.get(name)() for name in NAMES]
EVERY = [preset for preset in PRESETS if preset.changes]
GRADED = [preset for preset in PRESETS if isinstance(preset, StrengthAugmentation)]


def each_by_name(parts: Sequence[Any]) -> list[Any]:
    """Return parameters; tracing RandAugment takes seconds."""
    slow = [pytest.mark.slow]
    return [
        pytest.param(part, id=type(part).__name__, marks=slow * isinstance(part, RandAugment))
        for part in parts
    ]


of_each = pytest.mark.parametrize("augmentation", each_by_name(EVERY))
graded = pytest.mark.parametrize("augmentation", each_by_name(GRADED))

AFFINE_STILL: dict[str, Any] = {
    "rotation_deg": 0,
    "shift_frac": 0,
    "zoom_frac": 0,
    "flip": False,
    "brightness_frac": 0,
}
TONES = {"brightness_frac": 0.0, "contrast_frac": 0.0}
XRAY_STILL: dict[str, Any] = {"rotation_deg": 0.0, "shift_frac": 0.0, "zoom_frac": 0.0, **TONES}
NATURAL_STILL: dict[str, Any] = {
    "flip": False,
    "crop_frac": 0.0,
    "rotation_deg": 0.0,
    "saturation_frac": 0.0,
    **TONES,
}

shifts = st.integers(-SIDE, SIDE)
keys = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))


def pictures(count: int = 2, side: int = SIDE) -> Floats:
    values = np.random.default_rng(0).integers(0, 256, (count, side, side, 3))
    return values.astype(np.float32)


def many_keys(count: int, view: int = 7) -> npt.NDArray[np.int32]:
    """What the engine gives: one seed for the view, and each image's number."""
    return np.stack([np.full(count, view), np.arange(count)], axis=1).astype(np.int32)


@functools.cache  # KerasCV's take seconds to build
def program(augmentation: tlkit.Augmentation, side: int) -> Any:
    """What the engine makes of it: a graph, for batches of any size."""
    types = [tf.TensorSpec((None, side, side, 3), tf.float32), tf.TensorSpec((None, 2), tf.int32)]
    return tf.function(augmentation.augment, input_signature=types)


def augmented(augmentation: tlkit.Augmentation, images: Floats, keys: Any) -> Floats:
    result: Floats = program(augmentation, images.shape[1])(images, keys).numpy()
    return result


def draws_for(keys: Any, count: int) -> Floats:
    result: Floats = tf.function(uniforms)(tf.constant(keys, tf.int32), count).numpy()
    return result


def moved_by(images: Floats, draw: tuple[float, float, float], degrees: float, shift: float) -> Any:
    angle, down, right = tf.unstack(tf.constant([draw] * len(images), tf.float32), axis=1)
    angle = angle * math.radians(degrees)
    return affine_transform(images, angle, down * shift, right * shift).numpy()


def test_none_does_nothing_and_says_so() -> None:
    assert not NoAugmentation().changes
    np.testing.assert_array_equal(augmented(NoAugmentation(), pictures(), many_keys(2)), pictures())


@pytest.mark.parametrize(
    "augmentation",
    [
        Affine(**AFFINE_STILL),
        XraySafe(**XRAY_STILL),
        Natural(**NATURAL_STILL),
        pytest.param(RandAugment(rate=1e-30), marks=pytest.mark.slow),
        GridMask(ratio_frac=0),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
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


@of_each
def test_an_image_depends_on_its_key_and_not_on_its_batch(augmentation: Any) -> None:
    images, numbers = pictures(9), many_keys(9)
    together = augmented(augmentation, images, numbers)
    for order in ([0], [8], [3, 1], list(range(9))[::-1], [2, 2, 7, 0, 5, 2]):
        found = augmented(augmentation, images[order], numbers[order])
        assert found.tobytes() == together[order].tobytes()
    eagerly = augmentation.augment(tf.constant(images), tf.constant(numbers)).numpy()
    assert eagerly.tobytes() == together.tobytes()
    assert not np.array_equal(together, images)


@of_each
def test_an_image_does_not_depend_on_its_mates(augmentation: Any) -> None:
    images, numbers = pictures(9), many_keys(9)
    together = augmented(augmentation, images, numbers)[4]
    images[:4], images[5:], numbers[:4], numbers[5:] = 255, 0, 1, 1
    assert augmented(augmentation, images, numbers)[4].tobytes() == together.tobytes()


@of_each
def test_another_key_gives_another_picture(augmentation: Any) -> None:
    """All but a few times: a draw may change nothing, or a grid may miss so small a picture."""
    images = np.repeat(pictures(1, 32), 40, axis=0)
    found = {picture.tobytes() for picture in augmented(augmentation, images, many_keys(40))}
    again = {picture.tobytes() for picture in augmented(augmentation, images, many_keys(40, 8))}
    assert len(found | again) >= 70


@graded
def test_strength_0_changes_nothing_and_says_so(augmentation: StrengthAugmentation) -> None:
    still = evolve(augmentation, strength=0)
    assert not still.changes
    assert augmented(still, pictures(), many_keys(2)).tobytes() == pictures().tobytes()


@graded
def test_more_strength_changes_more(augmentation: StrengthAugmentation) -> None:
    """Measured on drawn shapes: noise changes completely with the smallest shift."""
    drawn = [draw_shape(number % 3, (number,), 32) for number in range(60)]
    images = np.stack(drawn).astype(np.float32)
    changes = [
        np.abs(augmented(evolve(augmentation, strength=s), images, many_keys(60)) - images).mean()
        for s in (0, 0.5, 1, 2)
    ]
    assert changes[0] == 0
    assert (np.diff(changes) > 0.15).all(), changes


@of_each
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
    found = centre_of(augmented(Affine(**AFFINE_STILL | {"shift_frac": 0.1}), spot, many_keys(300)))
    assert found.max() <= 4 + 1e-3
    assert found.min() >= -4 - 1e-3
    assert (found.max(axis=0) > 3.7).all()
    assert (found.min(axis=0) < -3.7).all()


@pytest.mark.parametrize(
    ("keys", "digest"),
    [
        (
            {"flip": False, "brightness_frac": 0},
            "d06974a29f4257d68904636af4a90ead37deb50df4d357696f7c058dc925b4c2",
        ),
        (
            {"flip": True, "brightness_frac": 0.1},
            "5690a81efe003befff755940cc9d4be37f150180850d531306cb6b7a47e135da",
        ),
    ],
    ids=["as written", "as published"],
)
def test_a_study_s_numbers_draw_what_its_own_presets_drew(keys: Any, digest: str) -> None:
    """The digests are those of the presets that tlkit 0.1 had for the COVIDx study."""
    blocks = np.random.default_rng(7).integers(0, 256, (6, 7, 5, 3))
    images = np.kron(blocks, np.ones((1, 6, 8, 1))).astype(np.float32)
    numbers = np.random.default_rng(8).integers(0, 2**31 - 1, (6, 2), dtype=np.int32)
    affine = Affine(rotation_deg=10, shift_frac=0.1, zoom_frac=0, **keys)
    found = affine.augment(tf.constant(images), tf.constant(numbers)).numpy()
    assert hashlib.sha256(found.tobytes()).hexdigest() == digest


def test_more_draws_for_a_key_begin_with_the_same_numbers() -> None:
    for count in (1, 3, 5):
        np.testing.assert_array_equal(
            draws_for(many_keys(9), count), draws_for(many_keys(9), 8)[:, :count]
        )


def test_angles_reach_their_bound_both_ways_and_not_beyond() -> None:
    spot = np.zeros((300, 41, 41, 3), np.float32)
    spot[:, 20, 36:39] = 255  # 17 pixels right of the middle
    found = centre_of(
        augmented(Affine(**AFFINE_STILL | {"rotation_deg": 30}), spot, many_keys(300))
    )
    angles = np.degrees(np.arctan2(found[:, 0], found[:, 1]))
    assert np.abs(angles).max() <= 30 + 0.5
    assert angles.max() > 28
    assert angles.min() < -28


def test_about_every_second_image_is_mirrored_left_to_right() -> None:
    still = Affine(**AFFINE_STILL | {"flip": True})
    images = np.repeat(pictures(1), 1000, axis=0)
    found = augmented(still, images, many_keys(1000))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == images).all(axis=(1, 2, 3)) | mirrored).all()
    assert 440 < mirrored.sum() < 560


def test_brightness_is_a_factor_cut_off_at_white() -> None:
    still = Affine(**AFFINE_STILL | {"brightness_frac": 0.5})
    images = np.zeros((300, 2, 2, 3), np.float32)
    images[:, 0], images[:, 1] = 100, 240
    found = augmented(still, images, many_keys(300))
    factors = found[:, 0, 0, 0] / 100
    assert 0.5 <= factors.min() < 0.53
    assert 1.47 < factors.max() <= 1.5
    expected = np.minimum(240 * factors, 255)
    np.testing.assert_allclose(found[:, 1, 0, 0], expected, rtol=1e-6)


def test_an_affine_zoom_is_about_the_center() -> None:
    spot = np.zeros((300, 41, 41, 3), np.float32)
    spot[:, 20, 29:32] = 255  # 10 pixels right of the middle
    found = centre_of(augmented(Affine(**AFFINE_STILL | {"zoom_frac": 0.2}), spot, many_keys(300)))
    assert found[:, 1].min() == pytest.approx(10 / 1.2, abs=0.15)
    assert found[:, 1].max() == pytest.approx(10 / 0.8, abs=0.15)


@pytest.mark.parametrize("augmentation", [XraySafe(), Natural()], ids=["xray_safe", "natural"])
@pytest.mark.parametrize("grey", [40, 200])
def test_no_border_is_drawn(augmentation: StrengthAugmentation, grey: float) -> None:
    """An even picture stays even, whatever comes in from outside."""
    even = np.full((100, 24, 24, 3), grey, np.float32)
    found = augmented(evolve(augmentation, strength=2), even, many_keys(100))
    assert np.ptp(found, axis=(1, 2, 3)).max() < 0.01
    assert np.ptp(found) > 0.3 * grey


def test_a_radiograph_is_never_mirrored() -> None:
    heart = np.zeros((200, 24, 24, 3), np.float32)
    heart[:, 10:14, 16:18] = 255
    found = centre_of(augmented(XraySafe(strength=2), heart, many_keys(200)))
    assert (found[:, 1] > 2).all()


def test_a_zoom_reaches_its_bound_both_ways_and_not_beyond() -> None:
    spot = np.zeros((300, 41, 41, 3), np.float32)
    spot[:, 20, 29:32] = 255  # 10 pixels right of the middle
    zooming = XraySafe(**XRAY_STILL | {"zoom_frac": 0.2})
    found = centre_of(augmented(zooming, spot, many_keys(300)))
    assert found[:, 1].min() == pytest.approx(10 / 1.2, abs=0.15)
    assert found[:, 1].max() == pytest.approx(10 / 0.8, abs=0.15)
    assert np.abs(found[:, 0]).max() < 0.01


def test_a_crop_lies_anywhere_in_the_picture_and_never_outside() -> None:
    ramp = np.broadcast_to(np.arange(0, 80, 2, dtype=np.float32)[:, None], (300, 40, 40, 3))
    cropping = Natural(**NATURAL_STILL | {"crop_frac": 0.4})
    found = augmented(cropping, ramp, many_keys(300))[:, 5, :, 0]
    sides = (found[:, 30] - found[:, 10]) / 40
    assert 0.6 <= sides.min() < 0.61
    assert 0.99 < sides.max() <= 1
    assert (np.diff(found) >= 0).all()  # nothing is mirrored in
    starts = (
        found[:, 0] / 80 / (1 - sides)
    )  # of the room there is: 0 at the left end, 1 at the right
    assert starts[sides < 0.8].min() < 0.05
    assert starts[sides < 0.8].max() > 0.95


def test_contrast_turns_about_the_mean_and_brightness_about_black() -> None:
    images = np.array([50, 60, 70], np.float32).reshape(1, 1, 3, 1).repeat(3, axis=3)
    found = adjust_tone(tf.constant(images), tf.constant([2.0]), tf.constant([0.5])).numpy()
    np.testing.assert_array_equal(found[0, 0, :, 0], [110, 120, 130])
    ends = adjust_tone(tf.constant(images), tf.constant([1.0]), tf.constant([30.0])).numpy()
    np.testing.assert_array_equal(ends[0, 0, :, 0], [0, 60, 255])


def test_saturation_turns_about_grey() -> None:
    image = np.array([200, 100, 50], np.float32).reshape(1, 1, 1, 3)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    for factor, expected in ((0.0, [grey] * 3), (0.5, (image[0, 0, 0] + grey) / 2)):
        found = adjust_saturation(tf.constant(image), tf.constant([factor])).numpy()
        np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-5)


def test_a_picture_is_made_larger_about_its_middle() -> None:
    image = pictures(1, 9)
    none = tf.zeros(1)
    found = affine_transform(tf.constant(image), none, none, none, tf.constant([0.5])).numpy()
    np.testing.assert_array_equal(found[:, ::2, ::2], image[:, 2:7, 2:7])


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (Affine, {"rotation_deg": -1}, r"^rotation_deg: must be from 0 to 180, got -1$"),
        (Affine, {"rotation_deg": 181}, r"^rotation_deg: must be from 0 to 180, got 181$"),
        (Affine, {"shift_frac": 1}, r"^shift_frac: must be at least 0 and below 1, got 1$"),
        (Affine, {"brightness_frac": -0.1}, r"^brightness_frac: must be at least 0"),
        (XraySafe, {"strength": 2.1}, r"^strength: must be from 0 to 2, got 2.1$"),
        (XraySafe, {"zoom_frac": 0.5}, r"^zoom_frac: must be at least 0 and below 0.5, got 0.5$"),
        (GridMask, {"ratio_frac": 0.6}, r"^ratio_frac: must be from 0 to 0.5, got 0.6$"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, float], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)
