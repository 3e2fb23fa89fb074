"""`WeightAverage`: an exponential moving average of the trained weights over a stage's steps."""

from __future__ import annotations

import numpy as np

from tlkit.system.keras import keras, tf
from tlkit.weights.tensors import Variables


class WeightAverage:
    """A model's second set of weights: averages during an epoch, trained weights between epochs.

    Between epochs the model holds the averages, so they are what is validated, checkpointed and
    kept. It averages what learns: trainable variables, and the statistics of BatchNorm that is not
    held. After t steps the decay is at most (1 + t) / (10 + t), so that the start is forgotten.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        learning = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        statistics = [v for layer in learning for v in layer.non_trainable_variables]
        self.decay, self.variables = decay, [*model.trainable_variables, *statistics]
        self.others = [keras.Variable(v.numpy(), trainable=False) for v in self.variables]
        self.steps = keras.Variable(np.float32(0), trainable=False)

    @property
    def state(self) -> Variables:
        """Return the variables that a checkpoint must hold besides the model's."""
        others = {f"average.{place:04d}": other for place, other in enumerate(self.others)}
        return {**others, "average.steps": self.steps}

    def update(self) -> None:
        """Take the weights after a step into the averages."""
        self.steps.assign_add(1)
        decay = tf.minimum(self.decay, (1 + self.steps) / (10 + self.steps))
        for variable, average in zip(self.variables, self.others, strict=True):
            average.assign(average + (1 - decay) * (variable - average))

    def swap(self) -> None:
        """Exchange the model's weights with the others."""
        for variable, other in zip(self.variables, self.others, strict=True):
            value = tf.identity(variable.value)
            variable.assign(other)
            other.assign(value)
