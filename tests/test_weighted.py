"""Figures of weighted images: those of scikit-learn, which takes one sample at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.preprocessing import label_binarize

from tlkit.metrics.weighted import BINS, Outputs, confidence_bins, figures_of

CLASSES = 3
NUMBERS = range(CLASSES)


@st.composite
def answers(draw: st.DrawFn) -> Outputs:
    """Labels of up to 30 images and probabilities, coarse ones too, so that many are equal."""
    images = draw(st.integers(2, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, draw(st.integers(1, CLASSES)), images)
    parts = random.integers(1, draw(st.sampled_from([3, 10, 10**6])), (images, CLASSES))
    shares = parts / parts.sum(axis=1, keepdims=True)
    return Outputs(labels, shares.argmax(axis=1), CLASSES, shares)


@st.composite
def drawn(draw: st.DrawFn, images: int) -> npt.NDArray[np.float64]:
    """How often each image counts; at least once in all."""
    weights = draw(st.lists(st.integers(0, 4), min_size=images, max_size=images).filter(any))
    return np.array(weights, np.float64)


def same(found: npt.NDArray[np.float64], expected: object) -> None:
    assert found == pytest.approx(np.asarray(expected, np.float64), abs=1e-9, nan_ok=True)


@given(data=st.data())
def test_figures_of_predicted_classes_are_scikit_learns(data: st.DataObject) -> None:
    one = data.draw(answers())
    weights = data.draw(drawn(len(one.labels)))
    found = {name: x[0] for name, x in figures_of(one, weights[None]).items()}
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        one.labels, one.predicted, labels=NUMBERS, sample_weight=weights, zero_division=np.nan
    )
    same(found["precision"], precision)
    same(found["recall"], recall)
    same(found["f1"], f1)
    same(found["macro_f1"], np.nanmean(f1))
    same(found["balanced_accuracy"], np.nanmean(recall))
    same(found["accuracy"], oracle.accuracy_score(one.labels, one.predicted, sample_weight=weights))
    used = weights > 0
    if len({*one.labels[used], *one.predicted[used]}) > 1:
        kappa = oracle.cohen_kappa_score(
            one.labels, one.predicted, labels=NUMBERS, sample_weight=weights
        )
        same(found["kappa"], kappa)
    else:
        assert np.isnan(found["kappa"])
    for k in NUMBERS:
        others = (one.labels != k) & used
        if others.any():
            right = one.predicted[others] != k
            same(found["specificity"][k], np.average(right, weights=weights[others]))
        else:
            assert np.isnan(found["specificity"][k])


@given(data=st.data())
def test_figures_of_probabilities_are_scikit_learns(data: st.DataObject) -> None:
    one = data.draw(answers())
    weights = data.draw(drawn(len(one.labels)))
    found = {name: x[0] for name, x in figures_of(one, weights[None]).items()}
    shares = one.probabilities
    assert shares is not None
    truth = label_binarize(one.labels, classes=NUMBERS)
    loss = oracle.log_loss(one.labels, shares, labels=NUMBERS, sample_weight=weights)
    assert found["log_loss"] == pytest.approx(loss, abs=1e-6)
    halves = 0.5 * ((shares - truth) ** 2).sum(axis=1)
    same(found["brier"], np.average(halves, weights=weights))
    same(
        found["brier"],
        oracle.brier_score_loss(
            one.labels, shares, labels=NUMBERS, sample_weight=weights, scale_by_half=True
        ),
    )
    for k in NUMBERS:
        own = one.labels == k
        some, others = weights[own].sum() > 0, weights[~own].sum() > 0
        area, precision = found["auroc"][k], found["average_precision"][k]
        if some:
            same(
                precision, oracle.average_precision_score(own, shares[:, k], sample_weight=weights)
            )
        assert np.isnan(precision) == (not some)
        if some and others:
            same(area, oracle.roc_auc_score(own, shares[:, k], sample_weight=weights))
        assert np.isnan(area) == (not (some and others))


@given(data=st.data())
def test_the_calibration_error_is_the_mean_gap_of_the_bins(data: st.DataObject) -> None:
    one = data.draw(answers())
    weights = data.draw(drawn(len(one.labels)))
    assert one.probabilities is not None
    sure = one.probabilities.max(axis=1)
    right = one.labels == one.predicted
    gaps = 0.0
    for k in range(BINS):
        inside = confidence_bins(sure) == k
        if (held := weights[inside].sum()) > 0:
            mean = np.average(sure[inside], weights=weights[inside])
            gaps += held * abs(mean - np.average(right[inside], weights=weights[inside]))
    same(figures_of(one, weights[None])["calibration_error"][0], gaps / weights.sum())


@given(data=st.data())
def test_an_image_that_counts_twice_is_one_that_is_there_twice(data: st.DataObject) -> None:
    one = data.draw(answers())
    weights = data.draw(drawn(len(one.labels)))
    assert one.probabilities is not None
    times = np.repeat(np.arange(len(weights)), weights.astype(int))
    again = Outputs(one.labels[times], one.predicted[times], CLASSES, one.probabilities[times])
    weighted, repeated = figures_of(one, weights[None]), figures_of(again, np.ones((1, len(times))))
    for name, found in weighted.items():
        same(found, repeated[name])


def test_probabilities_of_0_have_a_finite_loss() -> None:
    one = Outputs(np.array([0]), np.array([1]), 2, np.array([[0.0, 1.0]]))
    assert figures_of(one, np.ones((1, 1)))["log_loss"][0] == pytest.approx(15.94, abs=0.01)
