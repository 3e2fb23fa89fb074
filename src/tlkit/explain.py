"""Where in an image a class is seen: heatmaps, from gradients on the flat model or by occlusion.

All methods explain the class's score before the softmax, whose slopes do not vanish where the model
is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tlkit.data.images import Pixels
from tlkit.model.graph import layer_table
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.keras import keras, tf
from tlkit.train.plan import PREFIX_BATCH

Heatmaps = npt.NDArray[np.float32]
Method = Literal["grad_cam", "grad_cam_pp", "hires_cam", "occlusion"]
GRID = 8  # occlusion covers an image in 8 × 8 squares: 64 passes through the model


def heatmaps(
    model: keras.Model,
    backbone: Backbone,
    pixels: Pixels,
    class_numbers: Sequence[int] | npt.NDArray[np.integer[Any]],
    layer: str | None = None,
    method: Method = "grad_cam",
) -> Heatmaps:
    """Return where in each image the model sees a class.

    Args:
        model: A flat functional model that ends in class probabilities.
        backbone: Its backbone, which prepares the pixels.
        pixels: `(images, height, width, 3)` uint8 RGB, of the model's size.
        class_numbers: The class to be explained, one an image.
        layer: The number or name of the layer whose feature maps are weighted; unset: see
            `feature_layer`. Occlusion looks at none.
        method: `grad_cam` (Selvaraju et al. 2017), `grad_cam_pp` (Chattopadhay et al. 2018),
            `hires_cam` (Draelos and Carin 2020: slopes are not averaged over the picture, which is
            true to heads that flatten) or `occlusion` (how far the log-odds of the class fall when
            a square is covered).

    Returns:
        `(images, height, width)` float32 in [0, 1]. The highest value of a map is 1; a map is all
        0 where nothing speaks for the class.

    Raises:
        ConfigError: If there is no such layer or it has no feature maps.
    """
    return Explainer(model, backbone, layer, method)(pixels, class_numbers)


class Explainer:
    """Draws heatmaps; what is compiled for the first images serves the next.

    Args and errors are those of `heatmaps`.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: Backbone,
        layer: str | None = None,
        method: Method = "grad_cam",
    ) -> None:
        if method not in get_args(Method):
            raise _wrong("method", f"must be one of {', '.join(get_args(Method))}, got {method!r}")
        self.layer = ""
        size = backbone.image_size
        images = tf.TensorSpec((PREFIX_BATCH, size, size, 3), tf.float32)
        numbers = tf.TensorSpec((PREFIX_BATCH,), tf.int32)

        def log_odds(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            scores = _scores(model(backbone.preprocess_images(images), training=False))
            own = tf.cast(tf.one_hot(numbers, scores.shape[1]), tf.bool)
            others = tf.reduce_logsumexp(tf.where(own, -np.inf, scores), axis=1)
            return tf.gather(scores, numbers, batch_dims=1) - others

        def mapped(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            prepared = backbone.preprocess_images(images)
            with tf.GradientTape() as tape:
                tape.watch(prepared)
                features, probabilities = both(prepared, training=False)
                score = tf.gather(_scores(probabilities), numbers, batch_dims=1)
            slopes = tf.cast(tape.gradient(score, features), tf.float32)
            return tf.nn.relu(_combined(tf.cast(features, tf.float32), slopes, method))

        if method == "occlusion":
            score = tf.function(log_odds, input_signature=[images, numbers])
            self._coarse: Callable[..., Any] = lambda x, k: _occluded(score, x, k)
        else:
            layers = layer_table(model)
            self.layer = layers[feature_layer(layers, layer)].name
            both = keras.Model(model.input, [model.get_layer(self.layer).output, model.output])
            self._coarse = tf.function(mapped, input_signature=[images, numbers])

    def __call__(
        self, pixels: Pixels, class_numbers: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> Heatmaps:
        """Return a heatmap for each image and its class; see `heatmaps`."""
        numbers = np.asarray(class_numbers, np.int32)
        found = np.zeros(pixels.shape[:3], np.float32)
        for chosen in _batches(len(pixels)):
            x = np.zeros((PREFIX_BATCH, *pixels.shape[1:]), np.float32)
            k = np.zeros(PREFIX_BATCH, np.int32)
            count = len(pixels[chosen])
            x[:count], k[:count] = pixels[chosen], numbers[chosen]
            coarse = self._coarse(x, k)[:count]
            found[chosen] = tf.image.resize(coarse[..., None], pixels.shape[1:3])[..., 0]
        highest = found.max(axis=(1, 2), keepdims=True)
        np.divide(found, highest, out=found, where=highest > 0)
        return found


def feature_layer(layers: LayerTable, chosen: str | None = None) -> int:
    """Return the number of the layer whose feature maps are weighted.

    Unless one is chosen it is the last that has a map, that everything after it depends on alone
    and that is no pooling: a pooling only makes the map behind the last convolution coarser.

    Args:
        layers: The model's layers.
        chosen: A layer's number or name.

    Raises:
        ConfigError: If there is none.
    """
    if chosen is None:
        able = [
            n
            for n, x in layers
            if _has_map(x.output_shape) and x.is_cut_point and "Pool" not in x.kind
        ]
        if not able:
            raise _wrong("layer", 'no layer has a feature map; use the method "occlusion"')
        return able[-1]
    try:
        number = layers.choose(chosen)
    except ValueError as error:
        raise _wrong("layer", str(error)) from None
    if not _has_map(layers[number].output_shape):
        shape = "×".join(map(str, layers[number].output_shape))
        raise _wrong(
            "layer", f"{chosen!r} has no feature map of several places, its output: {shape}"
        )
    return number


def _has_map(shape: tuple[int, ...]) -> bool:
    """Tell whether an output is `(height, width, channels)` with more than one place."""
    return len(shape) == 3 and shape[0] * shape[1] > 1


def _wrong(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(key, message)], "explain")


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + PREFIX_BATCH) for start in range(0, count, PREFIX_BATCH))


