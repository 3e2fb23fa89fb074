"""Augmentations: random changes of training images, each image's drawn from its own key.

They work on pixels in [0, 255] after resizing and before preprocessing. Stateless random numbers
and one projective transform make the result a pure function of pixels and key: it depends on no
batch, order, worker or restart, which Keras's own random layers do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen

from tlkit.backend import prepare
from tlkit.parts.kinds import Augmentation, registries
from tlkit.rules import between, share

if TYPE_CHECKING:
    import tensorflow as tf


@registries.augmentations.register("none")
@frozen(kw_only=True)
class NoAugmentation(Augmentation):
    """Leave every image as it is."""

    @property
    def changes(self) -> bool:
        """Return False: features are the same in every epoch."""
        return False

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return `images`."""
        return images


@registries.augmentations.register("covidx")
@frozen(kw_only=True)
class Covidx(Augmentation):
    """The paper's augmentation: rotation by up to 10°, shifts by up to a tenth, filled with black.

    Attributes:
        rotation_deg: The largest angle; drawn evenly from its negative to it, in degrees.
        shift_frac: The largest shift, as a share of height and width, drawn the same way.
    """

    rotation_deg: float = field(default=10.0, validator=between(0, 180))
    shift_frac: float = field(default=0.1, validator=share(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated and shifted, bilinearly."""
        return moved(images, uniforms(keys, 3), self.rotation_deg, self.shift_frac)


@registries.augmentations.register("covidx_published")
@frozen(kw_only=True)
class CovidxPublished(Augmentation):
    """What the study's published code did: as `covidx`, and flips and changes of brightness.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a share of height and width.
        flip: Mirror every second image, left to right.
        brightness_frac: Multiply pixels by 1 ± up to this much, cut off at black and white.
    """

    rotation_deg: float = field(default=10.0, validator=between(0, 180))
    shift_frac: float = field(default=0.1, validator=share(below=1))
    flip: bool = True
    brightness_frac: float = field(default=0.1, validator=share(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, flipped and brightened."""
        import tensorflow as tf

        draws = uniforms(keys, 5)
        images = moved(images, draws, self.rotation_deg, self.shift_frac)
        if self.flip:
            mirrored = (draws[:, 3] < 0)[:, None, None, None]
            images = tf.where(mirrored, images[:, :, ::-1], images)
        factor = 1 + self.brightness_frac * draws[:, 4]
        return tf.clip_by_value(images * factor[:, None, None, None], 0.0, 255.0)


def uniforms(keys: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` numbers in [-1, 1) for each key: `(batch, count)` float32."""
    prepare()
    import tensorflow as tf

    def draw(key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform((count,), key, -1.0, 1.0, alg="philox")

    return tf.map_fn(draw, tf.convert_to_tensor(keys), fn_output_signature=tf.float32)


def moved(images: tf.Tensor, draws: tf.Tensor, rotation_deg: float, shift_frac: float) -> tf.Tensor:
    """Return images rotated about their centre and shifted; what comes in from outside is 0.

    Args:
        images: `(batch, height, width, 3)` float32.
        draws: `(batch, 3 or more)` in [-1, 1): angle, shift down and shift right.
        rotation_deg: What a draw of 1 rotates by.
        shift_frac: What a draw of 1 shifts by, as a share of the side.
    """
    import tensorflow as tf

    height, width = images.shape[1], images.shape[2]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2

    def transform(draw: tf.Tensor) -> tf.Tensor:
        """Map an output pixel (x, y) to the input: undo the shift, then rotate back."""
        angle = draw[0] * math.radians(rotation_deg)
        down, right = draw[1] * shift_frac * height, draw[2] * shift_frac * width
        cos, sin = tf.cos(angle), tf.sin(angle)
        x0 = middle_x - cos * (middle_x + right) - sin * (middle_y + down)
        y0 = middle_y + sin * (middle_x + right) - cos * (middle_y + down)
        return tf.stack([cos, sin, x0, -sin, cos, y0, 0.0, 0.0])

    # One at a time: the cosine of a whole vector is rounded by where in it an angle stands.
    transforms = tf.map_fn(transform, tf.convert_to_tensor(draws, tf.float32))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.constant([height, width], tf.int32),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
