"""Features of the frozen prefix: padded to one size, kept if they fit, computed again if not."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from attrs import evolve, frozen
from PIL import Image
from tests.fakes import FakeBackbone, Listener

import tlkit
from tlkit.data.images import Reader
from tlkit.parts.augmentations import NoAugmentation
from tlkit.parts.backbones.vgg import VGG16
from tlkit.system.cache import FeatureCache
from tlkit.train.feature_key import FeatureKey
from tlkit.train.features import Extractor, Source
from tlkit.train.winograd import suits

SIDE, BATCH = 8, 4
DTYPES = ("float32", "float16")
PIXELS = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)


@frozen(kw_only=True)
class Quarters(FakeBackbone):
    """Divides pixels by 4."""

    def preprocess_native(self, images: Any) -> Any:
        return images / 4


def means() -> Any:
    """A prefix that tells what it is given: it averages over the picture and has a dropout."""
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    dropped = keras.layers.Dropout(0.5)(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(dropped))


def extractor(prefix: Any, dtype: str = "float32") -> Extractor:
    return Extractor(prefix, Quarters(), NoAugmentation(), BATCH, dtype)


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


def counting(files: Reader, read: list[str]) -> Reader:
    """Return a reader that notes what it reads."""

    def noted(path: str) -> bytes:
        read.append(path)
        return files.read(path)

    return Reader(noted, SIDE)


@pytest.mark.parametrize(("spare", "times"), [(0, 1), (-1, 2)])
def test_features_are_kept_in_memory_if_they_are_no_more_than_allowed(
    spare: int, times: int
) -> None:
    files, paths = reader()
    read: list[str] = []
    source = Source(
        extractor(means()), counting(files, read), paths, memory_bytes=4 * len(PIXELS) * 3 + spare
    )
    for _ in range(2):
        assert sum(len(batch) for batch in source.batches(3)) == len(PIXELS)
    assert len(read) == times * len(PIXELS)


class TestPasses:
    @staticmethod
    def extractor(prefix: bool = True, augmentation: tlkit.Augmentation | None = None) -> Extractor:
        inputs = keras.layers.Input((32, 32, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
        backbone = VGG16(weights="none", image_size=32)
        plain = NoAugmentation()
        return Extractor(model if prefix else None, backbone, augmentation or plain, BATCH)

    @pytest.mark.parametrize("count", [0, 1, BATCH, 5 * BATCH + 1])
    def test_two_at_a_time_give_in_order_what_one_gives(self, count: int) -> None:
        paths = [f"{number % len(PIXELS)}.png" for number in range(count)]
        files, found = reader()[0], self.extractor()
        assert found.passes == 2
        both = list(found.stream(evolve(files, size=32), paths))
        found.passes = 1
        one = list(found.stream(evolve(files, size=32), paths))
        assert [len(x) for x in both] == [len(x) for x in one]
        assert all(np.array_equal(a, b) for a, b in zip(both, one, strict=True))

    def test_two_pass_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.extractor()
        meeting, run = threading.Barrier(2, timeout=20), found.run
        calls = itertools.count()

        def meets(*arguments: Any) -> Any:
            if next(calls):  # the first one traces, alone
                meeting.wait()
            return run(*arguments)

        monkeypatch.setattr(found, "run", meets)
        files = evolve(reader()[0], size=32)
        assert len(list(found.stream(files, ["0.png"] * (5 * BATCH)))) == 5

    def test_some_pass_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @frozen(kw_only=True)
        class Others(tlkit.Augmentation):
            def augment(self, images: Any, keys: Any) -> Any:
                return images

        assert self.extractor(prefix=False).passes == 1
        assert self.extractor(augmentation=Others()).passes == 1
        monkeypatch.setattr("tlkit.train.features.has_gpu", lambda: True)
        assert self.extractor().passes == 1


FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not FILES.is_dir(), reason="the system does not tell what is open")
def test_one_view_is_open_at_a_time_and_none_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mapped counts as memory, and ends the process if the file is cut short."""
    monkeypatch.setattr("tlkit.train.features.READ_WHOLE_BYTES", 0)
    files, paths = reader()
    cache, key = FeatureCache(tmp_path), FeatureKey({"layers": "x"}, {})
    source = Source(extractor(means()), files, paths, images=paths, feature_key=key, cache=cache)
    for view in range(3):
        keys = np.full((len(paths), 2), view, np.int32)
        assert sum(len(batch) for batch in source.batches(3, keys=keys)) == len(PIXELS)
    assert len(cache.entries()) == 3
    names = [os.path.realpath(path) for path in FILES.iterdir()]
    assert sum(name.startswith(str(tmp_path)) for name in names) == 1
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("large", [True, False])
def test_features_that_are_cut_off_while_they_are_used_are_an_error(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("tlkit.train.features.READ_WHOLE_BYTES", 0)
    files, paths = reader()
    cache, key = FeatureCache(tmp_path), FeatureKey({"layers": "x"}, {})
    source = Source(extractor(means()), files, paths, images=paths, feature_key=key, cache=cache)
    batches = source.batches(1)
    next(batches)
    (data,) = tmp_path.glob("*/data.npy")
    os.truncate(data, data.stat().st_size // 2)
    expected = pytest.raises(OSError, match="was cut off while it was read")
    with expected if large else contextlib.nullcontext():
        list(batches)
    again = evolve(source)
    assert np.concatenate(list(again.batches(1))).shape[0] == len(PIXELS)


def test_features_on_disk_are_found_by_another_source(tmp_path: Path) -> None:
    files, paths = reader()
    read: list[str] = []
    cache, key = FeatureCache(tmp_path), FeatureKey({"layers": "x"}, {})
    found = [
        np.concatenate(list(source.batches(3)))
        for source in (
            Source(
                extractor(means()),
                counting(files, read),
                paths,
                images=paths,
                feature_key=key,
                cache=cache,
            )
            for _ in range(2)
        )
    ]
    assert len(read) == len(PIXELS)
    np.testing.assert_array_equal(found[0], found[1])


def test_images_that_other_lists_have_are_not_computed_again(tmp_path: Path) -> None:
    """Folds and subsets share images; what each of them gets is the same to the last bit."""
    files, paths = reader()
    cache = FeatureCache(tmp_path)

    def features(
        chosen: tuple[str, ...], read: list[str], layers: str = "x", keep: bool = True
    ) -> Any:
        noted = counting(files, read)
        key = FeatureKey({"layers": layers}, {})
        source = Source(
            extractor(means()), noted, chosen,
            images=chosen, feature_key=key, cache=cache if keep else None,
        )  # fmt: skip
        return np.concatenate(list(source.batches(3)))

    lists = [(paths[:3], paths[:3]), (paths[5:3:-1], paths[5:3:-1]), (paths[::-1], (paths[6],
             paths[3])), (paths[1:6:2], ())]  # fmt: skip
    for chosen, missing in lists:
        read: list[str] = []
        found = features(chosen, read)
        assert sorted(read) == sorted(missing)
        np.testing.assert_array_equal(found, features(chosen, [], keep=False))
    assert len(cache.entries()) == len(lists)
    read = []
    features(paths[:2], read, layers="y")
    assert len(read) == 2


def test_augmented_features_are_not_taken_for_others(tmp_path: Path) -> None:
    files, paths = reader()
    cache, key = FeatureCache(tmp_path), FeatureKey({"layers": "x"}, {})
    source = Source(extractor(means()), files, paths, images=paths, feature_key=key, cache=cache)
    list(source.batches(3, keys=np.zeros((len(paths), 2), np.int32)))
    assert key.cached_rows(cache, paths) == {}
    list(source.batches(3))
    assert key.cached_rows(cache, paths).keys() == set(paths)


class TestFloat16:
    def test_features_are_those_of_float32_rounded(self) -> None:
        exact, rounded = (extractor(means(), dtype)(PIXELS[:BATCH]) for dtype in DTYPES)
        assert (exact.dtype.name, rounded.dtype.name) == DTYPES
        np.testing.assert_array_equal(rounded, exact.astype(np.float16))
        assert (rounded != exact).any()

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(65504.0, 65504.0), (65519.0, 65504.0), (1e6, 65504.0), (-1e30, -65504.0), (1.0, 1.0)],
    )
    def test_what_is_beyond_its_range_becomes_its_largest(
        self, value: float, expected: float
    ) -> None:
        inputs = keras.layers.Input((SIDE, SIDE, 3))
        outputs = keras.layers.Rescaling(0.0, offset=value)(inputs)
        found = extractor(keras.Model(inputs, outputs), "float16")(PIXELS[:1])
        assert found.dtype == np.float16
        assert (found == expected).all()

    def test_features_are_the_same_bytes_on_disk_in_memory_and_streamed(
        self, tmp_path: Path
    ) -> None:
        files, paths = reader()
        rounding = extractor(means(), "float16")
        cache, key = FeatureCache(tmp_path), FeatureKey({}, {})
        sources = (
            Source(rounding, files, paths, images=paths, feature_key=key, cache=cache),
            Source(rounding, files, paths),
            Source(rounding, files, paths, memory_bytes=0),
        )
        found = [np.concatenate(list(source.batches(3))) for source in sources]
        assert [features.dtype for features in found] == [np.float16] * 3
        assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()

    def test_they_take_half_the_disk(self, tmp_path: Path) -> None:
        files, paths = reader()
        stored = []
        for dtype in DTYPES:
            cache = FeatureCache(tmp_path / dtype)
            source = Source(
                extractor(None, dtype),
                files,
                paths,
                images=paths,
                feature_key=FeatureKey({}, {}),
                cache=cache,
            )
            list(source.batches(3))
            kept = cache.get(cache.entries()[0].key)
            assert kept is not None
            assert kept.size_bytes == source.size_bytes
            stored.append(kept.size_bytes)
        assert stored[0] == 2 * stored[1] == 4 * PIXELS.size


