"""Intervals: Wilson's against SciPy's, and how often they hold the truth, by simulation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from tlkit.metrics.bootstrap import (
    bootstrap_interval,
    draws,
    resampling_of,
    share_interval,
    unit_numbers,
)
from tlkit.metrics.intervals import Resampling, wilson
from tlkit.metrics.scores import OVERALL, PER_CLASS, Scores
from tlkit.metrics.scoring import score
from tlkit.metrics.weighted import Outputs, figures_of

CLASSES = ("normal", "pneumonia", "covid-19")
SHARES = np.array([100, 100, 31]) / 231  # of the classes, as in the study's test split


@given(data=st.data(), n=st.integers(1, 500))
def test_wilsons_interval_is_scipys(data: st.DataObject, n: int) -> None:
    hits = data.draw(st.integers(0, n))
    expected = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing_has_no_interval() -> None:
    nothing = np.zeros(3, bool)
    assert share_interval(nothing, nothing, np.arange(3)) is None


def test_a_share_with_every_image_alone_is_wilsons_own() -> None:
    hits = np.array([True] * 28 + [False] * 3)
    found = share_interval(hits, np.ones(31, bool), np.arange(31))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wilson(28 / 31, 31), abs=1e-6)
    assert (found.method, found.n) == ("wilson", 31)


@pytest.mark.parametrize("right", [True, False])
def test_a_perfect_or_hopeless_share_counts_patients_and_not_images(right: bool) -> None:
    found = share_interval(np.full(30, right), np.ones(30, bool), np.repeat(np.arange(3), 10))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wilson(float(right), 3), abs=1e-6)


@given(patients=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=12))
def test_images_share_a_unit_if_and_only_if_they_share_a_known_patient(patients: list[str]) -> None:
    units = unit_numbers(len(patients), patients)
    for i, one in enumerate(patients):
        for j, other in enumerate(patients):
            same = i == j or (one == other and one != "")
            assert bool(units[i] == units[j]) == same
    assert set(units) == set(range(units.max() + 1))


def test_a_resample_has_as_many_units_and_a_patient_comes_whole() -> None:
    units = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(draws(units, Resampling("patient", 3, 500))))
    assert weights.shape == (500, 6)
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    for unit in range(3):
        of_unit = weights[:, units == unit]
        assert (of_unit == of_unit[:, :1]).all()
    assert weights.mean() == pytest.approx(1, abs=0.1)


def test_draws_are_the_same_every_time() -> None:
    resampling = Resampling("image", 9, 20)
    one, other = (np.concatenate(list(draws(np.arange(9), resampling))) for _ in range(2))
    assert (one == other).all()


def test_very_many_images_and_classes_are_drawn_less_often() -> None:
    assert resampling_of(np.arange(231), False, 3) == Resampling("image", 231, 2000)
    assert resampling_of(np.arange(50_000), True, 1000) == Resampling("patient", 50_000, 200)


@pytest.mark.parametrize(
    ("value", "resampled"),
    [
        (np.nan, [0.5, 0.6] * 50),
        (0.5, [0.4, 0.6] * 44 + [np.nan] * 12),
        (1.0, [1.0] * 100),
    ],
    ids=["not defined", "not defined in some", "the same in all"],
)
def test_where_drawing_again_tells_nothing_there_is_no_interval(
    value: float, resampled: list[float]
) -> None:
    assert bootstrap_interval(value, np.array(resampled), 10) is None


def drawn_test_set(random: np.random.Generator, images: int, skill: float) -> Outputs:
    """Return what a classifier of a certain skill says of images drawn from the study's classes."""
    labels = random.choice(3, images, p=SHARES)
    scores = random.normal(size=(images, 3))
    scores[np.arange(images), labels] += skill
    shares = np.exp(1.3 * scores)
    shares /= shares.sum(axis=1, keepdims=True)
    return Outputs(labels, shares.argmax(axis=1), 3, shares)


def held(images: int, times: int, skill: float) -> dict[str, list[bool]]:
    """Return, for each figure, whether the interval of each drawn test set held the truth."""
    random = np.random.default_rng(images)
    many = drawn_test_set(random, 100_000, skill)
    truth = {name: x[0] for name, x in figures_of(many, np.ones((1, 100_000))).items()}
    found: dict[str, list[bool]] = {}
    for _ in range(times):
        answers = drawn_test_set(random, images, skill)
        assert answers.probabilities is not None
        for name, value, low, high in rows(
            score(answers.labels, answers.probabilities, CLASSES), truth
        ):
            found.setdefault(name, []).append(low <= value <= high)
    return found


def rows(
    scores: Scores, truth: dict[str, npt.NDArray[np.float64]]
) -> list[tuple[str, float, float, float]]:
    """Return each figure's truth with its interval, where there is one."""
    named = [(name, float(truth[name]), scores.intervals[name]) for name in OVERALL]
    for k, one in enumerate(scores.per_class.values()):
        named += [(name, float(truth[name][k]), one.intervals[name]) for name in PER_CLASS]
    return [(name, value, found.low, found.high) for name, value, found in named if found]


@pytest.mark.parametrize(("n", "least"), [(31, 0.92), (200, 0.93)])
def test_wilsons_interval_holds_the_truth_in_95_of_100_cases(n: int, least: float) -> None:
    """Not simulated but added up, for shares from 5 to 95 %."""
    ends = np.array([wilson(hits / n, n) for hits in range(n + 1)])
    shares = np.linspace(0.05, 0.95, 91)
    inside = (ends[:, :1] <= shares) & (shares <= ends[:, 1:])
    held = (binom.pmf(np.arange(n + 1)[:, None], n, shares) * inside).sum(axis=0)
    assert held.min() > least
    assert held.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("images", "times", "low", "high"), [(31, 40, 0.87, 0.99), (200, 10, 0.9, 0.98)]
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    images: int, times: int, low: float, high: float
) -> None:
    """All figures together: a few draws are enough to see a wrong method."""
    found = [one for some in held(images, times, 1.6).values() for one in some]
    assert low < np.mean(found) < high


@pytest.mark.slow
@pytest.mark.parametrize("skill", [1.6, 2.4])
@pytest.mark.parametrize(("images", "least"), [(31, 0.83), (200, 0.87)])
def test_every_figures_interval_holds_the_truth_nearly_as_often(
    images: int, least: float, skill: float
) -> None:
    found = held(images, 400, skill)
    assert set(found) >= {*PER_CLASS, *OVERALL} - {"calibration_error"}
    for name, some in found.items():
        assert np.mean(some) > least, name


def test_the_calibration_error_of_few_images_has_no_interval() -> None:
    """It would be wrong: chance alone makes bins of 20 images look badly calibrated."""
    random = np.random.default_rng(0)
    for images, there in ((499, False), (500, True)):
        answers = drawn_test_set(random, images, 1.6)
        assert answers.probabilities is not None
        scores = score(answers.labels, answers.probabilities, CLASSES)
        assert scores.calibration_error is not None
        assert (scores.intervals["calibration_error"] is not None) == there
