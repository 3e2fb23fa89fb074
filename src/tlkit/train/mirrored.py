"""A training step on several devices of one machine, each of which takes a part of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tlkit.parts.kinds import LossFunction
from tlkit.parts.losses import cross_entropy
from tlkit.system.errors import ResourceError
from tlkit.system.keras import keras, tf
from tlkit.train.features import Features, Images
from tlkit.train.step import TrainStep
from tlkit.train.totals import DeviceTotals

SUM = tf.distribute.ReduceOp.SUM


def devices() -> list[str]:
    """Return the names of the GPUs, or without any, of the processors that TensorFlow shows."""
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in found]


def require_devices(count: int) -> None:
    """Raise `ResourceError` unless TensorFlow shows so many devices."""
    if count > len(devices()):
        raise ResourceError(
            f"fit.devices: must be at most {len(devices())}, for TensorFlow shows "
            f"{', '.join(devices())}; got {count}"
        )


@cache
def strategy(count: int) -> Any:
    """Return what keeps a copy of each variable on the first devices.

    There is one per process: several would number their exchanges alike and mix them up.
    """
    require_devices(count)
    return tf.distribute.MirroredStrategy(devices()[:count])


class MirroredStep(TrainStep):
    """A training step that the devices of a strategy take together.

    The gradients of the devices are added up, so a step is that of one device on the whole batch,
    but for rounding, for statistics of BatchNorm that learns (each device sees its part), and for
    dropout (all draw the same).

    Args:
        tail: The layers after the frozen prefix, which are evaluated on one device.
        twin: The same layers, built in the strategy's scope: those that are trained.
        weights: All variables of `tail`, each with that of `twin`.
        strategy: Keeps a copy of the variables on each device.
        optimizer: Must be new, and made in the strategy's scope.
        loss: Returns one loss per image.
        clip_norm: The norm of the gradients is at most that.
        ema: The decay of the weights' average, if one is kept.
    """

    def __init__(
        self,
        tail: keras.Model,
        twin: keras.Model,
        weights: Sequence[tuple[Any, Any]],
        strategy: Any,
        optimizer: keras.optimizers.Optimizer,
        loss: LossFunction = cross_entropy,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        self.strategy, self.weights = strategy, weights
        self._spread()  # the average begins with the weights
        with strategy.scope():
            super().__init__(tail, optimizer, False, loss, clip_norm, ema, trained=twin)
        self._steps_together = False  # each is shared out by itself
        self._steps: dict[Any, Any] = {}

    def begin_epoch(self) -> None:
        """Give all devices the weights and the state, of which the first one's may be new."""
        self._spread()
        for variable in self.state.values():
            variable.assign(variable.value)
        super().begin_epoch()

    def _spread(self) -> None:
        for variable, twin in self.weights:
            twin.assign(variable.value)

    def end_epoch(self) -> None:
        """Take the weights over from the first device."""
        super().end_epoch()
        for variable, twin in self.weights:
            variable.assign(twin.value)

    def add(
        self,
        totals: DeviceTotals,
        x: Features | Images,
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Take one training step and add its sums."""
        numbers = np.arange(max(len(labels), self.strategy.num_replicas_in_sync))
        real = (numbers < len(labels)).astype(np.float32)  # others only give a device work
        numbers %= len(labels)
        arrays: list[npt.NDArray[Any]] = [labels, weights]
        if isinstance(x, Images):
            arrays += [x.pixels] if x.keys is None else [x.pixels, x.keys]
        else:
            arrays.append(x)
        rows = [real, *(array[numbers] for array in arrays)]
        parts = [np.array_split(each, self.strategy.num_replicas_in_sync) for each in rows]
        images = np.float32(len(labels))

        def part(context: Any) -> tuple[Any, ...]:
            own = (each[context.replica_id_in_sync_group] for each in parts)
            return tuple(map(tf.convert_to_tensor, (images, *own)))

        values = self.strategy.experimental_distribute_values_from_function(part)
        step = self._step_on(x.extractor if isinstance(x, Images) else None, len(rows))
        if isinstance(x, Images):
            sums, pixels = x.extractor.run(step, values)
        else:
            sums, pixels = step(values)
        totals.add(sums, len(labels))
        if isinstance(x, Images) and x.keys is not None:
            for low, high in zip(*pixels, strict=True):
                totals.add_range(low, high, x.extractor.check_range)

    def _step_on(self, extractor: Any, arrays: int) -> Any:
        """Return the compiled step on features, or on images and perhaps their keys."""
        key = extractor, arrays
        if key not in self._steps:

            def replica(
                images: tf.Tensor,
                real: tf.Tensor,
                labels: tf.Tensor,
                weights: tf.Tensor,
                x: tf.Tensor,
                keys: tf.Tensor | None = None,
            ) -> tuple[Any, ...]:
                low = high = tf.constant(0.0)
                if extractor is not None:
                    x, low, high = extractor.prepare(x, keys)
                return (*self.step(x, labels, weights * real, images, real), low, high)

            def step(values: Any) -> Any:
                *sums, low, high = self.strategy.run(replica, values)
                if self.average is not None:
                    self.average.update()
                reduced = tuple(self.strategy.reduce(SUM, each, axis=None) for each in sums)
                return reduced, tuple(map(self.strategy.experimental_local_results, (low, high)))

            rewritten = self.autograph or (extractor is not None and extractor.autograph)
            self._steps[key] = tf.function(step, autograph=rewritten)
        return self._steps[key]

    def apply(self, gradients: Sequence[tf.Tensor | None]) -> None:
        """Add up the devices' gradients, and take an optimizer's step on each device.

        Keras adds them up once more, so each gives its share of the sum.
        """
        pairs = [(g, v) for g, v in zip(gradients, self.variables, strict=True) if g is not None]
        own, variables = zip(*pairs, strict=True)
        context = tf.distribute.get_replica_context()
        total = self.clipped(context.all_reduce(SUM, list(own)))
        self.optimizer.apply([g / context.num_replicas_in_sync for g in total], list(variables))

    def share(self, loss: tf.Tensor) -> tf.Tensor:
        """Return a device's part of a loss that all of them have."""
        return loss / self.strategy.num_replicas_in_sync
