"""The tables `[[phase]]`: parts of one training, each with settings of its own."""

from __future__ import annotations

from typing import Any

from attrs import field, fields, frozen

from tlkit.config.structure import part
from tlkit.parts.kinds import Augmentation, FreezePolicy, Optimizer, Schedule, registries
from tlkit.parts.validators import at_least, open_interval, unless_none

OF_FIT = ("epochs", "early_stop_patience", "ema")  # what an experiment has under [fit]


@frozen(kw_only=True)
class Phase:
    """A part of the training with settings of its own.

    Phases follow each other on the same weights; with `fit.keep = "best"` each starts from the
    best weights so far. What a phase leaves out it takes from the file's own tables.

    Attributes:
        freeze: Which layers are trained; unset: `[freeze]`.
        epochs: Number of passes over the training set; unset: `fit.epochs`.
        optimizer: The rule that turns gradients into steps; unset: `[optimizer]`.
        schedule: How the learning rate changes; unset: `[schedule]`.
        augmentation: Random changes of the training images; unset: `[augmentation]`.
        early_stop_patience: End a stage of this phase after so many epochs without improvement;
            unset: `fit.early_stop_patience`.
        ema: The decay of the weights' average; unset: `fit.ema`.
    """

    freeze: FreezePolicy | None = part(registries.freezes, optional=True)
    epochs: int | None = field(default=None, validator=unless_none(at_least(1)))
    optimizer: Optimizer | None = part(registries.optimizers, optional=True)
    schedule: Schedule | None = part(registries.schedules, optional=True)
    augmentation: Augmentation | None = part(registries.augmentations, optional=True)
    early_stop_patience: int | None = field(default=None, validator=unless_none(at_least(1)))
    ema: float | None = field(default=None, validator=unless_none(open_interval(0, 1)))

    def own(self, of_fit: bool) -> dict[str, Any]:
        """Return what it sets of `[fit]`, or of the experiment's other tables."""
        names = [key.name for key in fields(Phase) if (key.name in OF_FIT) == of_fit]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
