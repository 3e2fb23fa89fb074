"""Heads: the layers between features and class probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from tlkit.layers import HEAD, Layer, LayerTable
from tlkit.parts.kinds import Head, registries
from tlkit.rules import at_least, each, share

if TYPE_CHECKING:
    import keras

SCORES = "scores"  # the last layer of every head: softmax over the classes


def dense_rows(width: int, units: tuple[int, ...], classes: int) -> tuple[Layer, ...]:
    """Return the rows of dense layers of these units on a vector, and of the scores after them."""
    rows = []
    names = [*(f"dense_{number}" for number in range(1, len(units) + 1)), SCORES]
    for name, out in zip(names, (*units, classes), strict=True):
        rows.append(Layer(name, "Dense", HEAD, (out,), params=(width + 1) * out))
        width = out
    return tuple(rows)


@registries.heads.register("flatten_dense")
@frozen(kw_only=True)
class FlattenDense(Head):
    """Flatten, dense layers with ReLU, softmax: the study's head.

    Attributes:
        units: The widths of the dense layers before the scores.
    """

    units: tuple[int, ...] = field(default=(1024, 1024), validator=each(at_least(1)))

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of flatten, the dense layers and the scores."""
        width = math.prod(features)
        flatten = Layer("flatten", "Flatten", HEAD, (width,))
        return LayerTable((flatten, *dense_rows(width, self.units, classes)))

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Extend the graph by flatten, the dense layers and the scores."""
        from tlkit.backend import prepare

        prepare()
        import keras

        vector = keras.layers.Flatten(name="flatten")(features)
        for number, units in enumerate(self.units, start=1):
            vector = keras.layers.Dense(units, "relu", name=f"dense_{number}")(vector)
        return keras.layers.Dense(classes, "softmax", name=SCORES)(vector)


@registries.heads.register("pooled")
@frozen(kw_only=True)
class Pooled(Head):
    """Average or maximum over the picture, dense layers with ReLU and dropout, softmax.

    Attributes:
        pooling: `avg` or `max` over height and width.
        units: The widths of the dense layers before the scores.
        dropout: The share of features set to 0 while training, before each dense layer and the
            scores.
    """

    pooling: Literal["avg", "max"] = "avg"
    units: tuple[int, ...] = field(default=(), validator=each(at_least(1)))
    dropout: float = field(default=0.0, validator=share(below=1))

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling, dense layers, dropouts and the scores."""
        width = features[-1]
        kind = "GlobalAveragePooling2D" if self.pooling == "avg" else "GlobalMaxPooling2D"
        rows = [Layer("pool", kind, HEAD, (width,))]
        for number, dense in enumerate(dense_rows(width, self.units, classes), start=1):
            if self.dropout:
                rows.append(Layer(f"dropout_{number}", "Dropout", HEAD, (width,)))
            rows.append(dense)
            width = dense.output_shape[0]
        return LayerTable(tuple(rows))

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Extend the graph by pooling, dense layers, dropouts and the scores."""
        from tlkit.backend import prepare

        prepare()
        import keras

        pool = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }[self.pooling]
        vector = pool(name="pool")(features)
        widths = [*((units, "relu", f"dense_{n}") for n, units in enumerate(self.units, start=1)),
                  (classes, "softmax", SCORES)]  # fmt: skip
        for number, (units, activation, name) in enumerate(widths, start=1):
            if self.dropout:
                vector = keras.layers.Dropout(self.dropout, name=f"dropout_{number}")(vector)
            vector = keras.layers.Dense(units, activation, name=name)(vector)
        return vector
