"""Any Keras model in place of a registered backbone, from Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.backend import prepare
from tlkit.errors import PartError
from tlkit.layers import LayerTable
from tlkit.parts.kinds import Backbone, WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


START = "_initializer"  # what of a layer's configuration only says how its weights began


@frozen(kw_only=True)
class FromModel(Backbone):
    """A backbone made of a Keras model without its classifier, with the weights it has.

    The run trains a copy; the model itself is left as it is. A run folder cannot hold the model:
    `tlkit.load` wants one of the same layers back, as `backbone=FromModel(model=...)`.

    Attributes:
        model: A functional or Sequential model with one input `(size, size, 3)`, one output and no
            models nested in it.
        preprocess: How pixels become its input: `native` leaves them float32 in [0, 255], `unit`
            divides by 255, or a function of a batch `(batch, height, width, 3)` of such pixels.
        image_size: Height and width of the input; unset: the model's own.
        weights: Not to be set: they are the model's.

    Raises:
        PartError: If the model is of another form.
    """

    model: keras.Model = field(metadata={"key": False})
    preprocess: Any = "native"
    image_size: int = 0
    weights: WeightsSource | tuple[WeightsSource, ...] = field(default="none", init=False)

    def __attrs_post_init__(self) -> None:
        prepare()
        import keras

        if not (self.preprocess in {"native", "unit"} or callable(self.preprocess)):
            raise PartError(
                "FromModel: preprocess must be 'native', 'unit' or a function, "
                f"got {self.preprocess!r}"
            )
        nested = [x.name for x in getattr(self.model, "layers", []) if isinstance(x, keras.Model)]
        if nested:
            raise PartError(
                f"FromModel: the model must be flat, got a model nested in it, {nested[0]!r}"
            )
        inputs = getattr(self.model, "inputs", None)  # a subclassed model has none
        if not inputs or len(inputs) != 1 or len(self.model.outputs) != 1:
            raise PartError("FromModel: needs a functional model with one input and one output")
        _, height, width, channels = (*inputs[0].shape, *[-1] * 4)[:4]
        size = self.image_size or height
        if (height or size, width or size, channels) != (size, size, 3) or not size:
            raise PartError(
                f"FromModel: the model's input must be (size, size, 3), got {inputs[0].shape[1:]} "
                f"and image_size {self.image_size or 'unset'}"
            )
        object.__setattr__(self, "image_size", size)

    def record(self) -> dict[str, Any]:
        """Return what stands for the model in a run's record: the hash of what its layers are."""
        import keras

        from tlkit.results.recorded import GIVEN

        layers = [
            [
                type(layer).__name__,
                {k: v for k, v in layer.get_config().items() if not k.endswith(START)},
            ]
            for layer in self.model.layers
            if not isinstance(layer, keras.layers.InputLayer)  # named anew in every process
        ]
        text = json.dumps(layers, sort_keys=True, default=str)
        prepared = self.preprocess
        if callable(prepared):
            names = [getattr(prepared, name, "?") for name in ("__module__", "__qualname__")]
            prepared = ":".join(names)
        return {
            "name": GIVEN,  # no registered name has capitals
            "preprocess": prepared,
            "image_size": self.image_size,
            "layers_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def layers(self) -> LayerTable:
        """Return the table of the model's layers."""
        from tlkit.graph import layer_table

        return layer_table(self.build())

    def build(self) -> keras.Model:
        """Return a copy of the model with random weights."""
        import keras

        flat = keras.Model(self.model.inputs[0], self.model.outputs[0])
        shape = (self.image_size, self.image_size, 3)
        return keras.models.clone_model(flat, input_tensors=keras.Input(shape))

    def native(self, images: tf.Tensor) -> tf.Tensor:
        """Return the pixels as they are."""
        return images

    def prepare(self, images: tf.Tensor) -> tf.Tensor:
        """Turn pixels into the model's input."""
        return self.preprocess(images) if callable(self.preprocess) else super().prepare(images)

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Copy the model's weights."""
        found = hashlib.sha256()
        for layer in model.layers:
            if layer.weights:
                arrays = self.model.get_layer(layer.name).get_weights()
                layer.set_weights(arrays)
                for array in arrays:
                    found.update(array.tobytes())
        return {"source": "the given model", "sha256": found.hexdigest()}
