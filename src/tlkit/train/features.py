"""Features: the output of the frozen prefix, computed in batches of one fixed size.

A convolution's rounding depends on the batch size. With the size fixed and the last batch padded,
the features of an image depend neither on the other images in its batch nor on caching.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from tlkit.data.images import Pixels, Reader
from tlkit.parts.kinds import Augmentation, Backbone
from tlkit.parts.plugins import guarded, part_name
from tlkit.system.cache import FeatureCache
from tlkit.system.errors import PartError
from tlkit.system.keras import autograph, has_gpu, keras, start_keras, tf
from tlkit.system.parallel import in_parallel
from tlkit.system.rows import Rows
from tlkit.system.signals import stop_if_asked
from tlkit.train.callback import Callback
from tlkit.train.feature_key import AugmentationKeys, FeatureKey
from tlkit.train.frozen_dtype import computing
from tlkit.train.lean import lean

Features = npt.NDArray[Any]  # float32, or float16 if the experiment says so
FLOAT16_MAX = 65504.0
ROUNDING = 0.01  # by which augmented pixels may leave 0 to 255
# Passes at a time: one leaves cores idle between two operations. On two cores, two take 5 to 11 %
# less by the clock with VGG-16, ResNet-50 and MobileNetV2, and up to 12 % more memory.
PASSES = 2
log = logging.getLogger(__name__)
# Without a cache, features without augmentation are kept in memory up to this size.
KEPT_BYTES = 2 << 30
# Cached features up to this size are read once, not row by row for every batch.
READ_WHOLE_BYTES = 1 << 26


def _differs(images: Any, shape: tf.TensorShape | tuple[int, ...]) -> str:
    """Return what is wrong if images are not float32 of a shape, as far as it is known yet."""
    is_tensor = tf.is_tensor(images)
    if is_tensor and images.dtype == tf.float32 and images.shape.is_compatible_with(shape):
        return ""
    got = f"{images.shape} {images.dtype.name}" if is_tensor else repr(images)
    return f"must return {shape} float32, got {got}"


def check_preprocessing(backbone: Backbone) -> None:
    """Raise `PartError` if what becomes of an image depends on the others in its batch."""
    size = backbone.image_size
    image = np.random.default_rng(0).uniform(64, 192, (1, size, size, 3)).astype(np.float32)
    batches = (np.concatenate([image, np.full_like(image, value)]) for value in (0, 255))
    made = [backbone.preprocess_images(tf.constant(images)) for images in batches]
    if any(_differs(images, (2, size, size, 3)) for images in made):
        return  # told when the images are known
    first, second = (images[0].numpy() for images in made)
    if not np.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True):
        what = "its preprocessing must not depend on the other images of a batch"
        raise PartError(f"{part_name(backbone)}: {what}")


class Extractor:
    """Computes the features of images.

    Args:
        prefix: The frozen layers; None: the features are the preprocessed pixels.
        backbone: Preprocesses images for the prefix.
        augmentation: Changes training images before that.
        batch: The number of images per pass.
        dtype: The features' dtype; values beyond float16's range are clipped to it.
        winograd: Compute the prefix's 3 × 3 convolutions by Winograd's algorithm where that is
            faster.
        frozen_dtype: What the prefix computes in.
        constant: Whether the prefix's weights stay what they are at the first batch.

    Attributes:
        passes: How many batches of many images pass at the same time.
    """

    def __init__(
        self,
        prefix: keras.Model | None,
        backbone: Backbone,
        augmentation: Augmentation,
        batch: int,
        dtype: str = "float32",
        winograd: bool = False,
        frozen_dtype: str = "float32",
        constant: bool = False,
    ) -> None:
        self.batch, self.dtype, self.frozen = batch, np.dtype(dtype), prefix is not None
        size = backbone.image_size
        self.shape: tuple[int, ...] = prefix.output.shape[1:] if prefix else (size, size, 3)
        of_batch = None if frozen_dtype == "int8" else batch
        prefix = lean(prefix, winograd, constant, of_batch) if prefix else None
        compute = computing(prefix, backbone, batch, frozen_dtype) if prefix else None

        self.part = part_name(augmentation)
        self.problems: list[str] = []  # raised later: while tracing, they would get other messages

        def forward(images: tf.Tensor) -> tf.Tensor:
            prepared = backbone.preprocess_images(images)
            if problem := _differs(prepared, images.shape):
                self.problems.append(f"{part_name(backbone)}: its preprocessing {problem}")
            if prefix and not prepared.shape.is_fully_defined():  # some augmentations forget it
                prepared = tf.ensure_shape(prepared, (batch, *prefix.input.shape[1:]))
            features = compute(prepared) if compute else prepared
            if dtype == "float16":
                features = tf.clip_by_value(features, -FLOAT16_MAX, FLOAT16_MAX)
            return tf.cast(features, dtype)

        pixels = tf.TensorSpec((batch, size, size, 3), tf.uint8)
        keys = tf.TensorSpec((batch, 2), tf.int32)
        rewritten = autograph(backbone, *(prefix._flatten_layers() if prefix else ()))
        self.autograph = rewritten or autograph(augmentation)
        # TensorFlow Lite takes one, a GPU is busy with one, and others' parts may count on one.
        alone = prefix is None or frozen_dtype == "int8" or has_gpu() or self.autograph
        self.passes = 1 if alone else PASSES

        def plain(images: tf.Tensor) -> tf.Tensor:
            return forward(tf.cast(images, tf.float32))

        self._plain = tf.function(plain, input_signature=[pixels], autograph=rewritten)

        def augmented(images: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, ...]:
            changed = augmentation.augment(tf.cast(images, tf.float32), keys)
            if problem := _differs(changed, images.shape):
                self.problems.append(f"{self.part}: its `augment` {problem}")
            changed = tf.ensure_shape(changed, images.shape)
            return forward(changed), tf.reduce_min(changed), tf.reduce_max(changed)

        self._augmented = tf.function(
            augmented, input_signature=[pixels, keys], autograph=self.autograph
        )

        def prepare(images: tf.Tensor, keys: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
            if keys is None:
                return plain(images), tf.constant(0.0), tf.constant(255.0)
            return augmented(images, keys)

        # For a graph that does more: what `__call__` returns, the least and the greatest pixel.
        self.prepare = prepare

    @guarded()
    def __call__(self, pixels: Pixels, keys: AugmentationKeys | None = None) -> Features:
        """Return the features of up to `batch` images, augmented if keys are given."""
        start_keras()
        count = len(pixels)
        padded = _padded(pixels, self.batch)
        if keys is None:
            features = self.run(self._plain, padded)
        else:
            features, low, high = self.run(self._augmented, padded, _padded(keys, self.batch))
            self.check_range(float(low), float(high))
        return features.numpy()[:count]  # type: ignore[no-any-return]  # TensorFlow has no types

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with `prepare` or more in its graph; name the part that is wrong."""
        try:
            results = function(*arguments)
        except Exception as error:
            if self.problems:
                raise PartError(self.problems[0]) from error
            if isinstance(error, tf.errors.InvalidArgumentError) and "EnsureShape" in str(error):
                what = "must return as many images of the same size as it got"
                raise PartError(f"{self.part}: its `augment` {what}") from error
            raise
        if self.problems:
            raise PartError(self.problems[0])
        return results

    def check_range(self, low: float, high: float) -> None:
        """Raise `PartError` unless augmented pixels are from 0 to 255."""
        if not (low >= -ROUNDING and high <= 255 + ROUNDING):  # also if they are not numbers
            what = f"must return pixels from 0 to 255, got {low:g} to {high:g}"
            raise PartError(f"{self.part}: its `augment` {what}")

    def stream(
        self, reader: Reader, paths: Sequence[str], keys: AugmentationKeys | None = None
    ) -> Iterator[Features]:
        """Yield the features of many images in order, `batch` images at a time."""

        def batches() -> Iterator[tuple[Pixels, AugmentationKeys | None]]:
            start = 0
            for pixels in reader.batches(paths, self.batch):
                yield pixels, None if keys is None else keys[start : start + len(pixels)]
                start += len(pixels)

        def features(batch: tuple[Pixels, AugmentationKeys | None]) -> Features:
            return self(*batch)

        left = batches()
        yield from map(features, itertools.islice(left, 1))  # it traces, in this thread
        some = in_parallel(features, left, self.passes, self.passes)
        for found in map(features, left) if self.passes == 1 else some:
            yield found
            stop_if_asked()


