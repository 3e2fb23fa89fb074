"""Features: what comes out of the frozen prefix, computed in batches of one fixed size.

The size is fixed, and the last batch padded, because a convolution's rounding depends on it: with
it fixed, the features of an image do not depend on its batch-mates, nor on being kept or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from attrs import frozen

from tlkit.parts.kinds import Augmentation, Backbone
from tlkit.train.images import Pixels, Reader

Features = npt.NDArray[np.float32]
# Features of images that do not change are kept if they are no more than this, else computed again.
KEPT_BYTES = 2 << 30


class Extractor:
    """Turns images into the frozen prefix's features.

    Args:
        prefix: The prefix; None if there is none, then the features are the prepared pixels.
        backbone: Its `prepare` comes before the prefix.
        augmentation: What changes training images before that.
        batch: How many images go through at a time.
    """

    def __init__(
        self,
        prefix: keras.Model | None,
        backbone: Backbone,
        augmentation: Augmentation,
        batch: int,
    ) -> None:
        self.batch = batch
        size = backbone.image_size
        self.shape: tuple[int, ...] = prefix.output.shape[1:] if prefix else (size, size, 3)

        def forward(images: tf.Tensor) -> tf.Tensor:
            prepared = backbone.prepare(images)
            return prefix(prepared, training=False) if prefix else prepared

        pixels = tf.TensorSpec((batch, size, size, 3), tf.uint8)
        keys = tf.TensorSpec((batch, 2), tf.int32)
        self._plain = tf.function(
            lambda images: forward(tf.cast(images, tf.float32)), input_signature=[pixels]
        )
        self._augmented = tf.function(
            lambda images, keys: forward(augmentation.augment(tf.cast(images, tf.float32), keys)),
            input_signature=[pixels, keys],
        )

    def __call__(self, pixels: Pixels, keys: npt.NDArray[np.int32] | None = None) -> Features:
        """Return the features of up to `batch` images, augmented if keys are given."""
        count = len(pixels)
        padded = _padded(pixels, self.batch)
        if keys is None:
            found = self._plain(padded)
        else:
            found = self._augmented(padded, _padded(keys, self.batch))
        return found.numpy()[:count]  # type: ignore[no-any-return]  # TensorFlow has no types

    def stream(
        self, reader: Reader, paths: Sequence[str], keys: npt.NDArray[np.int32] | None = None
    ) -> Iterator[Features]:
        """Yield the features of many images in order, `batch` at a time."""
        start = 0
        for pixels in reader.batches(paths, self.batch):
            chosen = None if keys is None else keys[start : start + len(pixels)]
            yield self(pixels, chosen)
            start += len(pixels)

    def keep(self, reader: Reader, paths: Sequence[str]) -> Features | None:
        """Return the features of many images, or None if they are too many to keep."""
        if 4 * len(paths) * int(np.prod(self.shape)) > KEPT_BYTES:
            return None
        kept = np.empty((len(paths), *self.shape), np.float32)
        start = 0
        for features in self.stream(reader, paths):
            kept[start : start + len(features)] = features
            start += len(features)
        return kept


@frozen
class Source:
    """The features of one split's images, kept or computed again each time.

    Attributes:
        extractor: What computes them.
        reader: What reads the images.
        paths: The images, in order.
        kept: Their features; None if they are computed again.
    """

    extractor: Extractor
    reader: Reader
    paths: tuple[str, ...]
    kept: Features | None = None

    def batches(
        self,
        size: int,
        order: npt.NDArray[np.int64] | None = None,
        keys: npt.NDArray[np.int32] | None = None,
    ) -> Iterator[Features]:
        """Yield features in batches of `size`.

        Args:
            size: How many images a batch has; the last may have fewer.
            order: The images' numbers in the order wanted; None: as they are.
            keys: One augmentation key for each image, by its number; None: as they are.
        """
        if order is None:
            order = np.arange(len(self.paths))
        if self.kept is not None and keys is None:
            for start in range(0, len(order), size):
                yield self.kept[order[start : start + size]]
            return
        paths = [self.paths[number] for number in order]
        chosen = None if keys is None else keys[order]
        yield from rebatched(self.extractor.stream(self.reader, paths, chosen), size)


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
