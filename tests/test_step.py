"""The moving average of the weights, and the sums of an epoch's steps, against NumPy and Python."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.python.framework import ops
from tests.fakes import FakeBackbone
from tests.test_fit import ALL, SCORES, Trained

import tlkit
import tlkit.train.stage
from tlkit.parts.augmentations import Affine
from tlkit.parts.kinds import Stage
from tlkit.parts.optimizers import SGD, Adam
from tlkit.train.features import Extractor, Images
from tlkit.train.lean import has_tiles, lean
from tlkit.train.step import (
    AT_ONCE_BYTES,
    STEPS_AT_ONCE,
    EvalStep,
    TrainStep,
    WeightAverage,
)
from tlkit.train.totals import DeviceTotals

# TensorFlow takes what is below 1e-38 for 0.
FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


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
        step.begin_epoch()
        step.train(x, labels.astype(np.int32), np.ones(5, np.float32))
        trained = values(step.average.variables)
        step.end_epoch()
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


@given(st.lists(st.tuples(FLOATS, FLOATS, st.integers(0, 8)), max_size=20))
def test_sums_on_the_device_are_those_of_python_to_the_bit(steps: list[Any]) -> None:
    totals, expected = DeviceTotals(), [0.0, 0.0, 0.0]
    for values in steps:
        totals.add(tuple(tf.constant(value, tf.float32) for value in values), 8)
        expected = [a + float(np.float32(b)) for a, b in zip(expected, values, strict=True)]
    found, bad = totals.read()
    assert [found.loss, found.loss_unweighted, found.correct] == expected
    assert (found.images, bad) == (8 * len(steps), None)


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, math.inf), (1.0, -math.inf)])
def test_the_first_step_that_is_not_finite_is_known_at_the_end(bad: tuple[float, float]) -> None:
    totals = DeviceTotals()
    for values in [(1.0, 1.0), (2.0, 2.0), bad, (3.0, 3.0), (math.nan, math.nan)]:
        totals.add(tuple(tf.constant(value, tf.float32) for value in (*values, 1.0)), 1)
    _, found = totals.read()
    assert found is not None
    np.testing.assert_equal(found, (2, bad[0]))


def dropping() -> Any:
    """Return a head with all that changes in a step: weights, statistics, random numbers."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.layers.Input((3,))
    for layer in (keras.layers.Dense(4), keras.layers.BatchNormalization()):
        x = layer(x)
    x = keras.layers.Dropout(0.5, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))


