"""Optimizers: Keras's own, with a learning-rate multiplier per variable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import asdict, field

from tlkit.parts.kinds import Optimizer, part
from tlkit.parts.validators import above, at_least, fraction
from tlkit.system.errors import FieldError, PartError
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras


@part("adam")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015).

    Attributes:
        beta_1: Decay of the running mean of the gradients.
        beta_2: Decay of the running mean of the squared gradients.
        epsilon: Added to the root of the latter.
    """

    beta_1: float = field(default=0.9, validator=fraction(below=1))
    beta_2: float = field(default=0.999, validator=fraction(below=1))
    epsilon: float = field(default=1e-7, validator=above(0))

    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's Adam."""
        return _keras("Adam", self, multipliers)


@part("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Attributes:
        weight_decay: Fraction of a weight that each step subtracts, times the learning rate and the
            layer's multiplier; frozen layers keep their weights.
    """

    weight_decay: float = field(default=0.004, validator=at_least(0))

    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's AdamW."""
        return _keras("AdamW", self, multipliers)


@part("rmsprop")
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012).

    Attributes:
        rho: Decay of the running mean of the squared gradients.
        momentum: Fraction of the last step that is added to the next.
        epsilon: Added under the root.
        centered: Divide by the standard deviation of the gradients instead of their size.
    """

    rho: float = field(default=0.9, validator=fraction(below=1))
    momentum: float = field(default=0.0, validator=fraction(below=1))
    epsilon: float = field(default=1e-7, validator=above(0))
    centered: bool = False

    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's RMSprop."""
        return _keras("RMSprop", self, multipliers)


@part("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent.

    Attributes:
        momentum: Fraction of the last step that is added to the next.
        nesterov: Use Nesterov momentum.
    """

    momentum: float = field(default=0.0, validator=fraction(below=1))
    nesterov: bool = False

    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's SGD."""
        return _keras("SGD", self, multipliers)


@part("lbfgs")
class LBFGS(Optimizer):
    """Solve the scores of a standardized head to their optimum: multinomial logistic regression.

    For a frozen backbone. There is no learning rate: an epoch is one strength of L2 regularization,
    from strong to weak by equal factors, each solved by L-BFGS on all features in float64, starting
    from the one before. `keep = "best"` chooses among them on validation.

    Attributes:
        strongest: The first epoch's L2 penalty: this/2 times the sum of the squared weights is
            added to the mean cross-entropy.
        weakest: The last epoch's.
    """

    learning_rate: float = field(default=1.0, init=False, metadata={"key": False})
    strongest: float = field(default=10.0, validator=above(0))
    weakest: float = field(default=1e-3, validator=above(0))

    def __attrs_post_init__(self) -> None:
        if self.weakest > self.strongest:
            raise FieldError(
                "weakest", f"must be at most strongest, {self.strongest:g}, got {self.weakest:g}"
            )

    def strengths(self, epochs: int) -> tuple[float, ...]:
        """Return the penalty of each epoch of a stage; of a single one, the middle."""
        if epochs == 1:
            return (math.sqrt(self.strongest * self.weakest),)
        factor = (self.weakest / self.strongest) ** (1 / (epochs - 1))
        return tuple(self.strongest * factor**number for number in range(epochs))

    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Raise: Keras has no such optimizer."""
        raise PartError(
            "optimizer 'lbfgs': solves a run's last layer, and makes no Keras optimizer"
        )


def _keras(name: str, part: Optimizer, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
    """Return Keras's optimizer of that name; a part's keys are its arguments."""
    start_keras()
    import keras

    return layerwise(getattr(keras.optimizers, name)(**asdict(part)), multipliers)


def layerwise(
    optimizer: keras.optimizers.Optimizer, multipliers: Sequence[float]
) -> keras.optimizers.Optimizer:
    """Return an optimizer like `optimizer` with a learning-rate multiplier per variable.

    The multiplier acts on the step itself. Scaling gradients would have no effect under Adam, which
    divides by their size. A multiplier of 0 leaves the variable bit-identical, also under decoupled
    weight decay. If every multiplier is 1, the result is an optimizer of the same class.

    Args:
        optimizer: Any Keras optimizer that has not been built.
        multipliers: One per trainable variable, in the model's order.
    """
    cls: Any = type(optimizer)
    config = optimizer.get_config()
    if all(multiplier == 1 for multiplier in multipliers):
        return cls.from_config(config)
    return _layerwise_class(cls).from_config({**config, "multipliers": multipliers})


@cache
def _layerwise_class(cls: type) -> Any:
    class Layerwise(cls):  # type: ignore[misc]  # Keras has no types, so the base is Any
        def __init__(self, *, multipliers: Sequence[float], **config: Any) -> None:
            super().__init__(**config)
            self.multipliers = tuple(multipliers)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "multipliers": self.multipliers}

        def build(self, variables: Sequence[Any]) -> None:
            if len(variables) != len(self.multipliers):
                raise ValueError(
                    f"expected {len(self.multipliers)} trainable variables, one per multiplier, "
                    f"got {len(variables)}"
                )
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            multiplier = self.multipliers[self._get_variable_index(variable)]
            if multiplier:
                super().update_step(gradient, variable, learning_rate * multiplier)

        def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
            if self.weight_decay is None:
                return
            for variable in variables:
                multiplier = self.multipliers[self._get_variable_index(variable)]
                if multiplier and self._use_weight_decay(variable):
                    step = self.learning_rate * self.weight_decay * multiplier
                    self.assign_sub(variable, variable * step)

    Layerwise.__name__ = Layerwise.__qualname__ = f"Layerwise{cls.__name__}"
    return Layerwise
