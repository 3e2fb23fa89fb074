"""Optimizers: what is written in the file is what Keras steps by."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import keras
import numpy as np
import pytest

import tlkit
from tlkit.parts import optimizers
from tlkit.parts.kinds import registries
from tlkit.parts.optimizers import SGD, Adam, layerwise, with_rates
from tlkit.train.step import TrainStep

EXPERIMENT_3 = Path(__file__).parents[1] / "examples/covidx/exp3.toml"


@pytest.mark.parametrize("rates", [[1.0], [0.5]], ids=["plain", "scaled"])
@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            Adam(learning_rate=0.03, beta_1=0.8, beta_2=0.9, epsilon=0.25),
            {"learning_rate": 0.03, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.25},
        ),
        (
            SGD(learning_rate=0.03, momentum=0.7, nesterov=True),
            {"learning_rate": 0.03, "momentum": 0.7, "nesterov": True},
        ),
        (SGD(), {"learning_rate": 0.001, "momentum": 0.0, "nesterov": False}),
        (Adam(), {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
    ],
    ids=["adam", "sgd", "sgd by default", "adam by default"],
)
def test_every_key_reaches_keras(
    part: tlkit.Optimizer, expected: dict[str, Any], rates: list[float]
) -> None:
    found = part.build(rates).get_config()
    assert {key: found[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("rates", [[1.0] * 4, [0.0, 0.0, 0.1, 1.0]], ids=["plain", "scaled"])
def test_experiment_3_learns_at_the_rate_of_its_file(rates: list[float]) -> None:
    """The study's published code set a rate and then trained with Keras's default."""
    optimizer = tlkit.load_experiment(EXPERIMENT_3).optimizer.build(rates)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert np.float32(optimizer.learning_rate) == np.float32(2e-5)
    assert np.float32(optimizer.learning_rate) != np.float32(keras.optimizers.Adam().learning_rate)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("rate", [2e-5, 0.5])
def test_a_training_step_moves_by_the_rate_times_the_gradient(rate: float, xla: bool) -> None:
    """Two classes guessed evenly: the gradient by the scores is (-1/2, 1/2)."""
    model: Any = keras.Sequential(
        [keras.layers.Input((1,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")]
    )
    stepper = TrainStep(model, SGD(learning_rate=rate).build([1.0, 1.0]), xla)
    stepper.train(np.ones((1, 1), np.float32), np.zeros(1, np.int32), np.ones(1, np.float32))
    expected = np.array([0.5, -0.5], np.float32) * np.float32(rate)
    np.testing.assert_array_equal(model.layers[0].bias.numpy(), expected)


def test_a_rate_that_changes_between_epochs_changes_the_next_step() -> None:
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = SGD(learning_rate=1.0).build([0.5])
    for rate in (1.0, 0.25):
        optimizer.learning_rate.assign(rate)
        optimizer.apply([np.ones(1, np.float32)], [variable])
    assert variable.numpy() == -0.5 * (1 + 0.25)


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (Adam, {"learning_rate": 0.0}, r"^learning_rate: must be above 0, got 0\.0$"),
        (SGD, {"learning_rate": float("inf")}, r"^learning_rate: must be above 0, got inf$"),
        (Adam, {"learning_rate": float("nan")}, r"^learning_rate: must be above 0, got nan$"),
        (Adam, {"beta_1": 1.0}, r"^beta_1: must be at least 0 and below 1, got 1\.0$"),
        (Adam, {"beta_2": -0.1}, r"^beta_2: must be at least 0 and below 1"),
        (Adam, {"epsilon": 0.0}, r"^epsilon: must be above 0"),
        (SGD, {"momentum": 1.0}, r"^momentum: must be at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, float], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)


def steps(optimizer: Any, multipliers: Sequence[float], count: int = 3) -> list[float]:
    """Return how far variables move for each multiplier, in steps that are as long for all."""
    variables = [keras.Variable(np.full(2, START, np.float32)) for _ in multipliers]
    optimizer.build(variables)
    for _ in range(count):
        optimizer.apply([np.full(2, 0.5, np.float32)] * len(variables), variables)
    return [float(START - v.numpy()[0]) for v in variables]


START = np.float32(0.01)  # small, so that small steps are not lost in rounding
RATES = (1.0, 0.1, 0.0)
EVERY = sorted(
    name
    for name, cls in vars(keras.optimizers).items()
    if isinstance(cls, type)
    and issubclass(cls, keras.Optimizer)
    and name not in {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "Ftrl"}
)


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_keras_steps_by_the_multiplier(name: str) -> None:
    assert {"Adam", "SGD", "Lion", "Muon", "Adafactor"} <= {*EVERY}
    assert {*EVERY} >= optimizers.PROPORTIONAL
    cls = getattr(keras.optimizers, name)
    whole, tenth, held = steps(layerwise(cls(1e-3), RATES), RATES)
    assert whole > 0
    assert tenth == pytest.approx(0.1 * whole, rel=0.03)
    assert held == 0


def test_one_that_scales_the_loss_gives_the_rates_to_the_optimizer_inside() -> None:
    given = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1), initial_scale=8)
    made = layerwise(given, RATES)
    assert isinstance(made, keras.optimizers.LossScaleOptimizer)
    assert made.initial_scale == 8
    assert made.inner_optimizer is not given.inner_optimizer
    whole, tenth, held = steps(made, RATES)
    assert tenth == pytest.approx(whole / 10, rel=1e-3)
    assert held == 0


class Wrapper(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types
    """One that hands the steps on, as those for several optimizers do."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        for grad, variable in zip(grads, trainable_variables, strict=True):
            variable.assign_sub(0.1 * grad)


