"""How RGB pixels in [0, 255] become what published weights were trained with.

The first three are the modes of `keras.applications.imagenet_utils.preprocess_input`. All are plain
arithmetic, so that they work on Keras's symbolic tensors too and can become part of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tensorflow as tf

# ImageNet's mean pixel, blue, green, red: VGG and ResNet were trained on pixels less this mean.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
# Mean and standard deviation of ImageNet's pixels, red, green, blue, divided by 255.
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)


def caffe(images: tf.Tensor) -> tf.Tensor:
    """Return the pixels as blue, green, red, less ImageNet's mean."""
    return images[..., ::-1] - _channels(CAFFE_MEAN_BGR)


def tf_mode(images: tf.Tensor) -> tf.Tensor:
    """Return the pixels scaled to [-1, 1]."""
    return images / 127.5 - 1.0


def torch(images: tf.Tensor) -> tf.Tensor:
    """Return the pixels with ImageNet's mean 0 and standard deviation 1."""
    return (images / 255.0 - _channels(TORCH_MEAN)) / _channels(TORCH_STD)


def half(images: tf.Tensor) -> tf.Tensor:
    """Return the pixels divided by 128, less 1: EfficientNetV2 S, M and L."""
    return images / 128.0 - 1.0


def _channels(values: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Return a value a channel as an array: symbolic tensors take no tuples."""
    import numpy as np

    return np.array(values, np.float32)


MODES: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "caffe": caffe, "tf": tf_mode, "torch": torch, "half": half,
}  # fmt: skip
