"""Confidence intervals at 95 %: Wilson's for shares, and how a figure with one is written."""

from __future__ import annotations

import math
from typing import Literal

from attrs import frozen

Z = 1.959963984540054  # two-sided, 95 %
FEW = 50  # with fewer images, the interval of a 90 % share is wider than ± 8 points
DIGITS = 6  # further digits are sampling noise and may depend on the processor


@frozen
class Interval:
    """A 95 % confidence interval.

    Attributes:
        low: The lower end.
        high: The upper end.
        method: `wilson` or `bootstrap`.
        n: Number of images behind the figure.
    """

    low: float
    high: float
    method: Literal["wilson", "bootstrap"]
    n: int


@frozen
class Resampling:
    """How the bootstrap resamples.

    Attributes:
        unit: What is drawn: single images, or patients with all their images.
        units: Number of units.
        resamples: Number of resamples, each as large as the original and drawn with replacement.
        seed: Seed of the draws.
    """

    unit: Literal["image", "patient"]
    units: int
    resamples: int = 2000
    seed: int = 0


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of `n` (Wilson 1927); `n` may be fractional.

    >>> [round(end, 3) for end in wilson(28 / 31, 31)]
    [0.751, 0.967]
    """
    center = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def format_value(
    value: float | None,
    percent: bool = True,
    missing: str = "undefined",
    digits: int | None = None,
) -> str:
    """Return a figure as text: a percentage with one decimal, or a number with three.

    >>> format_value(0.7792), format_value(0.4, percent=False), format_value(None)
    ('77.9 %', '0.400', 'undefined')
    """
    if value is None:
        return missing
    digits = _digits(percent, digits)
    return f"{100 * value:.{digits}f} %" if percent else f"{value:.{digits}f}"


def format_interval(
    interval: Interval | tuple[float, float] | None,
    percent: bool = True,
    dash: str = "–",
    digits: int | None = None,
) -> str:
    """Return the ends of an interval as text; empty if there is none.

    >>> format_interval((0.721, 0.828)), format_interval((0.3, 0.5), percent=False)
    ('72.1–82.8', '0.300–0.500')
    """
    if interval is None:
        return ""
    low, high = (interval.low, interval.high) if isinstance(interval, Interval) else interval
    scale, digits = 100 if percent else 1, _digits(percent, digits)
    return f"{scale * low:.{digits}f}{dash}{scale * high:.{digits}f}"


def format_share(
    value: float | None,
    interval: Interval | tuple[float, float] | None = None,
    percent: bool = True,
    missing: str = "undefined",
    digits: int | None = None,
) -> str:
    """Return a figure followed by its interval, if it has one.

    >>> format_share(0.779, (0.721, 0.828)), format_share(0.779)
    ('77.9 % (72.1–82.8)', '77.9 %')
    """
    text = format_value(value, percent, missing, digits)
    if value is None or interval is None:
        return text
    return f"{text} ({format_interval(interval, percent, digits=digits)})"


def _digits(percent: bool, digits: int | None) -> int:
    return (1 if percent else 3) if digits is None else digits
