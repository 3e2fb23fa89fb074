"""Building blocks of augmentations: draws from keys, and pixel operations with exact rounding.

The result for an image must depend on that image and its own draws alone, to the last bit. Sums and
products of two numbers do. Quotients and cosines are rounded differently by position in a vector,
and sums of many floats by how they are split among threads. Therefore there are no quotients,
cosines are computed one at a time, and long sums are of integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
