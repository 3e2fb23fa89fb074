"""What a finished model outputs: probabilities, their means over mirror images, and features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.model.layers import HEAD, LayerTable
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras


def flip_average(model: keras.Model, images: Any, outputs: Any) -> Any:
    """Return the means of a model's outputs for images and for their horizontal mirror images."""
    start_keras()
    import keras

    flipped = model(keras.ops.flip(images, axis=2))
    return keras.layers.Average(dtype="float32")([outputs, flipped])


def outputs_of(model: keras.Model, averages_flip: bool) -> Any:
    """Return a model's outputs, averaged with those for the mirror images if so wanted."""
    # Preprocessing treats all pixels alike, so the images may be mirrored after it.
    return flip_average(model, model.input, model.output) if averages_flip else model.output


def with_features(
    model: keras.Model,
    serves: keras.Model,
    layers: LayerTable,
    layer: str | None,
    averages_flip: bool,
) -> keras.Model:
    """Return a model that outputs a layer's features and the probabilities in one pass.

    Args:
        model: The model that has the layer.
        serves: The model that gives the probabilities; it has the same input.
        layers: The model's layers.
        layer: The layer's name or number; None: the last one before the head.
        averages_flip: Whether the probabilities are averaged with those for the mirror images.

    Returns:
        A model with outputs `(images, channels + classes)` float32.
    """
    start_keras()
    import keras

    if layer is None:
        name = next(row.name for row in reversed(layers.layers) if row.block != HEAD)
    else:
        name = _named(layers, layer)
    features = _pooled(model.get_layer(name).output)
    outputs = outputs_of(serves, averages_flip)
    both = keras.layers.Concatenate(dtype="float32")([features, outputs])
    return keras.Model(model.input, both)


def pooled_features(model: keras.Model, layers: LayerTable, layer: str | None) -> keras.Model:
    """Return a network up to a layer, the last one if None, averaged over positions."""
    start_keras()
    import keras

    output = model.output if layer is None else model.get_layer(_named(layers, layer)).output
    return keras.Model(model.input, _pooled(output))


def _named(layers: LayerTable, layer: str) -> str:
    """Return the name of the layer that a user has chosen."""
    try:
        return layers[layers.choose(layer)].name
    except ValueError as error:
        raise ConfigError([Problem("layer", str(error))]) from None


def _pooled(features: Any) -> Any:
    """Return a layer's output, averaged over positions."""
    import keras

    if len(features.shape) > 2:
        positions = tuple(range(1, len(features.shape) - 1))
        features = keras.ops.mean(keras.ops.cast(features, "float32"), axis=positions)
    return features
