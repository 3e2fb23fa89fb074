"""A class weighting: a pure function from counts to weights."""

from collections.abc import Mapping

import tlkit


@tlkit.part("square_root")
class SquareRoot(tlkit.ClassWeights):
    """Weigh a class by a root of its balanced weight, so rare classes count more, but not too much.

    Attributes:
        power: The exponent: 0 weighs all alike, 1 is `balanced`.
    """

    power: float = 0.5

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the weights in the order of the classes."""
        balanced = tlkit.class_weights(counts)
        return {name: weight**self.power for name, weight in balanced.items()}
