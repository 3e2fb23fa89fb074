"""Diagnosis: each finding is there when it must be, and not otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.finished_runs import made_up

from tlkit.metrics.scores import EpochScores
from tlkit.metrics.scoring import score_confusion
from tlkit.reports.caveats import chance_caveat
from tlkit.reports.diagnosis import diagnose, next_steps
from tlkit.runfolder.record import RunRecord
from tlkit.train.callback import Epoch

CLASSES = ("normal", "pneumonia", "covid-19")


def run_with(
    losses: Sequence[float],
    val_losses: Sequence[float],
    accuracy: float = 0.9,
    val_accuracy: float = 0.85,
    **known: Any,
) -> RunRecord:
    """Return a run with these losses per epoch."""
    run = made_up(epochs=len(losses), counts=(100, 100, 60), skill=2.5, **known)
    history = tuple(
        Epoch(
            epoch=number,
            stage=1,
            learning_rate=1e-3,
            loss=loss,
            loss_unweighted=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
        )
        for number, (loss, val_loss) in enumerate(zip(losses, val_losses, strict=True), start=1)
    )
    return evolve(run, history=history)


def judged(
    run: RunRecord, test: Sequence[Sequence[int]], val: Sequence[Sequence[int]]
) -> RunRecord:
    """Return the run with scores of these confusion matrices."""
    scores = {"val": score_confusion(val, CLASSES), "test": score_confusion(test, CLASSES)}
    epoch = EpochScores(run.history[-1].epoch, scores)
    return evolve(run, metrics=evolve(run.metrics, kept=epoch, other=epoch))


GOOD = ([1.0, 0.5, 0.4, 0.398, 0.397], [0.9, 0.6, 0.5, 0.499, 0.498])


def test_a_good_run_has_none() -> None:
    assert diagnose(run_with(*GOOD)) == []


@pytest.mark.parametrize(
    ("losses", "val_losses", "what", "advice"),
    [
        ([23.7, 9, 4, 4, 4], [11, 7, 5, 5, 5], "began at 23.7", "standardize"),
        ([1, 0.9, 0.8, 0.7, 0.6], [1, 0.9, 0.8, 0.7, 0.6], "still falling", "fit.epochs = 10"),
        ([1.1, 1.1, 1.1, 1.09, 1.1], [1.1] * 5, "stayed at 1.10; guessing has 1.07", "lr-find"),
        ([1, 0.5, 0.3, 0.2, 0.1], [0.9, 0.7, 0.6, 0.8, 1.0], "lowest in epoch 3", "fit.keep"),
    ],
)  # fmt: skip
def test_the_curves_say_what_to_change(
    losses: list[float], val_losses: list[float], what: str, advice: str
) -> None:
    (finding,) = diagnose(run_with(losses, val_losses))
    assert what in finding.what
    assert advice in finding.advice


def test_the_training_images_by_heart() -> None:
    (finding,) = diagnose(run_with(*GOOD, accuracy=1.0, val_accuracy=0.6))
    assert "100.0 % in training and 60.0 % on val" in finding.what
    assert diagnose(run_with(*GOOD, accuracy=1.0, val_accuracy=0.9)) == []


def test_one_class_only() -> None:
    all_normal = [[100, 0, 0], [100, 0, 0], [60, 0, 0]]
    finding = diagnose(judged(run_with(*GOOD), all_normal, all_normal))[0]
    assert finding.what == "Every image is called normal."
    assert finding.advice.startswith('Try [class_weights] name = "balanced", or a tenth of')
    no_covid = [[90, 10, 0], [10, 90, 0], [30, 30, 0]]
    (finding,) = diagnose(judged(run_with(*GOOD), no_covid, no_covid))
    assert finding.what == "No image is called covid-19."


def test_val_and_test_that_differ_by_more_than_chance() -> None:
    good, bad = [[95, 5, 0], [5, 95, 0], [3, 3, 54]], [[60, 30, 10], [30, 60, 10], [20, 10, 30]]
    (finding,) = diagnose(judged(run_with(*GOOD), bad, good))
    assert "on val and 57.7 % on test, more apart than chance" in finding.what
    assert diagnose(judged(run_with(*GOOD), good, good)) == []


def test_nothing_is_said_of_stand_in_data() -> None:
    run = run_with([23.7, 9, 4], [11, 7, 5])
    assert diagnose(evolve(run, metrics=evolve(run.metrics, stand_in="shapes"))) == []


def with_tables(run: RunRecord, **tables: Any) -> RunRecord:
    """Return the run of another experiment file, which keeps the best epoch if it says so."""
    table = {**run.experiment.table, **tables}
    keep = tables.get("fit", {}).get("keep", "last")
    metrics = evolve(run.metrics, keep=keep)
    return evolve(run, experiment=evolve(run.experiment, table=table), metrics=metrics)


SOLVER = {
    "optimizer": {"name": "lbfgs", "strongest": 10.0},
    "head": {"name": "probe", "standardize": True},
}
BEST = {"fit": {"keep": "best"}}


class TestASolver:
    def test_is_not_told_of_rates_epochs_and_images_learned_by_heart(self) -> None:
        run = run_with([23.7, 9, 4], [11, 7, 5], accuracy=1.0, val_accuracy=0.6)
        assert diagnose(with_tables(run, **SOLVER, **BEST)) == []

    def test_should_keep_the_best_strength(self) -> None:
        run = run_with([1, 0.5, 0.3, 0.2, 0.1], [0.9, 0.7, 0.6, 0.8, 1.7])
        (finding,) = diagnose(with_tables(run, **SOLVER))
        assert "lowest in epoch 3, with a stronger regularization" in finding.what
        assert finding.advice.startswith('Try fit.keep = "best"')
        assert diagnose(with_tables(run, **SOLVER, **BEST)) == []

    def test_that_calls_every_image_the_same_gets_no_learning_rate(self) -> None:
        all_normal = [[100, 0, 0], [100, 0, 0], [60, 0, 0]]
        run = judged(with_tables(run_with(*GOOD), **SOLVER, **BEST), all_normal, all_normal)
        advice = diagnose(run)[0].advice
        assert "another backbone: tlkit probe FOLDER" in advice
        assert "learning_rate" not in advice
        assert "standardize" not in advice

    @pytest.mark.parametrize(("val_loss", "told"), [(1.3, True), (0.8, False)])
    def test_that_would_regularize_more_strongly(self, val_loss: float, told: bool) -> None:
        run = run_with([0.9, 0.5, 0.3], [val_loss, val_loss + 0.1, val_loss + 0.2])
        run = evolve(run, metrics=evolve(run.metrics, kept=EpochScores(1, run.metrics.kept.scores)))
        findings = diagnose(with_tables(run, **SOLVER, **BEST))
        assert len(findings) == told
        for finding in findings:
            assert f"on val, where the loss is {val_loss:.2f}; guessing has 1.07" in finding.what
            assert finding.advice.startswith("Try optimizer.strongest = 100.")


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        ({"name": "pooled", "standardize": False}, "Try [head] standardize = true, or the recipe"),
        ({"name": "flatten"}, 'Try [head] name = "pooled", standardize = true, or the recipe'),
        ({"name": "pooled", "standardize": True}, "Try a tenth of [optimizer] learning_rate."),
        ({"name": "kernel"}, "Try a tenth of [optimizer] learning_rate."),
    ],
)
def test_features_are_only_to_be_standardized_where_they_are_not(
    head: dict[str, Any], advice: str
) -> None:
    run = run_with([23.7, 9, 4], [11, 7, 5])
    (finding,) = diagnose(with_tables(run, head=head))
    assert "began at 23.7" in finding.what
    assert finding.advice.startswith(advice)


def in_phases(losses: Sequence[float], val_losses: Sequence[float]) -> RunRecord:
    """Return a run whose first phase, two epochs, is a solver's and whose second has the rest."""
    run = run_with(losses, val_losses)
    stages = tuple(evolve(run.plan.stages[0], phase=phase) for phase in (1, 2))
    history = tuple(evolve(epoch, stage=1 if epoch.epoch <= 2 else 2) for epoch in run.history)
    run = evolve(run, plan=evolve(run.plan, stages=stages), history=history)
    phases = [{"optimizer": {"name": "lbfgs"}}, {"optimizer": {"name": "adamw"}}]
    return with_tables(run, phase=phases, **BEST)


