"""The charts of runs and comparisons: training curves, ROC, precision-recall, reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen
from markupsafe import Markup

from tlkit.metrics.intervals import format_value
from tlkit.metrics.weighted import BINS, confidence_bins
from tlkit.reports.svg import WIDTH, Frame, chart, number, tag
from tlkit.train.callback import Epoch

MAX_LINES = 8  # more lines in one chart cannot be told apart
MAX_DOTTED = 60  # points of all lines together, up to which each gets a dot
SQUARE_HEIGHT = 326  # makes both axes equally long
POINTS = 400  # of a ROC or precision-recall curve, enough for its size
Line = tuple[str, Sequence[tuple[float, float]]]
Labels = npt.NDArray[np.intp]
Probabilities = npt.NDArray[np.float64]
Curve = npt.NDArray[np.float64]


@frozen
class Chart:
    """A picture with its heading.

    Attributes:
        title: What it shows.
        lines: The names of its lines, in the order of their colors.
        picture: The SVG element.
    """

    title: str
    lines: tuple[str, ...]
    picture: Markup


def roc_chart(
    classes: Sequence[str],
    labels: Labels,
    probabilities: Probabilities,
    areas: Mapping[str, float | None],
) -> Chart:
    """Return the ROC curve of each class against the rest; of many classes, the worst eight."""
    lines: list[Line] = []
    for k in _worst(classes, areas):
        false, true = roc_curve(labels == k, probabilities[:, k])
        lines.append((classes[k], list(zip(100 * false, 100 * true, strict=True))))
    axes = ("false positive rate (1 − specificity), %", "recall, %")
    return _class_curves("roc", "ROC curve", axes, lines, areas)


def precision_recall_chart(
    classes: Sequence[str],
    labels: Labels,
    probabilities: Probabilities,
    areas: Mapping[str, float | None],
) -> Chart:
    """Return the precision-recall curve of each class; of many classes, the worst eight.

    The arguments are those of `roc_chart`; the areas are average precisions.
    """
    lines: list[Line] = []
    for k in _worst(classes, areas):
        recall, precision = precision_recall_curve(labels == k, probabilities[:, k])
        points = zip(100 * recall, 100 * precision, strict=True)
        lines.append((classes[k], list(points)))
    axes = ("recall, %", "precision, %")
    return _class_curves("pr", "Precision-recall curve", axes, lines, areas)


def roc_curve(positive: npt.NDArray[np.bool_], score: Probabilities) -> tuple[Curve, Curve]:
    """Return the false and the true positive rate at each threshold, without points on a line.

    scikit-learn's function would need 0.9 s to be imported; a test holds the two equal.
    """
    false, true = _counts(positive, score)
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], bends, [True]])[: len(false)]
    false, true = (np.concatenate([np.zeros(1), counts[kept]]) for counts in (false, true))
    return false / false[-1], true / true[-1]


def precision_recall_curve(
    positive: npt.NDArray[np.bool_], score: Probabilities
) -> tuple[Curve, Curve]:
    """Return recall and precision at each threshold, from the highest with full recall on."""
    false, true = _counts(positive, score)
    end = int((true < true[-1]).sum()) + 1  # after it, precision only falls
    precision = true[:end] / (true + false)[:end]
    return (true[:end] / true[-1])[::-1], precision[::-1]


def _counts(positive: npt.NDArray[np.bool_], score: Probabilities) -> tuple[Curve, Curve]:
    """Return how many negatives and positives score at least each score, the highest first."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # image of each score
    true = np.cumsum(positive[order])[last]
    return (last + 1 - true).astype(np.float64), true.astype(np.float64)


def _worst(classes: Sequence[str], areas: Mapping[str, float | None]) -> list[int]:
    """Return the classes with the smallest areas, as many as can be shown, in their order."""
    known = [k for k, name in enumerate(classes) if areas[name] is not None]
    return sorted(sorted(known, key=lambda k: areas[classes[k]] or 0.0)[:MAX_LINES])


