"""A figure with its interval, drawn as a bar to stand beside its number."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from tlkit.results.intervals import Interval
from tlkit.results.svg import Scale, number, tag


def interval_bar(
    value: float | None,
    ends: Interval | tuple[float, float] | None,
    scale: tuple[float, float] = (0.0, 1.0),
    hollow: bool = False,
) -> Markup:
    """Return a figure's dot with its interval as a bar, for a row of a table.

    Args:
        value: The figure.
        ends: Its interval.
        scale: What the left and the right edge stand for.
        hollow: Draw a ring for a dot: the figure is somebody else's.
    """
    x = Scale(*scale, 6, 154)
    parts = [
        tag("path", class_="grid", d=f"M{number(x(at))} 0V20")
        for at in np.linspace(*scale, 5).tolist()
    ]
    if isinstance(ends, Interval):
        ends = (ends.low, ends.high)
    if ends is not None:
        low, high = (number(x(min(max(end, scale[0]), scale[1]))) for end in ends)
        parts.append(tag("path", class_="whisker c0", d=f"M{low} 10H{high}M{low} 6v8M{high} 6v8"))
    if value is not None:
        at = x(min(max(value, scale[0]), scale[1]))
        dot = "ring c0" if hollow else "dot c0"
        parts.append(tag("circle", class_=dot, cx=at, cy=10, r=3.6))
    return tag("svg", *parts, viewBox="0 0 160 20", class_="bar", aria_hidden="true")
