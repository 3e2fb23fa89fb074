"""Augmentations: random changes of training images, each image's drawn from its own key.

They work on pixels in [0, 255], after resizing and before preprocessing. With stateless random
numbers and one projective transform, the result is a pure function of pixels and key. Unlike with
Keras's random layers, it does not depend on batch, order, worker or restart.

An image's result depends on it and its own draws alone, to the last bit. Sums and products of two
numbers do. Quotients and cosines are rounded differently by position in a vector, and sums of many
floats by how they are split among threads. Therefore there are no quotients, cosines are computed
one at a time, and long sums are of integers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from tlkit.parts.kinds import Augmentation, part, typed_init
from tlkit.parts.validators import between, fraction
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import tensorflow as tf


Fill = Literal["CONSTANT", "NEAREST", "REFLECT"]


def uniforms(keys: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` numbers in [-1, 1) per key: `(batch, count)` float32.

    The first numbers for a key are the same whatever `count` is.
    """
    start_keras()
    import tensorflow as tf

    def draw(key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform((count,), key, -1.0, 1.0, alg="philox")

    return tf.map_fn(draw, tf.convert_to_tensor(keys), fn_output_signature=tf.float32)


def affine_transform(
    images: tf.Tensor,
    angles: tf.Tensor,
    down: tf.Tensor,
    right: tf.Tensor,
    visible: tf.Tensor | None = None,
    fill: Fill = "CONSTANT",
) -> tf.Tensor:
    """Return images rotated about their center, then shifted and enlarged, bilinearly.

    Args:
        images: `(batch, height, width, 3)` float32.
        angles: Each image's angle, clockwise, in radians.
        down: Its shift, as a fraction of the height.
        right: Its shift, as a fraction of the width.
        visible: The visible fraction of each side, enlarged to the whole; unset: all.
        fill: What fills uncovered borders: black, the nearest pixel or the mirrored image.
    """
    import tensorflow as tf

    height, width = images.shape[1], images.shape[2]
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    visible = tf.ones_like(angles) if visible is None else visible

    def transform(placement: tf.Tensor) -> tf.Tensor:
        """Map an output pixel (x, y) to the input: shrink, undo the shift, then rotate back."""
        angle, right, down, part = tf.unstack(placement)
        cos, sin = tf.cos(angle), tf.sin(angle)
        x, y = part * center_x + right, part * center_y + down
        x0, y0 = center_x - cos * x - sin * y, center_y + sin * x - cos * y
        cos, sin = part * cos, part * sin
        return tf.stack([cos, sin, x0, -sin, cos, y0, 0.0, 0.0])

    placements = tf.stack([angles, right * width, down * height, visible], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        # One at a time: the cosine of a vector's element is rounded by its position.
        transforms=tf.map_fn(transform, placements),
        output_shape=tf.constant([height, width], tf.int32),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill,
    )


def adjust_tone(images: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Scale each image's contrast about its mean, then its brightness, clipped at the ends.

    Args:
        images: `(batch, height, width, 3)` float32.
        brightness: One factor per image.
        contrast: One factor per image.
    """
    import tensorflow as tf

    brightness, contrast = brightness[:, None, None, None], contrast[:, None, None, None]
    pixels = images.shape[1] * images.shape[2] * images.shape[3]
    # A sum of integers is the same in any order.
    total = tf.reduce_sum(tf.cast(images, tf.int64), axis=(1, 2, 3), keepdims=True)
    mean = tf.cast(tf.cast(total, tf.float64) * (1 / pixels), tf.float32)
    return tf.clip_by_value((images * contrast + mean * (1 - contrast)) * brightness, 0.0, 255.0)


def adjust_saturation(images: tf.Tensor, saturation: tf.Tensor) -> tf.Tensor:
    """Scale the distance of each image's colors from gray, clipped at the ends."""
    import tensorflow as tf

    saturation = saturation[:, None, None, None]
    red, green, blue = images[..., :1], images[..., 1:2], images[..., 2:]
    gray = red * 0.299 + green * 0.587 + blue * 0.114  # luma of ITU-R BT.601
    return tf.clip_by_value(images * saturation + gray * (1 - saturation), 0.0, 255.0)


def flip_horizontally(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Flip the images whose draw, in [-1, 1), is below 0."""
    import tensorflow as tf

    return tf.where((draws < 0)[:, None, None, None], images[:, :, ::-1], images)


MAX_STRENGTH = 2  # bounds of other keys are set so that twice as much still makes sense


@typed_init
@frozen(kw_only=True)
class StrengthAugmentation(Augmentation):
    """An augmentation whose changes can be made weaker or stronger together.

    Attributes:
        strength: Factor of all changes: 0 is none, 1 is what the other keys say, 2 is the maximum.
    """

    strength: float = field(default=1.0, validator=between(0, MAX_STRENGTH))

    @property
    def changes(self) -> bool:
        """Tell whether it changes images: not at strength 0."""
        return self.strength > 0


@part("none")
class NoAugmentation(Augmentation):
    """Leave every image as it is."""

    @property
    def changes(self) -> bool:
        """Return False: features are the same in every epoch."""
        return False

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return `images`."""
        return images


@part("affine")
class Affine(Augmentation):
    """Rotation, shifts, zoom, horizontal flip and brightness; uncovered borders are black.

    Each change is drawn evenly between its negative and its positive bound.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a fraction of height and width.
        zoom_frac: Show 1 ± up to this much of height and width, resized to the whole.
        flip: Flip half of the images horizontally.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
    """

    rotation_deg: float = field(default=5.0, validator=between(0, 180))
    shift_frac: float = field(default=0.05, validator=fraction(below=1))
    zoom_frac: float = field(default=0.05, validator=fraction(below=1))
    flip: bool = True
    brightness_frac: float = field(default=0.05, validator=fraction(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, zoomed, flipped and brightened."""
        import tensorflow as tf

        draws = uniforms(keys, 6)
        images = affine_transform(
            images,
            angles=draws[:, 0] * math.radians(self.rotation_deg),
            down=draws[:, 1] * self.shift_frac,
            right=draws[:, 2] * self.shift_frac,
            visible=1 + draws[:, 5] * self.zoom_frac,
        )
        if self.flip:
            images = flip_horizontally(images, draws[:, 3])
        if self.brightness_frac:
            factor = 1 + self.brightness_frac * draws[:, 4]
            images = tf.clip_by_value(images * factor[:, None, None, None], 0.0, 255.0)
        return images


@part("xray_safe")
class XraySafe(StrengthAugmentation):
    """Small changes that keep a radiograph plausible: no flip, and no black border.

    Uncovered borders repeat the pixels at the edge. Each change is drawn evenly between its
    negative and its positive bound.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a fraction of height and width.
        zoom_frac: Show 1 ± up to this much of height and width, resized to the whole.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
        contrast_frac: Multiply the distance from the image's mean by 1 ± up to this much.
    """

    rotation_deg: float = field(default=5.0, validator=between(0, 90))
    shift_frac: float = field(default=0.04, validator=fraction(below=0.5))
    zoom_frac: float = field(default=0.05, validator=fraction(below=0.5))
    brightness_frac: float = field(default=0.1, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.1, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, zoomed, and with changed exposure."""
        if not self.changes:
            return images
        draws = self.strength * uniforms(keys, 6)
        images = affine_transform(
            images,
            angles=draws[:, 0] * math.radians(self.rotation_deg),
            down=draws[:, 1] * self.shift_frac,
            right=draws[:, 2] * self.shift_frac,
            visible=1 + draws[:, 3] * self.zoom_frac,
            fill="NEAREST",
        )
        return adjust_tone(
            images,
            brightness=1 + draws[:, 4] * self.brightness_frac,
            contrast=1 + draws[:, 5] * self.contrast_frac,
        )


@part("natural")
class Natural(StrengthAugmentation):
    """The usual changes of photographs: flip, crop, small rotation, light and color.

    Borders that a rotation uncovers show the mirrored image.

    Attributes:
        flip: Flip half of the images horizontally, at any strength above 0.
        crop_frac: Cut off up to this fraction of each side, at a random place, and enlarge the
            rest.
        rotation_deg: The largest angle, in degrees.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
        contrast_frac: Multiply the distance from the image's mean by 1 ± up to this much.
        saturation_frac: Multiply the distance from gray by 1 ± up to this much.
    """

    flip: bool = True
    crop_frac: float = field(default=0.25, validator=fraction(below=0.5))
    rotation_deg: float = field(default=10.0, validator=between(0, 90))
    brightness_frac: float = field(default=0.2, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.2, validator=fraction(below=0.5))
    saturation_frac: float = field(default=0.3, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images flipped, cropped, rotated, and with changed light and color."""
        if not self.changes:
            return images
        raw = uniforms(keys, 8)
        draws = self.strength * raw
        if self.flip:
            images = flip_horizontally(images, raw[:, 0])
        cut_off = (self.strength + draws[:, 1]) * 0.5 * self.crop_frac
        room = cut_off * 0.5  # how far the crop's center may be from the image's
        images = affine_transform(
            images,
            angles=draws[:, 2] * math.radians(self.rotation_deg),
            down=raw[:, 3] * room,
            right=raw[:, 4] * room,
            visible=1 - cut_off,
            fill="REFLECT",
        )
        images = adjust_tone(
            images,
            brightness=1 + draws[:, 5] * self.brightness_frac,
            contrast=1 + draws[:, 6] * self.contrast_frac,
        )
        return adjust_saturation(images, 1 + draws[:, 7] * self.saturation_frac)