def test_features_that_cannot_be_written_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureCache, "put", full)
    listener = Listener()
    files, paths = reader()
    cache, key = FeatureCache(tmp_path), FeatureKey({}, {})
    source = Source(extractor(means()), files, paths, "val", paths, key, cache, callback=listener)
    assert sum(len(batch) for batch in source.batches(3)) == len(PIXELS)
    assert listener.notes == [
        "features cannot be cached: No space left on device; continuing without the cache"
    ]


def test_a_file_that_has_gone_since_is_named() -> None:
    _, paths = reader()

    def gone(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    source = Source(extractor(means()), Reader(gone, SIDE), paths)
    with pytest.raises(tlkit.DataError, match=r"^0\.png: .*No such file"):
        list(source.batches(3))


def test_an_augmentation_that_forgets_the_batch_size_works_with_winograd() -> None:
    class Forgetful(NoAugmentation):
        def augment(self, images: Any, keys: Any) -> Any:
            return tf.boolean_mask(images, tf.reduce_all(keys >= 0, 1))

    inputs = keras.layers.Input((16, 16, 3))
    wide = keras.layers.Conv2D(256, 1)(inputs)
    prefix = keras.Model(inputs, keras.layers.Conv2D(64, 3, padding="same")(wide))
    assert suits(prefix.layers[-1])
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    backbone, keys = Quarters(image_size=16), np.zeros((2, 2), np.int32)
    features = Extractor(prefix, backbone, Forgetful(), 2, winograd=True)(pixels, keys)
    assert features.shape == (2, 16, 16, 64)


def test_features_computed_in_bfloat16_are_rounded_float32() -> None:
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    prefix = keras.Model(inputs, keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    backbone, plain = Quarters(), NoAugmentation()
    expected, found = (
        Extractor(prefix, backbone, plain, BATCH, frozen_dtype=dtype)(PIXELS[:3])
        for dtype in ("float32", "bfloat16")
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert prefix(np.zeros((1, SIDE, SIDE, 3), np.float32)).dtype == "float32"
