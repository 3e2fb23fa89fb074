"""Heads: the layers between features and class probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
# A feature whose deviation is below this share of its mean is constant but for float32's rounding.
CONSTANT = 1e-6


def dense_row(name: str, width: int, units: int) -> Layer:
    """Return the row of a dense layer with a bias on a vector."""
    return Layer(name, "Dense", HEAD, (units,), params=(width + 1) * units)


def pool_name(pooling: str, shape: tuple[int, ...]) -> str:
    """Return the Keras class that pools features of a shape by `avg` or `max`.

    Vectors, which have no positions to pool over, are passed on.
    """
    if len(shape) == 1:
        return "Identity"
    return f"Global{'Average' if pooling == 'avg' else 'Max'}Pooling{len(shape) - 1}D"


def standardize_row(width: int) -> Layer:
    """Return the row of the layer that standardizes a vector."""
    return Layer("standardize", "Standardize", HEAD, (width,), other_params=2 * width)


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
            rows.append(dense_row(f"dense_{number}", width, units))
            width = units
        return LayerTable((*rows, dense_row(SCORES, width, classes)))

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
        standardize: Subtract each pooled feature's mean over the training images and divide by its
            standard deviation; both are computed once, before the head is trained.
    """

    pooling: Literal["avg", "max", "concat"] = "avg"
    units: tuple[int, ...] = field(default=(), validator=each(at_least(1)))
    batch_norm: bool = False
    dropout: float = field(default=0.0, validator=fraction(below=1))
    standardize: bool = False

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling, dense layers, dropouts and the scores.

        Raises:
            FieldError: If there is no dense layer for BatchNorm to normalize.
        """
        if self.batch_norm and not self.units:
            raise FieldError("batch_norm", "has no dense layer to normalize; set head.units")
        rows = list(self._pool_rows(features))
        width = rows[-1].output_shape[0]
        if self.standardize:
            rows.append(standardize_row(width))
        for number, units in enumerate((*self.units, classes), start=1):
            if self.dropout:
                rows.append(Layer(f"dropout_{number}", "Dropout", HEAD, (width,)))
            if number > len(self.units):
                rows.append(dense_row(SCORES, width, units))
            elif not self.batch_norm:
                rows.append(dense_row(f"dense_{number}", width, units))
            else:
                rows += [
                    Layer(f"dense_{number}", "Dense", HEAD, (units,), params=width * units),
                    Layer(f"batch_norm_{number}", "BatchNormalization", HEAD, (units,),
                          params=2 * units, other_params=2 * units, batch_norm=True),
                    Layer(f"relu_{number}", "ReLU", HEAD, (units,)),
                ]  # fmt: skip
            width = units
        return LayerTable(tuple(rows))

    def _pool_rows(self, features: tuple[int, ...]) -> tuple[Layer, ...]:
        width = features[-1]
        average, maximum = (pool_name(pooling, features) for pooling in ("avg", "max"))
        if self.pooling != "concat":
            kind = average if self.pooling == "avg" else maximum
            return (Layer("pool", kind, HEAD, (width,), fixed=True),)
        return (  # between the two poolings the features are still needed: not cut points
            Layer("pool_avg", average, HEAD, (width,), is_cut_point=False, fixed=True),
            Layer("pool_max", maximum, HEAD, (width,), is_cut_point=False, fixed=True),
            Layer("pool", "Concatenate", HEAD, (2 * width,), fixed=True),
        )

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling, dense layers, dropouts and the scores."""
        start_keras()
        from keras import layers

        shape = features.shape[1:]
        average, maximum = (getattr(layers, pool_name(kind, shape)) for kind in ("avg", "max"))
        if self.pooling == "concat":
            both = [average(name="pool_avg")(features), maximum(name="pool_max")(features)]
            vector = layers.Concatenate(name="pool")(both)
        else:
            vector = (average if self.pooling == "avg" else maximum)(name="pool")(features)
        if self.standardize:
            vector = standardize_layer()(name="standardize")(vector)
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
    """Global average pooling and softmax: a linear probe.

    Attributes:
        standardize: As in the head `pooled`.
    """

    standardize: bool = False

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the rows of pooling and the scores."""
        return Pooled(standardize=self.standardize).layers(features, classes)

    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Add pooling and the scores."""
        return Pooled(standardize=self.standardize).attach(features, classes)


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
        pool = Layer("pool", "GlobalAveragePooling2D", HEAD, (width,), fixed=True)
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


@cache
def standardize_layer() -> Any:
    """Return the Keras layer class that standardizes, registered as `tlkit>Standardize`.

    Not Keras's `Normalization`: in Keras 3.15.1 it computes with copies of its statistics, which
    loading them from a file does not change.
    """
    import keras
    import numpy as np
    from keras import ops

    @keras.saving.register_keras_serializable(package="tlkit")
    class Standardize(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """Subtract stored means and divide by stored standard deviations, always in float32."""

        def __init__(self, **options: Any) -> None:
            super().__init__(autocast=False, **options)

        def build(self, shape: tuple[int, ...]) -> None:
            options = {"dtype": "float32", "trainable": False, "autocast": False}
            self.mean = self.add_weight((shape[-1],), "zeros", name="mean", **options)
            self.deviation = self.add_weight((shape[-1],), "ones", name="deviation", **options)

        def adapt(self, batches: Iterable[Any]) -> None:
            """Set the statistics from batches of vectors, in which each vector counts the same."""
            count, mean, squares = 0, np.zeros(self.mean.shape), np.zeros(self.mean.shape)
            for batch in batches:  # merged as in Chan et al. 1979
                x = np.asarray(batch, np.float64)
                count += len(x)
                difference = x.mean(axis=0) - mean
                mean += difference * len(x) / count
                squares += x.var(axis=0) * len(x)
                squares += difference**2 * len(x) * (count - len(x)) / count
            deviation = np.sqrt(squares / count)
            varies = deviation > CONSTANT * np.abs(mean)
            self.mean.assign(mean)
            self.deviation.assign(np.where(varies, deviation, 1))

        def call(self, vectors: Any) -> Any:
            return (ops.cast(vectors, "float32") - self.mean) / self.deviation

    return Standardize
