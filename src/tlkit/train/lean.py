"""Frozen layers in fewer operations: BatchNorm inside convolutions, 3 × 3 convolutions by tiles.

Or in cheaper ones: in bfloat16.

BatchNorm that stands still multiplies each channel and adds to it. Both can be done to the kernel
and the bias of the convolution before it, which gives the same but for rounding: on two cores,
MobileNetV2 takes 0.6 of the time at 224 px.

Tiles are Winograd's algorithm F(4 × 4, 3 × 3) as in Lavin and Gray 2015 (arXiv:1509.09308, section
4): each tile of 6 × 6 input pixels becomes 36 numbers per channel, which are multiplied by 36
numbers of the kernel and give 4 × 4 output pixels: 36 multiplications instead of 144. TensorFlow
has no such kernel for CPUs, but its matrix products are fast enough for the rest to pay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from tlkit.system.keras import keras, tf

OUT, IN = 4, 6  # a tile's side in output and in input pixels
_KERNEL = np.array(  # G: a kernel's side of 3 becomes 6 numbers
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_PIXELS = np.array(  # B transposed: a tile's side of 6 becomes 6 numbers
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_SUMS = np.array(  # A transposed: 6 sums of products become a side of 4
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
_BLOCKS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of 4 × 4 pixels that a tile reaches into
_ORDER = np.concatenate(  # of a tile's pixels: those of each block together
    [
        np.arange(IN**2).reshape(IN, IN)[OUT * i : OUT * i + OUT, OUT * j : OUT * j + OUT].ravel()
        for i, j in _BLOCKS
    ]
)
# Measured on two cores, in processor time per image. VGG-16 takes 155 ms at 224 px directly and 109
# by tiles, the same if its layers with 64 × 128 channels are among them. At 64 px it takes 15.9 ms
# directly and 11.1 by tiles; 11.7 without maps below 7 × 7, 14.6 without those below 12 × 12.
MIN_CHANNELS = 128 * 128  # input times output channels
MIN_SIDE = 4
# A convolution of single pixels first brings its kernel into another order. For few pixels that
# takes longer than to multiply: 256 × 320 by 320 × 1,280 numbers take 7.6 ms, as a plain product
# 2.6; with 1,024 pixels both take the same.
FEW_PIXELS = 1024  # in a batch
TILES_BYTES = 2**23  # computed at a time, or as much as the kernel's numbers, to use them enough


def suits(layer: keras.Layer) -> bool:
    """Tell whether tiles make a layer faster on a CPU."""
    if type(layer) is not keras.layers.Conv2D or layer.compute_dtype != "float32":
        return False
    _, *sides, _ = layer.output.shape
    return (
        layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.activation in {keras.activations.linear, keras.activations.relu}
        and layer.kernel.shape[2] * layer.filters >= MIN_CHANNELS
        and all(side is not None and side >= MIN_SIDE for side in sides)
    )


def _tile_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """Return a kernel's 36 numbers per input channel and filter, `(36, channels, filters)`."""
    channels, filters = kernel.shape[2:]
    numbers = _both_sides(_KERNEL) @ tf.reshape(kernel, (9, channels * filters))
    return tf.reshape(numbers, (IN**2, channels, filters))


