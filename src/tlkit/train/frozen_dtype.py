"""What frozen layers compute in: float32, bfloat16 or int8, in training and in a loaded run."""

from __future__ import annotations

from collections.abc import Callable

from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone
from tlkit.system.keras import has_bfloat16, keras, tf
from tlkit.train.assemble import split_at
from tlkit.train.int8 import Quantized
from tlkit.train.lean import computing_in, lean


def computing(
    prefix: keras.Model, backbone: Backbone, batch: int, frozen_dtype: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return what computes a lean prefix's output for `batch` images in a dtype, in a graph."""
    if frozen_dtype == "int8":
        return Quantized(prefix, backbone, batch)

    def compute(images: tf.Tensor) -> tf.Tensor:
        with computing_in(prefix, frozen_dtype):
            return prefix(images, training=False)

    return compute


class _FrozenLayers(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A model for inference in a dtype as one layer, for batches of static sizes."""

    def __init__(self, model: keras.Model, backbone: Backbone, frozen_dtype: str) -> None:
        super().__init__(name=f"{frozen_dtype}_layers", dtype="float32", autocast=False)
        self.model, self.backbone, self.frozen_dtype = lean(model, False), backbone, frozen_dtype
        self.computing: dict[int, Callable[[tf.Tensor], tf.Tensor]] = {}

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[0], *self.model.output.shape[1:]), "float32")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        batch = x.shape[0]
        if batch not in self.computing:
            self.computing[batch] = computing(self.model, self.backbone, batch, self.frozen_dtype)
        return tf.cast(self.computing[batch](x), "float32")


def as_trained(
    model: keras.Model, layers: LayerTable, cut: int, backbone: Backbone, frozen_dtype: str
) -> keras.Model:
    """Return a model whose first layers, up to `cut`, compute as in training.

    On machines that are not known to compute in bfloat16 it is the model itself, in float32, as in
    a run that is trained there.
    """
    here = frozen_dtype == "int8" or (frozen_dtype == "bfloat16" and has_bfloat16())
    if not (cut and here):
        return model
    prefix, above = split_at(model, layers, cut)
    return keras.Model(
        model.input, above(_FrozenLayers(prefix, backbone, frozen_dtype)(model.input))
    )