@pytest.mark.parametrize(
    ("losses", "what", "advice"),
    [
        (
            [1, 0.9, 0.8, 0.6, 0.4],
            "The loss of phase 2 was still falling",
            "Try epochs = 6, or a higher learning rate.",
        ),
        (
            [0.5, 0.4, 0.6, 9, 24],
            "The training loss of phase 2 ended at 24.0, where guessing has 1.1",
            "Try a tenth of [optimizer] learning_rate of phase 2.",
        ),
        (
            [0.5, 0.4, 30, 25, 24],
            "The training loss of phase 2 began at 30.0, where guessing has 1.1",
            "Try a tenth of [optimizer] learning_rate of phase 2.",
        ),
    ],
)
def test_a_later_phase_is_judged_by_its_own_epochs_and_keys(
    losses: list[float], what: str, advice: str
) -> None:
    (finding,) = diagnose(in_phases(losses, losses))
    assert finding.what.startswith(what)
    assert finding.advice == advice


def test_one_class_only_and_a_loss_that_falls_do_not_contradict_each_other() -> None:
    all_normal = [[100, 0, 0], [100, 0, 0], [60, 0, 0]]
    falling = run_with([1, 0.9, 0.8, 0.7, 0.6], [1, 0.9, 0.8, 0.7, 0.6])
    (finding,) = diagnose(judged(falling, all_normal, all_normal))
    assert "higher" not in finding.advice


def test_what_to_do_next_fits_the_result() -> None:
    run = run_with(*GOOD)
    own = evolve(run, experiment=evolve(run.experiment, data=evolve(run.experiment.data, name="x")))
    (line,) = next_steps(own, Path("runs/a b"), [])
    assert line == "read the report, then: tlkit predict 'runs/a b' IMAGE..."
    chance = [[40, 30, 30], [40, 30, 30], [20, 20, 20]]
    poor = judged(own, chance, chance)
    assert chance_caveat(poor.scores)
    assert not chance_caveat(own.scores)
    assert "predict" not in " ".join(next_steps(poor, Path("runs/a"), []))
    assert next_steps(run, Path("runs/a"), []) == ["your own pictures: tlkit init --from FOLDER"]
