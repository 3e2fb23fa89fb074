"""The training step's loss and gradient against NumPy, and what follows from weighting by class."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve, frozen
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.fakes import OneConvolution

import tlkit
from tlkit.data.checks import check_images
from tlkit.parts.class_weights import Balanced, Fixed, Unweighted
from tlkit.parts.heads import Pooled
from tlkit.parts.kinds import LossFunction
from tlkit.parts.losses import CrossEntropy, Focal, LogitAdjusted, cross_entropy
from tlkit.parts.optimizers import SGD
from tlkit.parts.shapes import Shapes
from tlkit.train.assemble import assemble
from tlkit.train.checkpoint import Checkpoints
from tlkit.train.checkpointer import Checkpointer
from tlkit.train.fit import Training, fit
from tlkit.train.plan import make_plan
from tlkit.train.step import TrainStep
from tlkit.train.totals import StepTotals

Floats = npt.NDArray[np.float32]
FEATURES, CLASSES = 4, 3


@frozen
class Batch:
    """What one step sees, and the weights of the layer before it."""

    x: Floats
    labels: npt.NDArray[np.int32]
    weights: Floats
    kernel: Floats


def floats(shape: int | tuple[int, ...], low: float, high: float) -> st.SearchStrategy[Floats]:
    """Steps of 1/64: what is tested is arithmetic, not what float32 does near its ends."""
    steps = st.integers(int(64 * low), int(64 * high))
    return arrays(np.float32, shape, elements=steps.map(lambda step: step / 64))


@st.composite
def batches(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 3, 5)) -> Batch:
    """A few sizes only: each is traced once."""
    size = draw(st.sampled_from(sizes))
    return Batch(
        x=draw(floats((size, FEATURES), -2, 2)),
        labels=draw(arrays(np.int32, size, elements=st.integers(0, CLASSES - 1))),
        weights=draw(floats(size, 0.125, 8)),
        kernel=draw(floats((FEATURES, CLASSES), -2, 2)),
    )


class Softmax:
    """One softmax layer and tlkit's step: small enough that NumPy can check all of it."""

    def __init__(
        self, xla: bool = False, penalty: Any = None, loss: LossFunction = cross_entropy
    ) -> None:
        inputs = keras.layers.Input((FEATURES,))
        layer = keras.layers.Dense(CLASSES, "softmax", use_bias=False, kernel_regularizer=penalty)
        self.model: Any = keras.Model(inputs, layer(inputs))
        self.optimizer: Any = keras.optimizers.SGD(1.0)
        self.stepper = TrainStep(self.model, self.optimizer, xla, loss)

    def step(self, batch: Batch, rate: float = 1.0) -> tuple[StepTotals, Floats]:
        """Return a step's sums and the kernel after it."""
        self.model.set_weights([batch.kernel])
        self.optimizer.learning_rate.assign(rate)
        sums = self.stepper.train(batch.x, batch.labels, batch.weights)
        return sums, self.model.get_weights()[0]


@pytest.fixture(scope="module")
def softmax() -> Softmax:
    return Softmax()


@pytest.fixture(scope="module")
def keras_softmax() -> Softmax:
    """The same layer, to be trained by Keras itself."""
    found = Softmax()
    found.model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    return found


def losses_and_gradients(batch: Batch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The oracle: each image's cross-entropy, and its gradient by the kernel, in float64."""
    logits = batch.x.astype(np.float64) @ batch.kernel.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wrong = np.exp(log_probabilities) - np.eye(CLASSES)[batch.labels]
    losses = -log_probabilities[np.arange(len(batch.labels)), batch.labels]
    return losses, batch.x.astype(np.float64)[:, :, None] * wrong[:, None, :]


def close(found: Any, expected: Any) -> bool:
    """Tell whether results differ by float32's rounding only: the values go up to about 100."""
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-5))


@given(batch=batches())
def test_a_step_divides_the_weighted_sum_by_the_number_of_images(
    softmax: Softmax, batch: Batch
) -> None:
    """Not by the sum of the weights: the gradient is (1/B) Σ w·∂l."""
    sums, after = softmax.step(batch)
    losses, gradients = losses_and_gradients(batch)
    assert sums.images == len(batch.labels)
    assert close(sums.mean("loss"), (batch.weights * losses).mean())
    assert close(sums.mean("loss_unweighted"), losses.mean())
    weighted = (batch.weights[:, None, None] * gradients).mean(axis=0)
    assert close(after, batch.kernel - weighted)


@given(batch=batches())
def test_it_is_what_keras_does_with_sample_weights(
    softmax: Softmax, keras_softmax: Softmax, batch: Batch
) -> None:
    sums, after = softmax.step(batch)
    keras_softmax.model.set_weights([batch.kernel])
    loss = keras_softmax.model.train_on_batch(batch.x, batch.labels, batch.weights)
    assert close(sums.mean("loss"), loss)
    assert close(after, keras_softmax.model.get_weights()[0])


