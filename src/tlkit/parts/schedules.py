"""Schedules: the learning rate of an epoch or a step as a pure function of what is done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from tlkit.parts.kinds import Schedule, part
from tlkit.parts.validators import above, at_least, open_interval, unless_none


@frozen(kw_only=True)
class AfterWarmup(Schedule):
    """A schedule of epochs that a rise from step to step may precede.

    Attributes:
        warmup_epochs: Epochs, or a fraction of one, in which the rate first rises from 0 in a line,
            step by step; unset: none.
    """

    warmup_epochs: float | None = field(default=None, validator=unless_none(above(0)))

    def step_rate(self, base: float, epochs: int, progress: float) -> float | None:
        """Return the rate of a step in the warm-up."""
        if self.warmup_epochs is None or progress >= self.warmup_epochs:
            return None
        return base * progress / self.warmup_epochs


@part("constant")
class Constant(AfterWarmup):
    """The same learning rate in every epoch."""

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return `base`."""
        return base


@part("plateau")
class Plateau(AfterWarmup):
    """Lower the rate when a value stops improving, like Keras's `ReduceLROnPlateau`.

    Attributes:
        monitor: The value to watch; lower is better. `loss` is the epoch's mean weighted training
            loss, `loss_unweighted` the same without class weights; `val_loss` is unweighted.
        factor: Multiplies the rate when it is lowered.
        patience: Epochs without improvement after which the rate is lowered.
        min_delta: The smallest change that counts as an improvement.
        cooldown: Epochs after a reduction that do not count as waiting.
        min_rate: Lower bound of the rate.
    """

    monitor: Literal["loss", "loss_unweighted", "val_loss"] = "loss"
    factor: float = field(default=0.1, validator=open_interval(0, 1))
    patience: int = field(default=10, validator=at_least(1))
    min_delta: float = field(default=1e-4, validator=at_least(0))
    cooldown: int = field(default=0, validator=at_least(0))
    min_rate: float = field(default=0.0, validator=at_least(0))

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return `base`, reduced as often as the history requires."""
        rate, best, waited, cooling = base, float("inf"), 0, 0
        for epoch in history:
            if cooling > 0:
                cooling, waited = cooling - 1, 0
            if epoch[self.monitor] < best - self.min_delta:
                best, waited = epoch[self.monitor], 0
            elif cooling == 0:
                waited += 1
                if waited >= self.patience and rate > self.min_rate:
                    rate, waited, cooling = max(rate * self.factor, self.min_rate), 0, self.cooldown
        return rate


@part("cosine")
class Cosine(Schedule):
    """Linear warmup, then cosine decay (Loshchilov and Hutter 2017).

    Attributes:
        warmup_epochs: Epochs in which the rate rises; the next one has the full rate.
        min_rate: The rate that the decay would reach one epoch after the last.
        per_step: Change the rate at every step, so that the warm-up starts at 0 and may be a
            fraction of an epoch; otherwise only between epochs.
    """

    warmup_epochs: float = field(default=0, validator=at_least(0))
    min_rate: float = field(default=0.0, validator=at_least(0))
    per_step: bool = False

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return the rate of the stage's next epoch, which depends only on its number."""
        done = len(history)
        if done < self.warmup_epochs:
            return base * (done + 1) / (self.warmup_epochs + 1)
        return self._decayed(base, epochs, done)

    def step_rate(self, base: float, epochs: int, progress: float) -> float | None:
        """Return the rate of a step if it is to change at every step."""
        if not self.per_step:
            return None
        if progress < self.warmup_epochs:
            return base * progress / self.warmup_epochs
        return self._decayed(base, epochs, progress)

    def _decayed(self, base: float, epochs: int, done: float) -> float:
        span = epochs - self.warmup_epochs
        progress = (done - self.warmup_epochs) / (span if self.per_step else max(1, span))
        return _wave(base, self.min_rate, progress)


@part("one_cycle")
class OneCycle(Schedule):
    """Up to the full rate and down to almost nothing, step by step (Smith and Topin 2018).

    The defaults are those of fastai, which also changes the momentum; here that stays.

    Attributes:
        warmup_frac: Fraction of the stage in which the rate rises.
        start_div: The first step has the full rate divided by this.
        end_div: The last step has the full rate divided by this.
    """

    warmup_frac: float = field(default=0.25, validator=open_interval(0, 1))
    start_div: float = field(default=25.0, validator=at_least(1))
    end_div: float = field(default=1e5, validator=at_least(1))

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return the rate in the middle of the next epoch."""
        return self.step_rate(base, epochs, len(history) + 0.5)

    def step_rate(self, base: float, epochs: int, progress: float) -> float:
        """Return the rate of a step."""
        done = progress / epochs
        if done < self.warmup_frac:
            return _wave(base / self.start_div, base, done / self.warmup_frac)
        return _wave(base, base / self.end_div, (done - self.warmup_frac) / (1 - self.warmup_frac))


def _wave(start: float, end: float, progress: float) -> float:
    """Return a value on half a cosine wave from `start` to `end`."""
    return start - (start - end) * (1 - math.cos(math.pi * progress)) / 2
