"""Scores against fractions from the confusion matrix, and against the paper's own."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.config.experiment import Reference
from tlkit.errors import FieldError
from tlkit.results.metrics import (
    figure_names,
    figures,
    reference_figures,
    score,
    score_confusion,
    score_predictions,
)

CLASSES = ("normal", "pneumonia", "covid-19")
PAPER = ((61, 36, 3), (3, 91, 6), (0, 3, 28))  # experiment 3, figure 8

number = st.integers(0, len(CLASSES) - 1)
answers = st.lists(st.tuples(number, number), min_size=1, max_size=30)


def share(part: int, whole: int) -> float | None:
    """Return a share as the nearest float; None of nothing."""
    return float(Fraction(part, whole)) if whole else None


@given(pairs=answers)
def test_every_figure_is_the_fraction_its_name_says(pairs: list[tuple[int, int]]) -> None:
    scores = score_predictions([t for t, _ in pairs], [p for _, p in pairs], CLASSES)
    recalls = []
    for k, name in enumerate(CLASSES):
        hits = pairs.count((k, k))
        of_class = sum(truth == k for truth, _ in pairs)
        called = sum(guess == k for _, guess in pairs)
        found = scores.per_class[name]
        assert found.support == of_class
        assert found.recall == pytest.approx(share(hits, of_class), nan_ok=False)
        assert found.precision == pytest.approx(share(hits, called), nan_ok=False)
        assert found.f1 == pytest.approx(share(2 * hits, of_class + called), nan_ok=False)
        recalls += [Fraction(hits, of_class)] if of_class else []
    right = sum(truth == guess for truth, guess in pairs)
    assert scores.images == len(pairs)
    assert scores.accuracy == pytest.approx(right / len(pairs))
    assert scores.balanced_accuracy == pytest.approx(float(sum(recalls) / len(recalls)))


@given(pairs=answers)
def test_the_confusion_matrix_counts_pairs_of_truth_and_guess(
    pairs: list[tuple[int, int]],
) -> None:
    scores = score_predictions([t for t, _ in pairs], [p for _, p in pairs], CLASSES)
    for truth, row in enumerate(scores.confusion):
        for guess, count in enumerate(row):
            assert count == pairs.count((truth, guess))
    assert score_confusion(scores.confusion, CLASSES) == scores


@given(pairs=answers, data=st.data())
def test_the_order_of_images_does_not_matter(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(pairs))
    first, second = (
        score_predictions([t for t, _ in rows], [p for _, p in rows], CLASSES)
        for rows in (pairs, shuffled)
    )
    assert first == second


def test_what_is_not_defined_is_none_and_never_0() -> None:
    """No image is called covid-19, and none is pneumonia."""
    scores = score_predictions([0, 2, 0], [0, 1, 0], CLASSES)
    assert scores.per_class["pneumonia"].recall is None
    assert scores.per_class["pneumonia"].precision == 0
    assert scores.per_class["covid-19"].precision is None
    assert scores.per_class["covid-19"].recall == 0
    assert scores.balanced_accuracy == 0.5
    assert score_predictions([0], [0], CLASSES).per_class["pneumonia"].f1 is None


def test_the_most_probable_class_is_the_predicted_one() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], np.float32)
    assert score([1, 0, 0], probabilities, CLASSES).confusion == ((1, 0, 1), (0, 1, 0), (0, 0, 0))


def test_the_papers_matrix_gives_the_papers_figures() -> None:
    scores = score_confusion(PAPER, CLASSES)
    covid = scores.per_class["covid-19"]
    assert scores.images == 231
    assert round(100 * scores.accuracy, 1) == 77.9
    assert covid.precision == 28 / 37
    assert covid.recall == 28 / 31
    assert (round(100 * 28 / 37, 1), round(100 * 28 / 31, 1)) == (75.7, 90.3)


def test_scores_become_json_with_null_for_what_is_not_defined() -> None:
    text = json.dumps(score_predictions([0, 2], [0, 1], CLASSES).as_json(), allow_nan=False)
    assert json.loads(text) == {
        "images": 2,
        "accuracy": 0.5,
        "balanced_accuracy": 0.5,
        "per_class": {
            "normal": {"precision": 1, "recall": 1, "f1": 1, "support": 1},
            "pneumonia": {"precision": 0, "recall": None, "f1": 0, "support": 0},
            "covid-19": {"precision": None, "recall": 0, "f1": 0, "support": 1},
        },
        "confusion": [[1, 0, 0], [0, 0, 0], [0, 1, 0]],
    }


def test_a_reference_has_the_figures_of_its_matrix() -> None:
    found = reference_figures(Reference(source="paper", confusion=PAPER), CLASSES)
    assert found == figures(score_confusion(PAPER, CLASSES))
    assert tuple(found) == figure_names(CLASSES)


def test_figures_given_by_name_stand_before_those_of_the_matrix() -> None:
    reference = Reference(source="paper", confusion=PAPER, accuracy=0.5, precision={"normal": 0.25})
    found = reference_figures(reference, CLASSES)
    assert (found["accuracy"], found["normal precision"]) == (0.5, 0.25)
    assert found["covid-19 recall"] == 28 / 31


def test_a_reference_without_a_matrix_leaves_the_rest_open() -> None:
    found = reference_figures(Reference(source="abstract", recall={"normal": 1.0}), CLASSES)
    assert {name: value for name, value in found.items() if value is not None} == {
        "normal recall": 1.0
    }


@pytest.mark.parametrize("confusion", [((0, 0, 0),) * 3, ()], ids=["all zero", "no rows"])
def test_a_matrix_without_images_is_refused_before_anything_is_scored(
    confusion: tuple[tuple[int, ...], ...],
) -> None:
    with pytest.raises(FieldError, match=r"^confusion: "):
        Reference(source="nobody", confusion=confusion)
