"""Scores against fractions from the confusion matrix, and against the paper's own."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.metrics.intervals import Resampling
from tlkit.metrics.scores import OVERALL, PER_CLASS, Scores
from tlkit.metrics.scoring import score, score_confusion, score_predictions

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
    scores = score_predictions([0, 2], [0, 1], CLASSES)
    found = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert (found["images"], found["accuracy"], found["balanced_accuracy"]) == (2, 0.5, 0.5)
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert found["log_loss"] is None
    figures = {
        name: [one[figure] for figure in ("precision", "recall", "f1", "support", "few")]
        for name, one in found["per_class"].items()
    }
    assert figures == {
        "normal": [1, 1, 1, 1, True],
        "pneumonia": [0, None, 0, 0, True],
        "covid-19": [None, 0, 0, 1, True],
    }
    assert found["per_class"]["pneumonia"]["intervals"]["recall"] is None
    assert found["per_class"]["normal"]["intervals"]["recall"]["n"] == 1
    assert found["resampling"] == {"unit": "image", "units": 2, "resamples": 2000, "seed": 0}


@given(pairs=answers, data=st.data())
def test_scores_come_back_from_their_json(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    patients = data.draw(
        st.lists(st.sampled_from("abc "), min_size=len(pairs), max_size=len(pairs))
    )
    rows = [patient.strip() for patient in patients]
    scores = score_predictions([t for t, _ in pairs], [p for _, p in pairs], CLASSES, rows)
    assert Scores.from_json(CLASSES, json.loads(json.dumps(scores.as_json()))) == scores


def labelled(seed: int, images: int, skill: float = 1.5) -> tuple[Any, Any]:
    """Return labels and probabilities that are better than chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    scores = random.normal(size=(images, 3))
    scores[np.arange(images), labels] += skill
    shares = np.exp(scores)
    return labels, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def test_the_order_of_images_does_not_change_an_interval() -> None:
    labels, probabilities = labelled(0, 40)
    patients = [f"p{number // 3}" for number in range(40)]
    order = np.random.default_rng(1).permutation(40)
    assert score(labels, probabilities, CLASSES, patients) == score(
        labels[order], probabilities[order], CLASSES, [patients[k] for k in order]
    )


def test_every_figure_lies_in_its_interval() -> None:
    labels, probabilities = labelled(2, 600)
    scores = score(labels, probabilities, CLASSES)
    known = [(getattr(scores, name), interval) for name, interval in scores.intervals.items()]
    for one in scores.per_class.values():
        known += [(getattr(one, name), interval) for name, interval in one.intervals.items()]
    assert len(known) == len(OVERALL) + len(CLASSES) * len(PER_CLASS)
    for value, interval in known:
        if interval is not None:
            assert interval.low <= value <= interval.high
            assert interval.high - interval.low > 0.01


def test_only_shares_have_an_interval_after_a_perfect_result() -> None:
    """Drawing again from images without a mistake gives no mistake: that is no evidence."""
    scores = score_predictions([0, 1, 2] * 20, [0, 1, 2] * 20, CLASSES)
    interval = scores.intervals["accuracy"]
    assert interval is not None
    assert (round(interval.low, 3), interval.high) == (0.940, 1.0)
    assert scores.intervals["macro_f1"] is None
    assert scores.per_class["normal"].intervals["f1"] is None
    assert scores.per_class["normal"].intervals["recall"] is not None


def test_images_of_one_patient_are_no_independent_evidence() -> None:
    """Ten copies of each image tell no more than one; taken for independent they seem to."""
    labels, probabilities = labelled(3, 40)
    ten, shares = np.repeat(labels, 10), np.repeat(probabilities, 10, axis=0)
    patients = [str(number // 10) for number in range(400)]
    once, by_patient, by_image = (
        score(labels, probabilities, CLASSES),
        score(ten, shares, CLASSES, patients),
        score(ten, shares, CLASSES),
    )

    def width(scores: Scores, name: str) -> float:
        interval = scores.intervals[name]
        assert interval is not None
        return interval.high - interval.low

    assert by_patient.resampling == Resampling("patient", 40)
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert width(by_patient, name) == pytest.approx(width(once, name), rel=0.15)
        assert width(by_image, name) < 0.5 * width(once, name)


def test_classes_with_few_images_and_classes_never_predicted_are_named() -> None:
    scores = score_confusion([[60, 0, 0], [20, 0, 0], [10, 0, 39]], CLASSES)
    assert scores.few == {"pneumonia": 20, "covid-19": 49}
    assert scores.never_predicted == ("pneumonia",)
