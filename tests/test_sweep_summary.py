"""The figures of a sweep: means, spreads and intervals, folds pooled, a choice that is nested."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tlkit.metrics.intervals import wilson
from tlkit.metrics.published import figures
from tlkit.metrics.scoring import score_confusion, score_predictions
from tlkit.sweeps import text
from tlkit.sweeps.charts import rows_chart
from tlkit.sweeps.choice import choice
from tlkit.sweeps.summary import (
    Answer,
    Figure,
    Outcome,
    VariantSummary,
    summarize,
    t_interval,
    values_of,
)
from tlkit.sweeps.text import Lines, figure_text
from tlkit.sweeps.trials import Variant

CLASSES = ("a", "b")
confusions = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3)


def outcome(
    name: str, seed: int, hits: int, fold: int | None = None, val: int = 0, status: Any = "done"
) -> Outcome:
    """A run that gets `hits` of 10 images right, and `val` of 10 on `val`."""
    trial: Any = SimpleNamespace(variant=Variant(Path(f"{name}.toml"), {}), seed=seed, fold=fold)
    matrices = {"val": ((val, 10 - val), (0, 0)), "test": ((hits, 10 - hits), (0, 0))}
    return Outcome(trial=trial, status=status, split="test", classes=CLASSES, confusions=matrices)


@given(confusions)
def test_figures_are_those_of_the_metrics(confusion: list[list[int]]) -> None:
    if not any(map(any, confusion)):
        return
    ours = values_of(tuple(map(tuple, confusion)), "abc")
    theirs = score_confusion(confusion, "abc")
    assert ours.pop("balanced accuracy") == pytest.approx(theirs.balanced_accuracy)
    assert ours == pytest.approx(figures(theirs))


def test_seeds_give_mean_spread_and_student_s_interval() -> None:
    (found,) = summarize([outcome("one", seed, hits) for seed, hits in enumerate((7, 8, 9))])
    accuracy = found.figures["accuracy"]
    assert accuracy.mean == pytest.approx(0.8)
    assert accuracy.sd == pytest.approx(0.1)
    # t(0.975, 2) = 4.3027 (any table): 0.8 ± 4.3027 · 0.1 / √3, cut off at 1.
    assert accuracy.low == pytest.approx(0.8 - 4.3027 * 0.1 / 3**0.5, abs=1e-5)
    assert accuracy.high == 1.0
    assert found.interval == "t over 3 seeds"


def test_folds_are_added_up_before_anything_is_computed() -> None:
    (found,) = summarize([outcome("one", 0, hits, fold) for fold, hits in ((1, 2), (2, 9))])
    assert found.figures["accuracy"].values == (11 / 20,)
    assert (found.images, found.folds, found.fold_accuracy) == (20, 2, (0.2, 0.9))


def with_patients(fold: int, patients: int = 15, images: int = 4) -> Outcome:
    """A fold whose patients are right or wrong as a whole, their ids spelled in two ways."""
    draws = np.random.default_rng(fold)
    answers = [
        Answer(label, guess, f"{'p' if n % 2 else 'P00'}{fold}{patient:02}")
        for patient in range(patients)
        for label, guess in [draws.integers(0, 2, 2).tolist()]
        for n in range(images)
    ]
    counts = np.zeros((2, 2), int)
    for answer in answers:
        counts[answer.label, answer.predicted] += 1
    matrix = tuple(map(tuple, counts.tolist()))
    trial: Any = SimpleNamespace(variant=Variant(Path("one.toml"), {}), seed=0, fold=fold)
    return Outcome(trial=trial, status="done", split="test", classes=CLASSES,
                   confusions={"val": matrix, "test": matrix}, answers=tuple(answers))  # fmt: skip


def test_pooled_folds_have_the_intervals_of_one_run_by_patient() -> None:
    folds = [with_patients(fold) for fold in (1, 2, 3)]
    (found,) = summarize(folds)
    pooled = [answer for fold in folds for answer in fold.answers]
    ours = score_predictions(
        [a.label for a in pooled], [a.predicted for a in pooled], CLASSES,
        [a.patient for a in pooled],
    )  # fmt: skip
    assert ours.resampling is not None
    assert ours.resampling.units == 45
    assert found.interval == "Wilson over 180 images of 45 patients"
    expected = {"accuracy": ours.intervals["accuracy"]}
    for name, own in ours.per_class.items():
        expected |= {f"{name} {kind}": own.intervals[kind] for kind in ("precision", "recall")}
    for name, interval in expected.items():
        assert interval is not None
        assert found.figures[name].interval == (interval.low, interval.high)
    low, high = wilson(found.figures["accuracy"].mean or 0, 180)
    accuracy = found.figures["accuracy"]
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.high - accuracy.low > 1.5 * (high - low)


def test_a_mean_tells_over_how_many_seeds_it_is() -> None:
    figure = Figure(name="x", values=(0.5, None, None), low=None, high=None)
    assert (figure.count, figure_text(figure)) == (1, "50.0 % (1 seed)")
    figure = Figure(name="x", values=(0.5, 0.7, None), low=None, high=None)
    assert (figure.count, figure_text(figure)) == (2, "60.0 ± 14.1 % (2 seeds)")
    figure = Figure(name="x", values=(0.5, 0.7), low=None, high=None)
    assert (figure.count, figure_text(figure)) == (2, "60.0 ± 14.1 %")


def test_a_seed_without_all_its_folds_does_not_count() -> None:
    some = [outcome("one", seed, 5, fold) for seed in (0, 1) for fold in (1, 2)]
    some[3] = outcome("one", 1, 0, 2, status="failed")
    (found,) = summarize(some)
    assert (found.seeds, found.runs, found.planned) == ((0,), 3, 4)


def test_what_is_not_defined_is_left_out_and_stays_undefined() -> None:
    (found,) = summarize([outcome("one", 0, 10), outcome("one", 1, 9)])
    assert found.figures["b precision"].values == (None, 0.0)
    assert found.figures["b precision"].mean == 0.0
    assert found.figures["b precision"].sd is None
    assert found.figures["b recall"].mean is None


def test_nothing_finished_has_no_figures() -> None:
    (found,) = summarize([outcome("one", 0, 5, status="failed")])
    assert (found.figures, found.split, found.interval) == ({}, "", "")
    assert rows_chart([found]) is None


def nested(outcomes: list[Outcome]) -> VariantSummary | None:
    return choice(outcomes, summarize(outcomes), of_search=False)


def test_a_nested_choice_goes_by_val_and_not_by_test() -> None:
    some = [
        outcome("one", 0, hits=1, fold=1, val=9), outcome("two", 0, hits=10, fold=1, val=8),
        outcome("one", 0, hits=10, fold=2, val=3), outcome("two", 0, hits=2, fold=2, val=4),
    ]  # fmt: skip
    found = nested(some)
    assert found is not None
    assert found.figures["accuracy"].values == (3 / 20,)
    assert found.label == "chosen on val in each fold (variants 1, 2)"


def test_there_is_no_nested_choice_of_one_variant_or_of_unfinished_folds() -> None:
    assert nested([outcome("one", 0, 5, fold) for fold in (1, 2)]) is None
    assert nested([outcome(name, 0, 5) for name in ("one", "two")]) is None
    some = [outcome(name, 0, 5, fold) for name in ("one", "two") for fold in (1, 2)]
    assert nested(some) is not None
    assert nested([*some[:3], outcome("two", 0, 5, 2, status="waiting")]) is None


def test_wilson_s_interval_is_the_published_one() -> None:
    low, high = wilson(81 / 263, 263)  # Newcombe 1998, Table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_student_s_interval_holds_the_mean_and_stays_a_share(values: list[float]) -> None:
    low, high = t_interval(values) or (2, 2)
    assert 0 <= low <= np.mean(values) + 1e-12
    assert np.mean(values) - 1e-12 <= high <= 1
    assert t_interval(values[:1]) is None


def test_seeds_that_all_collapsed_still_have_an_interval() -> None:
    (found,) = summarize([outcome("one", seed, 5) for seed in range(4)])
    accuracy = found.figures["accuracy"]
    assert (accuracy.low, accuracy.high) == wilson(0.5, 10)
    assert accuracy.kind.startswith("Wilson over the images of one seed")
    assert found.interval == "t over 4 seeds"


def test_losses_are_means_over_all_images_of_the_folds() -> None:
    some = [
        evolve(outcome("one", seed, 5, fold), losses={"log loss": seed + fold, "Brier score": None})
        for seed in (0, 1)
        for fold in (1, 2)
    ]
    (found,) = summarize(some)
    assert found.figures["log loss"].values == (1.5, 2.5)
    assert found.figures["log loss"].high == pytest.approx(2 + 12.7062 * 0.5, rel=1e-4)
    assert found.figures["Brier score"].values == (None, None)
    assert figure_text(found.figures["log loss"]) == "2.000 ± 0.707"


def test_a_run_s_line_tells_how_long_the_others_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((90.0, 180.0, 182.0, 183.0, 200.0))
    monkeypatch.setattr(text, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(text, "outcome_text", str)
    lines = Lines()
    outcome: Any = "study"
    lines.on_run_end(1, 6, outcome, 0.0)  # kept
    for number in range(2, 7):
        lines.on_run_end(number, 6, outcome, 90.0)
    ends = [line.rpartition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert ends == [
        "(kept)", "(90 s; about 6 minutes left)", "(90 s; about 4 minutes left)",
        "(90 s; about 2 minutes left)", "(90 s)", "(90 s)",
    ]  # fmt: skip
