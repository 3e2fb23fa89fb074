"""Class weights: pure functions from the number of training images per class to weights.

Computed weights are scaled so that the mean weight of a training image is 1, Σ n_k · w_k = N: the
loss keeps its size, and the learning rate its meaning. Only `median_frequency` keeps its own scale;
scaled this way it would be `balanced`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from attrs import field

from tlkit.parts.kinds import ClassWeights, part
from tlkit.parts.validators import between, fraction
from tlkit.system.errors import FieldError
from tlkit.system.text import suggest


def normalized(counts: Mapping[str, int], proportions: Mapping[str, float]) -> dict[str, float]:
    """Return weights in the given proportions with mean 1 over the training images."""
    total = math.fsum(counts[name] * part for name, part in proportions.items())
    scale = sum(counts.values()) / total
    return {name: scale * part for name, part in proportions.items()}


def _refuse_empty(counts: Mapping[str, int]) -> None:
    empty = [name for name, count in counts.items() if count < 1]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no training images, so no weight can be computed")


@part("none")
class Unweighted(ClassWeights):
    """Weigh every image equally."""

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return 1 for every class."""
        return dict.fromkeys(counts, 1.0)


@part("balanced")
class Balanced(ClassWeights):
    """Give every class the same total weight: N / (K · n_k), as in scikit-learn."""

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return N / (K · n_k) for each class.

        >>> Balanced().for_counts({"normal": 50, "pneumonia": 100})
        {'normal': 1.5, 'pneumonia': 0.75}

        Raises:
            ValueError: If a class has no images.
        """
        _refuse_empty(counts)
        total = sum(counts.values())
        return {name: total / (len(counts) * count) for name, count in counts.items()}


@part("power")
class Power(ClassWeights):
    """Weights proportional to (1 / n_k)^alpha: between unweighted and balanced.

    Mahajan et al. 2018, Exploring the Limits of Weakly Supervised Pretraining, use the square root
    for sampling.

    Attributes:
        alpha: From 0, the same as `none`, to 1, the same as `balanced`.
    """

    alpha: float = field(default=0.5, validator=between(0, 1))

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the weights.

        >>> Power(alpha=0.5).for_counts({"normal": 64, "pneumonia": 16})
        {'normal': 0.8333333333333334, 'pneumonia': 1.6666666666666667}

        Raises:
            ValueError: If a class has no images.
        """
        _refuse_empty(counts)
        return normalized(counts, {name: n**-self.alpha for name, n in counts.items()})


@part("effective_number")
class EffectiveNumber(ClassWeights):
    """Weights proportional to (1 - beta) / (1 - beta^n_k).

    Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples: more images of a
    class overlap with earlier ones, so at most 1 / (1 - beta) of them count.

    Attributes:
        beta: From 0, the same as `none`, to below 1; close to 1 it approaches `balanced`.
    """

    beta: float = field(default=0.999, validator=fraction(below=1))

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the weights.

        Raises:
            ValueError: If a class has no images.
        """
        _refuse_empty(counts)
        # 1 - beta**n loses its digits as beta approaches 1; expm1 keeps them. The factor 1 - beta,
        # common to all classes, cancels in the scale.
        log_beta = math.log(self.beta) if self.beta else -math.inf
        return normalized(counts, {k: -1 / math.expm1(n * log_beta) for k, n in counts.items()})


@part("median_frequency")
class MedianFrequency(ClassWeights):
    """The median of the class frequencies, divided by the class's own.

    Eigen and Fergus 2015, Predicting Depth, Surface Normals and Semantic Labels. A class of median
    size has weight 1. With one label per image, these are the `balanced` weights times a constant.
    """

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the weights.

        >>> MedianFrequency().for_counts({"normal": 50, "pneumonia": 100, "viral": 25})
        {'normal': 1.0, 'pneumonia': 0.5, 'viral': 2.0}

        Raises:
            ValueError: If a class has no images.
        """
        _refuse_empty(counts)
        median = statistics.median(counts.values())
        return {name: median / count for name, count in counts.items()}


def _check_weights(instance: object, attribute: object, weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be finite and above 0, got {name!r} = {weight}")


@part("fixed")
class Fixed(ClassWeights):
    """Fixed weights by class name.

    Attributes:
        weights: One weight above 0 for every class of the data, and no others.
    """

    weights: dict[str, float] = field(validator=_check_weights)

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the weights in the order of the classes.

        Raises:
            FieldError: If the names are not exactly the data's classes.
        """
        for name in self.weights:
            if name not in counts:
                raise FieldError("weights", f"no class named {name!r}{suggest(name, counts)}")
        missing = [name for name in counts if name not in self.weights]
        if missing:
            raise FieldError(
                "weights", f"no weight for class {missing[0]!r}; every class needs one"
            )
        return {name: float(self.weights[name]) for name in counts}
