"""Training losses, per image and before class weights.

Every loss uses the logits behind the probabilities: a probability rounded to 0 or 1 has no
gradient, so a confident wrong answer could not be corrected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field

from tlkit.parts.kinds import Loss, LossFunction, part
from tlkit.parts.validators import at_least, fraction

if TYPE_CHECKING:
    import tensorflow as tf

SMALLEST = 1e-7  # Keras's bound for probabilities without logits


def logits_of(probabilities: tf.Tensor) -> tf.Tensor:
    """Return the input of the softmax that produced these probabilities, `(batch, classes)`.

    Keras stores it on the tensor, where its own losses look; a graph knows it as well. Failing
    both, it is the logarithm of the probabilities, clipped as in Keras.
    """
    import tensorflow as tf

    logits = getattr(probabilities, "_keras_logits", None)
    if logits is None and tf.is_symbolic_tensor(probabilities):
        softmax = probabilities.op
        logits = softmax.inputs[0] if softmax.type == "Softmax" else None
    if logits is None:
        logits = tf.math.log(tf.clip_by_value(probabilities, SMALLEST, 1 - SMALLEST))
    return tf.cast(logits, tf.float32)


def numbers_of(labels: tf.Tensor) -> tf.Tensor:
    """Return class numbers as `(batch,)` int32; Keras's `fit` passes floats."""
    import tensorflow as tf

    return tf.cast(tf.reshape(labels, [-1]), tf.int32)


def cross_entropy(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Return each image's plain cross-entropy, `(batch,)`."""
    return _from_logits(labels, logits_of(probabilities))


def _from_logits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.nn.sparse_softmax_cross_entropy_with_logits(numbers_of(labels), logits)


@part("cross_entropy")
class CrossEntropy(Loss):
    """The negative logarithm of the correct class's probability.

    Attributes:
        label_smoothing: Fraction of the target that is spread evenly over all classes (Szegedy et
            al. 2016, Rethinking the Inception Architecture, section 7).
    """

    label_smoothing: float = field(default=0.0, validator=fraction(below=1))

    def build(self, counts: Mapping[str, int]) -> LossFunction:
        """Return cross-entropy with smoothed targets: (1 - s) · onehot + s / K."""
        if not self.label_smoothing:
            return cross_entropy

        def smoothed(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
            import tensorflow as tf

            spread = self.label_smoothing / len(counts)
            right = 1 - self.label_smoothing + spread
            targets = tf.one_hot(numbers_of(labels), len(counts), right, spread)
            return tf.nn.softmax_cross_entropy_with_logits(targets, logits_of(probabilities))

        return smoothed


@part("focal")
class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma, p the correct class's probability: easy images count less.

    Lin et al. 2017, Focal Loss for Dense Object Detection, equation 4. Their alpha is a table of
    its own, `[class_weights]`.

    Attributes:
        gamma: The exponent; 0 is cross-entropy.
    """

    gamma: float = field(default=2.0, validator=at_least(0))

    def build(self, counts: Mapping[str, int]) -> LossFunction:
        """Return the focal loss."""

        def focal(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
            import tensorflow as tf

            logits = logits_of(probabilities)
            right = tf.one_hot(numbers_of(labels), len(counts), True, False)
            others = tf.where(right, -math.inf, logits)
            # log(1 - p) from the logits: for a confident answer 1 - p rounds to 0, where a power
            # below 1 has an infinite slope.
            log_rest = tf.reduce_logsumexp(others, axis=1) - tf.reduce_logsumexp(logits, axis=1)
            return tf.exp(self.gamma * log_rest) * _from_logits(labels, logits)

        return focal


@part("logit_adjusted")
class LogitAdjusted(Loss):
    """Cross-entropy of logits plus tau times the log of each class's share of the training images.

    Menon et al. 2021, Long-Tail Learning via Logit Adjustment, equation 10. Only the
    training loss is adjusted: probabilities, predictions and the validation loss come from the
    plain logits.

    Attributes:
        tau: Strength of the adjustment; 0 is cross-entropy, 1 compensates for the shares.
    """

    tau: float = field(default=1.0, validator=at_least(0))

    @property
    def balances(self) -> bool:
        """Tell whether it compensates for class sizes: unless tau is 0."""
        return self.tau > 0

    def build(self, counts: Mapping[str, int]) -> LossFunction:
        """Return cross-entropy of the adjusted logits."""
        total = sum(counts.values())
        raised = [self.tau * math.log(count / total) for count in counts.values()]
        return lambda labels, probabilities: _from_logits(labels, logits_of(probabilities) + raised)
