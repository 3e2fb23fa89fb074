"""What augmentations are made of: draws from keys, and changes of pixels that round alike anywhere.

A change may depend on an image and its own draws alone, to the last bit. Sums and products of two
numbers do. Quotients and cosines are rounded by where in a vector a number stands, and sums of many
floats by how they are split among threads: so there are no quotients, cosines are taken one at a
time, and long sums are of whole numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import tensorflow as tf

Fill = Literal["CONSTANT", "NEAREST", "REFLECT"]


def uniforms(keys: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` numbers in [-1, 1) for each key: `(batch, count)` float32."""
    start_keras()
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
    angles = draws[:, 0] * math.radians(rotation_deg)
    return placed(images, angles, draws[:, 1] * shift_frac, draws[:, 2] * shift_frac)


def placed(
    images: tf.Tensor,
    angles: tf.Tensor,
    down: tf.Tensor,
    right: tf.Tensor,
    shown: tf.Tensor | None = None,
    fill: Fill = "CONSTANT",
) -> tf.Tensor:
    """Return images rotated about their centre, shifted and enlarged, bilinearly.

    Args:
        images: `(batch, height, width, 3)` float32.
        angles: Each image's angle, clockwise, in radians.
        down: Its shift, as a share of the height.
        right: Its shift, as a share of the width.
        shown: How much of each side is seen, enlarged to the whole; unset: all.
        fill: What comes in from outside: black, the nearest pixel or the mirrored picture.
    """
    import tensorflow as tf

    height, width = images.shape[1], images.shape[2]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shown = tf.ones_like(angles) if shown is None else shown

    def transform(placement: tf.Tensor) -> tf.Tensor:
        """Map an output pixel (x, y) to the input: shrink, undo the shift, then rotate back."""
        angle, right, down, part = tf.unstack(placement)
        cos, sin = tf.cos(angle), tf.sin(angle)
        x, y = part * middle_x + right, part * middle_y + down
        x0, y0 = middle_x - cos * x - sin * y, middle_y + sin * x - cos * y
        cos, sin = part * cos, part * sin
        return tf.stack([cos, sin, x0, -sin, cos, y0, 0.0, 0.0])

    placements = tf.stack([angles, right * width, down * height, shown], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        # One at a time: the cosine of a whole vector is rounded by where in it an angle stands.
        transforms=tf.map_fn(transform, placements),
        output_shape=tf.constant([height, width], tf.int32),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill,
    )


def toned(images: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Return images with another contrast about their mean, then another brightness.

    Both are factors, one an image; what gets darker than black or lighter than white is cut off.
    """
    import tensorflow as tf

    brightness, contrast = brightness[:, None, None, None], contrast[:, None, None, None]
    pixels = images.shape[1] * images.shape[2] * images.shape[3]
    # Of whole grey values, whose sum is the same in whatever order it is taken.
    total = tf.reduce_sum(tf.cast(images, tf.int64), axis=(1, 2, 3), keepdims=True)
    mean = tf.cast(tf.cast(total, tf.float64) * (1 / pixels), tf.float32)
    return tf.clip_by_value((images * contrast + mean * (1 - contrast)) * brightness, 0.0, 255.0)


def saturated(images: tf.Tensor, saturation: tf.Tensor) -> tf.Tensor:
    """Return images whose colours are this many times as far from grey, cut off at the ends."""
    import tensorflow as tf

    saturation = saturation[:, None, None, None]
    red, green, blue = images[..., :1], images[..., 1:2], images[..., 2:]
    grey = red * 0.299 + green * 0.587 + blue * 0.114  # ITU-R BT.601's luma
    return tf.clip_by_value(images * saturation + grey * (1 - saturation), 0.0, 255.0)


def mirrored(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Return images whose draw, in [-1, 1), is below 0 mirrored left to right."""
    import tensorflow as tf

    return tf.where((draws < 0)[:, None, None, None], images[:, :, ::-1], images)