@given(batch=batches())
def test_all_weights_1_are_no_weights_to_the_bit(
    softmax: Softmax, keras_softmax: Softmax, batch: Batch
) -> None:
    sums, after = softmax.step(evolve(batch, weights=np.ones_like(batch.weights)))
    keras_softmax.model.set_weights([batch.kernel])
    keras_softmax.model.train_on_batch(batch.x, batch.labels)
    assert sums.loss == sums.loss_unweighted
    assert after.tobytes() == keras_softmax.model.get_weights()[0].tobytes()


@given(batch=batches(), exponent=st.integers(-3, 3))
def test_scaled_weights_scale_the_loss_and_the_rate_undoes_it(
    softmax: Softmax, batch: Batch, exponent: int
) -> None:
    """By a power of two, so that no bit is rounded away."""
    factor = 2.0**exponent
    sums, after = softmax.step(batch)
    heavier = evolve(batch, weights=batch.weights * np.float32(factor))
    heavier_sums, heavier_after = softmax.step(heavier, rate=1 / factor)
    assert heavier_sums.loss == factor * sums.loss
    assert heavier_after.tobytes() == after.tobytes()


@given(batch=batches(sizes=(3,)), other=floats(FEATURES, -2, 2))
def test_an_image_of_weight_0_has_no_influence(
    softmax: Softmax, batch: Batch, other: Floats
) -> None:
    batch.weights[0] = 0
    sums, after = softmax.step(batch)
    changed = evolve(batch, x=np.concatenate([other[None], batch.x[1:]]))
    changed_sums, changed_after = softmax.step(changed)
    assert changed_sums.loss == sums.loss
    assert changed_after.tobytes() == after.tobytes()


@given(batch=batches(sizes=(3,)), times=arrays(np.int64, 3, elements=st.integers(0, 2)))
def test_a_weight_of_n_is_n_copies_under_a_sum(
    softmax: Softmax, batch: Batch, times: npt.NDArray[np.int64]
) -> None:
    assume(times.any())
    weighted, after = softmax.step(evolve(batch, weights=times.astype(np.float32)), rate=len(times))
    copies = Batch(
        x=batch.x.repeat(times, axis=0),
        labels=batch.labels.repeat(times),
        weights=np.ones(times.sum(), np.float32),
        kernel=batch.kernel,
    )
    # A rate of B undoes the division by B, which leaves the sum.
    repeated, after_copies = softmax.step(copies, rate=int(times.sum()))
    assert close(weighted.loss, repeated.loss)
    assert close(after, after_copies)


COUNTS = {"normal": 60, "pneumonia": 30, "covid-19": 10}
LOSSES = [CrossEntropy(label_smoothing=0.2), Focal(), LogitAdjusted()]


@pytest.fixture(scope="module", params=[False, True], ids=["graph", "xla"])
def any_softmax(request: pytest.FixtureRequest) -> list[Softmax]:
    return [Softmax(request.param, loss=loss.build(COUNTS)) for loss in LOSSES]


def formulas(
    batch: Batch, kernel: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The oracle: each image's loss in the order of LOSSES, in float64."""

    def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    truth = np.eye(CLASSES)[batch.labels]
    logits = batch.x.astype(np.float64) @ kernel
    plain = log_softmax(logits)
    right = (truth * plain).sum(axis=1)
    adjusted = log_softmax(logits + np.log([0.6, 0.3, 0.1]))
    return (
        -((0.8 * truth + 0.2 / CLASSES) * plain).sum(axis=1),
        -((1 - np.exp(right)) ** 2) * right,
        -(truth * adjusted).sum(axis=1),
    )


@given(batch=batches(sizes=(3,)))
def test_every_loss_is_weighted_alike(any_softmax: list[Softmax], batch: Batch) -> None:
    """And its gradient is that of the published formula, by differences in float64."""
    kernel, step = batch.kernel.astype(np.float64), 1e-5
    nudges = step * np.eye(kernel.size).reshape(-1, *kernel.shape)
    for number, softmax in enumerate(any_softmax):
        sums, after = softmax.step(batch)
        losses = formulas(batch, kernel)[number]
        assert close(sums.mean("loss"), (batch.weights * losses).mean())
        assert close(sums.mean("loss_unweighted"), losses.mean())
        slopes = [
            (batch.weights * (up - down)).mean() / (2 * step)
            for up, down in (
                (formulas(batch, kernel + n)[number], formulas(batch, kernel - n)[number])
                for n in nudges
            )
        ]
        np.testing.assert_allclose(
            kernel - after, np.reshape(slopes, kernel.shape), rtol=1e-4, atol=1e-4
        )


def with_class_weights(batch: Batch, weights: Mapping[int, float]) -> Batch:
    return evolve(batch, weights=tlkit.sample_weights(batch.labels, weights))


@given(
    batch=batches(sizes=(7,)),
    labels=st.permutations(range(CLASSES)).flatmap(
        lambda all_classes: arrays(np.int32, 4, elements=st.integers(0, CLASSES - 1)).map(
            lambda more: np.append(np.array(all_classes, np.int32), more)
        )
    ),
)
def test_the_balanced_mean_loss_is_the_macro_average_over_classes(
    softmax: Softmax, batch: Batch, labels: npt.NDArray[np.int32]
) -> None:
    batch = evolve(batch, labels=labels)
    sums, _ = softmax.step(with_class_weights(batch, tlkit.class_weights(labels)))
    losses, _ = losses_and_gradients(batch)
    by_class = [losses[labels == number].mean() for number in range(CLASSES)]
    assert close(sums.mean("loss"), np.mean(by_class))


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 2, 9), (30, 1, 2)])
def test_a_uniform_guess_has_the_balanced_loss_log_k(
    softmax: Softmax, counts: tuple[int, ...]
) -> None:
    labels = np.arange(CLASSES, dtype=np.int32).repeat(counts)
    zeros = np.zeros((FEATURES, CLASSES), np.float32)
    batch = Batch(np.ones((len(labels), FEATURES), np.float32), labels, zeros[0, :1], zeros)
    sums, _ = softmax.step(with_class_weights(batch, tlkit.class_weights(labels)))
    assert sums.mean("loss") == pytest.approx(np.log(CLASSES), rel=1e-6)


