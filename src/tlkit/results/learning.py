"""The report's charts of how training went: losses, accuracies and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tlkit.progress import Epoch
from tlkit.results.charts import Chart, Line
from tlkit.results.svg import WIDTH, Frame, chart, number, tag


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
