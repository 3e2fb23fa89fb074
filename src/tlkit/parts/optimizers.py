"""Optimizers: Keras's own, with a learning-rate multiplier per variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
        refit: Solve the chosen epoch once more on the training and validation images together and
            keep that. The validation figures stay those of the choice.
    """

    learning_rate: float = field(default=1.0, init=False, metadata={"key": False})
    clip_norm: float | None = field(default=None, init=False, metadata={"key": False})
    strongest: float = field(default=10.0, validator=above(0))
    weakest: float = field(default=1e-4, validator=above(0))
    refit: bool = False

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
    """Return Keras's optimizer of that name; a part's own keys are its arguments."""
    start_keras()
    import keras

    settings = asdict(part, filter=lambda key, _: key.name != "clip_norm")
    return layerwise(getattr(keras.optimizers, name)(**settings), multipliers)


def with_rates(part: Optimizer, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
    """Return a part's optimizer with a learning-rate multiplier per variable.

    A part may apply the multipliers by itself; those that it ignores are applied here. Which of
    the two is measured on small variables.
    """
    import keras

    built = part.build(multipliers)
    if not isinstance(built, keras.optimizers.Optimizer):
        raise PartError(f"optimizer: its `build` must return a Keras optimizer, got {built!r}")
    if all(x == 1 for x in multipliers) or _multipliers_of(built) == tuple(multipliers):
        return built
    applied = _applied(part.build)
    if _agree(applied, PROBES):
        return built
    if _agree(applied, (1.0,) * len(PROBES)):
        return layerwise(built, multipliers)
    raise PartError(
        f"optimizer: its `build` turns the multipliers {_listed(PROBES)} into steps "
        f"{_listed(applied)} times as long; let it ignore them, tlkit applies them itself"
    )


def check_rate(optimizer: keras.optimizers.Optimizer, part: Optimizer) -> None:
    """Raise `PartError` unless an optimizer has the part's learning rate, and it can be set."""
    import keras
    import numpy as np

    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        rate = optimizer.inner_optimizer._learning_rate
    if not isinstance(rate, keras.Variable):
        raise PartError(
            f"optimizer: its `build` must leave the learning rate to the schedule, got {rate!r}"
        )
    if np.float32(optimizer.learning_rate) != np.float32(part.learning_rate):
        raise PartError(
            f"optimizer: its `build` must use `learning_rate`, {part.learning_rate:g}, "
            f"got {float(optimizer.learning_rate):g}"
        )


def layerwise(
    optimizer: keras.optimizers.Optimizer, multipliers: Sequence[float]
) -> keras.optimizers.Optimizer:
    """Return an optimizer like `optimizer` with a learning-rate multiplier per variable.

    The multiplier acts on the step itself. Scaling gradients would have no effect under Adam, which
    divides by their size. A multiplier of 0 leaves the variable bit-identical, also under decoupled
    weight decay. If every multiplier is 1, the result is an optimizer of the same class.
    """
    import keras

    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = layerwise(optimizer.inner_optimizer, multipliers)
        config = optimizer.get_config() | {"inner_optimizer": inner}
        return keras.optimizers.LossScaleOptimizer(**config)
    cls: Any = type(optimizer)
    config = optimizer.get_config()
    if _multipliers_of(optimizer) is not None:
        cls, config = cls.base, {k: v for k, v in config.items() if k not in OWN_KEYS}
    if all(multiplier == 1 for multiplier in multipliers):
        return cls.from_config(config)
    changed = [name for name in STEPS if getattr(cls, name) != getattr(keras.Optimizer, name)]
    if changed:
        raise PartError(
            f"optimizer: {cls.__name__} steps by its own `{changed[0]}`, so layers cannot have "
            "rates of their own; give the rates to the optimizer inside it, or use rates of 1"
        )

    def build(rates: Sequence[float]) -> Any:
        return _layerwise_class(cls)(multipliers=rates, **_arguments(config))

    known = cls.__module__.startswith("keras.") and cls.__name__ in PROPORTIONAL
    if not (known or _agree(applied := _applied(build), PROBES)):
        raise PartError(
            f"optimizer: {cls.__name__} does not step in proportion to its learning rate: at "
            f"{_listed(PROBES)} times the rate its steps are {_listed(applied)} times as long; "
            "use rates of 1 or another optimizer"
        )
    return build(multipliers)


PROPORTIONAL = {"Adam", "AdamW", "RMSprop", "SGD"}  # a test measures them
# Methods between `apply` and `update_step`. A class with its own may step past `update_step`.
STEPS = ("apply", "_backend_apply_gradients")
OWN_KEYS = ("multipliers", "base")
PROBES = (1.0, 0.5, 0.1, 0.0)
PROBE_RATE, PROBE_STEPS = 1e-3, 8


def _multipliers_of(optimizer: Any) -> tuple[float, ...] | None:
    """Return the multipliers of an optimizer that `layerwise` made; None for others."""
    return optimizer.multipliers if hasattr(type(optimizer), "is_layerwise") else None


def _applied(build: Callable[[Sequence[float]], Any]) -> tuple[float, ...]:
    """Return how long the steps of a built optimizer are for `PROBES`, next to those for 1.

    The learning rate is small, so that steps do not depend on those before by way of the weights.
    """
    import keras
    import numpy as np

    lengths = []
    for multipliers in ((1.0,) * len(PROBES), PROBES):
        optimizer = build(multipliers)
        start = np.linspace(0.02, 0.1, 6, dtype=np.float32).reshape(2, 3)
        variables = [keras.Variable(start) for _ in multipliers]
        optimizer.build(variables)
        if hasattr(optimizer.learning_rate, "assign"):
            optimizer.learning_rate.assign(PROBE_RATE)
        for step in range(PROBE_STEPS):
            gradient = keras.ops.convert_to_tensor(np.cos(10 * start * (step + 2)))
            optimizer.apply([gradient] * len(variables), variables)
        moved = [np.abs(np.asarray(v) - start).sum(dtype=np.float64) for v in variables]
        lengths.append(moved)
    whole, scaled = lengths
    return tuple(float(b / a) if a else 1.0 for a, b in zip(whole, scaled, strict=True))


def _agree(measured: Sequence[float], expected: Sequence[float]) -> bool:
    pairs = zip(measured, expected, strict=True)
    return all(abs(a - b) <= 0.05 * b for a, b in pairs)  # 0 must be 0


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class's arguments from a configuration, as `from_config` does."""
    import keras

    given = dict(config)
    if isinstance(given.get("learning_rate"), dict):  # a schedule
        given["learning_rate"] = keras.saving.deserialize_keras_object(given["learning_rate"])
    return given


def custom_objects() -> dict[str, Any]:
    """Return what Keras needs to load models that were compiled with `Frozen.optimizer`.

    Only a process in which no such optimizer was made needs it:
    `keras.models.load_model(path, custom_objects=tlkit.custom_objects())`.
    """
    start_keras()
    import keras

    return {REGISTERED: _layerwise_class(keras.optimizers.SGD)}


REGISTERED = "tlkit>Layerwise"


def _class_config(cls: type) -> dict[str, Any]:
    """Return how Keras finds a class of optimizers again."""
    import keras

    name = keras.saving.get_registered_name(cls)
    if name != cls.__name__:
        return {"module": None, "class_name": cls.__name__, "registered_name": name}
    module = "keras.optimizers" if cls.__module__.startswith("keras.") else cls.__module__
    return {"module": module, "class_name": name, "registered_name": None}


def _from_config(config: Mapping[str, Any], custom_objects: Any) -> Any:
    """Return the optimizer of a configuration that `layerwise`'s class wrote."""
    import keras

    rest = {key: value for key, value in config.items() if key not in OWN_KEYS}
    plain = {**config["base"], "config": rest}
    base: Any = type(keras.saving.deserialize_keras_object(plain, custom_objects))
    own = _layerwise_class(base)
    return own(multipliers=config["multipliers"], **_arguments(rest))


@cache
def _layerwise_class(cls: type) -> Any:
    import keras

    class Layerwise(cls):  # type: ignore[misc]  # Keras has no types, so the base is Any
        is_layerwise = True
        base = cls

        def __init__(self, *, multipliers: Sequence[float], **config: Any) -> None:
            super().__init__(**config)
            self.multipliers = tuple(multipliers)

        def get_config(self) -> dict[str, Any]:
            own = {"multipliers": list(self.multipliers), "base": _class_config(cls)}
            return {**super().get_config(), **own}

        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
            return _from_config(config, custom_objects)

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
    package, _, name = REGISTERED.partition(">")
    return keras.saving.register_keras_serializable(package, name)(Layerwise)
