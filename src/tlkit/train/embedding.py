"""What a layer makes of an image, as one vector beside the probabilities."""

from __future__ import annotations

import keras

from tlkit.errors import ConfigError, Problem
from tlkit.graph import layer_table
from tlkit.layers import HEAD


def with_features(model: keras.Model, layer: str | None) -> keras.Model:
    """Return a model that gives a layer's features and the probabilities after them, in one pass.

    Args:
        model: A flat functional model that ends in probabilities.
        layer: The layer's number or name; unset: the last before the head. Its output is averaged
            over all axes but the first and the last.

    Returns:
        A model with outputs `(images, channels + classes)` float32.

    Raises:
        ConfigError: If there is no such layer.
    """
    features = model.get_layer(_name(model, layer)).output
    if len(features.shape) > 2:
        middle = tuple(range(1, len(features.shape) - 1))
        features = keras.ops.mean(keras.ops.cast(features, "float32"), axis=middle)
    both = keras.layers.Concatenate(dtype="float32")([features, model.output])
    return keras.Model(model.input, both)


def _name(model: keras.Model, chosen: str | None) -> str:
    layers = layer_table(model)
    if chosen is None:
        return next(row.name for row in reversed(layers.layers) if row.block != HEAD)
    try:
        numbers = sorted(layers.select(chosen))
    except ValueError as error:
        raise ConfigError([Problem("layer", str(error))]) from None
    if len(numbers) > 1:
        raise ConfigError([Problem("layer", f"must be one layer, got {len(numbers)}")])
    return layers[numbers[0]].name
