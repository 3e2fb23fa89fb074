"""KerasCV's augmentations, with every draw determined by the image's key.

KerasCV's layers use stateful generators, so an image's result depends on everything drawn before.
On our instances of the layers, the generators and samplers are replaced by ones that draw from the
image's key and their position in the layer's graph. Keras's own RandAugment and AugMix cannot be
used: they ignore the seed they are given and choose operations with Python's global generator.
KerasCV is imported only when one of these parts is used.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.parts.augmentations import StrengthAugmentation
from tlkit.parts.kinds import part, registries, typed_init
from tlkit.parts.validators import at_least, between
from tlkit.system.errors import PartError
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import tensorflow as tf


class KeyedDraws:
    """A replacement of `tf.random.Generator`: draw n since `begin` depends only on the key and n.

    Draws are counted while a graph is traced, so draw n is always the same operation; the two
    branches of a condition have different numbers.
    """

    def __init__(self) -> None:
        self._key: tf.Tensor | None = None
        self._count = 0

    def begin(self, key: tf.Tensor) -> None:
        """Draw from `key` from now on."""
        self._key, self._count = key, 0

    def _next_key(self) -> tf.Tensor:
        self._count += 1
        return _folded(self._key, self._count)

    @contextmanager
    def within(self, number: tf.Tensor) -> Iterator[None]:
        """Draw from the key and a number, such as a loop's iteration, while the body runs."""
        inner = _folded(self._next_key(), number)
        outer, self._key, self._count = (self._key, self._count), inner, 0
        try:
            yield
        finally:
            self._key, self._count = outer

    def uniform(
        self,
        shape: Sequence[Any],
        minval: Any = 0,
        maxval: Any = None,
        dtype: Any = "float32",
    ) -> tf.Tensor:
        """Return uniform numbers, like `tf.random.Generator.uniform`."""
        import tensorflow as tf

        key = self._next_key()
        if maxval is None:
            maxval = 1
        return tf.random.stateless_uniform(shape, key, minval, maxval, dtype, alg="philox")

    def normal(
        self, shape: Sequence[Any], mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32"
    ) -> tf.Tensor:
        """Return normal numbers, like `tf.random.Generator.normal`."""
        import tensorflow as tf

        return tf.random.stateless_normal(
            shape, self._next_key(), mean, stddev, dtype, alg="philox"
        )

    def gamma(self, alpha: tf.Tensor) -> tf.Tensor:
        """Return one gamma-distributed number per `alpha`."""
        import tensorflow as tf

        return tf.random.stateless_gamma(alpha.shape, self._next_key(), alpha)


def _folded(key: Any, number: Any) -> tf.Tensor:
    """Return a new key from a key and a number."""
    import tensorflow as tf

    number = tf.reshape(number, ())
    return tf.random.experimental.stateless_fold_in(key, number, alg="philox")


RANGE = (0, 255)


@typed_init
@frozen(kw_only=True)
class KerasCV(StrengthAugmentation):
    """An augmentation made of a KerasCV layer."""

    @abstractmethod
    def layer(self, draws: KeyedDraws) -> Any:
        """Return a new layer; its own draws will come from `draws`."""

    def require(self) -> None:
        """Raise `PartError` if KerasCV is not installed."""
        if importlib.util.find_spec("keras_cv") is None:
            name = registries.augmentations.name_of(type(self))
            raise PartError(f"augmentation {name!r}: needs KerasCV; pip install keras-cv")

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images changed by the layer, one at a time."""
        if not self.changes:
            return images
        self.require()
        return _program(self, tuple(images.shape[1:]))(images, keys)


@part("randaugment")
class RandAugment(KerasCV):
    """KerasCV's RandAugment: a few random operations per image (Cubuk et al. 2019).

    Strength 1 is KerasCV's default, magnitude 0.5 ± 0.15. Magnitudes are multiplied by the
    strength; below 1, so is the rate, since some operations have no magnitude.

    Attributes:
        operations: Operations drawn per image, with replacement.
        rate: Probability that a drawn operation is applied.
        geometric: Include shears and shifts.
    """

    operations: int = field(default=3, validator=at_least(1))
    # KerasCV lacks the paper's identity, one of eleven operations.
    rate: float = field(default=10 / 11, validator=between(0, 1))
    geometric: bool = True

    def layer(self, draws: KeyedDraws) -> Any:
        """Return KerasCV's layer."""
        import keras_cv

        return keras_cv.layers.RandAugment(
            RANGE,
            augmentations_per_image=self.operations,
            magnitude=0.5 * self.strength,
            magnitude_stddev=0.15 * self.strength,
            rate=self.rate * min(self.strength, 1),
            geometric=self.geometric,
        )