def _scores(probabilities: tf.Tensor) -> tf.Tensor:
    """Return what the softmax was taken of; logarithms of the probabilities if there was none."""
    tensor = probabilities
    while tensor.op.type in {"Cast", "Identity"}:
        tensor = tensor.op.inputs[0]
    if tensor.op.type == "Softmax":
        return tf.cast(tensor.op.inputs[0], tf.float32)
    return tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))


def _combined(features: tf.Tensor, slopes: tf.Tensor, method: Method) -> tf.Tensor:
    """Return maps, `(images, height, width)`, from features and the score's slopes on them."""
    if method == "hires_cam":
        return tf.reduce_sum(features * slopes, axis=-1)
    if method == "grad_cam_pp":  # the paper's equations 19 and 5, for exp(score)
        squares = slopes**2
        sums = tf.reduce_sum(features, axis=(1, 2), keepdims=True)
        alphas = tf.math.divide_no_nan(squares, 2 * squares + sums * slopes**3)
        weights = tf.reduce_sum(alphas * tf.nn.relu(slopes), axis=(1, 2), keepdims=True)
    else:
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * features, axis=-1)


def _occluded(
    score: Callable[..., Any], images: npt.NDArray[np.float32], numbers: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return how much each square's covering lowers the score, `(images, GRID, GRID)`."""
    edges = np.linspace(0, images.shape[1], GRID + 1).round().astype(int)
    means = images.mean(axis=(1, 2), keepdims=True)
    whole = score(images, numbers).numpy()
    found = np.zeros((len(images), GRID, GRID), np.float32)
    for row, column in np.ndindex(GRID, GRID):
        covered = images.copy()
        covered[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = means
        found[:, row, column] = whole - score(covered, numbers).numpy()
    return np.maximum(found, 0)
