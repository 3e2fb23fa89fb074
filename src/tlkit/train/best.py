"""The best epoch: which it is, when to stop waiting for a better one, and its weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tlkit.plan.plan import Plan
from tlkit.progress import Epoch


def best_of(epochs: Sequence[Epoch], by: str) -> Epoch:
    """Return the epoch with the least loss or the highest accuracy, the first of equals.

    Args:
        epochs: At least one.
        by: Which: `val_loss` or `val_accuracy`.
    """
    sign = -1 if by.endswith("accuracy") else 1
    return min(epochs, key=lambda epoch: sign * float(getattr(epoch, by)))


def stalled(epochs: Sequence[Epoch], by: str, patience: int | None) -> bool:
    """Tell whether the last `patience` epochs have brought nothing better; never if it is None."""
    if patience is None or not epochs:
        return False
    return len(epochs) - 1 - epochs.index(best_of(epochs, by)) >= patience


class Snapshot:
    """The values of those of a model's variables that its plan may change.

    Args:
        model: The model.
        plan: Layers that it never trains are left out: they are the same at any time.
    """

    def __init__(self, model: keras.Model, plan: Plan) -> None:
        self._variables = [
            variable
            for number, layer in plan.layers
            if any(planned.stage.rates[number - 1] for planned in plan.stages)
            for variable in model.get_layer(layer.name).weights
        ]
        self._values: list[tf.Tensor] = []

    def take(self) -> None:
        """Remember the values of now. None is copied: what changes later is written elsewhere."""
        self._values = []
        self._values = [tf.identity(variable.value) for variable in self._variables]

    def swap(self) -> None:
        """Exchange the remembered values and those of now."""
        for number, variable in enumerate(self._variables):
            now = tf.identity(variable.value)
            variable.assign(self._values[number])
            self._values[number] = now