@frozen
class Images:
    """A batch of pixels where no layer is frozen: a compiled step prepares them as its first part.

    Attributes:
        extractor: Prepares them.
        pixels: `(images, size, size, 3)` uint8.
        keys: Each image's augmentation key; None: no augmentation.
    """

    extractor: Extractor
    pixels: Pixels
    keys: AugmentationKeys | None

    def __len__(self) -> int:
        return len(self.pixels)


@define
class Source:
    """The features of one split, kept on disk or in memory, or computed each time.

    Attributes:
        extractor: Computes them.
        reader: Reads the images.
        paths: The images, in order.
        split: The split's name.
        images: The images' hashes, in the same order; needed with a cache.
        feature_key: Names the features in the cache; needed with a cache.
        cache: Keeps the features on disk; None: they are not kept there.
        memory_bytes: Without a cache, features without augmentation are kept in memory up to this
            size.
        callback: Receives the progress of features that are kept.
    """

    extractor: Extractor
    reader: Reader
    paths: tuple[str, ...]
    split: str = "train"
    images: tuple[str, ...] = ()
    feature_key: FeatureKey | None = None
    cache: FeatureCache | None = None
    memory_bytes: int = KEPT_BYTES
    callback: Callback = field(factory=Callback)
    # The features used last and their name.
    _kept: tuple[str, Features | Rows] | None = field(default=None, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of all features, `(images, ...)`."""
        return (len(self.paths), *self.extractor.shape)

    @property
    def image_bytes(self) -> int:
        """Return the size of an image's features."""
        return self.extractor.dtype.itemsize * math.prod(self.extractor.shape)

    @property
    def size_bytes(self) -> int:
        """Return the size of all features."""
        return self.image_bytes * len(self.paths)

    @property
    def flipped(self) -> Source:
        """Return the features of the images' horizontal mirror images, kept in the same way."""
        key = self.feature_key and self.feature_key.flipped
        return evolve(self, reader=evolve(self.reader, flip=True), feature_key=key)

    def entry_name(self, keys: AugmentationKeys | None) -> str:
        """Return the name of the features in the cache."""
        assert self.feature_key is not None
        return self.feature_key.entry_name(self.images, keys)

    def batches(
        self,
        size: int,
        order: npt.NDArray[np.int64] | None = None,
        keys: AugmentationKeys | None = None,
        at_once: int = 1,
    ) -> Iterator[Any]:
        """Yield features in batches, or `Images` if no layer is frozen.

        Args:
            size: Images per batch; the last one may have fewer.
            order: The image numbers in the order wanted; None: every image in order.
            keys: The augmentation key of each image, by its number; None: no augmentation.
            at_once: How many batches of features come together if all features are kept.
        """
        if order is None:
            order = np.arange(len(self.paths))
        kept = self._features(keys)
        if kept is not None:
            together = size * at_once
            for start in range(0, len(order), together):
                yield kept[order[start : start + together]]
            return
        paths = [self.paths[number] for number in order]
        ordered_keys = None if keys is None else keys[order]
        if not self.extractor.frozen:
            start = 0
            for pixels in self.reader.batches(paths, size):
                rows = slice(start, start + len(pixels))
                start = rows.stop
                of_rows = None if ordered_keys is None else ordered_keys[rows]
                yield Images(self.extractor, pixels, of_rows)
                stop_if_asked()
            return
        yield from rebatched(self.extractor.stream(self.reader, paths, ordered_keys), size)

    def _features(self, keys: AugmentationKeys | None) -> Features | Rows | None:
        """Return all features in the order of the images; None if they are not kept."""
        if self.cache is None:
            if keys is not None or self.size_bytes > self.memory_bytes:
                return None
            if self._kept is None:
                self._kept = "", np.concatenate(list(self._computed(None)))
            return self._kept[1]
        name = self.entry_name(keys)
        if self._kept is None or self._kept[0] != name:
            self._kept = None
            features = self.cache.get(name)
            log.debug("features %s: %s", name, "computed" if features is None else "cached")
            if features is None:
                try:
                    features = self._put(self.cache, name, keys)
                except OSError as error:
                    self.callback.on_note(
                        f"features cannot be cached: {error.strerror}; continuing without the cache"
                    )
                    self.cache = None
                    return self._features(keys)
            small = features.size_bytes <= READ_WHOLE_BYTES
            self._kept = name, features.whole() if small else features
        return self._kept[1]

    def _put(self, cache: FeatureCache, name: str, keys: AugmentationKeys | None) -> Rows:
        assert self.feature_key is not None
        dtype = self.extractor.dtype
        if keys is not None:
            return cache.put(name, self.shape, dtype, self._computed(keys))
        known = self.feature_key.cached_rows(cache, self.images)
        chunks = self._completed(known) if known else self._computed(None)
        return cache.put(name, self.shape, dtype, chunks, self.feature_key.about(self.images))

    def _computed(
        self, keys: AugmentationKeys | None, paths: Sequence[str] | None = None
    ) -> Iterator[Features]:
        done, paths = 0, self.paths if paths is None else paths
        for features in self.extractor.stream(self.reader, paths, keys):
            yield features
            done += len(features)
            self.callback.on_features_progress(self.split, done, len(paths))

    def _completed(self, known: Mapping[str, tuple[Rows, int]]) -> Iterator[Features]:
        """Yield all features in order; compute those that are not known."""
        missing = [
            p for p, image in zip(self.paths, self.images, strict=True) if image not in known
        ]
        computed = rebatched(self._computed(None, missing), 1)
        for image in self.images:
            if image in known:
                rows, number = known[image]
                yield rows[number : number + 1]
            else:
                yield next(computed)


def rebatched(chunks: Iterable[npt.NDArray[Any]], size: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of `chunks` in order, `size` at a time; the last batch may have fewer."""
    pending: list[npt.NDArray[Any]] = []
    count = 0
    for chunk in chunks:
        pending.append(chunk)
        count += len(chunk)
        if count < size:
            continue
        rows = np.concatenate(pending) if len(pending) > 1 else pending[0]
        whole = count - count % size
        yield from (rows[start : start + size] for start in range(0, whole, size))
        pending, count = [rows[whole:]], count - whole
    if count:
        yield np.concatenate(pending)


def _padded(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return `rows` followed by zeros, `count` rows in all."""
    if len(rows) == count:
        return rows
    padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
