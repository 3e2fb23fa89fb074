"""The preprocessing of RGB pixels in [0, 255] that published weights were trained with.

The first three are the modes of `keras.applications.imagenet_utils.preprocess_input`. All are plain
arithmetic, so they also work on Keras's symbolic tensors and can become part of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tensorflow as tf

# ImageNet's mean pixel in the order blue, green, red.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
# Mean and standard deviation of ImageNet's pixels divided by 255, in the order red, green, blue.
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)


def caffe(images: tf.Tensor) -> tf.Tensor:
    """Reorder the channels to BGR and subtract ImageNet's mean."""
    return images[..., ::-1] - _channels(CAFFE_MEAN_BGR)


def tf_mode(images: tf.Tensor) -> tf.Tensor:
    """Scale to [-1, 1]."""
    return images / 127.5 - 1.0


def torch(images: tf.Tensor) -> tf.Tensor:
    """Standardize with the mean and standard deviation of ImageNet."""
    return (images / 255.0 - _channels(TORCH_MEAN)) / _channels(TORCH_STD)


def half(images: tf.Tensor) -> tf.Tensor:
    """Divide by 128 and subtract 1, as for EfficientNetV2 S, M and L."""
    return images / 128.0 - 1.0


def _channels(values: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Return one value per channel as an array; symbolic tensors do not take tuples."""
    import numpy as np

    return np.array(values, np.float32)


MODES: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "caffe": caffe, "tf": tf_mode, "torch": torch, "half": half,
}  # fmt: skip
