"""Class weights: pure functions from the training split's counts to a weight a class name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import field, frozen

from tlkit.errors import FieldError
from tlkit.parts.kinds import ClassWeights, registries
from tlkit.registry import suggest


@registries.class_weights.register("none")
@frozen(kw_only=True)
class Unweighted(ClassWeights):
    """Count every image once."""

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return 1 for every class."""
        return dict.fromkeys(counts, 1.0)


@registries.class_weights.register("balanced")
@frozen(kw_only=True)
class Balanced(ClassWeights):
    """Let every class count as much as every other: N / (K · n_k), as scikit-learn does.

    The weighted number of images of each class is then N / K, and the mean weight of an image 1.
    """

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return N / (K · n_k) for each class.

        >>> Balanced().for_counts({"normal": 50, "pneumonia": 100})
        {'normal': 1.5, 'pneumonia': 0.75}

        Raises:
            ValueError: If a class has no images.
        """
        empty = [name for name, count in counts.items() if count < 1]
        if empty:
            raise ValueError(f"class {empty[0]!r} has no training images, so no balanced weight")
        total = sum(counts.values())
        return {name: total / (len(counts) * count) for name, count in counts.items()}


def _check_weights(instance: object, attribute: object, weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be finite and above 0, got {name!r} = {weight}")


@registries.class_weights.register("fixed")
@frozen(kw_only=True)
class Fixed(ClassWeights):
    """Weights written down by class name.

    Attributes:
        weights: One weight above 0 for every class of the data, no more and no fewer.
    """

    weights: dict[str, float] = field(validator=_check_weights)

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the written weights in the order of the classes.

        Raises:
            FieldError: If the names are not exactly the data's classes.
        """
        for name in self.weights:
            if name not in counts:
                raise FieldError("weights", f"no class named {name!r}{suggest(name, counts)}")
        missing = [name for name in counts if name not in self.weights]
        if missing:
            raise FieldError("weights", f"no weight for class {missing[0]!r}; give every class one")
        return {name: float(self.weights[name]) for name in counts}
