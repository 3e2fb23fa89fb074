"""Features do not depend on batches: not on their size, order, mates or on being kept."""

from __future__ import annotations

import io
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fakes import FakeBackbone

from tlkit.data.images import Reader
from tlkit.parts.augmentations import Affine
from tlkit.system.cache import FeatureCache
from tlkit.train.assemble import seeded
from tlkit.train.feature_key import FeatureKey, augmentation_keys
from tlkit.train.features import Extractor, Features, Source, rebatched

SIDE, IMAGES, BATCH = 8, 7, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)

sizes = st.integers(1, IMAGES + 1)
orders = st.lists(st.integers(0, IMAGES - 1), min_size=1, max_size=10)
repeatedly = settings(max_examples=30)  # each example runs TensorFlow


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """The same images, their features kept on disk, kept in memory and computed again."""
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    with seeded(0):
        convolved = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
        convolved = keras.layers.Conv2D(16, 3, activation="relu")(convolved)
    extractor = Extractor(keras.Model(inputs, convolved), FakeBackbone(), Affine(), BATCH)
    files = {}
    for number, pixels in enumerate(PIXELS):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[f"{number}.png"] = buffer.getvalue()
    reader, paths = Reader(files.__getitem__, SIDE), tuple(files)
    cache, key = FeatureCache(tmp_path_factory.mktemp("features")), FeatureKey({}, {})
    return {
        "on disk": Source(extractor, reader, paths, images=paths, feature_key=key, cache=cache),
        "in memory": Source(extractor, reader, paths),
        "streamed": Source(extractor, reader, paths, memory_bytes=0),
    }


@pytest.fixture(scope="module")
def features(sources: dict[str, Source]) -> Features:
    """The features of all images as they are."""
    return whole(sources["streamed"].batches(BATCH))


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
    sources: dict[str, Source], features: Features, order: list[int]
) -> None:
    found = sources["streamed"].extractor(PIXELS[order])
    assert found.tobytes() == features[order].tobytes()


@pytest.mark.parametrize("how", ["on disk", "in memory", "streamed"])
@given(size=sizes, order=orders)
@repeatedly
def test_features_are_the_same_bytes_however_they_are_come_by(
    sources: dict[str, Source], features: Features, how: str, size: int, order: list[int]
) -> None:
    batches = list(sources[how].batches(size, np.array(order)))
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert whole(batches).tobytes() == features[order].tobytes()
    assert whole(sources[how].batches(size)).tobytes() == features.tobytes()


@given(size=sizes, order=orders, seed=st.integers(0, 2**31 - 1), view=st.integers(0, 5))
@repeatedly
def test_an_augmented_image_depends_on_its_key_alone(
    sources: dict[str, Source], size: int, order: list[int], seed: int, view: int
) -> None:
    """Whatever the batch size and the order, and whether it is kept."""
    keys = augmentation_keys(seed, view, IMAGES)
    expected = whole(sources["streamed"].batches(BATCH, keys=keys))[order].tobytes()
    for source in sources.values():
        assert whole(source.batches(size, np.array(order), keys)).tobytes() == expected
