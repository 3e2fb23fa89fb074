"""Metrics and phases as rows of tables, a metric with its interval and a small plot."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen
from markupsafe import Markup

from tlkit.metrics.intervals import FEW, Interval, Resampling, format_interval, format_value
from tlkit.metrics.scores import OVERALL, PER_CLASS, ClassScores, Scores
from tlkit.reports.console import table
from tlkit.reports.page import data_element
from tlkit.reports.svg import interval_plot
from tlkit.runfolder.record import RunRecord
from tlkit.train.callback import Epoch, best_of

# Shown as percentages; the other metrics are not proportions.
PERCENT = {"accuracy", "balanced_accuracy", "precision", "recall", "specificity"}
UNBOUNDED = {"log_loss"}  # has no plot
MEANINGS = {
    "precision": "of the images predicted to be this class, the share that are",
    "recall": "of the images of this class, the share predicted as such (sensitivity)",
    "specificity": "of the images of other classes, the share not predicted as this class",
    "f1": "harmonic mean of precision and recall",
    "auroc": "area under the ROC curve, this class against the rest",
    "average_precision": "area under the precision-recall curve",
}


@frozen
class Row:
    """One metric as a row of a table.

    Attributes:
        title: Its name.
        text: Its value.
        ends: Its interval.
        plot: Both as a plot.
        n: The number of images it is computed from; empty without an interval.
        few: Whether there are too few of them for a reliable number.
    """

    title: str
    text: Markup
    ends: str
    plot: Markup
    n: str
    few: bool = False


@frozen
class ClassTable:
    """One metric of every class.

    Attributes:
        title: The metric's name.
        meaning: Its definition.
        rows: One row per class, titled with the class's name.
    """

    title: str
    meaning: str
    rows: tuple[Row, ...]


def overall_rows(scores: Scores) -> list[Row]:
    """Return the metrics over all classes, except those that are not known."""
    return [
        metric_row(name, title, getattr(scores, name), scores.intervals[name])
        for name, title in OVERALL.items()
        if name in scores.intervals
    ]


def class_rows(scores: ClassScores) -> list[Row]:
    """Return the metrics of one class, except those that are not known."""
    return [
        metric_row(name, PER_CLASS[name], getattr(scores, name), interval)
        for name, interval in scores.intervals.items()
    ]


def class_tables(scores: Scores) -> list[ClassTable]:
    """Return one table per metric with a row for each class, except metrics that are not known."""
    rows = {name: class_rows(of_class) for name, of_class in scores.per_class.items()}
    known = next(iter(scores.per_class.values())).intervals
    return [
        ClassTable(
            PER_CLASS[metric],
            MEANINGS[metric],
            tuple(evolve(of_class[index], title=name) for name, of_class in rows.items()),
        )
        for index, metric in enumerate(known)
    ]


def metric_row(name: str, title: str, value: float | None, interval: Interval | None) -> Row:
    """Return a metric's row."""
    percent = name in PERCENT
    negative = interval is not None and interval.low < 0  # kappa's; the axis begins at 0
    return Row(
        title=title,
        text=data_element(value, percent),
        ends=format_interval(interval, percent=percent),
        plot=Markup() if name in UNBOUNDED or negative else interval_plot(value, interval),
        n=str(interval.n) if interval else "",
        few=interval is not None and interval.n < FEW,
    )


def method_text(resampling: Resampling | None) -> str:
    """Return how the intervals were computed."""
    if resampling is None:
        return ""
    effective = " with the effective sample size by patient" if resampling.unit == "patient" else ""
    return (
        f"Accuracy, precision, recall and specificity have Wilson intervals{effective}; the others "
        f"have bias-corrected bootstrap intervals from {resampling.resamples:,} resamples of "
        f"{resampling.units:,} {resampling.unit}s. There is no interval where resampling says "
        "nothing, as after a perfect result."
    )


def p_text(p: float | None) -> str:
    """Return a p-value.

    >>> p_text(0.0421), p_text(1e-9), p_text(None)
    ('0.042', '< 0.001', '')
    """
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


HEAD = ("phase", "trained parameters", "epochs", "epoch", "val_loss", "val_accuracy", "")


@frozen
class PhaseResult:
    """What a phase reached.

    Attributes:
        number: Its number, from 1.
        params: The largest number of parameters that it trains.
        epochs: How many epochs it had.
        epoch: The one that counts: its best, or its last if the last weights are kept.
        kept: Whether the weights of this epoch were kept.
    """

    number: int
    params: int
    epochs: int
    epoch: Epoch
    kept: bool

    def cells(self) -> tuple[str, ...]:
        """Return a row under `HEAD`."""
        return (
            str(self.number),
            f"{self.params:,}",
            str(self.epochs),
            str(self.epoch.epoch),
            f"{self.epoch.val_loss:.4f}",
            format_value(self.epoch.val_accuracy),
            "kept" if self.kept else "",
        )


def phase_results(run: RunRecord) -> tuple[PhaseResult, ...]:
    """Return the result of each phase; none if the run has only one."""
    stages, monitor = run.plan.stages, run.experiment.fit.monitor
    results, best = [], best_of(run.history, monitor)
    for number in range(1, stages[-1].phase + 1 if stages[-1].phase > 1 else 1):
        epochs = [epoch for epoch in run.history if stages[epoch.stage - 1].phase == number]
        counts = best if best in epochs else best_of(epochs, monitor)
        counts = epochs[-1] if run.metrics.keep == "last" else counts
        params = max(stage.trainable_params for stage in stages if stage.phase == number)
        kept = counts.epoch == run.metrics.kept.epoch
        results.append(PhaseResult(number, params, len(epochs), counts, kept))
    return tuple(results)


def verdict(results: Sequence[PhaseResult], keep: str, monitor: str) -> str:
    """Return which phase's weights were kept, and why."""
    if keep == "last":
        return 'The weights after the last phase were kept, because fit.keep = "last".'
    kept = next(result for result in results if result.kept)
    if kept.number == len(results):
        return f"The last phase improved {monitor} on validation, so its weights were kept."
    return (
        f"No later phase improved {monitor} on validation, so the weights of phase {kept.number} "
        "were kept."
    )


def phases_text(run: RunRecord) -> str:
    """Return the phases' results for a terminal; empty if the run has only one."""
    results = phase_results(run)
    if not results:
        return ""
    why = verdict(results, run.metrics.keep, run.experiment.fit.monitor)
    return f"{table(HEAD, [result.cells() for result in results])}\n{why}"
