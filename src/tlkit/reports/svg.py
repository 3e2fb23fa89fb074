"""The chart kit: axes, lines, dots and intervals as SVG, for pages and for files of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen
from markupsafe import Markup, escape

from tlkit.metrics.intervals import Interval
from tlkit.system.text import printable

WIDTH = 360  # units of a chart's width, unless it is wider
LEFT, RIGHT, BOTTOM = 46, 12, 34  # margins for tick labels and axis titles
COLORS = 8  # of lines; further lines are dashed
STYLE = Path(__file__).parent / "templates" / "chart.css"


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element; text is made printable and escaped, markup is kept as it is.

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
    content = Markup().join(
        child if isinstance(child, Markup) else escape(printable(child)) for child in children
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, content)  # noqa: S704


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else printable(value)


def number(value: float) -> str:
    """Return a coordinate with at most two decimals.

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
        start: The coordinate of `low`.
        end: The coordinate of `high`.
        log: Whether the axis is logarithmic.
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
        fraction = (at - low) / (high - low) if high > low else 0.5
        return self.start + fraction * (self.end - self.start)

    def clipped(self, value: float) -> float:
        """Return the coordinate of a value, or of the nearer end if it is off the axis."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, most: int = 5, whole: bool = False) -> list[float]:
        """Return round values on the axis."""
        if self.log:
            return self._log_ticks(most)
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        power = math.floor(math.log10(span / most))
        steps = [digit * 10.0**p for p in (power - 1, power) for digit in (1, 2, 2.5, 5)]
        steps = [step for step in [*steps, 10.0 ** (power + 1)] if not whole or step % 1 == 0]
        large_enough = [step for step in steps if span / step <= most * (1 + 1e-9)] or [1.0]
        ticks = self._multiples(large_enough[0])
        smaller = [step for step in steps if step < large_enough[0]]
        return ticks if len(ticks) > 1 or not smaller else self._multiples(smaller[-1])

    def _multiples(self, step: float) -> list[float]:
        margin = 1e-9 * (self.high - self.low)
        first = math.ceil((self.low - margin) / step)
        last = math.floor((self.high + margin) / step)
        return [float(f"{count * step:.12g}") for count in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        inside: list[float] = []
        for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
            ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) >= 2:
                return inside[:: -(-len(inside) // most)]
        return inside or [self.low]


@frozen(kw_only=True)
class Frame:
    """The two axes of a chart.

    Attributes:
        x: The horizontal axis.
        y: The vertical axis.
    """

    x: Scale
    y: Scale

    @classmethod
    def of(
        cls,
        x: tuple[float, float],
        y: tuple[float, float],
        height: float,
        *,
        width: float = WIDTH,
        top: float = 30,
        left: float = LEFT,
        log_x: bool = False,
        log_y: bool = False,
    ) -> Frame:
        """Return the frame of a chart whose axes have these first and last values."""
        return cls(
            x=Scale(*x, left, width - RIGHT, log_x), y=Scale(*y, height - BOTTOM, top, log_y)
        )

    def axes(
        self,
        x_title: str,
        x_ticks: Iterable[tuple[float, str]],
        y_ticks: Iterable[tuple[float, str]],
        y_title: str = "",
    ) -> Markup:
        """Return both axes with a line for each tick; the vertical axis's title is above it."""
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
        """Return a line through points, in the color of its series."""
        at = [(number(self.x(x)), number(self.y(y))) for x, y in points]
        path = "".join(f"H{x}V{y}" if step else f"L{x} {y}" for x, y in at[1:])
        d = f"M{at[0][0]} {at[0][1]}{path}"
        return tag("path", class_=f"line c{series % COLORS} d{series // COLORS}", d=d)

    def dots(
        self, points: Sequence[tuple[float, float]], series: int, radius: float = 2.4
    ) -> Markup:
        """Return a dot for each point."""
        return Markup().join(
            tag("circle", class_=f"dot c{series % COLORS}", cx=self.x(x), cy=self.y(y), r=radius)
            for x, y in points
        )

    def vertical(self, at: float, class_: str) -> Markup:
        """Return a vertical line over the whole height."""
        d = f"M{number(self.x(at))} {number(self.y.start)}V{number(self.y.end)}"
        return tag("path", class_=class_, d=d)


def chart(
    name: str,
    title: str,
    description: str,
    height: float,
    *content: Markup,
    width: float = WIDTH,
) -> Markup:
    """Return a whole picture, described in words for readers who cannot see it."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-text"),
        *content,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-text",
    )


def standalone(picture: Markup) -> str:
    """Return a chart as an SVG file: with its namespace and the style sheet of all charts."""
    start, _, content = str(picture).partition(">")
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    style = STYLE.read_text(encoding="utf-8")
    return f"{start} {namespace}><style>\n{style}</style>{content}"


def horizontal_interval(
    x: Scale, y: float, ends: Interval | tuple[float, float] | None, cap: float = 4
) -> Markup:
    """Return an interval as a horizontal bar with end caps; nothing without an interval."""
    if ends is None:
        return Markup()
    pair = ends if isinstance(ends, tuple) else (ends.low, ends.high)
    low, high = (number(x.clipped(end)) for end in pair)
    top, caps, middle = number(y - cap), f"v{number(2 * cap)}", number(y)
    d = f"M{low} {middle}H{high}M{low} {top}{caps}M{high} {top}{caps}"
    return tag("path", class_="whisker c0", d=d)


def interval_plot(
    value: float | None,
    ends: Interval | tuple[float, float] | None,
    scale: tuple[float, float] = (0.0, 1.0),
    hollow: bool = False,
) -> Markup:
    """Return a number as a dot on its interval, for a row of a table."""
    x = Scale(*scale, 6, 154)
    quarters = [scale[0] + (scale[1] - scale[0]) * k / 4 for k in range(5)]
    parts = [tag("path", class_="grid", d=f"M{number(x(at))} 0V20") for at in quarters]
    parts.append(horizontal_interval(x, 10, ends))
    if value is not None:
        dot = "ring c0" if hollow else "dot c0"
        parts.append(tag("circle", class_=dot, cx=x.clipped(value), cy=10, r=3.6))
    return tag("svg", *parts, viewBox="0 0 160 20", class_="bar", aria_hidden="true")
