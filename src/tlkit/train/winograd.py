"""3 × 3 convolutions with a quarter of the multiplications, for frozen layers on a CPU.

Winograd's algorithm F(4 × 4, 3 × 3) as in Lavin and Gray 2015 (arXiv:1509.09308, section 4): each
tile of 6 × 6 input pixels becomes 36 numbers per channel, which are multiplied by 36 numbers of the
kernel and give 4 × 4 output pixels: 36 multiplications instead of 144. Results differ from a direct
convolution by rounding only. TensorFlow has no such kernel for CPUs.
"""

from __future__ import annotations

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


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator,unused-ignore]  # no types
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
