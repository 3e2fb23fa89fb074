"""A training step: loss, gradient, optimizer and average, compiled per stage and batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tlkit.parts.kinds import LossFunction
from tlkit.parts.losses import cross_entropy
from tlkit.system.errors import PartError
from tlkit.system.keras import autograph, keras, tf
from tlkit.train.assemble import refuse_others
from tlkit.train.features import Features, Images
from tlkit.train.lean import has_tiles
from tlkit.train.plan import XLA_PARAMS
from tlkit.train.totals import DeviceTotals, StepTotals, added
from tlkit.weights.tensors import Variables

Probabilities = npt.NDArray[np.float32]
# A step of a linear head on 1,280 features takes 0.2 ms of processor time, calling it 1.4 ms more.
# So small steps on kept features are taken together: at most this many, on at most as many bytes.
# Inside a loop TensorFlow does not rewrite code, so steps that need rewriting are taken one by one.
STEPS_AT_ONCE, AT_ONCE_BYTES = 64, 2**23


class EvalStep:
    """The evaluation step of a stage, traced once per batch size.

    It uses plain cross-entropy whatever the training loss: runs with different losses can be
    compared, and the best epoch means the same in all of them. `tail` are the layers after the
    frozen prefix.
    """

    def __init__(self, tail: keras.Model) -> None:
        def evaluate(x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            probabilities = tail(tf.cast(x, tf.float32), training=False)
            return cross_entropy(labels, probabilities), probabilities

        def evaluate_all(x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            classes = tail.output_shape[1:]
            of_batch = tf.TensorSpec(x.shape[1:2]), tf.TensorSpec((x.shape[1], *classes))
            losses, probabilities = tf.map_fn(
                lambda batch: evaluate(*batch), (x, labels), fn_output_signature=of_batch
            )
            return tf.reshape(losses, (-1,)), tf.reshape(probabilities, (-1, *classes))

        self._autograph = autograph(*tail._flatten_layers())
        self._whole: dict[Any, Any] = {}
        self._evaluate = tf.function(
            evaluate, reduce_retracing=not has_tiles(tail), autograph=self._autograph
        )
        self._evaluate_all = tf.function(evaluate_all, reduce_retracing=True, autograph=False)
        self._evaluates_together = _is_small(tail.variables) and not self._autograph

    @property
    def state(self) -> Variables:
        """Return the variables, besides the model's, that later steps depend on."""
        return {}

    def _run(self, work: Any, x: Features | Images, *more: Any) -> tuple[Any, Any]:
        """Call a compiled function on features, or on images as one that also prepares them.

        Returns:
            What it returns, and the least and the greatest pixel of images, which may be wrong.
        """
        if not isinstance(x, Images):
            return work(x, *more), None
        prepare, key = x.extractor.prepare, (work, x.extractor, x.keys is None)
        if key not in self._whole:

            def whole(pixels: tf.Tensor, keys: tf.Tensor | None, *more: tf.Tensor) -> Any:
                prepared, low, high = prepare(pixels, keys)
                return work(prepared, *more), (low, high)

            self._whole[key] = tf.function(whole, autograph=x.extractor.autograph)
        return x.extractor.run(self._whole[key], x.pixels, x.keys, *more)  # type: ignore[no-any-return]  # TensorFlow has no types

    def batches_at_once(self, batch_bytes: int) -> int:
        """Return how many batches of features to evaluate together if one has this size."""
        return _at_once(batch_bytes) if self._evaluates_together else 1

    def evaluate(
        self,
        features: Iterable[Any],
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32] | None = None,
        batch: int | None = None,
    ) -> tuple[StepTotals, Probabilities]:
        """Return the sums and the probabilities of a whole split from batches of its features.

        Features of several batches may come together if the size of a `batch` is given.
        """
        chunks, sizes, start = [], [], 0
        for x in features:
            of_x, done = labels[start : start + len(x)], 0
            if batch and len(x) > batch:
                batches = _in_batches(batch, x, of_x)
                chunks.append(self._evaluate_all(*batches))
                sizes += [batch] * len(batches[0])
                done = batch * len(batches[0])
            if done < len(x):
                rest = x[done:] if done else x
                chunks.append(self._run(self._evaluate, rest, of_x[done:])[0])
                sizes.append(len(x) - done)
            start += len(x)
        # From the device all at once.
        losses, probabilities = (tf.concat(rows, 0).numpy() for rows in zip(*chunks, strict=True))
        refuse_others(probabilities, "head")
        correct = probabilities.argmax(1) == labels
        totals, start = StepTotals(), 0
        for size in sizes:  # whose sums are rounded as they have always been
            rows = slice(start, start + size)
            loss = float(losses[rows].sum(dtype=np.float64))
            weighted = (
                loss if weights is None else float(losses[rows] @ weights[rows].astype(np.float64))
            )
            totals += StepTotals(weighted, loss, float(correct[rows].sum()), size)
            start += size
        return totals, probabilities


