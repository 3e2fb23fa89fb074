"""Convolutions by tiles: Winograd's algorithm F(4 × 4, 3 × 3), with its gradient.

As in Lavin and Gray 2015 (arXiv:1509.09308, section 4): each tile of 6 × 6 input pixels becomes 36
numbers per channel, which are multiplied by 36 numbers of the kernel and give 4 × 4 output pixels:
36 multiplications instead of 144. TensorFlow has no such kernel for CPUs, but its matrix products
are fast enough for the rest to pay. Backward it is the same: 36 numbers of a tile's 4 × 4 gradients
are multiplied by those of the kernel for the input's gradient, and by those of the input for the
kernel's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from tlkit.system.keras import keras, tf
from tlkit.train.plan import MIN_CHANNELS, MIN_SIDE

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
_SIDES = [(IN - OUT if i else OUT, IN - OUT if j else OUT) for i, j in _BLOCKS]  # of each part
_ORDER = np.concatenate(  # of a tile's pixels: those of each block together
    [
        np.arange(IN**2).reshape(IN, IN)[OUT * i : OUT * i + OUT, OUT * j : OUT * j + OUT].ravel()
        for i, j in _BLOCKS
    ]
)
_Portion = Callable[[tf.Tensor], tf.Tensor]  # takes a portion of the images out of all of them
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
        and layer.activity_regularizer is None
        and layer.kernel.shape[2] * layer.filters >= MIN_CHANNELS
        and all(side is not None and side >= MIN_SIDE for side in sides)
    )


@frozen
class _Tiling:
    """How a convolution's images are cut into tiles.

    Attributes:
        counts: Tiles per column and per row.
        margins: Zeros around the input.
        crops: What the tiles' output has too much.
        portion: Images whose tiles are computed at a time.
    """

    counts: list[int]
    margins: list[tuple[int, int]]
    crops: list[tuple[int, int]]
    portion: int

    @classmethod
    def of(cls, x: tf.Tensor, kernel: tf.Tensor, pad: bool) -> _Tiling:
        _, *sides, channels = x.shape
        filters = kernel.shape[-1]
        outputs = [side if pad else side - 2 for side in sides]
        counts = [-(-side // OUT) for side in outputs]
        margins = [
            (int(pad), (count + 1) * OUT - side - int(pad))
            for count, side in zip(counts, sides, strict=True)
        ]
        crops = [(0, count * OUT - side) for count, side in zip(counts, outputs, strict=True)]
        tiles_bytes = 4 * math.prod(sides) * max(channels, filters) * IN**2 // OUT**2
        most = max(TILES_BYTES, 4 * IN**2 * channels * filters) // tiles_bytes
        portion = 1 << max(1, most).bit_length() >> 1  # a power of two, as batches are
        return cls(counts, margins, crops, portion)

    def blocks(self, x: tf.Tensor) -> tf.Tensor:
        """Return the input in blocks, `(4, 4, images, rows, columns, channels)`."""
        blocks = tf.space_to_batch(x, (OUT, OUT), self.margins)
        return tf.reshape(blocks, (OUT, OUT, -1, *(n + 1 for n in self.counts), x.shape[-1]))

    def numbers(self, blocks: tf.Tensor) -> tf.Tensor:
        """Return the 36 numbers of each tile, `(36, tiles, channels)`."""
        rows, columns = self.counts
        parts = []
        for (i, j), (height, width) in zip(_BLOCKS, _SIDES, strict=True):
            part = blocks[:height, :width, :, i : rows + i, j : columns + j]
            parts.append(tf.reshape(part, (height * width, -1)))
        pixels = _both_sides(_PIXELS)[:, _ORDER] @ tf.concat(parts, 0)
        return tf.reshape(pixels, (IN**2, -1, blocks.shape[-1]))

    def output(self, sums: tf.Tensor) -> tf.Tensor:
        """Return images from the sums of products, `(36, tiles, filters)`."""
        filters = sums.shape[-1]
        pixels = _both_sides(_SUMS) @ tf.reshape(sums, (IN**2, -1))
        return tf.batch_to_space(
            tf.reshape(pixels, (-1, *self.counts, filters)), (OUT, OUT), self.crops
        )

    def output_back(self, gradient: tf.Tensor) -> tf.Tensor:
        """Return the gradient of the sums from that of the output."""
        pixels = tf.space_to_batch(gradient, (OUT, OUT), self.crops)
        sums = _both_sides(_SUMS).T @ tf.reshape(pixels, (OUT**2, -1))
        return tf.reshape(sums, (IN**2, -1, gradient.shape[-1]))

    def numbers_back(self, gradient: tf.Tensor) -> tf.Tensor:
        """Return the gradient of the input from that of its numbers."""
        channels = gradient.shape[-1]
        pixels = _both_sides(_PIXELS)[:, _ORDER].T @ tf.reshape(gradient, (IN**2, -1))
        blocks: Any = 0.0
        parts = tf.split(pixels, [*map(math.prod, _SIDES)])
        for (i, j), (height, width), part in zip(_BLOCKS, _SIDES, parts, strict=True):
            part = tf.reshape(part, (height, width, -1, *self.counts, channels))
            after = [(0, OUT - height), (0, OUT - width), (0, 0), (i, 1 - i), (j, 1 - j), (0, 0)]
            blocks = tf.pad(part, after) + blocks
        blocks = tf.reshape(blocks, (-1, *(n + 1 for n in self.counts), channels))
        return tf.batch_to_space(blocks, (OUT, OUT), self.margins)


# Traced once for layers of one shape.
@tf.function(autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
def tiled(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, pad: bool, relu: bool) -> tf.Tensor:
    """Return the convolution of images with a kernel, computed by tiles, portion by portion.

    Args:
        x: `(batch, height, width, channels)` float32; the shape must be static.
        kernel: `(3, 3, channels, filters)`.
        bias: `(filters,)`.
        pad: Pad with zeros to keep height and width; otherwise they shrink by 2.
        relu: Apply ReLU.
    """
    tiling = _Tiling.of(x, kernel, pad)
    some = x[:1, :1, :1]  # whatever waits for it leaves the layer before free to fuse its ReLU
    with tf.control_dependencies([some]):  # all layers' take 0.2 GB in VGG-16
        weights = _kernel_numbers(kernel)

    def work(portion: _Portion, total: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        sums = tiling.numbers(tiling.blocks(portion(x))) @ weights
        output = tf.nn.bias_add(tiling.output(sums), bias)
        return tf.nn.relu(output) if relu else output, total

    height, width = (size - 2 * (not pad) for size in x.shape[1:3])
    shape = x.shape[0], height, width, kernel.shape[-1]
    return _by_portions(work, tiling.portion, x.shape[0], shape, None, some)[0]


def tiled_with_gradient(
    x: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    pad: bool,
    relu: bool,
    of_x: bool,
    of_kernel: bool,
) -> tf.Tensor:
    """Return the convolution as `tiled` does, with its gradient by tiles.

    The tiles are computed again on the way back, where keeping them would take 2.25 times the
    memory of `x`. Gradients of `x` and of the kernel are computed only if they are needed.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator,unused-ignore]  # no types
    def convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
        output = tiled(x, kernel, bias, pad, relu)

        def back(gradient: tf.Tensor) -> Sequence[tf.Tensor | None]:
            if relu:
                gradient = tf.raw_ops.ReluGrad(gradients=gradient, features=output)
            dx, dkernel = _back(x, kernel, gradient, pad, of_x, of_kernel)
            return dx, dkernel, tf.raw_ops.BiasAddGrad(out_backprop=gradient)

        return output, back

    return convolution(x, kernel, bias)


