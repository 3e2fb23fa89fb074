"""A picture of a sweep: each variant's accuracy, a dot a seed or fold, with mean and interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tlkit.escapes import printable
from tlkit.sweeps.drawing import dots_of, lowest, svg
from tlkit.sweeps.summary import VariantSummary
from tlkit.sweeps.trials import brief

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
