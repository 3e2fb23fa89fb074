"""The picture of a sweep: accuracy over a number that was swept, or one row per variant."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tlkit.reports.svg import Frame, Scale, chart, horizontal_interval, number, tag
from tlkit.sweeps.summary import VariantSummary
from tlkit.sweeps.trials import brief

WIDTH = 720
CURVE_HEIGHT = 340
LOG_FROM = 10  # values that span this factor get a logarithmic axis
ROW_WIDTH, ROW_HEIGHT, AXIS_HEIGHT = 360, 36, 26  # as wide as a phone
MAX_ROWS, MAX_LABEL = 40, 58

Point = tuple[float, VariantSummary]


def sweep_chart(summaries: Sequence[VariantSummary], swept: Sequence[str]) -> Markup | None:
    """Return a curve if a single number was swept, otherwise one row per variant."""
    return curve_chart(summaries, swept) or rows_chart(summaries)


def curve_chart(summaries: Sequence[VariantSummary], swept: Sequence[str]) -> Markup | None:
    """Return the accuracy over the one key that was swept; None unless its values are numbers."""
    points = _points(summaries, swept)
    if len(points) < 2:
        return None
    values = [value for value, _ in points]
    log = min(values) > 0 and max(values) / min(values) >= LOG_FROM
    low = _axis_start([summary for _, summary in points])
    frame = Frame.of(
        (values[0], values[-1]), (low, 100), CURVE_HEIGHT, width=WIDTH, top=14, log_x=log
    )
    y_ticks = [(at, f"{at:g}") for at in _tens(low)]
    axes = frame.axes(swept[0], [(v, f"{v:g}") for v in values], y_ticks)
    marks, means = [], []
    for value, summary in points:
        accuracy = summary.figures["accuracy"]
        if accuracy.interval:
            bottom, top = (number(frame.y.clipped(100 * end)) for end in accuracy.interval)
            x, left = number(frame.x(value)), number(frame.x(value) - 4)
            d = f"M{x} {bottom}V{top}M{left} {bottom}h8M{left} {top}h8"
            marks.append(tag("path", class_="whisker c0", d=d))
        marks += [
            tag("circle", class_="single c0", cx=frame.x(value), cy=frame.y(100 * dot), r=3.5)
            for dot in _dots(summary)
        ]
        if accuracy.mean is not None:
            means.append((value, 100 * accuracy.mean))
    title = f"Accuracy over {swept[0]}, in percent"
    return _chart(title, [s for _, s in points], CURVE_HEIGHT, axes, *marks, frame.line(means, 0))


def _points(summaries: Sequence[VariantSummary], swept: Sequence[str]) -> list[Point]:
    """Return the ascending values of the one swept key with their results."""
    if len(swept) != 1 or len({s.variant.file for s in summaries if s.variant}) != 1:
        return []
    points: list[Point] = []
    for summary in summaries:
        value = summary.variant.settings.get(swept[0]) if summary.variant else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return []
        if "accuracy" in summary.figures:
            points.append((float(value), summary))
    ascending = sorted(points, key=lambda point: point[0])
    return ascending if len({value for value, _ in ascending}) == len(ascending) else []


def rows_chart(summaries: Sequence[VariantSummary]) -> Markup | None:
    """Return a row per variant: a dot per seed or fold, the mean and its interval.

    Of many variants, the best ones.
    """
    pairs = enumerate(summaries, start=1)
    numbered = [(n, summary) for n, summary in pairs if "accuracy" in summary.figures]
    if len(numbered) > MAX_ROWS:
        best = sorted(numbered, key=lambda pair: -(pair[1].figures["accuracy"].mean or 0))
        numbered = best[:MAX_ROWS]
    if not numbered:
        return None
    shown = [summary for _, summary in numbered]
    low = _axis_start(shown)
    height = ROW_HEIGHT * len(shown) + AXIS_HEIGHT
    labels = [_label(number, summary) for number, summary in numbered]
    x = Scale(low, 100, 8, ROW_WIDTH - 14)
    bottom = height - AXIS_HEIGHT + 4
    parts = [
        tag("path", class_="grid", d=f"M{number(x(at))} 2V{number(bottom)}")
        + tag("text", f"{at}", class_="tick", x=x(at), y=bottom + 14.0, text_anchor="middle")
        for at in _tens(low)
    ]
    for index, (label, summary) in enumerate(zip(labels, shown, strict=True)):
        y = ROW_HEIGHT * index + 25.0
        accuracy = summary.figures["accuracy"]
        ends = accuracy.interval and (100 * accuracy.interval[0], 100 * accuracy.interval[1])
        parts += [
            tag("text", label, x=2.0, y=y - 11),
            *(
                tag("circle", class_="single c0", cx=x(100 * dot), cy=y, r=3.5)
                for dot in _dots(summary)
            ),
            horizontal_interval(x, y, ends, cap=3),
        ]
        if accuracy.mean is not None:
            mean = f"M{number(x(100 * accuracy.mean))} {number(y - 7)}v14"
            parts.append(tag("path", class_="mean c0", d=mean))
    title = "Accuracy of each variant, in percent"
    return _chart(title, shown, height, *parts, width=ROW_WIDTH)


def _chart(
    title: str,
    summaries: Sequence[VariantSummary],
    height: float,
    *parts: Markup,
    width: float = WIDTH,
) -> Markup:
    accuracies = [(s.label, s.figures["accuracy"].mean) for s in summaries]
    known = [f"{label}: {100 * mean:.1f}" for label, mean in accuracies if mean is not None]
    return chart("chart-sweep", title, "; ".join(known), height, *parts, width=width)


def _dots(summary: VariantSummary) -> list[float]:
    """Return the accuracy of every fold, or of every seed."""
    values = summary.fold_accuracy or summary.figures["accuracy"].values
    return [value for value in values if value is not None]


def _axis_start(summaries: Sequence[VariantSummary]) -> int:
    """Return the multiple of ten percent below everything that is shown."""
    lows = [s.figures["accuracy"].low for s in summaries]
    shown = [value for s in summaries for value in _dots(s)]
    lowest = min([*shown, *(low for low in lows if low is not None)])
    return min(90, max(0, int(10 * lowest)) * 10)


def _tens(low: int) -> range:
    return range(low, 101, 10)


def _label(number: int, summary: VariantSummary) -> str:
    label = f"{number}  {summary.label}"
    if len(label) > MAX_LABEL and summary.variant:  # only the values; the table has their keys
        label = f"{number}  {', '.join(map(brief, summary.variant.settings.values()))}"
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
