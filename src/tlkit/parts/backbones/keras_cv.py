"""Backbones from KerasCV, with their architecture stated key by key.

KerasCV is no longer developed, and nothing else in tlkit's backbones needs it. Its presets are not
used, because building one downloads it. Left out are: networks of composite layers, whose parts
cannot be frozen or loaded separately (CSPDarkNet, MiT), and of nested models with new names in
every build (ViTDet); ResNetV2, which fails under Keras 3.15.1 with one block per stack ('The name
"v2_stack_0_block1_use_preactivation_bn" is used 2 times in the model'); and MobileNetV3 and
EfficientNet, which are in `keras.applications` (EfficientNet-Lite: `efficientnet_lite`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import asdict, field, frozen

from tlkit.model.graph import cached_table, layer_table, renumber_names
from tlkit.model.layers import LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.kinds import Backbone, part, typed_init
from tlkit.parts.validators import at_least, each, open_interval
from tlkit.system.keras import extra_package
from tlkit.weights import sources as weights
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Counts = tuple[int, ...]
counts = each(at_least(1), least=1)


def models() -> Any:
    """Return `keras_cv.models`."""
    return extra_package("keras_cv", "keras-cv").models


@part("keras_cv_vgg16")
class KerasCVVGG16(VGG16):
    """VGG-16 as built by KerasCV, with the same layers and weights as `vgg16`."""

    def build(self) -> keras.Model:
        """Return KerasCV's model, `(batch, size, size, 3) -> (batch, size/32, size/32, 512)`."""
        shape = (self.image_size, self.image_size, 3)
        built = models().VGG16Backbone(
            include_rescaling=False, include_top=False, input_shape=shape
        )
        return _functional(built)


@typed_init
@frozen(kw_only=True)
class KerasCVBackbone(Backbone):
    """A network of KerasCV; pixels are divided by 255, as in its own training.

    Attributes:
        weights: The path of a file of this network's weights, or `none`; KerasCV publishes its
            weights only as presets, which are downloaded.
    """

    block: ClassVar[str]  # a pattern whose first group in a layer's name is its block

    weights: WeightsSource | tuple[WeightsSource, ...] = field()

    @abstractmethod
    def network(self, cv: Any, **settings: Any) -> keras.Model:
        """Return the model; `cv` is the module `keras_cv.models`."""

    def layers(self) -> LayerTable:
        """Return its layers; the network is built once, and the table is kept on disk."""
        settings = asdict(self) | {"weights": None, "preprocess": None}
        name, block = type(self).__name__, self.block
        return cached_table(name, settings, lambda: layer_table(self.build()).grouped(block))

    def build(self) -> keras.Model:
        """Return the network without its rescaling, with its layers named in their order."""
        shape = (self.image_size, self.image_size, 3)
        model = _functional(self.network(models(), include_rescaling=False, input_shape=shape))
        renumber_names(model)
        return model

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Divide the pixels by 255."""
        return images / 255.0

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""
        return weights.load_first(model, self.sources, weights.read_source)


def _functional(model: keras.Model) -> keras.Model:
    import keras

    return keras.Model(model.input, model.output)


@part("keras_cv_resnet")
class KerasCVResNet(KerasCVBackbone):
    """ResNet of any depth (He et al. 2016); by default ResNet-18, not in `keras.applications`.

    Attributes:
        blocks: The number of blocks in each stack. The first stack has 64 channels; each further
            one has twice the channels and half the height and width.
        block_type: `basic_block` (two 3×3 convolutions) or `block` (bottleneck).
    """

    block = r"^(conv1|v2_stack_\d)"

    blocks: Counts = field(default=(2, 2, 2, 2), validator=counts)
    block_type: Literal["basic_block", "block"] = "basic_block"

    def network(self, cv: Any, **settings: Any) -> keras.Model:
        """Return the ResNet."""
        stacks = range(len(self.blocks))
        return cv.ResNetBackbone(
            stackwise_filters=[64 * 2**stack for stack in stacks],
            stackwise_blocks=list(self.blocks),
            stackwise_strides=[1 if stack == 0 else 2 for stack in stacks],
            block_type=self.block_type,
            **settings,
        )


@part("keras_cv_densenet")
class KerasCVDenseNet(KerasCVBackbone):
    """DenseNet of any depth (Huang et al. 2017).

    Attributes:
        repeats: The number of layers in each dense block.
        growth: The number of channels that each layer adds.
        compression: The share of channels that a transition keeps.
    """

    block = r"^(conv\d)"

    repeats: Counts = field(default=(6, 12, 24, 16), validator=counts)
    growth: int = field(default=32, validator=at_least(1))
    compression: float = field(default=0.5, validator=open_interval(0, 1))

    def network(self, cv: Any, **settings: Any) -> keras.Model:
        """Return the DenseNet."""
        return cv.DenseNetBackbone(
            stackwise_num_repeats=list(self.repeats),
            growth_rate=self.growth,
            compression_ratio=self.compression,
            **settings,
        )
