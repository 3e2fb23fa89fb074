"""Heads: the layers between features and class probabilities."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from attrs import field

from tlkit.model.layers import HEAD, Layer, LayerTable
from tlkit.parts.kinds import Head, part
from tlkit.parts.validators import above, at_least, each, fraction
from tlkit.system.errors import FieldError
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras

SCORES = "scores"  # the last layer of every head: softmax over the classes
# Keras's default, 0.99, would keep 40 % of the initial statistics after 90 steps (ten epochs of a
# small study) and evaluate the model with them.
MOMENTUM = 0.9


def _dense_row(name: str, width: int, units: int) -> Layer:
    """Return the row of a dense layer with a bias on a vector."""
    return Layer(name, "Dense", HEAD, (units,), params=(width + 1) * units)


@part("flatten_dense")
class FlattenDense(Head):
    """Flatten, dense layers with ReLU, softmax, as in VGG.

    Attributes:
        units: Widths of the dense layers before the scores.
    """

    units: tuple[int, ...] = field(default=(1024, 1024), validator=each(at_least(1)))

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of flatten, the dense layers and the scores."""
        width = math.prod(features)
        rows = [Layer("flatten", "Flatten", HEAD, (width,))]
        for number, units in enumerate(self.units, start=1):
            rows.append(_dense_row(f"dense_{number}", width, units))
            width = units
        return LayerTable((*rows, _dense_row(SCORES, width, classes)))

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add flatten, the dense layers and the scores."""
        start_keras()
        import keras

        vector = keras.layers.Flatten(name="flatten")(features)
        for number, units in enumerate(self.units, start=1):
            vector = keras.layers.Dense(units, "relu", name=f"dense_{number}")(vector)
        return keras.layers.Dense(classes, "softmax", name=SCORES)(vector)


@part("pooled")
class Pooled(Head):
    """Global pooling, dense layers with ReLU and dropout, softmax.

    Attributes:
        pooling: `avg` or `max` over height and width, or `concat` for both, averages first.
        units: Widths of the dense layers before the scores.
        batch_norm: Normalize each of these before its ReLU. BatchNorm layers of a new head must
            learn, so this needs `batch_norm = "head"` or `"train"` in `[freeze]`.
        dropout: Fraction of features set to 0 in training, before each dense layer and the scores.
    """

    pooling: Literal["avg", "max", "concat"] = "avg"
    units: tuple[int, ...] = field(default=(), validator=each(at_least(1)))
    batch_norm: bool = False
    dropout: float = field(default=0.0, validator=fraction(below=1))

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling, dense layers, dropouts and the scores.

        Raises:
            FieldError: If there is no dense layer for BatchNorm to normalize.
        """
        if self.batch_norm and not self.units:
            raise FieldError("batch_norm", "has no dense layer to normalize; set head.units")
        rows, width = list(self._pool_rows(features[-1])), features[-1]
        width *= 2 if self.pooling == "concat" else 1
        for number, units in enumerate((*self.units, classes), start=1):
            if self.dropout:
                rows.append(Layer(f"dropout_{number}", "Dropout", HEAD, (width,)))
            if number > len(self.units):
                rows.append(_dense_row(SCORES, width, units))
            elif not self.batch_norm:
                rows.append(_dense_row(f"dense_{number}", width, units))
            else:
                rows += [
                    Layer(f"dense_{number}", "Dense", HEAD, (units,), params=width * units),
                    Layer(f"batch_norm_{number}", "BatchNormalization", HEAD, (units,),
                          params=2 * units, other_params=2 * units, batch_norm=True),
                    Layer(f"relu_{number}", "ReLU", HEAD, (units,)),
                ]  # fmt: skip
            width = units
        return LayerTable(tuple(rows))

    def _pool_rows(self, width: int) -> tuple[Layer, ...]:
        average, maximum = "GlobalAveragePooling2D", "GlobalMaxPooling2D"
        if self.pooling != "concat":
            return (Layer("pool", average if self.pooling == "avg" else maximum, HEAD, (width,)),)
        return (  # between the two poolings the features are still needed: not cut points
            Layer("pool_avg", average, HEAD, (width,), is_cut_point=False),
            Layer("pool_max", maximum, HEAD, (width,), is_cut_point=False),
            Layer("pool", "Concatenate", HEAD, (2 * width,)),
        )

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling, dense layers, dropouts and the scores."""
        start_keras()
        from keras import layers

        average, maximum = layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D
        if self.pooling == "concat":
            both = [average(name="pool_avg")(features), maximum(name="pool_max")(features)]
            vector = layers.Concatenate(name="pool")(both)
        else:
            vector = (average if self.pooling == "avg" else maximum)(name="pool")(features)
        for number, units in enumerate((*self.units, classes), start=1):
            if self.dropout:
                vector = layers.Dropout(self.dropout, name=f"dropout_{number}")(vector)
            if number > len(self.units):
                vector = layers.Dense(units, "softmax", name=SCORES)(vector)
            elif not self.batch_norm:
                vector = layers.Dense(units, "relu", name=f"dense_{number}")(vector)
            else:
                # No bias: BatchNorm would subtract it with the mean (Ioffe and Szegedy 2015,
                # section 3.2).
                vector = layers.Dense(units, use_bias=False, name=f"dense_{number}")(vector)
                norm = layers.BatchNormalization(momentum=MOMENTUM, name=f"batch_norm_{number}")
                vector = layers.ReLU(name=f"relu_{number}")(norm(vector))
        return vector


@part("linear")
class Linear(Head):
    """Global average pooling and softmax: a linear probe."""

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling and the scores."""
        return Pooled().layers(features, classes)

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling and the scores."""
        return Pooled().attach(features, classes)


@part("cosine")
class Cosine(Head):
    """Global average pooling, then softmax of scaled cosines to each class's weights.

    Gidaris and Komodakis 2018, Dynamic Few-Shot Visual Learning without Forgetting. Lengths do not
    count, so the short weights of a rare class are no disadvantage.

    Attributes:
        scale: Initial factor of the cosines; the authors' code starts with 10.
        learn_scale: Learn the factor, as the authors do; otherwise it is constant.
    """

    scale: float = field(default=10.0, validator=above(0))
    learn_scale: bool = True

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling and the scores."""
        width = features[-1]
        pool = Layer("pool", "GlobalAveragePooling2D", HEAD, (width,))
        params = width * classes + self.learn_scale
        return LayerTable((pool, Layer(SCORES, "CosineScores", HEAD, (classes,), params=params)))

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling and the scores."""
        start_keras()
        from keras import layers

        vector = layers.GlobalAveragePooling2D(name="pool")(features)
        return cosine_scores()(classes, self.scale, self.learn_scale, name=SCORES)(vector)


@cache
def cosine_scores() -> Any:
    """Return the Keras layer class of the head `cosine`, registered as `tlkit>CosineScores`."""
    import keras
    from keras import ops

    def unit(vectors: Any, axis: int) -> Any:
        # Not `ops.normalize`: in Keras 3.15.1 under XLA its gradient at zero vectors is NaN.
        squares = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
        return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))

    @keras.saving.register_keras_serializable(package="tlkit")
    class CosineScores(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """Probabilities from the cosines between a vector and each class's weights."""

        def __init__(self, classes: int, scale: float, learn_scale: bool, **options: Any) -> None:
            super().__init__(**options)
            self.classes, self.first_scale, self.learn_scale = classes, scale, learn_scale

        def build(self, shape: tuple[int, ...]) -> None:
            self.kernel = self.add_weight((shape[-1], self.classes), name="kernel")
            self.scale = self.first_scale
            if self.learn_scale:
                first = keras.initializers.Constant(self.first_scale)
                self.scale = self.add_weight((), first, name="scale")

        def call(self, vectors: Any) -> Any:
            cosines = ops.matmul(unit(vectors, axis=-1), unit(self.kernel, axis=0))
            return keras.activations.softmax(self.scale * cosines)

        def get_config(self) -> dict[str, Any]:
            own = {"classes": self.classes, "scale": self.first_scale}
            return {**super().get_config(), **own, "learn_scale": self.learn_scale}

    return CosineScores
