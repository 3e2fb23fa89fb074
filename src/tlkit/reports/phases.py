"""What each phase of a run reached on validation, and why its weights were kept or not."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from tlkit.metrics.intervals import format_value
from tlkit.reports.console import table
from tlkit.runfolder.record import RunRecord
from tlkit.train.callback import Epoch, best_of

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
    results = []
    for number in range(1, stages[-1].phase + 1 if stages[-1].phase > 1 else 1):
        epochs = [epoch for epoch in run.history if stages[epoch.stage - 1].phase == number]
        counts = epochs[-1] if run.metrics.keep == "last" else best_of(epochs, monitor)
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
