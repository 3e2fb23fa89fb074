"""The head `kernel`: pooled features of several depths, and how similar they are to others'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import field

from tlkit.model.layers import HEAD, Layer, LayerTable
from tlkit.parts.heads import SCORES, dense_row
from tlkit.parts.kinds import part
from tlkit.parts.probe import Probe
from tlkit.parts.validators import above, at_least

if TYPE_CHECKING:
    import keras

SMALLEST = 1e-6  # eigenvalues of the kernel matrix below this share of the largest count as zero


@part("kernel")
class Kernel(Probe):
    """As `probe`, with a Gaussian kernel instead of a linear classifier; `lbfgs` solves it.

    The standardized features are compared with those of training images, the landmarks, which the
    model contains. It takes weaker regularization than `probe`, such as `strongest = 1e-2` and
    `weakest = 1e-6`.

    Attributes:
        landmarks: The most training images to compare with, at equal distances in their order.
        bandwidth: Width of the kernel, as a multiple of the root of the median squared distance
            between landmarks.
    """

    landmarks: int = field(default=1000, validator=at_least(1))
    bandwidth: float = field(default=1.0, validator=above(0))

    def _rows(self, shapes: Sequence[tuple[int, ...]], classes: int) -> LayerTable:
        below = super()._rows(shapes, classes).layers[:-1]
        stored = self.landmarks * (below[-1].output_shape[0] + self.landmarks) + 1
        features = (self.landmarks,)
        row = Layer("kernel", "KernelFeatures", HEAD, features, other_params=stored)
        return LayerTable((*below, row, dense_row(SCORES, self.landmarks, classes)))

    def _vector(self, features: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        layer = kernel_layer()(self.landmarks, self.bandwidth, name="kernel")
        return layer(super()._vector(features))


@cache
def kernel_layer() -> Any:
    """Return the Keras layer class of kernel features, registered as `tlkit>KernelFeatures`.

    Nyström's approximation (Williams and Seeger 2001): exact if every training image is a landmark.
    """
    import keras
    import numpy as np
    from keras import ops

    @keras.saving.register_keras_serializable(package="tlkit")
    class KernelFeatures(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """The kernel of a vector with stored landmarks, decorrelated, in float32."""

        def __init__(self, landmarks: int, bandwidth: float, **options: Any) -> None:
            super().__init__(autocast=False, **options)
            self.count, self.bandwidth = landmarks, bandwidth

        def build(self, shape: tuple[int, ...]) -> None:
            options = {"dtype": "float32", "trainable": False, "autocast": False}
            self.landmarks = self.add_weight(
                (self.count, shape[-1]), "zeros", name="landmarks", **options
            )
            self.decorrelate = self.add_weight(
                (self.count, self.count), "zeros", name="decorrelate", **options
            )
            self.scale = self.add_weight((), "ones", name="scale", **options)

        def adapt(self, batches: Iterable[Any]) -> None:
            """Take the landmarks from batches of vectors, at equal distances in their order.

            If there are fewer vectors than landmarks, the features that are left over are 0.
            """
            x = np.concatenate([np.asarray(batch, np.float32) for batch in batches])
            if len(x) > self.count:
                x = x[np.arange(self.count) * len(x) // self.count]
            x64 = x.astype(np.float64)
            lengths = (x64**2).sum(axis=1)
            squares = np.maximum(lengths[:, None] + lengths - 2 * (x64 @ x64.T), 0)
            others = squares[~np.eye(len(x), dtype=bool)]
            median = float(np.median(others)) if len(others) else 0.0
            scale = 1 / (2 * self.bandwidth**2 * (median or 1.0))
            values, axes = np.linalg.eigh(np.exp(-scale * squares))
            used = values > SMALLEST * values[-1]
            root = (axes[:, used] / np.sqrt(values[used])) @ axes[:, used].T
            rest = self.count - len(x)
            self.landmarks.assign(np.pad(x, ((0, rest), (0, 0))))
            self.decorrelate.assign(np.pad(root, ((0, rest), (0, rest))))
            self.scale.assign(scale)

        def call(self, vectors: Any) -> Any:
            x = ops.cast(vectors, "float32")
            lengths = ops.sum(x * x, axis=-1, keepdims=True)
            own = ops.sum(ops.square(self.landmarks), axis=-1)
            squares = lengths + own - 2 * ops.matmul(x, ops.transpose(self.landmarks))
            similarities = ops.exp(-self.scale * ops.maximum(squares, 0))
            return ops.matmul(similarities, self.decorrelate)

        def with_keras_layers(self) -> Any:
            """Return the same in Keras's own layers and operations, for an export."""
            landmarks, decorrelate, scale = (weight.numpy() for weight in self.weights)
            products = keras.layers.Dense(self.count, dtype="float32")
            combine = keras.layers.Dense(self.count, use_bias=False, dtype="float32")
            x = keras.Input((landmarks.shape[1],), dtype="float32")
            lengths = float(scale) * ops.sum(x * x, axis=-1, keepdims=True)
            outputs = combine(ops.exp(ops.minimum(products(x) - lengths, 0)))
            products.set_weights([2 * scale * landmarks.T, -scale * (landmarks**2).sum(axis=1)])
            combine.set_weights([decorrelate])
            return keras.Model(x, outputs, name=self.name, trainable=False)

        def get_config(self) -> dict[str, Any]:
            own = {"landmarks": self.count, "bandwidth": self.bandwidth}
            return {**super().get_config(), **own}

    return KernelFeatures
