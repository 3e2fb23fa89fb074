"""VGG-16: its numbers, and how pixels become its input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.parts.backbones.vgg import VGG16

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def test_the_table_has_the_numbers_of_the_paper() -> None:
    table = VGG16().layers()
    assert len(table) == 18
    assert table.params == 14_714_688
    assert table.blocks == ("block1", "block2", "block3", "block4", "block5")
    assert table[18].output_shape == (7, 7, 512)
    in_block_5 = table.rates(table.named("block5"))
    assert table.trainable_params(in_block_5) == 3 * (3 * 3 * 512 * 512 + 512)


@pytest.mark.parametrize("image_size", [32, 47, 100])
def test_the_table_is_what_keras_builds_at_any_size(image_size: int) -> None:
    backbone = VGG16(image_size=image_size)
    assert tlkit.layer_table(backbone.build()) == backbone.layers()


def test_native_input_is_what_keras_prepares() -> None:
    expected = keras.applications.vgg16.preprocess_input(PIXELS.copy())
    found = np.asarray(VGG16(preprocess="native").preprocess_images(tf.constant(PIXELS)))
    assert found.dtype == np.float32
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)


def test_unit_input_is_the_pixels_divided_by_255() -> None:
    found = np.asarray(VGG16(preprocess="unit").preprocess_images(tf.constant(PIXELS)))
    np.testing.assert_array_equal(found, PIXELS / np.float32(255))


def test_an_image_that_the_pools_would_shrink_to_nothing_is_refused() -> None:
    with pytest.raises(tlkit.FieldError, match=r"^image_size: must be at least 32, got 31$"):
        VGG16(image_size=31)


@pytest.mark.parametrize(
    ("weights", "sources"), [("none", ("none",)), (("imagenet", "none"), ("imagenet", "none"))]
)
def test_one_source_is_a_list_of_one(weights: Any, sources: tuple[str, ...]) -> None:
    assert VGG16(weights=weights).sources == sources
