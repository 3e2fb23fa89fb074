"""Heatmaps of where in an image the model sees a class, from gradients or by occlusion.

All methods explain the class's score before the softmax, whose gradients do not vanish where the
model is confident.
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
from tlkit.system.keras import autograph, keras, tf

Heatmaps = npt.NDArray[np.float32]
Method = Literal["grad_cam", "grad_cam_pp", "hires_cam", "occlusion"]
BATCH = 4  # images per pass: a report explains twelve
GRID = 8  # occlusion covers the squares of an 8 × 8 grid: 64 passes through the model


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
        backbone: Its backbone, which preprocesses the pixels.
        pixels: `(images, height, width, 3)` uint8 RGB, of the model's size.
        class_numbers: The class to explain for each image.
        layer: Number or name of the layer whose feature maps are weighted; None: see
            `feature_layer`. Occlusion ignores it.
        method: `grad_cam` (Selvaraju et al. 2017), `grad_cam_pp` (Chattopadhay et al. 2018),
            `hires_cam` (Draelos and Carin 2020: gradients are not averaged over the image, which is
            faithful for heads that flatten) or `occlusion` (how much the log-odds of the class
            fall when a square is covered).

    Returns:
        `(images, height, width)` float32 in [0, 1]. The maximum of each map is 1; a map is all 0 if
        nothing speaks for the class.

    Raises:
        ConfigError: If there is no such layer or it has no feature maps.
    """
    return Explainer(model, backbone, layer, method)(pixels, class_numbers)


class Explainer:
    """Computes heatmaps; compiled once and reused for all images.

    Arguments and errors are those of `heatmaps`; `layers` are the model's, if they are known.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: Backbone,
        layer: str | None = None,
        method: Method = "grad_cam",
        layers: LayerTable | None = None,
    ) -> None:
        if method not in get_args(Method):
            raise _error("method", f"must be one of {', '.join(get_args(Method))}, got {method!r}")
        self.layer = ""
        size = backbone.image_size
        images = tf.TensorSpec((BATCH, size, size, 3), tf.float32)
        numbers = tf.TensorSpec((BATCH,), tf.int32)

        def log_odds(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            scores = _scores(model(backbone.preprocess_images(images), training=False))
            own = tf.cast(tf.one_hot(numbers, scores.shape[1]), tf.bool)
            others = tf.reduce_logsumexp(tf.where(own, -np.inf, scores), axis=1)
            return tf.gather(scores, numbers, batch_dims=1) - others

        def weighted_maps(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            inputs = backbone.preprocess_images(images)
            features, probabilities = both(inputs, training=False)
            score = tf.gather(_scores(probabilities), numbers, batch_dims=1)
            # Not a tape, which would go through the layers below too: half the time of a report.
            gradients = tf.cast(tf.gradients(score, features)[0], tf.float32)
            return tf.nn.relu(_weighted_map(tf.cast(features, tf.float32), gradients, method))

        rewritten = autograph(backbone, *model._flatten_layers())
        if method == "occlusion":
            score = tf.function(log_odds, input_signature=[images, numbers], autograph=rewritten)
            self._coarse: Callable[..., Any] = lambda x, k: _occluded(score, x, k)
        else:
            layers = layers or layer_table(model)
            self.layer = layers[feature_layer(layers, layer)].name
            both = keras.Model(model.input, [model.get_layer(self.layer).output, model.output])
            self._coarse = tf.function(
                weighted_maps, input_signature=[images, numbers], autograph=rewritten
            )

    def __call__(
        self, pixels: Pixels, class_numbers: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> Heatmaps:
        """Return a heatmap for each image and its class; see `heatmaps`."""
        numbers = np.asarray(class_numbers, np.int32)
        maps = np.zeros(pixels.shape[:3], np.float32)
        for batch in _batches(len(pixels)):
            x = np.zeros((BATCH, *pixels.shape[1:]), np.float32)
            k = np.zeros(BATCH, np.int32)
            count = len(pixels[batch])
            x[:count], k[:count] = pixels[batch], numbers[batch]
            coarse = self._coarse(x, k)[:count]
            maps[batch] = tf.image.resize(coarse[..., None], pixels.shape[1:3])[..., 0]
        highest = maps.max(axis=(1, 2), keepdims=True)
        np.divide(maps, highest, out=maps, where=highest > 0)
        return maps


def feature_layer(layers: LayerTable, chosen: str | None = None) -> int:
    """Return the number of the layer whose feature maps are weighted."""
    if chosen is None:
        maps = [
            number
            for number, layer in layers
            if _has_map(layer.output_shape) and "Pool" not in layer.kind
        ]
        suitable = [number for number in maps if layers[number].is_cut_point]
        if not suitable:
            raise _error("layer", 'no layer has a feature map; use the method "occlusion"')
        rows = (layer for _, layer in layers if not layer.is_cut_point)
        pools = [layer.kind for layer in rows if layer.kind.startswith("Global")]
        if len(pools) > len(set(pools)):  # of several depths
            return maps[-1]
        return suitable[-1]
    try:
        number = layers.choose(chosen)
    except ValueError as error:
        raise _error("layer", str(error)) from None
    if not _has_map(layers[number].output_shape):
        shape = "×".join(map(str, layers[number].output_shape))
        raise _error("layer", f"{chosen!r} has no feature map, its output is {shape}")
    return number


def _has_map(shape: tuple[int, ...]) -> bool:
    """Return whether an output is `(height, width, channels)` with more than one position."""
    return len(shape) == 3 and shape[0] * shape[1] > 1


def _error(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(key, message)], "explain")


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))


def _scores(probabilities: tf.Tensor) -> tf.Tensor:
    """Return the softmax's input, or the logarithms of the probabilities if there is no softmax."""
    tensor = probabilities
    while tensor.op.type in {"Cast", "Identity"}:
        tensor = tensor.op.inputs[0]
    if tensor.op.type == "Softmax":
        return tf.cast(tensor.op.inputs[0], tf.float32)
    return tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))


def _weighted_map(features: tf.Tensor, gradients: tf.Tensor, method: Method) -> tf.Tensor:
    """Return maps, `(images, height, width)`, from features and the score's gradients there."""
    if method == "hires_cam":
        return tf.reduce_sum(features * gradients, axis=-1)
    if method == "grad_cam_pp":  # the paper's equations 19 and 5, for exp(score)
        squares = gradients**2
        sums = tf.reduce_sum(features, axis=(1, 2), keepdims=True)
        alphas = tf.math.divide_no_nan(squares, 2 * squares + sums * gradients**3)
        weights = tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=(1, 2), keepdims=True)
    else:
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * features, axis=-1)


def _occluded(
    score: Callable[..., Any], images: npt.NDArray[np.float32], numbers: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return how much covering each square lowers the score, `(images, GRID, GRID)`."""
    edges = np.linspace(0, images.shape[1], GRID + 1).round().astype(int)
    means = images.mean(axis=(1, 2), keepdims=True)
    uncovered = score(images, numbers).numpy()
    drops = np.zeros((len(images), GRID, GRID), np.float32)
    for row, column in np.ndindex(GRID, GRID):
        covered = images.copy()
        covered[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = means
        drops[:, row, column] = uncovered - score(covered, numbers).numpy()
    return np.maximum(drops, 0)
