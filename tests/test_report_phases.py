"""What the report and the terminal say about the phases of a run."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from tests.finished_runs import made_up

from tlkit.reports.gallery import Gallery
from tlkit.reports.report import report
from tlkit.reports.tables import phase_results, phases_text
from tlkit.runfolder.record import RunRecord


def in_phases(keep: Any, *losses: float) -> RunRecord:
    """A run of two phases of two epochs each, with these validation losses."""
    run = made_up(epochs=4)
    (stage,) = run.plan.stages
    stages = tuple(
        evolve(stage, phase=phase, epochs=2, trainable_params=params)
        for phase, params in ((1, 1539), (2, 2361347))
    )
    history = tuple(
        evolve(epoch, stage=1 + place // 2, val_loss=loss, val_accuracy=1 - loss)
        for place, (epoch, loss) in enumerate(zip(run.history, losses, strict=True))
    )
    kept = 1 + min(range(4), key=lambda place: losses[place]) if keep == "best" else 4
    metrics = evolve(run.metrics, keep=keep, kept=evolve(run.metrics.kept, epoch=kept))
    phases = [{"epochs": 2}, {"epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 0.5}}]
    table = {**run.experiment.table, "phase": phases}
    return evolve(
        run,
        plan=evolve(run.plan, stages=stages),
        history=history,
        metrics=metrics,
        experiment=evolve(run.experiment, table=table),
    )


@pytest.mark.parametrize(
    ("keep", "losses", "epochs", "kept", "why"),
    [
        ("best", (0.5, 0.4, 0.3, 0.6), (2, 3), (False, True), "The last phase improved val_loss"),
        (
            "best",
            (0.5, 0.4, 0.6, 0.5),
            (2, 4),
            (True, False),
            "No later phase improved val_loss on validation, so the weights of phase 1 were kept.",
        ),
        ("last", (0.3, 0.4, 0.5, 0.6), (2, 4), (False, True), "The weights after the last phase"),
    ],
)
def test_each_phase_is_shown_with_the_epoch_that_counts(
    keep: str, losses: Any, epochs: Any, kept: Any, why: str
) -> None:
    run = in_phases(keep, *losses)
    results = phase_results(run)
    assert [result.epoch.epoch for result in results] == [*epochs]
    assert [result.kept for result in results] == [*kept]
    page = report(run, Gallery(missing="they are gone"))
    for text in (why, "2,361,347", f"{losses[epochs[0] - 1]:.4f}"):
        assert text in phases_text(run)
        assert text in page
    assert "phase 2: optimizer" in page
    assert "learning_rate = 0.5" in page


def test_a_phase_is_shown_with_its_kept_epoch_though_another_has_less_loss() -> None:
    run = in_phases("best", 0.5, 0.4, 0.3, 0.2)
    history = (*run.history[:3], evolve(run.history[3], val_accuracy=0.1))
    fit = evolve(run.experiment.fit, monitor="val_loss_and_accuracy")
    run = evolve(
        run,
        history=history,
        metrics=evolve(run.metrics, kept=evolve(run.metrics.kept, epoch=3)),
        experiment=evolve(run.experiment, fit=fit),
    )
    assert [(result.epoch.epoch, result.kept) for result in phase_results(run)] == [
        (2, False), (3, True)
    ]  # fmt: skip
    assert "The last phase improved val_loss_and_accuracy on validation" in phases_text(run)


def test_a_run_without_phases_says_nothing_of_them() -> None:
    run = made_up()
    assert phase_results(run) == ()
    assert phases_text(run) == ""
    assert "phase" not in report(run, Gallery(missing="they are gone")).lower()