@pytest.mark.parametrize("xla", [False, True])
def test_a_certain_and_wrong_answer_keeps_its_loss_and_gradient(xla: bool) -> None:
    """The loss must come from the logits: of probabilities 0 and 1 nothing could be learnt."""
    kernel = np.zeros((FEATURES, CLASSES), np.float32)
    kernel[:, 0] = 1e4 / FEATURES
    x, label = np.ones((1, FEATURES), np.float32), np.array([1], np.int32)
    sums, after = Softmax(xla).step(Batch(x, label, np.ones(1, np.float32), kernel))
    assert sums.loss == 1e4
    np.testing.assert_array_equal(kernel - after, np.tile([1, -1, 0], (FEATURES, 1)))


def test_penalties_of_layers_are_learnt_from_and_not_reported() -> None:
    kernel = np.full((FEATURES, CLASSES), 2, np.float32)
    nothing = np.zeros((2, FEATURES), np.float32)
    batch = Batch(nothing, np.array([0, 1], np.int32), np.ones(2, np.float32), kernel)
    sums, after = Softmax(penalty=keras.regularizers.L2(0.25)).step(batch)
    assert sums.mean("loss") == pytest.approx(np.log(CLASSES), rel=1e-6)
    np.testing.assert_array_equal(after, kernel / 2)  # the gradient of 0.25 k² is k / 2


def first_epoch(
    batch_size: int, weights: tlkit.ClassWeights, loss: tlkit.Loss | None = None
) -> tlkit.Epoch:
    """Return what the engine reports for an epoch in which nothing moves."""
    experiment = tlkit.Experiment(
        data=Shapes(train=7, val=4, test=0, image_px=16),
        backbone=OneConvolution(),
        head=Pooled(),
        class_weights=weights,
        loss=loss or CrossEntropy(),
        optimizer=SGD(learning_rate=1e-30),
        fit=tlkit.Fit(epochs=1, batch_size=batch_size, xla=False),
    )
    splits = experiment.data.load()
    plan = make_plan(experiment, splits)
    model, loaded = assemble(experiment.backbone, experiment.head, len(plan.classes), seed=0)
    hashes = check_images(splits).hashes
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            experiment=experiment, plan=plan, splits=splits, hashes=hashes, model=model,
            weights=loaded, cache=None, record=lambda history: None,
            checkpointer=Checkpointer(model, plan, experiment.fit, Checkpoints(Path(folder))),
        )  # fmt: skip
        return fit(training, tlkit.Callback()).history[0]


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_an_epochs_loss_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    """Seven images: the last batch is short, and must count for as many images as it has."""
    whole, parts = (first_epoch(size, Balanced()) for size in (7, batch_size))
    assert (parts.loss, parts.loss_unweighted, parts.accuracy) == pytest.approx(
        (whole.loss, whole.loss_unweighted, whole.accuracy), rel=1e-6
    )


def test_class_weights_touch_the_training_loss_only() -> None:
    plain = first_epoch(7, Unweighted())
    weighted = first_epoch(7, Fixed(weights={"circle": 1.0, "square": 9.0, "triangle": 2.0}))
    assert weighted.loss > 2 * plain.loss
    assert evolve(weighted, loss=plain.loss) == plain


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.2), Focal(), LogitAdjusted()])
def test_validation_is_by_plain_cross_entropy_whatever_is_trained(loss: tlkit.Loss) -> None:
    plain, other = first_epoch(7, Unweighted()), first_epoch(7, Unweighted(), loss)
    assert other.loss != plain.loss
    assert other.loss == other.loss_unweighted
    assert evolve(other, loss=plain.loss, loss_unweighted=plain.loss) == plain
