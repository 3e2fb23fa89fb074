"""Schedules: the next epoch's learning rate as a pure function of the finished epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field

from tlkit.parts.kinds import Schedule, part
from tlkit.parts.validators import at_least, open_interval


@part("constant")
class Constant(Schedule):
    """The same learning rate in every epoch."""

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return `base`."""
        return base


@part("plateau")
class Plateau(Schedule):
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
    """

    warmup_epochs: int = field(default=0, validator=at_least(0))
    min_rate: float = field(default=0.0, validator=at_least(0))

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return the rate of the stage's next epoch, which depends only on its number."""
        done = len(history)
        if done < self.warmup_epochs:
            return base * (done + 1) / (self.warmup_epochs + 1)
        progress = (done - self.warmup_epochs) / max(1, epochs - self.warmup_epochs)
        fallen = (1 - math.cos(math.pi * progress)) / 2
        return base - (base - self.min_rate) * fallen
