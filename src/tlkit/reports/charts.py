"""The report's charts of how training went: losses, accuracies and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve, roc_curve

from tlkit.metrics.weighted import BINS, confidence_bins
from tlkit.reports.svg import WIDTH, Frame, chart, number, tag
from tlkit.train.callback import Epoch

SHOWN = 8  # curves in one chart; beyond it nobody can tell them apart
SQUARE = 326  # the height of a chart whose axes are of equal length
Line = tuple[str, Sequence[tuple[float, float]]]


@frozen
class Chart:
    """A picture with what stands above it.

    Attributes:
        title: What it shows.
        lines: What its lines are, in the order of their colours.
        picture: The picture.
    """

    title: str
    lines: tuple[str, ...]
    picture: Markup


def roc_chart(
    classes: Sequence[str],
    labels: npt.NDArray[np.intp],
    probabilities: npt.NDArray[np.float64],
    areas: Mapping[str, float | None],
) -> Chart:
    """Return the ROC curve of each class against the rest; the worst eight of more.

    Args:
        classes: Class names in the order of the columns.
        labels: The true class numbers, `(images,)`.
        probabilities: `(images, classes)`.
        areas: The area under each class's curve.
    """
    lines: list[Line] = []
    for k in _worst(classes, areas):
        false, true, _ = roc_curve(labels == k, probabilities[:, k])
        lines.append((classes[k], list(zip(100 * false, 100 * true, strict=True))))
    axes = ("others called so (1 − specificity), %", "recall, %")
    return _curves("roc", "ROC curve", axes, lines, areas)


def precision_recall_chart(
    classes: Sequence[str],
    labels: npt.NDArray[np.intp],
    probabilities: npt.NDArray[np.float64],
    areas: Mapping[str, float | None],
) -> Chart:
    """Return the precision-recall curve of each class; the worst eight of more.

    Args are those of `roc_chart`; areas are average precisions.
    """
    lines: list[Line] = []
    for k in _worst(classes, areas):
        precision, recall, _ = precision_recall_curve(labels == k, probabilities[:, k])
        all_found = int((recall == 1).sum()) - 1  # beyond it precision only falls
        shown = slice(all_found, -1)  # the last one stands for no image
        points = zip(100 * recall[shown], 100 * precision[shown], strict=True)
        lines.append((classes[k], list(points)))
    return _curves("pr", "Precision-recall curve", ("recall, %", "precision, %"), lines, areas)


def _worst(classes: Sequence[str], areas: Mapping[str, float | None]) -> list[int]:
    """Return the classes with the least area, at most as many as are shown, in their order."""
    able = [k for k, name in enumerate(classes) if areas[name] is not None]
    return sorted(sorted(able, key=lambda k: areas[classes[k]] or 0.0)[:SHOWN])


def _curves(
    name: str,
    title: str,
    axes: tuple[str, str],
    lines: Sequence[Line],
    areas: Mapping[str, float | None],
) -> Chart:
    frame, parts = _square(*axes)
    chance = name == "roc"
    parts += [_diagonal(frame)] if chance else []
    parts += [
        frame.line(_thinned(points), series, step=not chance)
        for series, (_, points) in enumerate(lines)
    ]
    named = tuple(f"{line} {_figure(areas[line])}" for line, _ in lines)
    picture = chart(f"chart-{name}", title, ", ".join(named), SQUARE, *parts)
    return Chart(title, named, picture)


def _square(x_title: str, y_title: str) -> tuple[Frame, list[Markup]]:
    """Return a frame of percentages on both axes, and its drawing."""
    frame = Frame.of((0, 100), (0, 100), height=SQUARE, top=26)
    ticks = [(at, f"{at:g}") for at in frame.y.ticks()]
    return frame, [frame.axes(x_title, ticks, ticks, y_title)]


def _diagonal(frame: Frame) -> Markup:
    x, y = frame.x, frame.y
    d = f"M{number(x.start)} {number(y.start)}L{number(x.end)} {number(y.end)}"
    return tag("path", class_="stage", d=d)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve with at most some 400 points, enough for its size."""
    step = -(-len(points) // 400)
    return [*points[:-1:step], points[-1]]


def reliability_chart(
    labels: npt.NDArray[np.intp], probabilities: npt.NDArray[np.float64], error: float | None
) -> Chart:
    """Return how often the model is right for how sure it is, with how many images that is of.

    Args:
        labels: The true class numbers, `(images,)`.
        probabilities: `(images, classes)`.
        error: The calibration error.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = confidence_bins(sure)
    counts = np.bincount(bins, minlength=BINS)
    frame, parts = _square("how sure it is: highest probability, %", "right answers, %")
    bars, points, told = [], [], []
    for k in np.flatnonzero(counts):
        inside = bins == k
        at, share = 100 * float(sure[inside].mean()), 100 * float(right[inside].mean())
        bars.append(_bar(frame, int(k), counts[k] / counts.sum()))
        points.append((at, share))
        told.append(f"{counts[k]} images at {at:.0f} %: {share:.0f} % right")
    parts += [*bars, _diagonal(frame), frame.line(points, 0), frame.dots(points, 0, 3.5)]
    description = f"calibration error {_figure(error)}; " + "; ".join(told)
    title = "Reliability"
    named = (f"calibration error {_figure(error)}",)
    return Chart(title, named, chart("chart-reliability", title, description, SQUARE, *parts))


def _bar(frame: Frame, k: int, share: float) -> Markup:
    """Return a bar that tells how many images a bin has."""
    left, right = frame.x(100 * k / BINS), frame.x(100 * (k + 1) / BINS)
    height = share * (frame.y.start - frame.y.end)
    return tag(
        "rect",
        class_="count",
        x=left + 2,
        y=frame.y.start - height,
        width=right - left - 4,
        height=height,
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def learning_charts(history: Sequence[Epoch], best: int, kept: int) -> list[Chart]:
    """Return losses, accuracies and learning rate over the epochs.

    Args:
        history: The epochs, at least one.
        best: The number of the best one.
        kept: The number of the one whose weights were kept.
    """
    losses: list[Line] = [
        ("train", [(e.epoch, e.loss_unweighted) for e in history]),
        ("val", [(e.epoch, e.val_loss) for e in history]),
    ]
    if any(e.loss != e.loss_unweighted for e in history):
        losses.append(("train, weighted", [(e.epoch, e.loss) for e in history]))
    accuracies: list[Line] = [
        ("train", [(e.epoch, 100 * e.accuracy) for e in history]),
        ("val", [(e.epoch, 100 * e.val_accuracy) for e in history]),
    ]
    rates: list[Line] = [("of a layer with rate 1", [(e.epoch, e.learning_rate) for e in history])]
    return [
        _over_epochs("loss", "Loss", losses, history, best, kept),
        _over_epochs("accuracy", "Accuracy, %", accuracies, history, best, kept),
        _over_epochs("rate", "Learning rate", rates, history, best, kept, log=True),
    ]


def _over_epochs(
    name: str,
    title: str,
    lines: Sequence[Line],
    history: Sequence[Epoch],
    best: int,
    kept: int,
    log: bool = False,
) -> Chart:
    values = [y for _, points in lines for _, y in points]
    low, high = _bounds(values, log)
    first, last = history[0].epoch, history[-1].epoch
    x = (first - 0.5, last + 0.5)
    frame = Frame.of(x, (low, high), top=34, height=236, log_y=log)
    parts = [
        frame.axes(
            "epoch",
            [(at, f"{at:g}") for at in frame.x.ticks(7, whole=True)],
            [(at, f"{at:.4g}".replace("e-0", "e-")) for at in frame.y.ticks()],
        ),
        _stages(frame, history),
        _marks(frame, best, kept),
        *(frame.line(points, series, step=log) for series, (_, points) in enumerate(lines)),
    ]
    if len(history) <= 30:
        parts += [frame.dots(points, series) for series, (_, points) in enumerate(lines)]
    told = [
        f"{line}: {points[0][1]:.4g} in epoch {first}, {points[-1][1]:.4g} in epoch {last}"
        for line, points in lines
    ]
    picture = chart(f"chart-{name}", title, "; ".join(told), 236, *parts)
    return Chart(title, tuple(line for line, _ in lines), picture)


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        low, high = max(low, 1e-12), max(high, 1e-12)
        return low / 1.5, high * 1.5
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return max(0.0, low - margin), high + margin


def _stages(frame: Frame, history: Sequence[Epoch]) -> Markup:
    """Return a line where each stage begins, if there are several."""
    begun = {epoch.stage: epoch.epoch for epoch in reversed(history)}
    found = []
    for stage, epoch in sorted(begun.items()) if len(begun) > 1 else ():
        at = frame.x(epoch - 0.5)
        up = f"M{number(at)} {number(frame.y.start)}V{number(frame.y.end - 6)}"
        found.append(tag("path", class_="stage", d=up))
        found.append(tag("text", f"stage {stage}", class_="tick", x=at + 4, y=frame.y.end + 4))
    return Markup().join(found)


def _marks(frame: Frame, best: int, kept: int) -> Markup:
    """Return which epoch was the best one and which was kept."""
    named = {best: "best", kept: "kept"} if best != kept else {kept: "best and kept"}
    found = []
    for row, (epoch, label) in enumerate(named.items()):
        at, top = frame.x(epoch), frame.y.end - 6 - 12 * row
        down = f"M{number(at)} {number(top)}V{number(frame.y.start)}"
        anchor = "end" if at > WIDTH * 0.75 else "start" if at < WIDTH * 0.3 else "middle"
        found.append(tag("path", class_=f"mark {label.split()[-1]}", d=down))
        found.append(tag("text", label, class_="tick strong", x=at, y=top - 4, text_anchor=anchor))
    return Markup().join(found)
