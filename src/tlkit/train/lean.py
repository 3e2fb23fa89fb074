"""Frozen layers in fewer operations: BatchNorm inside convolutions, 3 × 3 convolutions by tiles.

Or in cheaper ones: in bfloat16.

BatchNorm that stands still multiplies each channel and adds to it. Both can be done to the kernel
and the bias of the convolution before it, which gives the same but for rounding: on two cores,
MobileNetV2 takes 0.6 of the time at 224 px. Layers that are trained can use tiles too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from tlkit.system.keras import keras, tf
from tlkit.train.winograd import suits, tiled, tiled_with_gradient

# A convolution of single pixels first brings its kernel into another order. For few pixels that
# takes longer than to multiply: 256 × 320 by 320 × 1,280 numbers take 7.6 ms, as a plain product
# 2.6; with 1,024 pixels both take the same.
FEW_PIXELS = 1024  # in a batch


def lean(
    model: keras.Model,
    winograd: bool,
    constant: bool = False,
    batch: int | None = None,
    trained: bool = False,
) -> keras.Model:
    """Return a model with the same variables that does less where that is possible.

    On a GPU `winograd` changes nothing: TensorFlow uses the algorithm there. If the variables are
    `constant`, BatchNorm is folded once, with their values at the first batch. With `batch` images
    at a time, convolutions of few pixels become matrix products. A model that is to be `trained`
    keeps its BatchNorm; any other is for inference only.
    """
    norms = {} if trained else folded_norms(model)
    above = _above_trained(model) if trained else None
    tiles = winograd and not tf.config.list_physical_devices("GPU")
    products = {layer.name for layer in products_of(model, batch)}
    left_out = {norm.name for norm in norms.values()}

    def leaner(layer: keras.Layer) -> keras.Layer:
        by_tiles = tiles and suits(layer)
        if layer.name in norms or by_tiles or layer.name in products:
            norm = norms.get(layer.name)
            return _Convolution(layer, norm, by_tiles, constant, layer.name in products, above)
        return _Nothing(name=f"{layer.name}_folded") if layer.name in left_out else layer

    if not norms and not products and not (tiles and any(map(suits, model.layers))):
        return model
    return keras.models.clone_model(model, clone_function=leaner)


def has_tiles(model: keras.Model) -> bool:
    """Tell whether a lean model has convolutions by tiles, which need images of static shape."""
    return any(isinstance(layer, _Convolution) and layer.tiles for layer in model.layers)


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


def _above_trained(model: keras.Model) -> set[str]:
    """Return the names of layers whose input depends on what is trained."""
    found, names = set(), set()
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            above = any(id(x) in found for x in node.input_tensors)
            names |= {node.operation.name} if above else set()
            learns = bool(getattr(node.operation, "trainable_variables", None))
            if above or learns:
                found |= {id(x) for x in node.outputs}
    return names


class _Nothing(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Takes the place of a BatchNorm layer that is folded into the layer before it."""

    def call(
        self, x: tf.Tensor, training: bool = False, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        return x


class _Convolution(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A convolution with that layer's variables and those of the BatchNorm folded into it.

    `above` are the layers whose input needs a gradient; None: nothing needs any.
    """

    def __init__(
        self,
        layer: keras.Layer,
        norm: keras.Layer | None,
        tiles: bool,
        constant: bool,
        product: bool,
        above: Collection[str] | None,
    ) -> None:
        super().__init__(name=f"{layer.name}_lean", dtype="float32", autocast=False)
        self.layer, self.norm, self.tiles, self.constant = layer, norm, tiles, constant
        self.product, self.above = product, above

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)  # type: ignore[no-any-return]  # no types

    def call(self, x: tf.Tensor) -> tf.Tensor:
        layer = self.layer
        # Folding takes a tenth of a small batch's time, so it is done once where that is safe.
        with tf.init_scope() if self.constant else nullcontext():
            kernel, bias = self._weights()
        if self.tiles:
            pad, relu = layer.padding == "same", layer.activation is keras.activations.relu
            if self.above is None:
                return tiled(x, kernel, bias, pad, relu)
            needed = layer.name in self.above, bool(layer.trainable_variables)
            return tiled_with_gradient(x, kernel, bias, pad, relu, *needed)
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
            return tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)
        scale = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale *= norm.gamma
        bias = (bias - norm.moving_mean) * scale
        if norm.center:
            bias += norm.beta
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            return kernel * tf.reshape(scale, kernel.shape[2:]), bias
        return kernel * scale, bias
