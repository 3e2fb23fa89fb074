"""Frozen layers in fewer operations: BatchNorm inside convolutions, 3 × 3 convolutions by tiles.

Or in cheaper ones: in bfloat16.

BatchNorm that stands still multiplies each channel and adds to it. Both can be done to the kernel
and the bias of the convolution before it, which gives the same but for rounding: on two cores,
MobileNetV2 takes 0.6 of the time at 224 px.

Tiles are Winograd's algorithm F(4 × 4, 3 × 3) as in Lavin and Gray 2015 (arXiv:1509.09308, section
4): each tile of 6 × 6 input pixels becomes 36 numbers per channel, which are multiplied by 36
numbers of the kernel and give 4 × 4 output pixels: 36 multiplications instead of 144. TensorFlow
has no such kernel for CPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
# Measured on two cores, 8 images at a time: fewer channels or smaller maps save nothing.
MIN_CHANNELS = 64 * 128  # input times output channels
MIN_SIDE = 12
TILES_BYTES = 2**24  # computed at a time: as fast as all at once, and 60 MB less for VGG-16


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


def tiled(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, pad: bool, relu: bool) -> tf.Tensor:
    """Return `convolved` of as many images at a time as memory allows."""
    _, height, width, channels = x.shape
    tiles_bytes = 4 * height * width * max(channels, kernel.shape[-1]) * IN**2 // OUT**2
    size = max(1, TILES_BYTES // tiles_bytes)
    portions = [x[start : start + size] for start in range(0, x.shape[0], size)]
    return tf.concat([convolved(portion, kernel, bias, pad, relu) for portion in portions], 0)


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
def convolved(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, pad: bool, relu: bool) -> tf.Tensor:
    """Return the convolution of images with a kernel, computed by tiles.

    Args:
        x: `(batch, height, width, channels)` float32; the shape must be static.
        kernel: `(3, 3, channels, filters)`.
        bias: `(filters,)`.
        pad: Pad with zeros to keep height and width; otherwise they shrink by 2.
        relu: Apply ReLU.
    """
    batch, height, width, channels = x.shape
    filters = kernel.shape[-1]
    if not pad:
        height, width = height - 2, width - 2
    rows, columns = -(-height // OUT), -(-width // OUT)
    tiles = batch * rows * columns
    margins = [
        (int(pad), count * OUT + 2 - side - int(pad))
        for count, side in ((rows, x.shape[1]), (columns, x.shape[2]))
    ]
    x = tf.pad(x, [(0, 0), *margins, (0, 0)])
    pixels = tf.stack(  # (36, batch, rows, columns, channels): one position in the tiles at a time
        [
            x[:, i : i + OUT * rows - OUT + 1 : OUT, j : j + OUT * columns - OUT + 1 : OUT]
            for i in range(IN)
            for j in range(IN)
        ]
    )
    pixels = tf.reshape(_transformed(_PIXELS, pixels), (IN**2, tiles, channels))
    weights = _transformed(_KERNEL, tf.reshape(kernel, (9, channels, filters)))
    sums = _transformed(_SUMS, pixels @ tf.reshape(weights, (IN**2, channels, filters)))
    sums = tf.reshape(sums, (OUT, OUT, batch, rows, columns, filters))
    sums = tf.transpose(sums, (2, 3, 0, 4, 1, 5))
    sums = tf.reshape(sums, (batch, rows * OUT, columns * OUT, filters))
    sums = sums[:, :height, :width] + bias
    return tf.nn.relu(sums) if relu else sums


def _transformed(side: np.ndarray, squares: tf.Tensor) -> tf.Tensor:
    """Transform squares along both sides; their numbers are along the first axis."""
    both = tf.constant(np.kron(side, side), tf.float32)
    return both @ tf.reshape(squares, (squares.shape[0], -1))


def lean(model: keras.Model, winograd: bool) -> keras.Model:
    """Return a model with the same variables for inference that does less where that is possible.

    On a GPU `winograd` changes nothing: TensorFlow uses the algorithm there.
    """
    norms = folded_norms(model)
    tiles = winograd and not tf.config.list_physical_devices("GPU")
    left_out = {norm.name for norm in norms.values()}

    def leaner(layer: keras.Layer) -> keras.Layer:
        if layer.name in norms or (tiles and suits(layer)):
            return _Convolution(layer, norms.get(layer.name), tiles and suits(layer))
        return _Nothing(name=f"{layer.name}_folded") if layer.name in left_out else layer

    if not norms and not (tiles and any(map(suits, model.layers))):
        return model
    return keras.models.clone_model(model, clone_function=leaner)


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

    def __init__(self, layer: keras.Layer, norm: keras.Layer | None, tiles: bool) -> None:
        super().__init__(name=f"{layer.name}_lean", dtype="float32", autocast=False)
        self.layer, self.norm, self.tiles = layer, norm, tiles

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)  # type: ignore[no-any-return]  # no types

    def call(self, x: tf.Tensor) -> tf.Tensor:
        layer = self.layer
        kernel, bias = self._weights()
        if self.tiles:
            pad, relu = layer.padding == "same", layer.activation is keras.activations.relu
            return tiled(x, kernel, bias, pad, relu)
        strides, padding, dtype = (1, *layer.strides, 1), layer.padding.upper(), x.dtype
        if isinstance(layer, keras.layers.DepthwiseConv2D):  # which bfloat16 makes slower on a CPU
            x = tf.nn.depthwise_conv2d(tf.cast(x, tf.float32), kernel, strides, padding) + bias
            return tf.cast(x, dtype)
        return tf.nn.conv2d(x, tf.cast(kernel, dtype), strides, padding) + tf.cast(bias, dtype)

    def _weights(self) -> tuple[tf.Tensor, tf.Tensor]:
        layer, norm = self.layer, self.norm
        kernel = tf.convert_to_tensor(layer.kernel)
        channels = layer.compute_output_shape(layer.input.shape)[-1]
        bias = tf.convert_to_tensor(layer.bias) if layer.use_bias else tf.zeros(channels)
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
