"""Optimizers: what is written in the file is what Keras steps by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tlkit
from tlkit.parts.optimizers import SGD, Adam
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