@pytest.mark.parametrize(("images", "batch"), [(7, 2), (6, 3), (3, 4)])
def test_steps_taken_together_are_steps_one_by_one_to_the_bit(images: int, batch: int) -> None:
    random = np.random.default_rng(images)
    x = random.normal(size=(images, 3)).astype(np.float32)
    labels = random.integers(0, 2, images).astype(np.int32)
    weights = random.random(images).astype(np.float32)
    rates = [0.1 / (step + 1) for step in range(-(-images // batch))]
    found = []
    for together in (True, False):
        model, totals = dropping(), DeviceTotals()
        step = TrainStep(model, Adam().build([1.0] * 6), xla=False, clip_norm=0.5, ema=0.9)
        assert step.steps_at_once(12 * batch) == STEPS_AT_ONCE
        if together:
            step.add_all(totals, x, labels, weights, batch, rates)
        for place, rate in enumerate(() if together else rates):
            of_step = slice(place * batch, (place + 1) * batch)
            step.optimizer.learning_rate.assign(rate)
            step.add(totals, x[of_step], labels[of_step], weights[of_step])
        state = [*model.variables, *step.state.values()]
        found.append((totals.read(), [value.tobytes() for value in values(state)]))
    assert found[0] == found[1]


def test_batches_evaluated_together_are_batches_one_by_one_to_the_bit() -> None:
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(11, 3)).astype(np.float32), random.integers(0, 2, 11)
    step, weights = EvalStep(dropping()), random.random(11).astype(np.float32)
    assert step.batches_at_once(AT_ONCE_BYTES // 2) == 2
    found = []
    for features in ([x[:6], x[6:]], [x[start : start + 3] for start in range(0, 11, 3)]):
        totals, of_x = step.evaluate(features, labels.astype(np.int32), weights, 3)
        found.append((totals, of_x.tobytes()))
    assert found[0] == found[1]


def test_of_steps_taken_together_the_first_that_is_not_finite_is_known() -> None:
    step = TrainStep(dropping(), Adam().build([1.0] * 6), xla=False)
    x, labels, weights = np.ones((10, 3), np.float32), np.zeros(10, np.int32), np.ones(10)
    weights[5] = math.inf
    totals = DeviceTotals()
    step.add_all(totals, x, labels, weights.astype(np.float32), 2, [0.1] * 5)
    assert totals.read()[1] == (2, math.inf)


def test_only_small_steps_that_tensorflow_need_not_rewrite_are_taken_together() -> None:
    def steps(*more: Any, **settings: Any) -> int:
        step = TrainStep(dropping(), Adam().build([1.0] * 6), *more, **settings)
        return step.steps_at_once(AT_ONCE_BYTES // 5)

    assert steps(False) == 5
    assert steps(True) == 1  # XLA has the whole step as one already
    assert steps(False, lambda labels, p: -tf.gather(p, labels, batch_dims=1)) == 1  # not our code


class Transfers(tlkit.Callback):
    """Counts the tensors that the host reads in the second epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.before, self.steps = 0, 0, 0
        read = ops._EagerTensorBase._numpy

        def counted(tensor: Any) -> Any:
            self.count += 1
            return read(tensor)

        monkeypatch.setattr(ops._EagerTensorBase, "_numpy", counted)

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.before, self.steps = self.count, 0

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        self.steps += 1

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        self.count -= self.before


@pytest.mark.parametrize("rates", [SCORES, ALL])
def test_an_epoch_reads_as_much_from_the_device_whatever_the_number_of_its_steps(
    rates: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where images are augmented in the step, as no layer is frozen."""
    monkeypatch.setattr(tlkit.train.stage, "READ_EVERY_S", 1e9)
    counts = {}
    for size in (1, 4):
        transfers = Transfers(monkeypatch)
        Trained(
            Stage(2, rates),
            callback=transfers,
            batch_size=size,
            augmentation=Affine() if rates is ALL else None,
        )
        counts[transfers.steps] = transfers.count
    assert len(counts) == 2
    assert len({*counts.values()}) == 1, counts
    assert max(counts.values()) < 10


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_scaled_loss_gives_the_same_step_and_an_overflow_none(clip_norm: float | None) -> None:
    x, labels = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.arange(5) % 2
    ended = []
    for scaled in (False, True):
        model, optimizer = network(), SGD(learning_rate=0.5).build([1.0] * 4)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        step = TrainStep(model, optimizer, xla=False, clip_norm=clip_norm)
        step.train(x, labels.astype(np.int32), np.ones(5, np.float32))
        ended.append(values(model.trainable_variables))
    for plain, found in zip(*ended, strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-6)
    step.train(x, labels.astype(np.int32), np.full(5, 1e36, np.float32))
    for before, after in zip(ended[1], values(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (optimizer.dynamic_scale, optimizer.iterations) == (2**14, 1)
    assert {id(v) for v in optimizer.variables} == {id(v) for v in step.state.values()}


def images(change: Any, count: int = 5, keys: bool = True) -> Images:
    """Pixels of 100, which an augmentation changes."""

    class Changing(tlkit.Augmentation):
        def augment(self, images: Any, keys: Any) -> Any:
            return change(images)

    pixels = np.full((count, 8, 8, 3), 100, np.uint8)
    extractor = Extractor(None, FakeBackbone(), Changing(), batch=count)
    return Images(extractor, pixels, np.zeros((count, 2), np.int32) if keys else None)


def classifier() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(inputs)))


@pytest.mark.parametrize("keys", [False, True])
def test_a_step_on_images_is_a_step_on_what_they_become(keys: bool) -> None:
    labels, weights = np.array([0, 1, 1, 0, 1], np.int32), np.ones(5, np.float32)
    batch = images(lambda x: x * 2, keys=keys)
    prepared = batch.extractor(batch.pixels, batch.keys)
    np.testing.assert_allclose(prepared, (200 if keys else 100) / 255, rtol=1e-6)
    found = []
    for x in (batch, prepared):
        model = classifier()
        step = TrainStep(model, SGD(learning_rate=0.5).build([1.0] * 2), xla=False)
        totals = [step.train(x, labels, weights) for _ in range(3)]
        of_all, probabilities = step.evaluate([x], labels)
        found.append((totals, of_all, probabilities.tobytes(), *values(model.weights)))
    np.testing.assert_equal(found[0], found[1])


def test_a_step_by_tiles_is_a_step_whatever_the_number_of_images() -> None:
    random, ended = np.random.default_rng(0), []
    x, labels = random.normal(size=(5, 4, 4, 128)).astype(np.float32), np.arange(5, dtype=np.int32)
    for winograd in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.layers.Input((4, 4, 128))
        y = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(inputs)
        y = keras.layers.Dense(5, "softmax")(keras.layers.Flatten()(y))
        model = lean(keras.Model(inputs, y), winograd, trained=True)
        assert has_tiles(model) is winograd
        step = TrainStep(model, SGD(learning_rate=0.1).build([1.0] * 4), xla=False)
        for size in (5, 3):
            step.train(x[:size], labels[:size], np.ones(size, np.float32))
        probabilities = step.evaluate([x[:3], x[3:]], labels)[1]
        ended.append([probabilities, *values(model.trainable_variables)])
    for direct, tiles in zip(*ended, strict=True):
        np.testing.assert_allclose(tiles, direct, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[1:], r"`augment` must return \(5, 8, 8, 3\) float32, got \(4, 8, 8, 3\)"),
        (lambda x: tf.boolean_mask(x, x[:, 0, 0, 0] > 200), "as many images of the same size"),
        (lambda x: x * 3, "must return pixels from 0 to 255, got 100 to 300"),
        (lambda x: x - 101, "must return pixels from 0 to 255, got -1 to 100"),
        (lambda x: x * math.nan, "from 0 to 255, got nan to nan"),
    ],
)
def test_an_augmentation_that_returns_other_images_is_named(change: Any, message: str) -> None:
    step = TrainStep(classifier(), SGD().build([1.0] * 2), xla=False)
    totals, labels, weights = DeviceTotals(), np.zeros(5, np.int32), np.ones(5, np.float32)

    def epoch() -> None:
        for change_of_step in (lambda x: x, change, lambda x: x):
            step.add(totals, images(change_of_step), labels, weights)
        totals.read()

    with pytest.raises(tlkit.PartError, match=f"^augmentation Changing: its .*{message}"):
        epoch()
