"""95 % intervals: Wilson's for shares, the bootstrap's for everything else.

Images of one patient are alike and are no independent evidence: where patients are known, they are
what is drawn again by the bootstrap and what a share's effective number of images is taken from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from attrs import frozen
from scipy.special import ndtr, ndtri

Floats = npt.NDArray[np.float64]

Z = float(ndtri(0.975))  # two-sided, 95 %
RESAMPLES = 2000
SEED = 0  # of the draws, the same for every run: intervals depend on predictions alone
# Below so many images a share's interval is wider than ± 8 points even at 90 %.
FEW = 50
_CELLS = 1 << 21  # weights held at a time: 16 MB
# With 1,000 classes and 50,000 images 2,000 resamples would take a quarter of an hour.
_MOST, _LEAST = 4_000_000_000, 200
_DIGITS = 6  # beyond it an interval's ends are noise of the draws, and may be the processor's


@frozen
class Interval:
    """What a figure may be, with 95 % confidence.

    Attributes:
        low: The lower end.
        high: The upper end.
        method: `wilson` or `bootstrap`.
        n: How many images the figure rests on.
    """

    low: float
    high: float
    method: Literal["wilson", "bootstrap"]
    n: int


@frozen
class Resampling:
    """What was drawn again for the bootstrap's intervals.

    Attributes:
        unit: What is drawn, as a whole: an `image` or a `patient` with all images of theirs.
        units: How many there are.
        resamples: How often as many were drawn, with replacement.
        seed: Of the draws.
    """

    unit: Literal["image", "patient"]
    units: int
    resamples: int = RESAMPLES
    seed: int = SEED


def unit_numbers(images: int, patients: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return each image's unit: its patient where that is known, else the image itself.

    >>> unit_numbers(4, ["ann", "", "ann", "bob"]).tolist()
    [0, 1, 0, 2]
    """
    numbers: dict[Any, int] = {}
    keys = [patient or index for index, patient in enumerate(patients)] or range(images)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)


def resampling_of(units: npt.NDArray[np.intp], by_patient: bool, classes: int) -> Resampling:
    """Return what to draw: 2,000 resamples, down to 200 where images × classes are very many."""
    resamples = max(_LEAST, min(RESAMPLES, _MOST // (len(units) * classes)))
    return Resampling("patient" if by_patient else "image", int(units.max()) + 1, resamples)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of `n` (Wilson 1927); `n` may be a fraction.

    >>> [round(end, 3) for end in wilson(28 / 31, 31)]
    [0.751, 0.967]
    """
    centre = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def share_interval(
    hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], units: npt.NDArray[np.intp]
) -> Interval | None:
    """Return the interval of the share of hits among some images; None if there are none of these.

    Args:
        hits: Whether an image counts as a hit, `(images,)`.
        among: Whether it is one of those that the share is of, `(images,)`.
        units: Each image's unit.
    """
    n = int(among.sum())
    if n == 0:
        return None
    hits_of = np.bincount(units, hits & among).astype(np.float64)
    of = np.bincount(units, among).astype(np.float64)
    share = float(hits_of.sum() / n)
    low, high = wilson(share, _effective(share, hits_of, of, n))
    return Interval(round(low, _DIGITS), round(high, _DIGITS), "wilson", n)


def _effective(share: float, hits: Floats, of: Floats, n: int) -> float:
    """Return how many independent images would be worth as much (Korn and Graubard 1998).

    It is the number whose binomial variance is the variance between units, which is linearised;
    without any such variance nothing but the number of units is known.
    """
    units = int(np.count_nonzero(of))
    if units == n:
        return n
    if share in {0.0, 1.0} or units < 2:
        return units
    variance = units / (units - 1) * float(((hits - share * of) ** 2).sum()) / n**2
    return n if variance == 0 else min(n, share * (1 - share) / variance)


def draws(units: npt.NDArray[np.intp], resampling: Resampling) -> Iterator[Floats]:
    """Return how often each image is in each resample, `(some resamples, images)` at a time."""
    random = np.random.default_rng(resampling.seed)
    rows = max(1, _CELLS // len(units))
    for start in range(0, resampling.resamples, rows):
        count = min(rows, resampling.resamples - start)
        drawn = random.integers(0, resampling.units, (count, resampling.units))
        cells = drawn + resampling.units * np.arange(count)[:, None]
        times = np.bincount(cells.ravel(), minlength=count * resampling.units)
        yield times.reshape(count, resampling.units)[:, units].astype(np.float64)


def bootstrap_interval(value: float, resampled: Floats, n: int) -> Interval | None:
    """Return the bias-corrected percentile interval (Efron 1981).

    Args:
        value: The figure of all images.
        resampled: That of each resample; NaN where it is not defined.
        n: How many images the figure rests on.

    Returns:
        None where resampling tells nothing: the figure is not defined, or not in one resample of
        ten, or the same in all of them, as after a perfect result.
    """
    defined = resampled[~np.isnan(resampled)]
    if math.isnan(value) or len(defined) < 0.9 * len(resampled):
        return None
    if np.ptp(defined) < 1e-9:
        return None
    equal = np.abs(defined - value) < 1e-9
    below = float(np.mean((defined < value) & ~equal) + equal.mean() / 2)
    bias = ndtri(min(max(below, 1 / len(defined)), 1 - 1 / len(defined)))
    low, high = np.quantile(defined, ndtr([2 * bias - Z, 2 * bias + Z]))
    return Interval(round(float(low), _DIGITS), round(float(high), _DIGITS), "bootstrap", n)
