"""A backbone: its layers as a table and as a Keras model, and the preprocessing of its input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

import tlkit
from tlkit.parts.validators import at_least, each

if TYPE_CHECKING:  # only here: `tlkit check` must start without TensorFlow
    import keras
    import tensorflow as tf


@tlkit.part("tiny_cnn")
class TinyCNN(tlkit.Backbone):
    """A few convolutions, each halving height and width.

    Attributes:
        widths: The number of channels of each convolution.
    """

    widths: tuple[int, ...] = attrs.field(default=(16, 32), validator=each(at_least(1), least=1))

    def layers(self) -> tlkit.LayerTable:
        """Return a row per layer, computed without building the model."""
        rows, size, channels = [], self.image_size, 3
        for number, width in enumerate(self.widths, start=1):
            size = (size + 1) // 2
            params = (3 * 3 * channels + 1) * width
            rows.append(
                tlkit.Layer(
                    f"conv{number}", "Conv2D", f"block{number}", (size, size, width), params
                )
            )
            channels = width
        return tlkit.LayerTable(tuple(rows))

    def build(self) -> keras.Model:
        """Return the model with random weights; tlkit has seeded them."""
        tlkit.start_keras()
        import keras

        x = inputs = keras.Input((self.image_size, self.image_size, 3))
        for number, width in enumerate(self.widths, start=1):
            x = keras.layers.Conv2D(
                width, 3, strides=2, padding="same", activation="relu", name=f"conv{number}"
            )(x)
        return keras.Model(inputs, x, name="tiny_cnn")

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Scale pixels to [-1, 1]."""
        return images / 127.5 - 1

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load a weights file; none are published for this network."""
        return tlkit.load_first(model, self.sources, self._arrays)

    def _arrays(self, source: str | Path) -> tlkit.Arrays:
        if isinstance(source, Path):
            return tlkit.read_arrays(source)
        raise tlkit.NotAvailableError(
            'tiny_cnn has no published weights; set weights = "none" or a path'
        )
