"""The best epoch, when to stop waiting for a better one, and keeping its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlkit
from tlkit.parts.kinds import Stage
from tlkit.plan.plan import Plan, PlannedStage
from tlkit.train.best import Snapshot, best_of, stalled
from tlkit.train.step import Stepper

MEASURES = ("val_loss", "val_accuracy")
measures = st.sampled_from(MEASURES)
values = st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=8)  # few: often equal


def epochs(values: list[float], by: str) -> list[tlkit.Epoch]:
    """Epochs that differ in one value."""
    others = ("learning_rate", "loss", "loss_unweighted", "accuracy", *MEASURES)
    return [
        tlkit.Epoch(epoch=number, stage=1, **(dict.fromkeys(others, 0.5) | {by: value}))
        for number, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("val_loss", [0.5], 1),
        ("val_loss", [0.5, 0.2, 0.9], 2),
        ("val_loss", [0.5, 0.2, 0.2], 2),
        ("val_accuracy", [0.5, 0.2, 0.9], 3),
        ("val_accuracy", [0.5, 0.9, 0.9], 2),
    ],
)
def test_the_best_is_the_first_with_the_least_loss_or_the_highest_accuracy(
    by: str, values: list[float], best: int
) -> None:
    assert best_of(epochs(values, by), by).epoch == best


@given(values, measures, st.integers(1, 9))
def test_training_stalls_when_none_of_the_last_epochs_is_better_than_all_before(
    values: list[float], by: str, patience: int
) -> None:
    sign = -1 if by == "val_accuracy" else 1
    before, last = values[:-patience], values[-patience:]
    expected = bool(before) and min(sign * v for v in last) >= min(sign * v for v in before)
    assert stalled(epochs(values, by), by, patience) == expected


@given(values, measures)
def test_without_patience_or_epochs_training_never_stalls(values: list[float], by: str) -> None:
    assert not stalled(epochs(values, by), by, None)
    assert not stalled([], by, 1)


X = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1], np.int32)
WEIGHTS = np.ones(4, np.float32)
# One stage each; `held` is trained in neither, `first` and `norm` in the second alone.
STAGES = {
    "scores": {"scores": 1.0},
    "most": {"first": 0.1, "norm": 1.0, "scores": 1.0},
}


def small_model() -> Any:
    inputs = outputs = keras.layers.Input((6, 6, 3))
    for layer in (
        keras.layers.Conv2D(3, 1, name="held"),
        keras.layers.Conv2D(3, 3, use_bias=False, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(2, activation="softmax", name="scores"),
    ):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def plan_of(model: Any) -> Plan:
    layers = tlkit.layer_table(model)
    stages = tuple(
        PlannedStage(
            Stage(1, tuple(rates.get(layer.name, 0.0) for _, layer in layers)),
            first_epoch,
            cut=0,
            trainable_params=0,
            xla=False,
            eval_batch=8,
            views=(0,),
        )
        for first_epoch, rates in enumerate(STAGES.values(), start=1)
    )
    return Plan(
        classes=("a", "b"),
        counts={},
        layers=layers,
        stages=stages,
        class_weights={},
        loss={},
        sampler="shuffle",
        evaluated_on="val",
        stand_in="",
        steps_per_epoch=1,
        cache=False,
    )


def contents(model: Any) -> dict[str, bytes]:
    return {
        f"{layer.name}/{variable.name}": variable.numpy().tobytes()
        for layer in model.layers
        for variable in layer.weights
    }


@pytest.mark.parametrize("xla", [True, False], ids=["xla", "no xla"])
@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(0.1), lambda: keras.optimizers.SGD(0.1, momentum=0.9)],
    ids=["adam", "sgd"],
)
def test_training_after_a_snapshot_does_not_reach_into_it(
    optimizer: Callable[[], Any], xla: bool
) -> None:
    """Nothing is copied when it is taken, so this would show an update in place."""
    model = small_model()
    snapshot = Snapshot(model, plan_of(model))
    frozen = tlkit.freeze(model, train=STAGES["most"], batch_norm="train")
    stepper = Stepper(model, frozen.scale(optimizer()), xla)

    def train(steps: int) -> dict[str, bytes]:
        for _ in range(steps):
            stepper.train(X, LABELS, WEIGHTS)
        return contents(model)

    train(1)
    snapshot.take()  # forgotten by the second
    taken = train(1)
    snapshot.take()
    later = train(3)
    changed = {name for name in taken if taken[name] != later[name]}
    assert changed == {name for name in taken if name.partition("/")[0] in STAGES["most"]}
    snapshot.swap()
    assert contents(model) == taken
    assert train(2) != taken
    snapshot.swap()
    assert contents(model) == later


def test_swapping_twice_changes_nothing() -> None:
    model = small_model()
    snapshot = Snapshot(model, plan_of(model))
    snapshot.take()
    for variable in model.get_layer("scores").weights:
        variable.assign(variable + 1)
    before = contents(model)
    snapshot.swap()
    assert contents(model) != before
    snapshot.swap()
    assert contents(model) == before


def test_what_no_stage_trains_is_not_in_the_snapshot() -> None:
    model = small_model()
    snapshot = Snapshot(model, plan_of(model))
    before = contents(model)
    snapshot.take()
    for variable in model.weights:
        variable.assign(variable + 1)
    snapshot.swap()
    after = contents(model)
    assert {name for name in before if before[name] != after[name]} == {"held/kernel", "held/bias"}
