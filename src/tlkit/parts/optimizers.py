"""Optimizers: Keras's, with a learning-rate multiplier for every variable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, frozen

from tlkit.parts.kinds import Optimizer, registries
from tlkit.parts.validators import above, at_least, fraction
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras


@registries.optimizers.register("adam")
@frozen(kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015).

    Attributes:
        beta_1: The decay of the gradients' running mean.
        beta_2: The decay of the squared gradients' running mean.
        epsilon: What is added to the root of the latter.
    """

    beta_1: float = field(default=0.9, validator=fraction(below=1))
    beta_2: float = field(default=0.999, validator=fraction(below=1))
    epsilon: float = field(default=1e-7, validator=above(0))

    def build(self, rates: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's Adam."""
        return _keras("Adam", self, rates)


@registries.optimizers.register("adamw")
@frozen(kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Attributes:
        weight_decay: What share of a weight is taken off at each step, times the learning rate and
            the layer's multiplier; frozen layers keep their weights.
    """

    weight_decay: float = field(default=0.004, validator=at_least(0))

    def build(self, rates: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's AdamW."""
        return _keras("AdamW", self, rates)


@registries.optimizers.register("rmsprop")
@frozen(kw_only=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012).

    Attributes:
        rho: The decay of the squared gradients' running mean.
        momentum: How much of the last step is added to the next.
        epsilon: What is added under the root.
        centered: Divide by the gradients' spread instead of their size.
    """

    rho: float = field(default=0.9, validator=fraction(below=1))
    momentum: float = field(default=0.0, validator=fraction(below=1))
    epsilon: float = field(default=1e-7, validator=above(0))
    centered: bool = False

    def build(self, rates: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's RMSprop."""
        return _keras("RMSprop", self, rates)


@registries.optimizers.register("sgd")
@frozen(kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

    Attributes:
        momentum: How much of the last step is added to the next.
        nesterov: Look ahead by the momentum before taking the gradient.
    """

    momentum: float = field(default=0.0, validator=fraction(below=1))
    nesterov: bool = False

    def build(self, rates: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return Keras's SGD."""
        return _keras("SGD", self, rates)


def _keras(name: str, part: Optimizer, rates: Sequence[float]) -> keras.optimizers.Optimizer:
    """Return Keras's optimizer of that name; a part's keys are called as its arguments are."""
    start_keras()
    import keras

    return scaled(getattr(keras.optimizers, name)(**asdict(part)), rates)


def scaled(
    optimizer: keras.optimizers.Optimizer, rates: Sequence[float]
) -> keras.optimizers.Optimizer:
    """Return an optimizer like `optimizer` whose i-th variable learns at `rates[i]` × its rate.

    The multiplier acts on the step itself: scaling gradients would do nothing under Adam, which
    divides by their size. A rate of 0 leaves the variable bit-identical, decoupled weight decay
    included. If every rate is 1 the result is an optimizer of the same class.

    Args:
        optimizer: Any Keras optimizer that has not been built.
        rates: One multiplier for each trainable variable, in the model's order.
    """
    cls: Any = type(optimizer)
    if all(rate == 1 for rate in rates):
        return cls.from_config(optimizer.get_config())
    fresh = _scaled_class(cls).from_config(optimizer.get_config())
    fresh.rates = tuple(rates)
    return fresh


@cache
def _scaled_class(cls: type) -> Any:
    """Return a subclass of a Keras optimizer class that multiplies each variable's rate."""

    class Scaled(cls):  # type: ignore[misc]  # Keras has no types, so the base is Any
        rates: tuple[float, ...] = ()

        def build(self, variables: Sequence[Any]) -> None:
            if len(variables) != len(self.rates):
                raise ValueError(
                    f"expected {len(self.rates)} trainable variables, one a rate, "
                    f"got {len(variables)}"
                )
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = self.rates[self._get_variable_index(variable)]
            if rate:
                super().update_step(gradient, variable, learning_rate * rate)

        def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
            if self.weight_decay is None:
                return
            for variable in variables:
                rate = self.rates[self._get_variable_index(variable)]
                if rate and self._use_weight_decay(variable):
                    step = self.learning_rate * self.weight_decay * rate
                    self.assign_sub(variable, variable * step)

    Scaled.__name__ = Scaled.__qualname__ = f"Scaled{cls.__name__}"
    return Scaled
