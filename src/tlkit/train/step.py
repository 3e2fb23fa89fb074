"""One step: the loss, its gradient and the optimizer, compiled once a stage and batch size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.parts.kinds import LossFunction
from tlkit.parts.losses import cross_entropy
from tlkit.system.errors import PartError
from tlkit.system.keras import keras, tf
from tlkit.train.features import Features, Source

Probabilities = npt.NDArray[np.float32]


@frozen
class StepTotals:
    """What a step adds up over its images."""

    loss: float = 0.0
    loss_unweighted: float = 0.0
    right: float = 0.0
    images: int = 0

    def __add__(self, other: StepTotals) -> StepTotals:
        return StepTotals(
            self.loss + other.loss,
            self.loss_unweighted + other.loss_unweighted,
            self.right + other.right,
            self.images + other.images,
        )

    def mean(self, value: str) -> float:
        """Return the mean over the images of one of the sums."""
        return float(getattr(self, value)) / self.images


class TrainStep:
    """The training and the evaluation step of one stage, each traced once a batch size.

    Evaluation is by plain cross-entropy whatever training makes small: so runs with different
    losses can be compared, and the best epoch means the same in all of them.

    Args:
        tail: The layers behind the cut.
        optimizer: A fresh optimizer.
        xla: Compile the training step with XLA.
        loss: What training makes small.
    """

    def __init__(
        self,
        tail: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        xla: bool,
        loss: LossFunction = cross_entropy,
    ) -> None:
        check_shape(loss, tail.output_shape[-1])
        self.optimizer = optimizer
        self.variables = tail.trainable_variables
        optimizer.build(self.variables)
        # Keras adds up the gradients of all replicas, of which there is one, in a way that makes
        # TensorFlow keep every traced step for ever, with its weights and the optimizer's state.
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs

        def train(x: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                probabilities = tail(tf.cast(x, tf.float32), training=True)
                losses = loss(labels, probabilities)
                weighted = tf.reduce_sum(weights * losses)
                # The batch's loss is divided by how many images it has, not by their weights.
                total = weighted / tf.cast(tf.shape(labels)[0], tf.float32)
                if tail.losses:  # regularizers of the layers
                    total += tf.add_n(tail.losses)
            optimizer.apply(tape.gradient(total, self.variables), self.variables)
            return weighted, tf.reduce_sum(losses), _right(labels, probabilities)

        def evaluate(x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            probabilities = tail(tf.cast(x, tf.float32), training=False)
            return cross_entropy(labels, probabilities), probabilities

        self._train = tf.function(train, jit_compile=xla, reduce_retracing=False)
        self._evaluate = tf.function(evaluate, reduce_retracing=True)

    def train(
        self, x: Features, labels: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]
    ) -> StepTotals:
        """Take one step and return its sums."""
        loss, unweighted, right = self._train(x, labels, weights)
        return StepTotals(float(loss), float(unweighted), float(right), len(labels))

    def evaluate(
        self, source: Source, labels: npt.NDArray[np.int32], batch: int
    ) -> tuple[StepTotals, Probabilities]:
        """Return the sums and the probabilities of a whole split, so many images at a time."""
        total, found, start = StepTotals(), [], 0
        for x in source.batches(batch):
            chosen = labels[start : start + len(x)]
            losses, probabilities = (value.numpy() for value in self._evaluate(x, chosen))
            loss = float(losses.sum(dtype=np.float64))
            total += StepTotals(
                loss, loss, float((probabilities.argmax(1) == chosen).sum()), len(x)
            )
            found.append(probabilities)
            start += len(x)
        return total, np.concatenate(found)


def check_shape(loss: LossFunction, classes: int) -> None:
    """Raise `PartError` unless a loss is each image's own: another shape would be spread out."""
    images = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, classes), tf.float32)
    shape = tf.function(loss).get_concrete_function(*images).output_shapes
    if getattr(shape, "rank", 0) not in {1, None}:  # None: nobody knows before it runs
        raise PartError(f"loss: its `build` must give one loss an image, (batch,), got {shape}")


def _right(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    predicted = tf.argmax(probabilities, axis=1, output_type=tf.int32)
    return tf.reduce_sum(tf.cast(predicted == labels, tf.float32))
