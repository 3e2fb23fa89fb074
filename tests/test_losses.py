"""Losses against their papers' formulas in float64, and where they are one and the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tlkit
from tlkit.parts.losses import CrossEntropy, Focal, LogitAdjusted, cross_entropy, logits_of
from tlkit.testing import check_loss
from tlkit.train.step import require_loss

Floats = npt.NDArray[Any]
IMAGES, COUNTS = 4, {"normal": 60, "pneumonia": 30, "covid-19": 10}
SHARES = np.array([0.6, 0.3, 0.1])

# Steps of 1/64 up to 32 on either side: probabilities down to 1e-28 and up to 1 but for rounding.
logits_drawn = arrays(
    np.float32, (IMAGES, 3), elements=st.integers(-2048, 2048).map(lambda step: step / 64)
)
labels_drawn = arrays(np.int32, IMAGES, elements=st.integers(0, 2))


def computed(loss: tlkit.Loss, logits: Floats, labels: Any, counts: Any = COUNTS) -> Floats:
    function = loss.build(counts)
    return np.asarray(function(labels, keras.activations.softmax(tf.constant(logits))))


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), CrossEntropy(label_smoothing=0.1), Focal(), LogitAdjusted()], ids=str
)
def test_keras_own_fit_takes_them(loss: tlkit.Loss) -> None:
    features, labels = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.0), loss.build(COUNTS))
    found = model.fit(features, labels, batch_size=4, verbose=0).history["loss"][0]
    logits = features @ model.get_weights()[0]
    assert found == pytest.approx(computed(loss, logits, labels).mean(), rel=1e-5)


def log_softmax(logits: Floats) -> Floats:
    above = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(above - np.log(np.exp(above).sum(axis=1, keepdims=True)))


def close(found: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@given(logits_drawn, labels_drawn, st.sampled_from([0.0, 0.1, 0.5]))
def test_cross_entropy_is_that_with_the_smoothed_targets(
    logits: Floats, labels: Any, smoothing: float
) -> None:
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    expected = -(targets * log_softmax(logits)).sum(axis=1)
    close(computed(CrossEntropy(label_smoothing=smoothing), logits, labels), expected)


@given(logits_drawn, labels_drawn, st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_focal_is_its_published_formula(logits: Floats, labels: Any, gamma: float) -> None:
    probabilities = np.exp(log_softmax(logits))
    right = log_softmax(logits)[np.arange(IMAGES), labels]
    rest = probabilities.sum(axis=1, where=np.eye(3)[labels] == 0)  # 1 - p, with all its digits
    close(computed(Focal(gamma=gamma), logits, labels), -(rest**gamma) * right)


@given(logits_drawn, labels_drawn, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_logit_adjusted_is_its_published_formula(logits: Floats, labels: Any, tau: float) -> None:
    """-log of e^(f_y + tau log pi_y) / sum of e^(f_c + tau log pi_c), Menon et al., equation 10."""
    adjusted = logits.astype(np.float64) + tau * np.log(SHARES)
    expected = -log_softmax(adjusted)[np.arange(IMAGES), labels]
    close(computed(LogitAdjusted(tau=tau), logits, labels), expected)


@given(logits_drawn, labels_drawn)
def test_without_their_setting_all_are_cross_entropy_to_the_bit(
    logits: Floats, labels: Any
) -> None:
    plain = computed(CrossEntropy(), logits, labels)
    theirs = keras.losses.sparse_categorical_crossentropy(labels, tf.constant(logits), True)
    assert plain.tobytes() == np.asarray(theirs).tobytes()
    for loss in (Focal(gamma=0), LogitAdjusted(tau=0)):
        assert computed(loss, logits, labels).tobytes() == plain.tobytes()


@given(logits_drawn, labels_drawn, st.integers(1, 10_000))
def test_classes_of_equal_size_need_no_adjustment(logits: Floats, labels: Any, same: int) -> None:
    found = computed(LogitAdjusted(), logits, labels, dict.fromkeys(COUNTS, same))
    close(found, computed(CrossEntropy(), logits, labels))


@pytest.mark.parametrize(("tau", "balances"), [(1.0, True), (0.5, True), (0.0, False)])
def test_logit_adjustment_says_that_it_balances(tau: float, balances: bool) -> None:
    assert LogitAdjusted(tau=tau).balances is balances
    assert not CrossEntropy().balances


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("loss", [Focal(gamma=0.5), Focal(), LogitAdjusted(), CrossEntropy()])
def test_certain_and_wrong_answers_keep_their_whole_slope(loss: tlkit.Loss, xla: bool) -> None:
    """The probabilities here are exactly 0 and 1."""
    function = loss.build(COUNTS)

    @tf.function(jit_compile=xla)  # type: ignore[untyped-decorator,unused-ignore]
    def slopes(logits: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function(labels, keras.layers.Softmax()(logits))
        return tape.gradient(losses, logits)

    certain = tf.constant([[1e4, 0, 0], [0, 0, 1e4]], tf.float32)
    wrong = slopes(certain, tf.constant([1, 0]))
    np.testing.assert_allclose(wrong, [[1, -1, 0], [-1, 0, 1]], atol=1e-6)
    right = slopes(certain, tf.constant([0, 2]))
    np.testing.assert_array_equal(right, np.zeros((2, 3)))


class TestLogits:
    LOGITS = np.array([[1e4, 0, -3], [1, 2, 3]], np.float32)

    @pytest.mark.parametrize("softmax", [keras.activations.softmax, keras.layers.Softmax()])
    def test_are_what_keras_noted(self, softmax: Any) -> None:
        found = logits_of(softmax(tf.constant(self.LOGITS)))
        np.testing.assert_array_equal(found, self.LOGITS)

    def test_are_found_in_the_graph_without_a_note(self) -> None:
        found = tf.function(lambda logits: logits_of(tf.nn.softmax(logits)))(self.LOGITS)
        np.testing.assert_array_equal(found, self.LOGITS)

    @pytest.mark.parametrize("wrap", [lambda function: function, tf.function])
    def test_of_mere_probabilities_are_their_logarithms_as_in_keras(self, wrap: Any) -> None:
        probabilities = tf.constant([[0.25, 0.75, 0], [0.5, 0.25, 0.25]])
        labels = tf.constant([2, 0])
        found = wrap(cross_entropy)(labels, probabilities)
        theirs = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        np.testing.assert_array_equal(found, theirs)
        assert float(found[0]) == pytest.approx(-np.log(1e-7), rel=1e-5)


@settings(max_examples=5)
@given(st.floats(0, 5))
def test_every_setting_keeps_the_promises_of_losses(setting: float) -> None:
    check_loss(Focal(gamma=setting), COUNTS)
    check_loss(LogitAdjusted(tau=setting), COUNTS)
    check_loss(CrossEntropy(label_smoothing=setting / 6), COUNTS)


class FromProbabilities(CrossEntropy):
    """What everybody would write, and what cannot unlearn."""

    def build(self, counts: Any) -> Any:
        return lambda labels, p: -tf.math.log(tf.gather(p, labels, axis=1, batch_dims=1) + 1e-7)


class OfTheBatch(CrossEntropy):
    """One loss for all images."""

    def build(self, counts: Any) -> Any:
        return lambda labels, p: tf.reduce_mean(cross_entropy(labels, p))


class Neighbourly(CrossEntropy):
    """Looks at the first image too."""

    def build(self, counts: Any) -> Any:
        return lambda labels, p: cross_entropy(labels, p) * p[0, 0]


class NotFinite(CrossEntropy):
    """Infinite for a certain and wrong answer."""

    def build(self, counts: Any) -> Any:
        return lambda labels, p: -tf.math.log(tf.gather(p, labels, axis=1, batch_dims=1))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (FromProbabilities(), "^build: confident wrong answers have no gradient"),
        (OfTheBatch(), r"^build: must return one loss per image, got \(\)"),
        (Neighbourly(), "^build: an image's loss depends on other images"),
        (NotFinite(), "^build: confident answers have losses .*inf"),
    ],
)
def test_a_loss_that_breaks_a_promise_is_told(loss: tlkit.Loss, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(loss, COUNTS)


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (CrossEntropy, {"label_smoothing": 1.0}, "^label_smoothing: must be at least 0 and below"),
        (Focal, {"gamma": -1.0}, r"^gamma: must be at least 0, got -1\.0$"),
        (LogitAdjusted, {"tau": -1.0}, r"^tau: must be at least 0, got -1\.0$"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)


def test_a_loss_of_the_whole_batch_is_refused_before_training() -> None:
    """It would be spread over the images without a word."""
    with pytest.raises(
        tlkit.PartError, match=r"one loss per image, \(batch,\) float32, got \(\) float32$"
    ):
        require_loss(OfTheBatch().build(COUNTS), classes=3)
    for loss in (CrossEntropy(label_smoothing=0.1), Focal(), LogitAdjusted()):
        require_loss(loss.build(COUNTS), classes=3)
