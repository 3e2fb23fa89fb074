"""Runs side by side as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from tlkit.reports.charts import SHOWN
from tlkit.reports.compare import (
    ComparedRun,
    Paired,
    differences,
    figures_beside,
    notes,
    points,
)
from tlkit.reports.page import page
from tlkit.reports.svg import Frame, chart
from tlkit.system.files import write_text
from tlkit.train.callback import Epoch

CURVES: dict[str, Callable[[Epoch], float]] = {
    "Training loss, unweighted": lambda epoch: epoch.loss_unweighted,
    "Validation loss": lambda epoch: epoch.val_loss,
    "Validation accuracy, %": lambda epoch: 100 * epoch.val_accuracy,
}


def write_comparison(
    path: Path, runs: Sequence[ComparedRun], pairs: Sequence[Paired | None]
) -> None:
    """Write the page; its folder is made if need be.

    Args:
        path: The file.
        runs: Two or more.
        pairs: Each one's comparison with the first, from the second on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, comparison(runs, pairs))


def comparison(runs: Sequence[ComparedRun], pairs: Sequence[Paired | None]) -> str:
    """Return the page."""
    shown = list(runs)[:SHOWN]
    return page(
        "compare.html.j2",
        runs=runs,
        marks=[f"[{number}]" for number in range(1, len(runs) + 1)],
        notes=notes(runs),
        differences=differences(runs),
        figures=figures_beside(runs),
        splits=" and ".join(dict.fromkeys(run.split for run in runs)),
        pairs=[(number, one, one and points(one)) for number, one in enumerate(pairs, start=2)],
        charts=[(title, _curves(title, shown, value)) for title, value in CURVES.items()],
        shown=len(shown),
    )


def _curves(title: str, runs: Sequence[ComparedRun], value: Callable[[Epoch], float]) -> Markup:
    """Return one figure of all runs over their epochs."""
    lines = [[(float(epoch.epoch), value(epoch)) for epoch in run.history] for run in runs]
    xs = [x for points in lines for x, _ in points]
    ys = [y for points in lines for _, y in points]
    room = 0.05 * (max(ys) - min(ys)) or 0.5
    across = (min(xs) - 0.5, max(xs) + 0.5)
    frame = Frame.of(across, (min(ys) - room, max(ys) + room), top=12, height=214)
    axes = frame.axes(
        "epoch",
        [(at, f"{at:g}") for at in frame.x.ticks(7, whole=True)],
        [(at, f"{at:.3g}") for at in frame.y.ticks()],
    )
    drawn = [frame.line(points, series) for series, points in enumerate(lines)]
    if len(xs) <= 60:
        drawn += [frame.dots(points, series) for series, points in enumerate(lines)]
    told = "; ".join(
        f"[{number}] begins at {points[0][1]:.3g} and ends at {points[-1][1]:.3g}"
        for number, points in enumerate(lines, start=1)
    )
    name = "".join(sign if sign.isalnum() else "-" for sign in title.lower())
    return chart(name, title, told, 214, axes, *drawn)