class TrainStep(EvalStep):
    """The training and evaluation step of a stage, each traced once per batch size.

    The optimizer must be new. With `clip_norm` the norm of the gradients is at most that; with
    `ema` the weights' average is kept, see `WeightAverage`. `trained` is the model that is trained
    if that is another one than `tail`.
    """

    def __init__(
        self,
        tail: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        xla: bool,
        loss: LossFunction = cross_entropy,
        clip_norm: float | None = None,
        ema: float | None = None,
        trained: keras.Model | None = None,
    ) -> None:
        super().__init__(tail)
        require_loss(loss, tail.output_shape[-1])
        self.optimizer, self.loss, self.clip_norm = optimizer, loss, clip_norm
        self.trained = trained = tail if trained is None else trained
        self.variables = trained.trainable_variables
        optimizer.build(self.variables)
        self.scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        self.average = None if ema is None else WeightAverage(trained, ema)
        self.autograph = self._autograph or autograph(loss, optimizer)

        def train(x: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
            sums = self.step(x, labels, weights, tf.cast(tf.shape(labels)[0], tf.float32))
            if self.average is not None:
                self.average.update()
            return sums

        self._in_graph = train
        self._several: Any = None
        self._train = tf.function(
            train, jit_compile=xla, reduce_retracing=False, autograph=self.autograph
        )
        small = _is_small(self.variables)
        self._steps_together = small and not (xla or self.autograph or self.scales)

    def step(
        self,
        x: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor,
        images: tf.Tensor,
        real: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Take a step in a graph; return the weighted loss, the loss and how many are right.

        `images` is the number of images that the step is for, of which these may be a part. Where
        `real` is 0 instead of 1, an image does not count.
        """
        with tf.GradientTape() as tape:
            probabilities = self.trained(tf.cast(x, tf.float32), training=True)
            losses = self.loss(labels, probabilities)
            weighted = tf.reduce_sum(weights * losses)
            # Divided by the number of images, not by their weights.
            total = weighted / images
            if self.trained.losses:  # regularizers of the layers
                total += self.share(tf.add_n(self.trained.losses))
            if self.scales:
                total = self.optimizer.scale_loss(total)
        self.apply(tape.gradient(total, self.variables))
        right = _right(labels, probabilities)
        if real is not None:
            losses, right = losses * real, right * real
        return weighted, tf.reduce_sum(losses), tf.reduce_sum(right)

    def share(self, loss: tf.Tensor) -> tf.Tensor:
        """Return the part of a loss of the whole batch that this device is to minimize."""
        return loss

    def clipped(self, gradients: Any) -> Any:
        """Return gradients whose norm is at most `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        scale = self.optimizer.dynamic_scale if self.scales else 1.0
        return tf.clip_by_global_norm(gradients, self.clip_norm * scale)[0]

    def apply(self, gradients: Any) -> None:
        """Take an optimizer's step."""
        gradients = self.clipped(gradients)
        if self.scales:  # which wants the context of a replica
            self.optimizer.apply(gradients, self.variables)
            return
        # Inside `merge_call` Keras skips its sum over replicas, of which there is only one.
        # The sum would make TensorFlow keep every traced step and its variables forever.
        tf.distribute.get_replica_context().merge_call(
            lambda _: self.optimizer.apply(gradients, self.variables)
        )

    @property
    def state(self) -> Variables:
        """Return the optimizer's variables by position, for Keras's names differ between processes.

        With them are those of the weights' average.
        """
        numbered = {f"{place:04d}": v for place, v in enumerate(self.optimizer.variables)}
        return numbered if self.average is None else {**numbered, **self.average.state}

    def begin_epoch(self) -> None:
        """Put the weights that are trained in place of their average, if there is one."""
        if self.average is not None:
            self.average.swap()

    def end_epoch(self) -> None:
        """Put the average of the weights in their place, if there is one."""
        if self.average is not None:
            self.average.swap()

    def train(
        self,
        x: Features | Images,
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
    ) -> StepTotals:
        """Take one training step and return its sums."""
        totals = DeviceTotals()
        self.add(totals, x, labels, weights)
        return totals.read()[0]

    def steps_at_once(self, batch_bytes: int) -> int:
        """Return how many steps to take together if a batch of features has this size."""
        return _at_once(batch_bytes) if self._steps_together else 1

    def add_all(
        self,
        totals: DeviceTotals,
        x: Any,
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
        batch: int,
        rates: Sequence[float],
    ) -> None:
        """Take a step on each batch of images, at its rate, and add their sums.

        Only the last batch may be smaller; `x` is features, or for a single step `Images`.
        """
        whole = len(labels) // batch if len(rates) > 1 else 0
        images = whole * batch
        if whole:
            self._several = self._several or self._steps_on(x[:batch])
            of_steps = np.array(rates[:whole], np.float32)
            steps = partial(self._several, of_steps, *_in_batches(batch, x, labels, weights))
            totals.add_all(steps, images)
        if whole < len(rates):
            self.optimizer.learning_rate.assign(rates[-1])
            rest = x[images:] if whole else x
            self.add(totals, rest, labels[images:], weights[images:])

    def _steps_on(self, x: Features) -> Any:
        """Return a compiled loop of steps on batches of features like this one."""

        def steps(
            rates: tf.Tensor, x: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, *sums: tf.Tensor
        ) -> Any:
            def step(number: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
                self.optimizer.learning_rate.assign(rates[number])
                values = self._in_graph(x[number], labels[number], weights[number])
                return number + 1, *added(*sums, *values)

            first = tf.constant(0), *sums
            return tf.while_loop(lambda n, *_: n < tf.size(rates), step, first)[1:]

        signature = [
            tf.TensorSpec((None,), tf.float32),
            tf.TensorSpec((None, *x.shape), x.dtype),
            tf.TensorSpec((None, len(x)), tf.int32),
            tf.TensorSpec((None, len(x)), tf.float32),
            *(tf.TensorSpec((3,), tf.float64) for _ in range(2)),
        ]
        return tf.function(steps, input_signature=signature, autograph=False)

    def add(
        self,
        totals: DeviceTotals,
        x: Features | Images,
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Take one training step and add its sums."""
        values, pixels = self._run(self._train, x, labels, weights)
        totals.add(values, len(labels))
        if isinstance(x, Images) and x.keys is not None:
            low, high = pixels
            totals.add_range(low, high, x.extractor.check_range)


def _is_small(variables: Iterable[Any]) -> bool:
    """Tell whether a step is so short that calling it costs more, as it is without XLA."""
    return bool(sum(math.prod(variable.shape) for variable in variables) < XLA_PARAMS)


def _at_once(batch_bytes: int) -> int:
    return max(1, min(STEPS_AT_ONCE, AT_ONCE_BYTES // batch_bytes))


def _in_batches(batch: int, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return the whole batches of arrays, `(batches, batch, ...)`."""
    whole = len(arrays[0]) // batch
    return [each[: whole * batch].reshape(whole, batch, *each.shape[1:]) for each in arrays]


def require_loss(loss: LossFunction, classes: int) -> None:
    """Raise `PartError` unless a loss has one float32 value per image, and a gradient."""
    if not callable(loss):
        raise PartError(f"loss: its `build` must return a function, got {loss!r}")
    traced: dict[str, Any] = {}  # an error that is raised while tracing would get another message

    def trace(labels: tf.Tensor, probabilities: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            tape.watch(probabilities)
            traced["losses"] = loss(labels, probabilities)
        if tf.is_tensor(traced["losses"]):
            traced["gradient"] = tape.gradient(traced["losses"], probabilities)

    images = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, classes), tf.float32)
    tf.function(trace, autograph=autograph(loss)).get_concrete_function(*images)
    losses = traced["losses"]
    got = f"{losses.shape} {losses.dtype.name}" if tf.is_tensor(losses) else repr(losses)
    if not tf.is_tensor(losses) or losses.dtype != tf.float32 or losses.shape.rank not in {1, None}:
        what = f"must return one loss per image, (batch,) float32, got {got}"
        raise PartError(f"loss: its `build` {what}")
    if traced["gradient"] is None:
        raise PartError("loss: its `build` must return a loss with a gradient, got none")


def _right(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    predicted = tf.argmax(probabilities, axis=1, output_type=tf.int32)
    return tf.cast(predicted == labels, tf.float32)


class WeightAverage:
    """A model's second set of weights: averages during an epoch, trained weights between epochs.

    Between epochs the model holds the averages, so they are what is validated, checkpointed and
    kept. It averages what learns: trainable variables, and the statistics of BatchNorm that is not
    held. After t steps the decay is at most (1 + t) / (10 + t), so that the start is forgotten.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        learning = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        statistics = [v for layer in learning for v in layer.non_trainable_variables]
        self.decay, self.variables = decay, [*model.trainable_variables, *statistics]
        self.others = [keras.Variable(v.numpy(), trainable=False) for v in self.variables]
        self.steps = keras.Variable(np.float32(0), trainable=False)

    @property
    def state(self) -> Variables:
        """Return the variables that a checkpoint must hold besides the model's."""
        others = {f"average.{place:04d}": other for place, other in enumerate(self.others)}
        return {**others, "average.steps": self.steps}

    def update(self) -> None:
        """Take the weights after a step into the averages."""
        self.steps.assign_add(1)
        decay = tf.minimum(self.decay, (1 + self.steps) / (10 + self.steps))
        for variable, average in zip(self.variables, self.others, strict=True):
            average.assign(average + (1 - decay) * (variable - average))

    def swap(self) -> None:
        """Exchange the model's weights with the others."""
        for variable, other in zip(self.variables, self.others, strict=True):
            value = tf.identity(variable.value)
            variable.assign(other)
            other.assign(value)
