"""The dataset `shapes`: even over the classes, the same bytes every time, classes told apart."""

from __future__ import annotations

import hashlib
import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlkit.parts.shapes import SHAPES, Shapes, draw_shape
from tlkit.system.errors import DataError

keys = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
shapes = st.sampled_from(range(len(SHAPES)))


def test_images_are_spread_evenly_over_the_classes() -> None:
    splits = Shapes(train=31, val=7, test=3).load()
    assert splits.classes == ("circle", "square", "triangle")
    assert splits.counts("train") == {"circle": 11, "square": 10, "triangle": 10}
    assert splits.counts("val") == {"circle": 3, "square": 2, "triangle": 2}
    assert splits.counts("test") == {"circle": 1, "square": 1, "triangle": 1}


def test_test_may_be_empty_and_classes_may_have_names() -> None:
    splits = Shapes(classes=("no", "yes"), test=0).load()
    assert splits.test == ()
    assert splits.counts("val") == {"no": 8, "yes": 7}


def test_an_image_is_a_png_of_the_wanted_size() -> None:
    splits = Shapes(image_px=48).load()
    image = Image.open(io.BytesIO(splits.read(splits.train[0].path)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 48))


def test_every_image_is_another_and_another_seed_gives_others() -> None:
    studies = [Shapes(train=6, val=3, test=3, image_px=16, draw_seed=n).load() for n in (0, 1)]
    contents = [
        splits.read(example.path)
        for splits in studies
        for _, examples in splits.items()
        for example in examples
    ]
    assert Counter(contents).most_common(1)[0][1] == 1


def test_the_picture_shows_what_its_class_says_whatever_the_class_is_called() -> None:
    named = Shapes(classes=("x", "y", "z"), image_px=32).load()
    plain = Shapes(image_px=32).load()
    for one, other in zip(named.train, plain.train, strict=True):
        assert named.read(one.path) == plain.read(other.path)


def test_more_classes_than_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"^shapes: draws at most 3 classes, got 4$"):
        Shapes(classes=("a", "b", "c", "d")).load()


def test_too_few_images_for_every_class_are_refused() -> None:
    with pytest.raises(DataError, match=r"^val split: every class needs at least one image"):
        Shapes(val=2).load()


@given(shape=shapes, key=keys, image_px=st.integers(16, 64))
@settings(max_examples=25, deadline=None)
def test_a_key_always_gives_the_same_drawing(
    shape: int, key: tuple[int, int], image_px: int
) -> None:
    drawn = draw_shape(shape, key, image_px)
    assert drawn.shape == (image_px, image_px, 3)
    assert drawn.dtype == np.uint8
    assert drawn.tobytes() == draw_shape(shape, key, image_px).tobytes()


@given(key=keys)
@settings(max_examples=25, deadline=None)
def test_the_shapes_of_a_key_differ_only_where_they_are(key: tuple[int, int]) -> None:
    """Same place, colors and background: the border, which no shape reaches, is the same."""
    drawn = [draw_shape(shape, key, 64).astype(int) for shape in range(len(SHAPES))]
    for other in drawn[1:]:
        differs = (drawn[0] != other).any(axis=2)
        assert 0 < differs.mean() < 0.25


def test_brightness_and_color_say_nothing_about_the_shape() -> None:
    means = np.array(
        [
            [draw_shape(shape, (shape, key), 32).mean(axis=(0, 1)) for key in range(100)]
            for shape in range(len(SHAPES))
        ]
    )
    assert np.ptp(means.mean(axis=1), axis=0).max() < 0.5 * means.std(axis=1).min()


def test_the_drawings_stay_the_same_to_the_bit() -> None:
    digest = hashlib.sha256()
    for shape in range(len(SHAPES)):
        for key, image_px in (((0, 0, shape), 32), ((3, 1, 7), 100)):
            digest.update(draw_shape(shape, key, image_px).tobytes())
    assert digest.hexdigest() == "76c0560ca891200bdb9ef4c1383dd1efdbc95245ea09d9702a57e59b33578399"