@tf.function(autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
def _back(
    x: tf.Tensor, kernel: tf.Tensor, gradient: tf.Tensor, pad: bool, of_x: bool, of_kernel: bool
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Return the gradients of the input and of the kernel, or None."""
    tiling = _Tiling.of(x, kernel, pad)
    weights = None
    if of_x:
        with tf.control_dependencies([gradient]):
            weights = _kernel_numbers(kernel)

    def work(
        portion: _Portion, total: tf.Tensor | None
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        sums, rows = tiling.output_back(portion(gradient)), None
        if of_kernel:
            with tf.control_dependencies([sums]):
                of_tiles = tiling.numbers(tiling.blocks(portion(x)))
            products = tf.matmul(of_tiles, sums, transpose_a=True)
            total = products if total is None else total + products
        if weights is not None:
            with tf.control_dependencies([total] if of_kernel else []):
                rows = tiling.numbers_back(tf.matmul(sums, weights, transpose_b=True))
        return rows, total

    numbers = (IN**2, x.shape[-1], gradient.shape[-1]) if of_kernel else None
    rows = x.shape if of_x else None
    dx, total = _by_portions(work, tiling.portion, x.shape[0], rows, numbers, gradient)
    if not of_kernel:
        return dx, None
    dkernel = _both_sides(_KERNEL).T @ tf.reshape(total, (IN**2, -1))
    return dx, tf.reshape(dkernel, kernel.shape)


def _by_portions(
    work: Callable[[_Portion, tf.Tensor | None], tuple[tf.Tensor | None, tf.Tensor | None]],
    size: int,
    images: int,
    shape: Sequence[int] | None,
    of_total: Sequence[int] | None,
    after: tf.Tensor,
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Return the rows that work returns for all portions, and the total; one after another.

    Nothing is allocated before `after` is there.
    """
    if images <= size:
        return work(lambda x: x, None)

    def step(start: Any, output: Any, total: Any) -> tuple[Any, Any, Any]:
        end = tf.minimum(start + size, images)
        rows, total = work(lambda x: x[start:end], total)
        if rows is not None:  # written in place
            output = tf.raw_ops.InplaceUpdate(x=output, i=tf.range(start, end), v=rows)
        return end, output, total

    with tf.control_dependencies([after]):
        output = () if shape is None else tf.raw_ops.Empty(shape=shape, dtype=tf.float32)
        total = () if of_total is None else tf.zeros(of_total)
    state = tf.constant(0), output, total
    state = tf.while_loop(lambda start, *_: start < images, step, state, parallel_iterations=1)
    _, output, total = state
    return (None if shape is None else output), (None if of_total is None else total)


def _kernel_numbers(kernel: tf.Tensor) -> tf.Tensor:
    """Return a kernel's 36 numbers per input channel and filter, `(36, channels, filters)`."""
    channels, filters = kernel.shape[2:]
    numbers = _both_sides(_KERNEL) @ tf.reshape(kernel, (9, channels * filters))
    return tf.reshape(numbers, (IN**2, channels, filters))


def _both_sides(side: np.ndarray) -> np.ndarray:
    """Return the matrix that transforms squares along both sides."""
    return np.kron(side, side).astype(np.float32)
