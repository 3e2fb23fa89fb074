"""Intervals from labeled images: Wilson's for shares, the bootstrap's for all other figures.

Images of one patient resemble each other and are not independent evidence. Where patients are
known, the bootstrap draws patients, and a share's interval uses the effective number of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from tlkit.data.leakage import same_patient
from tlkit.metrics.intervals import DIGITS, Interval, Resampling, Z, wilson

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.intp]

RESAMPLES, LEAST_RESAMPLES = 2000, 200
# With 1,000 classes and 50,000 images, 2,000 resamples would take a quarter of an hour.
MOST_CELLS = 4_000_000_000
CHUNK_CELLS = 1 << 19  # weights held at a time: 4 MB, which a processor keeps at hand


def unit_numbers(images: int, patients: Sequence[str]) -> Units:
    """Return each image's unit: its patient if known, else the image itself.

    >>> unit_numbers(4, ["p7", "", "P007", "p8"]).tolist()
    [0, 1, 0, 2]
    """
    numbers: dict[Any, int] = {}
    keys = [same_patient(name) or index for index, name in enumerate(patients)] or range(images)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)


def resampling_of(units: Units, by_patient: bool, classes: int) -> Resampling:
    """Return how to resample: 2,000 times, or down to 200 if images × classes is very large."""
    resamples = max(LEAST_RESAMPLES, min(RESAMPLES, MOST_CELLS // (len(units) * classes)))
    return Resampling("patient" if by_patient else "image", int(units.max()) + 1, resamples)


def draws(units: Units, resampling: Resampling) -> Iterator[Floats]:
    """Yield how often each image occurs per resample, `(some resamples, images)` at a time."""
    random = np.random.default_rng(resampling.seed)
    rows = max(1, CHUNK_CELLS // len(units))
    for start in range(0, resampling.resamples, rows):
        count = min(rows, resampling.resamples - start)
        drawn = random.integers(0, resampling.units, (count, resampling.units))
        cells = drawn + resampling.units * np.arange(count)[:, None]
        times = np.bincount(cells.ravel(), minlength=count * resampling.units)
        yield times.reshape(count, resampling.units)[:, units].astype(np.float64)


def share_interval(
    hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], units: Units
) -> Interval | None:
    """Return the interval of the share of hits among some images; None without such images.

    Args:
        hits: Whether each image is a hit, `(images,)`.
        among: Whether each image counts, `(images,)`.
        units: Each image's unit.
    """
    n = int(among.sum())
    if n == 0:
        return None
    unit_hits = np.bincount(units, hits & among).astype(np.float64)
    unit_sizes = np.bincount(units, among).astype(np.float64)
    share = float(unit_hits.sum() / n)
    low, high = wilson(share, _effective_size(share, unit_hits, unit_sizes, n))
    return Interval(round(low, DIGITS), round(high, DIGITS), "wilson", n)


def _effective_size(share: float, hits: Floats, sizes: Floats, n: int) -> float:
    """Return the effective sample size of clustered images (Korn and Graubard 1998).

    This is the size at which the binomial variance equals the linearized variance between units.
    If units do not vary, it is the number of units.
    """
    units = int(np.count_nonzero(sizes))
    if units == n:
        return n
    if share in {0.0, 1.0} or units < 2:
        return units
    variance = units / (units - 1) * float(((hits - share * sizes) ** 2).sum()) / n**2
    return n if variance == 0 else min(n, share * (1 - share) / variance)


def bootstrap_interval(value: float, resampled: Floats, n: int) -> Interval | None:
    """Return the bias-corrected percentile interval (Efron 1981)."""
    defined = resampled[~np.isnan(resampled)]
    if math.isnan(value) or len(defined) < 0.9 * len(resampled):
        return None
    if np.ptp(defined) < 1e-9:
        return None
    equal = np.abs(defined - value) < 1e-9
    below = float(np.mean((defined < value) & ~equal) + equal.mean() / 2)
    bias = ndtri(min(max(below, 1 / len(defined)), 1 - 1 / len(defined)))
    low, high = np.quantile(defined, ndtr([2 * bias - Z, 2 * bias + Z]))
    return Interval(round(float(low), DIGITS), round(float(high), DIGITS), "bootstrap", n)
