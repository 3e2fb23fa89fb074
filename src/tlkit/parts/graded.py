"""Augmentations with one knob for how much they change."""

from __future__ import annotations

from attrs import field, frozen

from tlkit.parts.kinds import Augmentation
from tlkit.rules import between

STRONGEST = 2  # bounds of other keys are set so that twice as much still makes sense


@frozen(kw_only=True)
class Graded(Augmentation):
    """An augmentation whose changes can be made weaker or stronger together.

    Attributes:
        strength: What all changes are multiplied by: 0 is none, 1 is as the other keys say, 2 is
            the most.
    """

    strength: float = field(default=1.0, validator=between(0, STRONGEST))

    @property
    def changes(self) -> bool:
        """Tell whether it does anything: not at strength 0."""
        return self.strength > 0
