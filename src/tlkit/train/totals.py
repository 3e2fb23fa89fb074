"""Sums over the images of training steps, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import frozen

from tlkit.system.keras import tf


@frozen
class StepTotals:
    """Sums over the images of one or more steps."""

    loss: float = 0.0
    loss_unweighted: float = 0.0
    correct: float = 0.0
    images: int = 0

    def __add__(self, other: StepTotals) -> StepTotals:
        return StepTotals(
            self.loss + other.loss,
            self.loss_unweighted + other.loss_unweighted,
            self.correct + other.correct,
            self.images + other.images,
        )

    def mean(self, value: str) -> float:
        """Return one of the sums divided by the number of images."""
        return float(getattr(self, value)) / self.images


class DeviceTotals:
    """The totals of an epoch's steps, kept on the device: to read them, the host has to wait.

    They are added as Python would: in float64, one step after the other.
    """

    def __init__(self) -> None:
        self.images = 0
        self._check_range: Any = None
        self._range = tf.constant([np.inf, -np.inf])
        self._sums = tf.constant([0.0, 0.0, 0.0], tf.float64)
        # The number of steps; the first one, from 0, whose loss is not finite, and that loss.
        self._seen = tf.constant([0.0, -1.0, 0.0], tf.float64)

    def add(self, values: tuple[tf.Tensor, ...], images: int) -> None:
        """Add a step's weighted loss, unweighted loss and number of right predictions."""
        self._sums, self._seen = added(self._sums, self._seen, *values)
        self.images += images

    def add_all(self, steps: Callable[..., Any], images: int) -> None:
        """Let a function take several steps; it gets the sums and returns them with theirs."""
        self._sums, self._seen = steps(self._sums, self._seen)
        self.images += images

    def add_range(self, low: tf.Tensor, high: tf.Tensor, check: Callable[..., None]) -> None:
        """Note the least and the greatest pixel of a step; `check` will see all steps'."""
        self._range, self._check_range = _widened(self._range, low, high), check

    def read(self) -> tuple[StepTotals, tuple[int, float] | None]:
        """Return the totals, and the first step whose loss is not finite, if any, with the loss."""
        pixels = tf.cast(self._range, tf.float64)
        sums = tf.concat([self._sums, self._seen, pixels], 0).numpy().tolist()
        loss, unweighted, correct, _, bad, bad_loss, low, high = sums
        if self._check_range:
            self._check_range(low, high)
        totals = StepTotals(loss, unweighted, correct, self.images)
        return totals, None if bad < 0 else (int(bad), bad_loss)


@tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
def added(
    sums: tf.Tensor, seen: tf.Tensor, loss: tf.Tensor, unweighted: tf.Tensor, correct: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sums and what was seen after one more step; see `DeviceTotals`."""
    values = tf.cast(tf.stack([loss, unweighted, correct]), tf.float64)
    first = ~tf.reduce_all(tf.math.is_finite(values[:2])) & (seen[1] < 0)
    bad = tf.where(first, tf.stack([seen[0], values[0]]), seen[1:])
    return sums + values, tf.concat([seen[:1] + 1, bad], 0)


@tf.function(autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
def _widened(of_all: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    step = tf.stack([low, -high])
    least = of_all * [1.0, -1.0]
    # Not the minimum, which may leave out what is not a number.
    return tf.where((step < least) | tf.math.is_nan(step), step, least) * [1.0, -1.0]
