"""Features: what comes out of the frozen prefix, computed in batches of one fixed size.

The size is fixed, and the last batch padded, because a convolution's rounding depends on it: with
it fixed, the features of an image do not depend on its batch-mates, nor on being kept or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field

from tlkit.data.images import Pixels, Reader
from tlkit.parts.kinds import Augmentation, Backbone
from tlkit.system.keras import keras, tf
from tlkit.system.signals import stop_if_asked
from tlkit.train.callback import Callback
from tlkit.train.feature_key import AugmentationKeys, Shelf
from tlkit.train.winograd import with_winograd

Features = npt.NDArray[Any]  # float32, or float16 if the experiment says so
FLOAT16_MAX = 65504.0
# Without a cache, features of images that do not change are kept in memory if this is enough.
KEPT_BYTES = 2 << 30


class Extractor:
    """Turns images into the frozen prefix's features.

    Args:
        prefix: The prefix; None if there is none, then the features are the prepared pixels.
        backbone: Its `prepare` comes before the prefix.
        augmentation: What changes training images before that.
        batch: How many images go through at a time.
        dtype: What the features are rounded to; beyond float16's range they become its largest.
        winograd: Compute the prefix's 3 × 3 convolutions by Winograd's algorithm where it is
            faster.
    """

    def __init__(
        self,
        prefix: keras.Model | None,
        backbone: Backbone,
        augmentation: Augmentation,
        batch: int,
        dtype: str = "float32",
        winograd: bool = False,
    ) -> None:
        self.batch, self.dtype = batch, np.dtype(dtype)
        size = backbone.image_size
        self.shape: tuple[int, ...] = prefix.output.shape[1:] if prefix else (size, size, 3)
        if prefix and winograd:
            prefix = with_winograd(prefix)

        def forward(images: tf.Tensor) -> tf.Tensor:
            prepared = backbone.preprocess_images(images)
            features = prefix(prepared, training=False) if prefix else prepared
            if dtype == "float16":
                features = tf.clip_by_value(features, -FLOAT16_MAX, FLOAT16_MAX)
            return tf.cast(features, dtype)

        pixels = tf.TensorSpec((batch, size, size, 3), tf.uint8)
        keys = tf.TensorSpec((batch, 2), tf.int32)
        self._plain = tf.function(
            lambda images: forward(tf.cast(images, tf.float32)), input_signature=[pixels]
        )
        self._augmented = tf.function(
            lambda images, keys: forward(augmentation.augment(tf.cast(images, tf.float32), keys)),
            input_signature=[pixels, keys],
        )

    def __call__(self, pixels: Pixels, keys: AugmentationKeys | None = None) -> Features:
        """Return the features of up to `batch` images, augmented if keys are given."""
        count = len(pixels)
        padded = _padded(pixels, self.batch)
        if keys is None:
            found = self._plain(padded)
        else:
            found = self._augmented(padded, _padded(keys, self.batch))
        return found.numpy()[:count]  # type: ignore[no-any-return]  # TensorFlow has no types

    def stream(
        self, reader: Reader, paths: Sequence[str], keys: AugmentationKeys | None = None
    ) -> Iterator[Features]:
        """Yield the features of many images in order, `batch` at a time."""
        start = 0
        for pixels in reader.batches(paths, self.batch):
            chosen = None if keys is None else keys[start : start + len(pixels)]
            yield self(pixels, chosen)
            start += len(pixels)
            stop_if_asked()


@define
class Source:
    """The features of one split's images, kept on disk or in memory or computed again each time.

    Attributes:
        extractor: What computes them.
        reader: What reads the images.
        paths: The images, in order.
        split: The split's name.
        images: Their hashes, in the same order; needed for a shelf.
        shelf: Where features are kept on disk, if they are.
        memory_bytes: What may be kept in memory otherwise, of features that do not change.
        callback: Told while features are computed to be kept.
    """

    extractor: Extractor
    reader: Reader
    paths: tuple[str, ...]
    split: str = "train"
    images: tuple[str, ...] = ()
    shelf: Shelf | None = None
    memory_bytes: int = KEPT_BYTES
    callback: Callback = field(factory=Callback)
    # The features used last, and their key. One view at a time: what is mapped counts as memory.
    _kept: tuple[str, Features] | None = field(default=None, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of all features: `(images, ...)`."""
        return (len(self.paths), *self.extractor.shape)

    @property
    def size_bytes(self) -> int:
        """Return what the features take."""
        return self.extractor.dtype.itemsize * math.prod(self.shape)

    def batches(
        self,
        size: int,
        order: npt.NDArray[np.int64] | None = None,
        keys: AugmentationKeys | None = None,
    ) -> Iterator[Features]:
        """Yield features in batches of `size`.

        Args:
            size: How many images a batch has; the last may have fewer.
            order: The images' numbers in the order wanted; None: as they are.
            keys: One augmentation key for each image, by its number; None: as they are.
        """
        if order is None:
            order = np.arange(len(self.paths))
        kept = self._features(keys)
        if kept is not None:
            for start in range(0, len(order), size):
                yield kept[order[start : start + size]]
            return
        paths = [self.paths[number] for number in order]
        chosen = None if keys is None else keys[order]
        yield from rebatched(self.extractor.stream(self.reader, paths, chosen), size)

    def _features(self, keys: AugmentationKeys | None) -> Features | None:
        """Return all features in the order of the images, if they are kept."""
        if self.shelf is None:
            if keys is not None or self.size_bytes > self.memory_bytes:
                return None
            if self._kept is None:
                self._kept = "", np.concatenate(list(self._computed(None)))
            return self._kept[1]
        key = self.shelf.key(self.images, keys)
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            found = self.shelf.cache.get(key)
            if found is None:
                try:
                    found = self._put(key, keys)
                except OSError as error:
                    self.callback.on_note(
                        f"features cannot be kept: {error.strerror}; go on without"
                    )
                    self.shelf = None
                    return self._features(keys)
            self._kept = key, found
        return self._kept[1]

    def _put(self, key: str, keys: AugmentationKeys | None) -> Features:
        assert self.shelf is not None
        cache, dtype = self.shelf.cache, self.extractor.dtype
        if keys is not None:
            return cache.put(key, self.shape, dtype, self._computed(keys))
        known = self.shelf.rows(self.images)
        chunks = self._completed(known) if known else self._computed(None)
        return cache.put(key, self.shape, dtype, chunks, self.shelf.about(self.images))

    def _computed(
        self, keys: AugmentationKeys | None, paths: Sequence[str] | None = None
    ) -> Iterator[Features]:
        done, paths = 0, self.paths if paths is None else paths
        for features in self.extractor.stream(self.reader, paths, keys):
            yield features
            done += len(features)
            self.callback.on_features_progress(self.split, done, len(paths))

    def _completed(self, known: Mapping[str, Features]) -> Iterator[Features]:
        """Yield all features in order, computing only those that are not known."""
        missing = [
            p for p, image in zip(self.paths, self.images, strict=True) if image not in known
        ]
        computed = rebatched(self._computed(None, missing), 1)
        for image in self.images:
            yield known[image][None] if image in known else next(computed)


def rebatched(chunks: Iterable[npt.NDArray[Any]], size: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of `chunks` in order, `size` at a time; the last may have fewer."""
    left: list[npt.NDArray[Any]] = []
    count = 0
    for chunk in chunks:
        left.append(chunk)
        count += len(chunk)
        if count < size:
            continue
        rows = np.concatenate(left) if len(left) > 1 else left[0]
        whole = count - count % size
        yield from (rows[start : start + size] for start in range(0, whole, size))
        left, count = [rows[whole:]], count - whole
    if count:
        yield np.concatenate(left)


def _padded(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return `rows` with zeros after them, `count` in all."""
    if len(rows) == count:
        return rows
    padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
