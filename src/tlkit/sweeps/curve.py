"""A picture of a sweep over one number, such as a learning curve: accuracy over its values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tlkit.escapes import printable
from tlkit.sweeps.drawing import dots_of, lowest, svg
from tlkit.sweeps.summary import VariantSummary

WIDTH, HEIGHT = 720, 360  # pixels of the drawing, which scales
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 12, 44
LOG_FROM = 10  # values that span this factor are spread by their logarithm

Point = tuple[float, VariantSummary]


def curve_svg(summaries: Sequence[VariantSummary], swept: Sequence[str]) -> str:
    """Return the picture as SVG; nothing unless one key is swept and its values are numbers."""
    points = _points(summaries, swept)
    if len(points) < 2:
        return ""
    first = lowest([summary for _, summary in points])
    values = [value for value, _ in points]
    logarithmic = min(values) > 0 and max(values) / min(values) >= LOG_FROM
    places = [math.log(value) if logarithmic else value for value in values]
    span = places[-1] - places[0]
    x = [LEFT + (WIDTH - LEFT - RIGHT) * (place - places[0]) / span for place in places]
    content = (*_axes(first, values, x, swept[0]), *_marks(points, x, first))
    return svg(WIDTH, HEIGHT, f"Accuracy over {swept[0]}, in percent", content)


def _points(summaries: Sequence[VariantSummary], swept: Sequence[str]) -> list[Point]:
    """Return the values of the one key that is swept, rising, with what came of them."""
    if len(swept) != 1 or len({s.variant.file for s in summaries if s.variant}) != 1:
        return []
    found: list[Point] = []
    for summary in summaries:
        value = summary.variant.settings.get(swept[0]) if summary.variant else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return []
        if "accuracy" in summary.figures:
            found.append((float(value), summary))
    rising = sorted(found, key=lambda point: point[0])
    return rising if len({value for value, _ in rising}) == len(rising) else []


def _y(share: float, first: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - share) / ((1 - first) or 1), 1)


def _axes(first: float, values: Sequence[float], x: Sequence[float], key: str) -> Iterator[str]:
    for tenth in range(round(first * 10), 11):
        y = _y(tenth / 10, first)
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        place = f'x="{LEFT - 8}" y="{y + 4}" text-anchor="end"'
        yield f'<text class="tick" {place}>{tenth * 10}</text>'
    for value, at in zip(values, x, strict=True):
        place = f'x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        yield f'<text class="tick" {place}>{value:g}</text>'
    place = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    yield f"<text {place}>{escape(printable(key))}</text>"


def _marks(points: Sequence[Point], x: Sequence[float], first: float) -> Iterator[str]:
    line = []
    for (_, summary), at in zip(points, x, strict=True):
        accuracy = summary.figures["accuracy"]
        if accuracy.low is not None and accuracy.high is not None:
            ends = f'y1="{_y(accuracy.low, first)}" y2="{_y(accuracy.high, first)}"'
            yield f'<line class="bar" x1="{at:.1f}" x2="{at:.1f}" {ends}/>'
        for value in dots_of(summary):
            yield f'<circle class="run" cx="{at:.1f}" cy="{_y(value, first)}" r="3.5"/>'
        if accuracy.mean is not None:
            line.append(f"{at:.1f},{_y(accuracy.mean, first)}")
    yield f'<polyline class="path" points="{" ".join(line)}"/>'