class OwnRate(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types
    """One that does not use the rate that `update_step` is given, as some schedule-free ones."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, self.learning_rate)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Wrapper(), "Wrapper steps by its own `apply`, so layers cannot have rates"),
        (OwnRate(), r"OwnRate does not step in .* at 1, 0.5, 0.1, 0 times .* are 1, 1, 1, 0 times"),
        (keras.optimizers.Ftrl(), "Ftrl does not step in proportion to its learning rate"),
    ],
    ids=["wrapper", "own rate", "ftrl"],
)
def test_an_optimizer_that_cannot_have_rates_per_layer_is_refused(
    optimizer: Any, message: str
) -> None:
    with pytest.raises(tlkit.PartError, match=f"^optimizer: {message}"):
        layerwise(optimizer, RATES)
    assert type(layerwise(optimizer, [1.0, 1.0])) is type(optimizer)


def test_multipliers_replace_earlier_ones() -> None:
    once = layerwise(keras.optimizers.Adam(0.1), [0.5, 0.5, 0.5])
    again = layerwise(once, RATES)
    assert again.multipliers == RATES
    assert type(layerwise(once, [1.0])) is keras.optimizers.Adam


@keras.saving.register_keras_serializable("tests")
class Half(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types
    """An optimizer of somebody else."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate / 2)


FALLING = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.AdamW(0.1), keras.optimizers.SGD(FALLING), Half(0.1),
     keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1))],
    ids=["adamw", "schedule", "foreign", "loss scale"],
)  # fmt: skip
def test_a_saved_model_is_loaded_with_its_rates(optimizer: Any, tmp_path: Path) -> None:
    model, frozen = compiled(optimizer)
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    for each in (model, loaded):
        each.fit(x, y, verbose=0)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)  # a step is 0.01 or more
    inside = getattr(loaded.optimizer, "inner_optimizer", loaded.optimizer)
    assert inside.multipliers == frozen.variable_rates


def compiled(optimizer: Any) -> tuple[Any, tlkit.Frozen]:
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    model: Any = keras.Sequential(
        [keras.Input((3,)), *layers, keras.layers.Dense(2, "softmax", name="scores")]
    )
    frozen = tlkit.freeze(model, train={"b": 0.1, "scores": 1})
    model.compile(frozen.optimizer(optimizer), "sparse_categorical_crossentropy")
    return model, frozen