def _class_curves(
    name: str,
    title: str,
    axes: tuple[str, str],
    lines: Sequence[Line],
    areas: Mapping[str, float | None],
) -> Chart:
    frame, parts = _square(*axes)
    is_roc = name == "roc"
    parts += [_diagonal(frame)] if is_roc else []
    for series, (_, points) in enumerate(lines):
        every = -(-len(points) // POINTS)
        parts.append(frame.line([*points[:-1:every], points[-1]], series, step=not is_roc))
    names = tuple(f"{line} {format_value(areas[line], percent=False)}" for line, _ in lines)
    picture = chart(f"chart-{name}", title, ", ".join(names), SQUARE_HEIGHT, *parts)
    return Chart(title, names, picture)


def _square(x_title: str, y_title: str) -> tuple[Frame, list[Markup]]:
    """Return a frame with percentages on both axes, and its drawing."""
    frame = Frame.of((0, 100), (0, 100), SQUARE_HEIGHT, top=26)
    ticks = [(at, f"{at:g}") for at in frame.y.ticks()]
    return frame, [frame.axes(x_title, ticks, ticks, y_title)]


def _diagonal(frame: Frame) -> Markup:
    x, y = frame.x, frame.y
    d = f"M{number(x.start)} {number(y.start)}L{number(x.end)} {number(y.end)}"
    return tag("path", class_="stage", d=d)


def reliability_chart(labels: Labels, probabilities: Probabilities, error: float | None) -> Chart:
    """Return the share of correct predictions by confidence, with the number of images.

    Args:
        labels: The true class numbers, `(images,)`.
        probabilities: `(images, classes)`.
        error: The calibration error.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = confidence_bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    frame, parts = _square("confidence (highest probability), %", "correct, %")
    columns, points, descriptions = [], [], []
    for k in np.flatnonzero(counts):
        inside = bins == k
        at, share = 100 * float(confidence[inside].mean()), 100 * float(correct[inside].mean())
        columns.append(_column(frame, int(k), counts[k] / counts.sum()))
        points.append((at, share))
        descriptions.append(f"{counts[k]} images at {at:.0f} %: {share:.0f} % correct")
    parts += [*columns, _diagonal(frame), frame.line(points, 0), frame.dots(points, 0, 3.5)]
    name = f"calibration error {format_value(error, percent=False)}"
    description = "; ".join([name, *descriptions])
    picture = chart("chart-reliability", "Reliability", description, SQUARE_HEIGHT, *parts)
    return Chart("Reliability", (name,), picture)


def _column(frame: Frame, k: int, share: float) -> Markup:
    """Return a column as high as the share of images in a bin."""
    left, right = frame.x(100 * k / BINS), frame.x(100 * (k + 1) / BINS)
    height = share * (frame.y.start - frame.y.end)
    top = frame.y.start - height
    return tag("rect", class_="count", x=left + 2, y=top, width=right - left - 4, height=height)


def learning_charts(history: Sequence[Epoch], best: int, kept: int) -> list[Chart]:
    """Return the losses, the accuracies and the learning rate over the epochs."""
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
    rated = [(e.epoch, e.learning_rate) for e in history if e.l2 is None]
    solved = [(e.epoch, e.l2) for e in history if e.l2 is not None]
    starts = {epoch.stage: epoch.epoch for epoch in reversed(history)}
    marks = {best: "best", kept: "kept"} if best != kept else {kept: "best and kept"}
    return [
        epoch_chart("loss", "Loss", losses, starts, marks),
        epoch_chart("accuracy", "Accuracy, %", accuracies, starts, marks),
        *(
            epoch_chart(name, title, [(line, points)], starts, marks, log=True)
            for name, title, line, points in (
                ("rate", "Learning rate", "of a layer with multiplier 1", rated),
                ("l2", "L2 regularization", "of the scores", solved),
            )
            if points
        ),
    ]


def comparison_charts(histories: Mapping[str, Sequence[Epoch]]) -> list[Chart]:
    """Return the losses and the accuracy of several runs over their epochs, by the runs' marks."""
    values: dict[str, Callable[[Epoch], float]] = {
        "Training loss, unweighted": lambda epoch: epoch.loss_unweighted,
        "Validation loss": lambda epoch: epoch.val_loss,
        "Validation accuracy, %": lambda epoch: 100 * epoch.val_accuracy,
    }
    return [
        epoch_chart(
            title.partition(",")[0].lower().replace(" ", "-"),
            title,
            [
                (mark, [(epoch.epoch, value(epoch)) for epoch in history])
                for mark, history in [*histories.items()][:MAX_LINES]
            ],
        )
        for title, value in values.items()
    ]


def epoch_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    stage_starts: Mapping[int, int] | None = None,
    marks: Mapping[int, str] | None = None,
    log: bool = False,
) -> Chart:
    """Return lines over epochs."""
    values = [y for _, points in lines for _, y in points]
    epochs = [x for _, points in lines for x, _ in points]
    height = 236 if marks else 214
    x_range = (min(epochs) - 0.5, max(epochs) + 0.5)
    frame = Frame.of(x_range, _bounds(values, log), height, top=34 if marks else 12, log_y=log)
    parts = [
        frame.axes(
            "epoch",
            [(at, f"{at:g}") for at in frame.x.ticks(7, whole=True)],
            [(at, f"{at:.4g}".replace("e-0", "e-")) for at in frame.y.ticks()],
        ),
        _stage_lines(frame, stage_starts or {}),
        _epoch_marks(frame, marks or {}),
        *(frame.line(points, series, step=log) for series, (_, points) in enumerate(lines)),
    ]
    if len(values) <= MAX_DOTTED:
        parts += [frame.dots(points, series) for series, (_, points) in enumerate(lines)]
    descriptions = [
        f"{line}: {points[0][1]:.4g} in epoch {points[0][0]:g}, "
        f"{points[-1][1]:.4g} in epoch {points[-1][0]:g}"
        for line, points in lines
    ]
    picture = chart(f"chart-{name}", title, "; ".join(descriptions), height, *parts)
    return Chart(title, tuple(line for line, _ in lines), picture)


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        low, high = max(low, 1e-12), max(high, 1e-12)
        return low / 1.5, high * 1.5
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return max(0.0, low - margin), high + margin


