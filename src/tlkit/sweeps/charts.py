"""A picture of a sweep: each variant's accuracy, a dot a seed or fold, with mean and interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from tlkit.sweeps.summary import VariantSummary
from tlkit.sweeps.trials import brief
from tlkit.system.text import printable

STYLE = """<style>
svg.sweep { font: 13px system-ui, sans-serif; --ink: #1d2329; --soft: #66707a; --line: #dde2e6;
  --mark: #3b6fb6; background: var(--back, #fff); }
@media (prefers-color-scheme: dark) { svg.sweep { --ink: #e4e8eb; --soft: #98a2ab; --line: #333b42;
  --mark: #7aa7e6; background: var(--back, #15191d); } }
svg.sweep text { fill: var(--ink); } svg.sweep .tick { fill: var(--soft); }
svg.sweep .axis { stroke: var(--line); } svg.sweep .run { fill: var(--mark); opacity: .45; }
svg.sweep .bar, svg.sweep .path { stroke: var(--mark); stroke-width: 2; fill: none; }
svg.sweep .mean { fill: var(--mark); }
</style>"""


def svg(width: int, height: int, title: str, content: Iterable[str]) -> str:
    """Return a whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sweep" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label={quoteattr(title)}>{STYLE}{"".join(content)}</svg>'
    )


def dots_of(summary: VariantSummary) -> list[float]:
    """Return what gets a dot: every fold's accuracy, or every seed's."""
    found = summary.fold_accuracy or summary.figures["accuracy"].values
    return [value for value in found if value is not None]


def lowest(summaries: Sequence[VariantSummary]) -> float:
    """Return where the axis of accuracy begins: the tenth below all that is shown."""
    lows = [s.figures["accuracy"].low for s in summaries]
    shown = [value for s in summaries for value in dots_of(s)]
    return max(0, int(10 * min([*shown, *(low for low in lows if low is not None)]))) / 10


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


WIDTH, ROW, TOP, LABEL, RIGHT = 900, 26, 8, 400, 16  # pixels of the drawing, which scales
MOST_ROWS, LONGEST = 80, 58


def dots_svg(summaries: Sequence[VariantSummary]) -> str:
    """Return the picture as SVG; nothing if there is nothing to show."""
    shown = [s for s in summaries if "accuracy" in s.figures][:MOST_ROWS]
    if not shown:
        return ""
    first = lowest(shown)
    height = TOP + ROW * len(shown) + 24
    rows = (line for number, s in enumerate(shown) for line in _row(number, s, first))
    title = "Accuracy of each variant, in percent"
    return svg(WIDTH, height, title, (*_axis(first, height), *rows))


def _x(value: float, first: float) -> float:
    return round(LABEL + (WIDTH - LABEL - RIGHT) * (value - first) / ((1 - first) or 1), 1)


def _axis(first: float, height: int) -> Iterator[str]:
    for tenth in range(round(first * 10), 11):
        x = _x(tenth / 10, first)
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - 20}"/>'
        place = f'x="{x}" y="{height - 4}" text-anchor="middle"'
        yield f'<text class="tick" {place}>{tenth * 10}</text>'


def _row(number: int, summary: VariantSummary, first: float) -> Iterator[str]:
    y = TOP + ROW * number + ROW // 2
    label = f"{number + 1}  {summary.label}"
    if len(label) > LONGEST and summary.variant:  # the values alone; the table has their keys
        label = f"{number + 1}  {', '.join(map(brief, summary.variant.settings.values()))}"
    if len(label) > LONGEST:
        label = label[: LONGEST - 1] + "…"
    yield f'<text x="0" y="{y + 4}">{escape(printable(label))}</text>'
    accuracy = summary.figures["accuracy"]
    if accuracy.low is not None and accuracy.high is not None:
        ends = f'x1="{_x(accuracy.low, first)}" x2="{_x(accuracy.high, first)}"'
        yield f'<line class="bar" {ends} y1="{y}" y2="{y}"/>'
    for value in dots_of(summary):
        yield f'<circle class="run" cx="{_x(value, first)}" cy="{y}" r="3.5"/>'
    if accuracy.mean is not None:
        x = _x(accuracy.mean, first)
        yield f'<rect class="mean" x="{x - 1.5}" y="{y - 8}" width="3" height="16"/>'
