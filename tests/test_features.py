"""Features of the frozen prefix: padded to one size, kept if they fit, computed again if not."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from attrs import field, frozen
from PIL import Image

import tlkit
from tlkit.parts.augmentations import NoAugmentation
from tlkit.train import features
from tlkit.train.features import Extractor, Source
from tlkit.train.images import Reader

SIDE, BATCH = 8, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)


@frozen(kw_only=True)
class Quarters(tlkit.Backbone):
    """Pixels divided by 4, and nothing after that: only its `native` is used here."""

    image_size: int = field(default=SIDE)

    def layers(self) -> tlkit.LayerTable:
        raise NotImplementedError

    def build(self) -> Any:
        raise NotImplementedError

    def native(self, images: Any) -> Any:
        return images / 4

    def load_weights(self, model: Any) -> Mapping[str, str]:
        raise NotImplementedError


def means() -> Any:
    """A prefix that tells what it is given: it averages over the picture and has a dropout."""
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    dropped = keras.layers.Dropout(0.5)(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(dropped))


def extractor(prefix: Any) -> Extractor:
    return Extractor(prefix, Quarters(), NoAugmentation(), BATCH)


@pytest.mark.parametrize("count", range(BATCH + 1))
def test_a_short_batch_is_padded_and_the_padding_dropped(count: int) -> None:
    found = extractor(means())(PIXELS[:count])
    expected = PIXELS[:count].astype(np.float32).mean(axis=(1, 2)) / 4
    assert found.shape == (count, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_more_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"could not broadcast|shape"):
        extractor(means())(PIXELS[: BATCH + 1])


def test_without_a_prefix_the_features_are_the_prepared_pixels() -> None:
    found = extractor(None)
    assert found.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(found(PIXELS[:2]), PIXELS[:2].astype(np.float32) / 4)


def reader() -> tuple[Reader, tuple[str, ...]]:
    """Return a reader of `PIXELS` and the paths it knows."""
    files = {}
    for number, pixels in enumerate(PIXELS):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[f"{number}.png"] = buffer.getvalue()
    return Reader(files.__getitem__, SIDE), tuple(files)


def test_what_is_too_much_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 4 * len(PIXELS) * 3
    monkeypatch.setattr(features, "KEPT_BYTES", needed)
    assert extractor(means()).keep(*reader()) is not None
    monkeypatch.setattr(features, "KEPT_BYTES", needed - 1)
    assert extractor(means()).keep(*reader()) is None


def test_kept_features_are_not_computed_again() -> None:
    readable, paths = reader()
    kept = extractor(means()).keep(readable, paths)
    assert kept is not None
    unreadable = Reader(dict[str, bytes]().__getitem__, SIDE)
    source = Source(extractor(means()), unreadable, paths, kept)
    np.testing.assert_array_equal(np.concatenate(list(source.batches(3))), kept)


def test_a_file_that_has_gone_since_is_named() -> None:
    _, paths = reader()

    def gone(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    source = Source(extractor(means()), Reader(gone, SIDE), paths)
    with pytest.raises(tlkit.DataError, match=r"^0\.png: .*No such file"):
        list(source.batches(3))
