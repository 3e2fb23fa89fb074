"""Figures of many resamples at once: each image counts as often as it was drawn.

scikit-learn computes one figure of one sample at a time, which would take minutes for 2,000
resamples; a test holds these formulas equal to scikit-learn's. In what follows `weights` is
`(resamples, images)`; results are `(resamples,)`, or `(resamples, classes)` for figures of single
classes, and NaN where a figure is not defined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

BINS = 10  # of confidence, for the calibration error (Naeini et al. 2015)
# Probabilities are float32: one that says 0 may stand for anything below this.
TINY = float(np.finfo(np.float32).eps)


@frozen(eq=False)
class Answers:
    """What a classifier said about labelled images.

    Attributes:
        labels: The true class numbers, `(images,)`.
        predicted: The predicted ones, `(images,)`.
        classes: How many classes there are.
        probabilities: `(images, classes)`; None if only the predicted classes are known.
    """

    labels: Numbers
    predicted: Numbers
    classes: int
    probabilities: Floats | None = field(default=None)


def figures_of(answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Return every figure by name."""
    found = _counted(answers, weights)
    if answers.probabilities is not None:
        found |= _of_probabilities(answers, answers.probabilities, weights)
    return found


def _counted(answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Return the figures that follow from the predicted classes."""
    truth, guess = (np.eye(answers.classes)[n] for n in (answers.labels, answers.predicted))
    truths, calls, hits = weights @ truth, weights @ guess, weights @ (truth * guess)
    total = weights.sum(axis=1, keepdims=True)
    accuracy = ratio(hits.sum(axis=1), total[:, 0])
    by_chance = ratio((truths * calls).sum(axis=1), total[:, 0] ** 2)
    recall = ratio(hits, truths)
    f1 = ratio(2 * hits, truths + calls)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "kappa": ratio(accuracy - by_chance, 1 - by_chance),
        "precision": ratio(hits, calls),
        "recall": recall,
        "specificity": ratio(total - truths - calls + hits, total - truths),
        "f1": f1,
    }


def _of_probabilities(
    answers: Answers, probabilities: Floats, weights: Floats
) -> dict[str, Floats]:
    truth = np.eye(answers.classes)[answers.labels]
    own = np.clip((probabilities * truth).sum(axis=1), TINY, 1 - TINY)
    squares = ((probabilities - truth) ** 2).sum(axis=1) / 2
    auroc, precision = _rankings(truth, probabilities, weights)
    total = weights.sum(axis=1)
    # einsum adds up in one order; a matrix product's depends on how many threads there are.
    return {
        "log_loss": np.einsum("ri,i->r", weights, -np.log(own)) / total,
        "brier": np.einsum("ri,i->r", weights, squares) / total,
        "calibration_error": np.abs(np.einsum("ri,ib->rb", weights, _gaps(answers))).sum(1) / total,
        "auroc": auroc,
        "average_precision": precision,
    }


def confidence_bins(confidence: Floats) -> Numbers:
    """Return which of `BINS` equal bins of (0, 1] each highest probability is in.

    >>> confidence_bins(np.array([0.05, 0.1, 0.11, 1.0])).tolist()
    [0, 0, 1, 9]
    """
    return np.clip(np.ceil(confidence * BINS - 1e-9).astype(np.intp) - 1, 0, BINS - 1)


def _gaps(answers: Answers) -> Floats:
    """Return, in each image's bin, how much more certain it was than right, `(images, bins)`."""
    assert answers.probabilities is not None
    confidence = answers.probabilities.max(axis=1)
    # Of the likeliest class, which is not the predicted one where another has a threshold.
    gap = confidence - (answers.labels == answers.probabilities.argmax(axis=1))
    return np.asarray(np.eye(BINS)[confidence_bins(confidence)] * gap[:, None])


def _rankings(truth: Floats, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the area under the ROC curve and average precision, each class against the rest."""
    found = [
        _ranking(positive == 1, score, weights)
        for positive, score in zip(truth.T, probabilities.T, strict=True)
    ]
    auroc, precision = zip(*found, strict=True)
    return np.stack(auroc, axis=1), np.stack(precision, axis=1)


def _ranking(
    positive: npt.NDArray[np.bool_], score: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of those with one score
    drawn = weights[:, order]
    true = np.cumsum(drawn * positive[order], axis=1)[:, last]
    false = np.cumsum(drawn * ~positive[order], axis=1)[:, last]
    true_steps, false_steps = (np.diff(x, axis=1, prepend=0) for x in (true, false))
    area = (false_steps * (true - true_steps / 2)).sum(axis=1)
    called = true + false
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    return (
        ratio(area, true[:, -1] * false[:, -1]),
        ratio((true_steps * precision).sum(axis=1), true[:, -1]),
    )


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return `part / whole`; NaN where the whole is 0."""
    empty = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=empty, where=np.abs(whole) > 1e-12))


def _mean(figures: Floats) -> Floats:
    """Return the mean over those classes whose figure is defined."""
    defined = ~np.isnan(figures)
    return ratio(np.where(defined, figures, 0).sum(axis=1), defined.sum(axis=1).astype(np.float64))