@part("augmix")
class AugMix(KerasCV):
    """KerasCV's AugMix: the image mixed with chains of operations on it (Hendrycks et al. 2020).

    At strength 1 the severity is up to 0.3, KerasCV's default. It is multiplied by the strength;
    below 1, so is the share of the chains in the mixture.

    Two operations of KerasCV 0.9.0 are replaced by the paper's: it takes 30 × severity as radians
    instead of degrees, which turns images upside down, and it inverts more pixels at lower
    severity.

    Attributes:
        chains: Number of chains to mix.
        operations: The largest number of operations in a chain; each has 1 to this many.
    """

    chains: int = field(default=3, validator=at_least(1))
    operations: int = field(default=3, validator=at_least(1))

    def layer(self, draws: KeyedDraws) -> Any:
        """Return KerasCV's layer with keyed draws and two operations corrected."""
        import keras_cv
        import tensorflow as tf
        from keras_cv.src.utils import preprocessing

        share_of_chains = min(self.strength, 1)

        class KeyedAugMix(keras_cv.layers.AugMix):  # type: ignore[misc]  # KerasCV has no types
            def _sample_from_dirichlet(self, alpha: tf.Tensor) -> tf.Tensor:
                gammas = draws.gamma(alpha)
                return gammas / tf.reduce_sum(gammas)

            def _sample_from_beta(self, alpha: float, beta: float) -> tf.Tensor:
                """Draw the share of the original image."""
                gammas = draws.gamma(tf.constant([alpha, beta]))
                return 1 - share_of_chains * gammas[1] / tf.reduce_sum(gammas)

            # Loops are traced once, so each iteration adds its number to the key.
            def _loop_on_width(self, image: Any, weights: Any, chain: Any, result: Any) -> Any:
                with draws.within(chain):
                    return super()._loop_on_width(image, weights, chain, result)

            def _loop_on_depth(self, depth: tf.Tensor, image: tf.Tensor) -> Any:
                with draws.within(depth):
                    return super()._loop_on_depth(depth, image)

            def _rotate(self, image: tf.Tensor) -> tf.Tensor:
                angle = self.severity_factor() * math.radians(30)
                angle *= preprocessing.random_inversion(self._random_generator)
                height, width = float(image.shape[0]), float(image.shape[1])
                matrix = preprocessing.get_rotation_matrix(angle[None], height, width)
                return preprocessing.transform(image[None], matrix)[0]

            def _solarize(self, image: tf.Tensor) -> tf.Tensor:
                threshold = 255 * (1 - self.severity_factor())
                return tf.where(image < threshold, image, 255 - image)

        severity = keras_cv.core.UniformFactorSampler(0.0, 0.3 * self.strength)
        depth = [1, self.operations]
        return KeyedAugMix(RANGE, severity, self.chains, depth)


@part("gridmask")
class GridMask(KerasCV):
    """KerasCV's GridMask: cover a rotated grid of squares (Chen et al. 2020).

    Attributes:
        ratio_frac: The largest covered fraction of a grid cell's side.
        rotation_deg: The largest angle of the grid, in degrees.
        fill_value: Gray value of the squares: 0 is black, 255 is white.
    """

    ratio_frac: float = field(default=0.5, validator=between(0, 0.5))
    rotation_deg: float = field(default=54.0, validator=between(0, 180))
    fill_value: int = field(default=0, validator=between(0, 255))

    def layer(self, draws: KeyedDraws) -> Any:
        """Return KerasCV's layer."""
        import keras_cv

        return keras_cv.layers.GridMask(
            ratio_factor=(0.0, self.ratio_frac * self.strength),
            rotation_factor=self.rotation_deg / 360,
            fill_value=self.fill_value,
        )


@functools.lru_cache(maxsize=8)  # tracing takes a second; an eager caller calls repeatedly
def _program(augmentation: KerasCV, shape: tuple[int, ...]) -> Any:
    """Return the compiled function of images and keys, for images of one shape."""
    start_keras()
    import tensorflow as tf

    draws = KeyedDraws()
    with tf.init_scope():  # a layer creates variables, which a caller's graph would refuse
        layer = augmentation.layer(draws)
    _replace_generators(layer, draws)

    def change(image_and_key: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, key = image_and_key
        draws.begin(key)
        return tf.clip_by_value(tf.ensure_shape(layer(image), shape), 0.0, 255.0)

    def program(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(change, (images, keys), fn_output_signature=tf.float32)

    # Always a graph: eagerly, a branch that is not taken would not count its draws.
    types = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((None, 2), tf.int32)]
    return tf.function(program, input_signature=types)


def _replace_generators(layer: Any, draws: KeyedDraws) -> None:
    """Make a KerasCV layer, and all layers in it, draw from `draws`."""
    from keras_cv.core import ConstantFactorSampler, FactorSampler

    for inner in layer._flatten_layers():
        inner.dtype_policy = "float32"  # whatever Keras's global policy is
        inner._random_generator = draws
        for name, value in list(vars(inner).items()):
            if isinstance(value, FactorSampler) and not isinstance(value, ConstantFactorSampler):
                setattr(inner, name, _sampler(value, draws))


def _sampler(original: Any, draws: KeyedDraws) -> Callable[..., tf.Tensor]:
    """Return a function that draws like one of KerasCV's samplers, but from `draws`."""
    import tensorflow as tf
    from keras_cv.core import NormalFactorSampler, UniformFactorSampler

    def uniform(shape: Sequence[Any] = (), dtype: Any = "float32") -> tf.Tensor:
        return draws.uniform(shape, original.lower, original.upper, dtype)

    def normal(shape: Sequence[Any] = (), dtype: Any = "float32") -> tf.Tensor:
        drawn = draws.normal(shape, original.mean, original.stddev, dtype)
        return tf.clip_by_value(drawn, original.min_value, original.max_value)

    return {UniformFactorSampler: uniform, NormalFactorSampler: normal}[type(original)]