@pytest.mark.slow
def test_another_process_loads_it_too(tmp_path: Path) -> None:
    model, _ = compiled("adam")
    model.fit(np.ones((2, 3)), np.array([0, 1]), verbose=0)
    model.save(tmp_path / "m.keras")
    program = "import keras, tlkit; m = keras.models.load_model('m.keras', "
    program += "custom_objects=tlkit.custom_objects()); print(m.optimizer.multipliers)"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "(0.1, 0.1, 1.0, 1.0)\n"


class Forgetful(tlkit.Optimizer):
    """A part that ignores the multipliers."""

    def build(self, multipliers: Sequence[float]) -> Any:
        return keras.optimizers.Nadam(self.learning_rate)


class ByItself(tlkit.Optimizer):
    """A part that applies them in its own way."""

    power: float = 1.0

    def build(self, multipliers: Sequence[float]) -> Any:
        class Own(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types
            def update_step(own, gradient: Any, variable: Any, learning_rate: Any) -> None:  # noqa: N805
                rate = multipliers[own._get_variable_index(variable)] ** self.power
                variable.assign_sub(learning_rate * rate * gradient)

        return Own(self.learning_rate)


def frozen_part(cls: Any, **keys: Any) -> Any:
    return attrs.frozen(kw_only=True)(cls)(**keys)


@pytest.mark.parametrize("cls", [Forgetful, ByItself, SGD])
def test_the_engine_scales_what_a_part_does_not(cls: Any) -> None:
    part = cls() if cls is SGD else frozen_part(cls)
    whole, tenth, held = steps(with_rates(part, RATES), RATES)
    assert tenth == pytest.approx(whole / 10, rel=1e-3)
    assert held == 0
    assert whole > 0


def test_a_part_that_applies_them_wrongly_is_refused() -> None:
    message = r"turns the multipliers 1, 0.5, 0.1, 0 into steps 1, 0.25, 0.01, 0 times as long; let"
    with pytest.raises(tlkit.PartError, match=message):
        with_rates(frozen_part(ByItself, power=2.0), RATES)


def test_what_is_no_optimizer_is_refused() -> None:
    class Nothing(tlkit.Optimizer):
        def build(self, multipliers: Sequence[float]) -> Any:
            return "adam"

    with pytest.raises(tlkit.PartError, match=r"must return a Keras optimizer, got 'adam'"):
        with_rates(frozen_part(Nothing), RATES)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.3, 100.0])
@pytest.mark.parametrize("multipliers", [(1.0, 1.0), (0.5, 1.0)], ids=["plain", "scaled"])
def test_gradients_are_clipped_to_a_norm_over_all_layers_before_the_multipliers(
    multipliers: tuple[float, float], clip_norm: float | None, xla: bool
) -> None:
    """Two classes guessed evenly: the gradient by the scores is (-1/2, 1/2)."""
    model: Any = keras.Sequential(
        [keras.layers.Input((1,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")]
    )
    optimizer = SGD(learning_rate=0.25).build(multipliers)
    step = TrainStep(model, optimizer, xla, clip_norm=clip_norm)
    x = np.full((1, 1), 3, np.float32)
    step.train(x, np.zeros(1, np.int32), np.ones(1, np.float32))
    kernel, bias = 3 * np.array([[-0.5, 0.5]]), np.array([-0.5, 0.5])
    norm = np.sqrt((kernel**2).sum() + (bias**2).sum())
    scale = min(1, clip_norm / norm) if clip_norm else 1
    dense = model.layers[0]
    for variable, gradient, multiplier in zip(
        (dense.kernel, dense.bias), (kernel, bias), multipliers, strict=True
    ):
        expected = -0.25 * multiplier * scale * gradient
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted({*registries.optimizers.names()} - {"lbfgs"}))
def test_clip_norm_is_the_engine_s_business_and_no_part_passes_it_on(name: str) -> None:
    part = registries.optimizers.get(name)
    one, other = (part(clip_norm=norm).build([1.0]).get_config() for norm in (None, 1.0))
    assert one | {"name": ""} == other | {"name": ""}  # Keras numbers them
    assert (one["clipnorm"], one["global_clipnorm"], one["clipvalue"]) == (None, None, None)
