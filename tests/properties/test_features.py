"""Features do not depend on batches: not on their size, order, mates or on being kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tlkit
from tlkit.parts.augmentations import CovidxPublished
from tlkit.train.features import Extractor, Features, Source, rebatched
from tlkit.train.fit import augmentation_keys
from tlkit.train.images import Reader
from tlkit.train.model import seeded

SIDE, IMAGES, BATCH = 8, 7, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)

sizes = st.integers(1, IMAGES + 1)
orders = st.lists(st.integers(0, IMAGES - 1), min_size=1, max_size=10)
repeatedly = settings(max_examples=30)  # each example runs TensorFlow


@frozen(kw_only=True)
class Unit(tlkit.Backbone):
    """Pixels divided by 255: only `prepare` is used here."""

    image_size: int = field(default=SIDE)

    def layers(self) -> tlkit.LayerTable:
        raise NotImplementedError

    def build(self) -> Any:
        raise NotImplementedError

    def native(self, images: Any) -> Any:
        return images / 255

    def load_weights(self, model: Any) -> Mapping[str, str]:
        raise NotImplementedError


@frozen
class Sources:
    """The same images, their features kept and computed again."""

    kept: Source
    streamed: Source


@pytest.fixture(scope="module")
def sources() -> Sources:
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    with seeded(0):
        convolved = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
        convolved = keras.layers.Conv2D(16, 3, activation="relu")(convolved)
    extractor = Extractor(keras.Model(inputs, convolved), Unit(), CovidxPublished(), BATCH)
    files = {}
    for number, pixels in enumerate(PIXELS):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[f"{number}.png"] = buffer.getvalue()
    reader, paths = Reader(files.__getitem__, SIDE), tuple(files)
    kept = extractor.keep(reader, paths)
    assert kept is not None
    return Sources(Source(extractor, reader, paths, kept), Source(extractor, reader, paths))


def whole(batches: Any) -> Features:
    return np.concatenate(list(batches))


@given(
    lengths=st.lists(st.integers(0, 9), max_size=8),
    size=st.integers(1, 12),
    width=st.integers(0, 3),
)
def test_rebatching_keeps_the_rows_and_makes_batches_of_one_size(
    lengths: list[int], size: int, width: int
) -> None:
    rows = np.arange(sum(lengths) * width).reshape(sum(lengths), width)
    chunks = np.split(rows, np.cumsum(lengths)[:-1]) if lengths else []
    batches = list(rebatched(iter(chunks), size))
    counts = [len(batch) for batch in batches]
    assert counts == [size] * (len(rows) // size) + [len(rows) % size] * (len(rows) % size > 0)
    if batches:
        np.testing.assert_array_equal(np.concatenate(batches), rows)


@given(order=st.lists(st.integers(0, IMAGES - 1), min_size=1, max_size=BATCH))
@repeatedly
def test_a_row_does_not_depend_on_its_mates_or_its_place(
    sources: Sources, order: list[int]
) -> None:
    kept = sources.kept.kept
    assert kept is not None
    found = sources.kept.extractor(PIXELS[order])
    assert found.tobytes() == kept[order].tobytes()


@given(size=sizes, order=orders)
@repeatedly
def test_kept_features_are_the_streamed_ones_to_the_byte(
    sources: Sources, size: int, order: list[int]
) -> None:
    numbers = np.array(order)
    kept = list(sources.kept.batches(size, numbers))
    streamed = list(sources.streamed.batches(size, numbers))
    assert [len(batch) for batch in kept] == [len(batch) for batch in streamed]
    assert whole(kept).tobytes() == whole(streamed).tobytes()


@given(size=sizes)
@repeatedly
def test_without_an_order_the_images_come_as_they_are(sources: Sources, size: int) -> None:
    kept = sources.kept.kept
    for source in (sources.kept, sources.streamed):
        np.testing.assert_array_equal(whole(source.batches(size)), kept)


@given(size=sizes, order=orders, seed=st.integers(0, 2**31 - 1), view=st.integers(0, 5))
@repeatedly
def test_an_augmented_image_depends_on_its_key_alone(
    sources: Sources, size: int, order: list[int], seed: int, view: int
) -> None:
    """Whatever the batch size and the order, and though unaugmented features are kept."""
    keys = augmentation_keys(seed, view, IMAGES)
    as_they_are = whole(sources.streamed.batches(BATCH, keys=keys))
    found = whole(sources.kept.batches(size, np.array(order), keys))
    assert found.tobytes() == as_they_are[order].tobytes()


Key = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 100))


@given(first=Key, second=Key)
def test_keys_are_those_of_seed_and_view(first: tuple[int, int], second: tuple[int, int]) -> None:
    one, other = (augmentation_keys(seed, view, 5) for seed, view in (first, second))
    assert len(np.unique(one, axis=0)) == 5
    np.testing.assert_array_equal(one[:3], augmentation_keys(*first, 3))  # of each image its own
    assert np.array_equal(one, other) == (first == second)
