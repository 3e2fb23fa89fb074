"""The moving average of the weights, against NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve
from tests.test_fit import ALL, SCORES, Trained

from tlkit.parts.kinds import Stage
from tlkit.parts.optimizers import SGD
from tlkit.train.step import TrainStep, WeightAverage


def network() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((3,))
    outputs = keras.layers.Dense(4, name="frozen")(inputs)
    outputs = keras.layers.BatchNormalization(momentum=0.5)(outputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="scores")(outputs))
    model.get_layer("frozen").trainable = False
    return model


def values(variables: Any) -> list[Any]:
    return [variable.numpy().copy() for variable in variables]


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.15])
def test_it_is_the_average_that_numpy_computes(decay: float, xla: bool) -> None:
    """The statistics of a BatchNorm that learns are averaged too; what is frozen stays."""
    model = network()
    step = TrainStep(model, SGD(learning_rate=0.5).build([1.0] * 4), xla, ema=decay)
    assert step.average is not None
    frozen = values(model.get_layer("frozen").weights)
    learning = [v for v in model.weights if not v.path.startswith("frozen")]
    assert {id(v) for v in learning} == {id(v) for v in step.average.variables}
    expected = values(step.average.variables)
    random = np.random.default_rng(0)
    for t in range(1, 21):
        x, labels = random.normal(size=(5, 3)).astype(np.float32), random.integers(0, 2, 5)
        step.swap()
        step.train(x, labels.astype(np.int32), np.ones(5, np.float32))
        trained = values(step.average.variables)
        step.swap()
        d = min(decay, (1 + t) / (10 + t))
        expected = [d * old + (1 - d) * new for old, new in zip(expected, trained, strict=True)]
        for found, wanted in zip(values(step.average.variables), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    for before, after in zip(frozen, values(model.get_layer("frozen").weights), strict=True):
        np.testing.assert_array_equal(before, after)


def test_swapping_twice_changes_no_bit_and_the_state_holds_all_that_the_model_does_not() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    for place, other in enumerate(average.others):
        other.assign(other + place)
    before = values(average.variables), values(average.others)
    average.swap()
    assert all(map(np.array_equal, values(average.variables), before[1]))
    average.swap()
    assert all(map(np.array_equal, values(average.variables), before[0]))
    assert all(map(np.array_equal, values(average.others), before[1]))
    assert [*average.state.values()] == [*average.others, average.steps]


def test_averages_are_validated_and_kept_and_training_is_as_without_them() -> None:
    plain, averaged = (Trained(Stage(3, SCORES), ema=ema) for ema in (None, 0.9))
    assert plain.weights != averaged.weights
    for one, other in zip(plain.fitted.history, averaged.fitted.history, strict=True):
        assert one.val_loss != other.val_loss
        # The training figures are those of the weights that are trained, which nothing changes.
        assert evolve(one, val_loss=0, val_accuracy=0) == evolve(other, val_loss=0, val_accuracy=0)
    held = {name for name, w in averaged.weights.items() if w == averaged.first_weights[name]}
    assert held == {name for name in averaged.weights if not name.startswith("scores/")}


def test_the_next_stage_starts_from_the_averages() -> None:
    still = SGD(learning_rate=1e-30)
    found = Trained(
        Stage(2, SCORES), Stage(1, ALL), ema=0.9, optimizers=(SGD(learning_rate=1.0), still)
    )
    before, after = (found.fitted.history[place].val_loss for place in (1, 2))
    assert after == pytest.approx(before, rel=1e-5)  # other layers are computed once