def tiled(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, pad: bool, relu: bool) -> tf.Tensor:
    """Return the convolution of images with a kernel, computed by tiles, portion by portion.

    Args:
        x: `(batch, height, width, channels)` float32; the shape must be static.
        kernel: `(3, 3, channels, filters)`.
        bias: `(filters,)`.
        pad: Pad with zeros to keep height and width; otherwise they shrink by 2.
        relu: Apply ReLU.
    """
    batch, *sides, channels = x.shape
    filters = kernel.shape[-1]
    outputs = [side if pad else side - 2 for side in sides]
    counts = [-(-side // OUT) for side in outputs]  # of tiles
    margins = [
        (int(pad), (count + 1) * OUT - side - int(pad))
        for count, side in zip(counts, sides, strict=True)
    ]
    crops = [(0, count * OUT - side) for count, side in zip(counts, outputs, strict=True)]
    tiles_bytes = 4 * math.prod(sides) * max(channels, filters) * IN**2 // OUT**2
    most = max(TILES_BYTES, 4 * IN**2 * channels * filters) // tiles_bytes
    size = 1 << max(1, most).bit_length() >> 1  # a power of two, as batches are
    portions: list[tf.Tensor] = []
    for start in range(0, batch, size):
        with tf.control_dependencies(portions[-1:]):  # never two in memory
            blocks = tf.space_to_batch(x[start : start + size], (OUT, OUT), margins)
            if not start:
                with tf.control_dependencies([blocks]):  # all layers' take 0.2 GB in VGG-16
                    weights = _tile_kernel(kernel)
            # `(4, 4, images, rows, columns, channels)`
            blocks = tf.reshape(blocks, (OUT, OUT, -1, *(n + 1 for n in counts), channels))
            sums = tf.reshape(_sums(blocks, weights), (-1, *counts, filters))
            sums = tf.nn.bias_add(tf.batch_to_space(sums, (OUT, OUT), crops), bias)
            portions.append(tf.nn.relu(sums) if relu else sums)
    return tf.concat(portions, 0)


def _sums(blocks: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return the 16 numbers of each tile's output, `(16, ...)`, from blocks of 4 × 4 pixels."""
    _, _, images, rows, columns, channels = blocks.shape
    tiles = images * (rows - 1) * (columns - 1)
    pixels = [  # a tile reaches into the blocks after its own
        blocks[: IN - OUT * i, : IN - OUT * j, :, i : rows - 1 + i, j : columns - 1 + j]
        for i, j in _BLOCKS
    ]
    pixels = tf.concat([tf.reshape(x, (-1, tiles * channels)) for x in pixels], 0)
    pixels = _both_sides(_PIXELS)[:, _ORDER] @ pixels
    sums = tf.reshape(pixels, (IN**2, tiles, channels)) @ weights
    return _both_sides(_SUMS) @ tf.reshape(sums, (IN**2, -1))


def _both_sides(side: np.ndarray) -> np.ndarray:
    """Return the matrix that transforms squares along both sides."""
    return np.kron(side, side).astype(np.float32)


def lean(
    model: keras.Model, winograd: bool, constant: bool = False, batch: int | None = None
) -> keras.Model:
    """Return a model with the same variables for inference that does less where that is possible.

    On a GPU `winograd` changes nothing: TensorFlow uses the algorithm there. If the variables are
    `constant`, BatchNorm is folded once, with their values at the first batch. With `batch` images
    at a time, convolutions of few pixels become matrix products.
    """
    norms = folded_norms(model)
    tiles = winograd and not tf.config.list_physical_devices("GPU")
    products = {layer.name for layer in products_of(model, batch)}
    left_out = {norm.name for norm in norms.values()}

    def leaner(layer: keras.Layer) -> keras.Layer:
        by_tiles = tiles and suits(layer)
        if layer.name in norms or by_tiles or layer.name in products:
            norm = norms.get(layer.name)
            return _Convolution(layer, norm, by_tiles, constant, layer.name in products)
        return _Nothing(name=f"{layer.name}_folded") if layer.name in left_out else layer

    if not norms and not products and not (tiles and any(map(suits, model.layers))):
        return model
    return keras.models.clone_model(model, clone_function=leaner)


def products_of(model: keras.Model, batch: int | None) -> list[keras.Layer]:
    """Return the convolutions of single pixels, few in a batch, which are matrix products."""
    if batch is None or tf.config.list_physical_devices("GPU"):
        return []
    return [
        layer
        for layer in model.layers
        if type(layer) is keras.layers.Conv2D
        and layer.kernel_size == layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and None not in layer.output.shape[1:]
        and batch * math.prod(layer.output.shape[1:3]) <= FEW_PIXELS
    ]


@contextmanager
def computing_in(model: keras.Model, dtype: str) -> Iterator[None]:
    """Let layers compute in a dtype in a function that is traced meanwhile; weights stay as is."""
    layers = [x for x in model._flatten_layers(include_self=False) if x.autocast]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers if dtype != "float32" else []:
            layer.dtype_policy = f"mixed_{dtype}"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def folded_norms(model: keras.Model) -> Mapping[str, keras.Layer]:
    """Return the BatchNorm layers that can be folded, by the names of their convolutions."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    norms = {}
    for norm in (n for n in nodes if type(n.operation) is keras.layers.BatchNormalization):
        (x,) = norm.input_tensors
        below = x._keras_history.operation
        if uses[id(x)] == 1 and _folds(below, norm.operation, len(x.shape)):
            norms[below.name] = norm.operation
    return norms


def _folds(layer: keras.Layer, norm: keras.Layer, rank: int) -> bool:
    return (
        type(layer) in {keras.layers.Conv2D, keras.layers.DepthwiseConv2D}
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.padding in {"same", "valid"}
        and len({*layer.strides}) == 1
        and {*layer.dilation_rate} == {1}
        and layer.compute_dtype == norm.compute_dtype == "float32"
        and norm.axis in {-1, rank - 1}
    )


class _Nothing(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Takes the place of a BatchNorm layer that is folded into the layer before it."""

    def call(
        self, x: tf.Tensor, training: bool = False, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        return x


class _Convolution(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A convolution with that layer's variables and those of the BatchNorm folded into it."""

    def __init__(
        self,
        layer: keras.Layer,
        norm: keras.Layer | None,
        tiles: bool,
        constant: bool,
        product: bool = False,
    ) -> None:
        super().__init__(name=f"{layer.name}_lean", dtype="float32", autocast=False)
        self.layer, self.norm, self.tiles, self.constant = layer, norm, tiles, constant
        self.product = product

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)  # type: ignore[no-any-return]  # no types

    def call(self, x: tf.Tensor) -> tf.Tensor:
        layer = self.layer
        # Folding takes a tenth of a small batch's time, so it is done once where that is safe.
        with tf.init_scope() if self.constant else nullcontext():
            kernel, bias = self._weights()
        if self.tiles:
            pad, relu = layer.padding == "same", layer.activation is keras.activations.relu
            return tiled(x, kernel, bias, pad, relu)
        strides, padding, dtype = (1, *layer.strides, 1), layer.padding.upper(), x.dtype
        # TensorFlow fuses `bias_add`, not a sum, with the convolution before and the ReLU after it.
        if isinstance(layer, keras.layers.DepthwiseConv2D):  # which bfloat16 makes slower on a CPU
            x = tf.nn.depthwise_conv2d(tf.cast(x, tf.float32), kernel, strides, padding)
            return tf.cast(tf.nn.bias_add(x, bias), dtype)
        kernel, bias = tf.cast(kernel, dtype), tf.cast(bias, dtype)
        if not self.product:
            return tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides, padding), bias)
        pixels = tf.reshape(x, (-1, x.shape[-1])) @ kernel[0, 0]
        y = tf.reshape(tf.nn.bias_add(pixels, bias), (-1, *x.shape[1:-1], pixels.shape[-1]))
        return layer.activation(y)

    def _weights(self) -> tuple[Any, Any]:
        layer, norm = self.layer, self.norm
        channels = layer.compute_output_shape(layer.input.shape)[-1]
        kernel, bias = layer.kernel, layer.bias if layer.use_bias else tf.zeros(channels)
        if norm is None:
            return kernel, bias
        scale = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale *= norm.gamma
        bias = (bias - norm.moving_mean) * scale
        if norm.center:
            bias += norm.beta
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            return kernel * tf.reshape(scale, kernel.shape[2:]), bias
        return kernel * scale, bias
