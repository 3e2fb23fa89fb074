"""An experiment's settings as pairs of a key and its value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen
from markupsafe import Markup

from tlkit.metrics.intervals import FEW, Interval, Resampling
from tlkit.metrics.scores import OVERALL, PER_CLASS, ClassScores, Scores
from tlkit.reports.svg import interval_bar

# Shown as percentages; the others are no shares of anything.
PERCENT = {"accuracy", "balanced_accuracy", "precision", "recall", "specificity"}
UNBOUNDED = {"log_loss"}
MEANT = {
    "precision": "of the images called so, those that are",
    "recall": "of the images of a class, those called so; sensitivity",
    "specificity": "of the images of other classes, those not called so",
    "f1": "the harmonic mean of precision and recall",
    "auroc": "the area under the ROC curve, the class against the rest",
    "average_precision": "the area under the precision-recall curve",
}


@frozen
class Row:
    """One figure as a row of a table.

    Attributes:
        title: Its name.
        text: Its value.
        ends: Its interval.
        bar: Both, drawn.
        n: How many images it rests on; empty where there is no interval.
        few: Whether these are so few that the figure says little.
    """

    title: str
    text: Markup
    ends: str
    bar: Markup
    n: str
    few: bool = False


@frozen
class ClassTable:
    """One figure of every class.

    Attributes:
        title: The figure's name.
        meant: What it is.
        rows: A row a class, titled with its name.
    """

    title: str
    meant: str
    rows: tuple[Row, ...]


def overall_rows(scores: Scores) -> list[Row]:
    """Return the figures of all classes together; what cannot be known is left out."""
    return [
        _row(name, title, getattr(scores, name), scores.intervals[name])
        for name, title in OVERALL.items()
        if name in scores.intervals
    ]


def class_rows(one: ClassScores) -> list[Row]:
    """Return the figures of one class."""
    return [
        _row(name, PER_CLASS[name], getattr(one, name), interval)
        for name, interval in one.intervals.items()
    ]


def class_tables(scores: Scores) -> list[ClassTable]:
    """Return the figures of the single classes, a table a figure; those not known are left out."""
    rows = {name: class_rows(one) for name, one in scores.per_class.items()}
    known = next(iter(scores.per_class.values())).intervals
    return [
        ClassTable(
            PER_CLASS[figure],
            MEANT[figure],
            tuple(evolve(some[place], title=name) for name, some in rows.items()),
        )
        for place, figure in enumerate(known)
    ]


def _row(name: str, title: str, value: float | None, interval: Interval | None) -> Row:
    percent = name in PERCENT
    bar = Markup() if name in UNBOUNDED else interval_bar(value, interval)
    return Row(
        title=title,
        text=value_text(value, percent),
        ends=ends(interval, percent),
        bar=bar,
        n=str(interval.n) if interval else "",
        few=interval is not None and interval.n < FEW,
    )


def value_text(value: float | None, percent: bool = True) -> Markup:
    """Return a figure for people, and in full for programs.

    >>> print(value_text(0.5), value_text(None))
    <data value="0.5">50.0 %</data> undefined
    """
    if value is None:
        return Markup("undefined")
    text = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def ends(interval: Interval | tuple[float, float] | None, percent: bool = True) -> str:
    """Return an interval as text.

    >>> ends((0.721, 0.828)), ends(None)
    ('72.1–82.8', '')
    """
    if interval is None:
        return ""
    low, high = (interval.low, interval.high) if isinstance(interval, Interval) else interval
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{scale * low:.{digits}f}–{scale * high:.{digits}f}"


def method_text(resampling: Resampling | None) -> str:
    """Return how the intervals were made, for people."""
    if resampling is None:
        return ""
    effective = " of the patients' effective number" if resampling.unit == "patient" else ""
    return (
        f"Accuracy, precision, recall and specificity have Wilson's intervals{effective}, the "
        f"others bias-corrected bootstrap intervals from {resampling.resamples:,} draws of "
        f"{resampling.units:,} {resampling.unit}s; there is none where drawing again tells "
        "nothing, as after a perfect result."
    )


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested table's values by key path, as JSON.

    >>> flattened({"fit": {"epochs": 3}, "seed": 0})
    {'fit.epochs': '3', 'seed': '0'}
    """
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return found
