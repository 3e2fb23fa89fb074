"""A figure with its interval, drawn as a bar to stand beside its number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from attrs import frozen
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from tlkit.metrics.intervals import Interval
from tlkit.system.text import printable

WIDTH = 360


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element; text is made printable and escaped, markup goes in as it is.

    >>> print(tag("text", "a < b", x=1.0, class_="tick", text_anchor="end"))
    <text x="1" class="tick" text-anchor="end">a &lt; b</text>
    """
    shown = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup("<{}{}/>").format(Markup(name), shown)  # noqa: S704  # names are ours
    content = Markup().join(one if isinstance(one, Markup) else _text(one) for one in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, content)  # noqa: S704


def _text(text: str) -> Markup:
    return escape(printable(text))


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else printable(value)


def number(value: float) -> str:
    """Return a coordinate: at most two decimals.

    >>> number(1 / 3), number(2.0), number(-0.001)
    ('0.33', '2', '0')
    """
    return f"{round(value, 2) + 0.0:g}"


@frozen
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: A coordinate.
        end: Another.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return a value's coordinate."""
        low, high, at = (
            (math.log10(x) for x in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5, whole: bool = False) -> list[float]:
        """Return round values on the axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
                found = [float(f"{k}e{power}") for power in powers for k in digits]
                inside = [value for value in found if self.low <= value <= self.high]
                if len(inside) >= 2:
                    return inside[:: -(-len(inside) // most)]
            return inside or [self.low]
        locator = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole)
        margin = 1e-9 * (self.high - self.low)
        values = locator.tick_values(self.low, self.high)
        return [float(v) for v in values if self.low - margin <= v <= self.high + margin]


@frozen(kw_only=True)
class Frame:
    """The axes of a chart.

    Attributes:
        x: The horizontal axis.
        y: The vertical axis.
        height: The chart's height.
    """

    x: Scale
    y: Scale
    height: float

    @classmethod
    def of(
        cls,
        x: tuple[float, float],
        y: tuple[float, float],
        height: float = 230,
        top: float = 30,
        log_y: bool = False,
    ) -> Frame:
        """Return the frame for values between two on each axis."""
        across = Scale(*x, 46, WIDTH - 12)
        return cls(x=across, y=Scale(*y, height - 34, top, log_y), height=height)

    def axes(
        self,
        x_title: str,
        x_ticks: Iterable[tuple[float, str]],
        y_ticks: Iterable[tuple[float, str]],
        y_title: str = "",
    ) -> Markup:
        """Return the grid with its values; the vertical axis's title lies above it."""
        x, y = self.x, self.y
        rows = [
            tag("path", class_="grid", d=f"M{number(x.start)} {number(y(at))}H{number(x.end)}")
            + tag("text", label, class_="tick", x=x.start - 6, y=y(at) + 4, text_anchor="end")
            for at, label in y_ticks
        ]
        columns = [
            tag("path", class_="stroke", d=f"M{number(x(at))} {number(y.start)}v4")
            + tag("text", label, class_="tick", x=x(at), y=y.start + 16, text_anchor="middle")
            for at, label in x_ticks
        ]
        middle = (x.start + x.end) / 2
        title = tag("text", x_title, class_="tick", x=middle, y=y.start + 31, text_anchor="middle")
        base = f"M{number(x.start)} {number(y.start)}H{number(x.end)}"
        above = [tag("text", y_title, class_="tick", x=2, y=y.end - 13)] if y_title else []
        base_line = tag("path", class_="stroke", d=base)
        return Markup().join([*above, *rows, base_line, *columns, title])

    def line(
        self, points: Sequence[tuple[float, float]], series: int, step: bool = False
    ) -> Markup:
        """Return a line through points."""
        at = [(number(self.x(x)), number(self.y(y))) for x, y in points]
        if step:
            path = "".join(f"H{x}V{y}" for x, y in at[1:])
        else:
            path = "".join(f"L{x} {y}" for x, y in at[1:])
        d = f"M{at[0][0]} {at[0][1]}{path}"
        return tag("path", class_=f"line c{series % 8} d{series // 8}", d=d)

    def dots(
        self, points: Sequence[tuple[float, float]], series: int, radius: float = 2.4
    ) -> Markup:
        """Return a dot at each point."""
        return Markup().join(
            tag("circle", class_=f"dot c{series % 8}", cx=self.x(x), cy=self.y(y), r=radius)
            for x, y in points
        )


def chart(name: str, title: str, description: str, height: float, *content: Markup) -> Markup:
    """Return a whole picture that says in words what it shows.

    Args:
        name: Unique on its page.
        title: What it is.
        description: What is to be seen.
        height: Its height, in units of a 360th of its width.
        content: What is drawn.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-text"),
        *content,
        viewBox=f"0 0 {WIDTH} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-text",
    )


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