def _stage_lines(frame: Frame, starts: Mapping[int, int]) -> Markup:
    """Return a line where each stage begins, if there are several."""
    parts = []
    for stage, epoch in sorted(starts.items()) if len(starts) > 1 else ():
        at = frame.x(epoch - 0.5)
        up = f"M{number(at)} {number(frame.y.start)}V{number(frame.y.end - 6)}"
        parts.append(tag("path", class_="stage", d=up))
        parts.append(tag("text", f"stage {stage}", class_="tick", x=at + 4, y=frame.y.end + 4))
    return Markup().join(parts)


def _epoch_marks(frame: Frame, marks: Mapping[int, str]) -> Markup:
    """Return a vertical line with a label for each marked epoch."""
    parts = []
    for row, (epoch, label) in enumerate(marks.items()):
        at, top = frame.x(epoch), frame.y.end - 6 - 12 * row
        down = f"M{number(at)} {number(top)}V{number(frame.y.start)}"
        anchor = "end" if at > WIDTH * 0.75 else "start" if at < WIDTH * 0.3 else "middle"
        parts.append(tag("path", class_=f"mark {label.split()[-1]}", d=down))
        parts.append(tag("text", label, class_="tick strong", x=at, y=top - 4, text_anchor=anchor))
    return Markup().join(parts)


def learning_rate_chart(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
) -> Chart:
    """Return the losses over the learning rate, with the suggested rate marked."""
    height, width = 320, 560
    top = 1.05 * max(*losses, *smoothed)
    x_range = (rates[0], rates[-1])
    frame = Frame.of(x_range, (0, top), height, width=width, log_x=True)
    parts = [
        frame.axes(
            "learning rate",
            [(at, f"{at:g}") for at in frame.x.ticks(8)],
            [(at, f"{at:g}") for at in frame.y.ticks()],
            "weighted training loss: dots are batches, the line is smoothed",
        ),
        frame.dots([*zip(rates, losses, strict=True)], 7, 2),
        frame.line([*zip(rates, smoothed, strict=True)], 0),
    ]
    description = "no suggestion"
    if suggestion is not None:
        description = f"suggestion {suggestion:.2g}"
        at = frame.x(suggestion)
        anchor = "end" if at > width * 0.75 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(frame.vertical(suggestion, "mark best"))
        parts.append(
            tag("text", description, class_="tick strong", x=at + shift, y=frame.y.end + 10,
                text_anchor=anchor)
        )  # fmt: skip
    title = "Loss over the learning rate"
    picture = chart("chart-learning-rate", title, description, height, *parts, width=width)
    return Chart(title, ("one batch", "smoothed"), picture)
