"""Figures of many resamples at once, with each image weighted by how often it was drawn.

scikit-learn computes one figure of one sample at a time, which would take minutes for 2,000
resamples; a test holds these formulas equal to scikit-learn's. `weights` has shape
`(resamples, images)`. Results have shape `(resamples,)`, or `(resamples, classes)` for figures of
single classes, and are NaN where undefined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tlkit.metrics.scores import TINY

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

BINS = 10  # of confidence, for the calibration error (Naeini et al. 2015)


@frozen(eq=False)
class Outputs:
    """A classifier's outputs for labeled images.

    Attributes:
        labels: True class numbers, `(images,)`.
        predicted: Predicted class numbers, `(images,)`.
        classes: Number of classes.
        probabilities: `(images, classes)`; None if only the predicted classes are known.
    """

    labels: Numbers
    predicted: Numbers
    classes: int
    probabilities: Floats | None = field(default=None)


def figures_of(outputs: Outputs, weights: Floats) -> dict[str, Floats]:
    """Return every figure by name."""
    figures = _class_figures(outputs, weights)
    if outputs.probabilities is not None:
        figures |= _probability_figures(outputs, outputs.probabilities, weights)
    return figures


def _class_figures(outputs: Outputs, weights: Floats) -> dict[str, Floats]:
    """Return the figures that depend on the predicted classes only."""
    labels, right = outputs.labels, outputs.labels == outputs.predicted
    truths = _counts(weights, labels, outputs.classes)
    guesses = _counts(weights, outputs.predicted, outputs.classes)
    hits = _counts(weights[:, right], labels[right], outputs.classes)
    total = weights.sum(axis=1, keepdims=True)
    accuracy = ratio(hits.sum(axis=1), total[:, 0])
    by_chance = ratio((truths * guesses).sum(axis=1), total[:, 0] ** 2)
    recall = ratio(hits, truths)
    f1 = ratio(2 * hits, truths + guesses)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "kappa": ratio(accuracy - by_chance, 1 - by_chance),
        "precision": ratio(hits, guesses),
        "recall": recall,
        "specificity": ratio(total - truths - guesses + hits, total - truths),
        "f1": f1,
    }


def _counts(weights: Floats, numbers: Numbers, classes: int) -> Floats:
    """Return the sums of the weights in each class, without a matrix product.

    That would be handed to threads, which then keep a core busy while they wait for the next one.
    """
    return np.stack([np.bincount(numbers, row, minlength=classes) for row in weights])


def _probability_figures(
    outputs: Outputs, probabilities: Floats, weights: Floats
) -> dict[str, Floats]:
    truth = np.eye(outputs.classes)[outputs.labels]
    own = np.clip((probabilities * truth).sum(axis=1), TINY, 1 - TINY)
    squares = ((probabilities - truth) ** 2).sum(axis=1) / 2
    auroc, precision = _rankings(truth, probabilities, weights)
    total = weights.sum(axis=1)
    # einsum sums in a fixed order; that of a matrix product depends on the number of threads.
    return {
        "log_loss": np.einsum("ri,i->r", weights, -np.log(own)) / total,
        "brier": np.einsum("ri,i->r", weights, squares) / total,
        "calibration_error": np.abs(np.einsum("ri,ib->rb", weights, _gaps(outputs))).sum(1) / total,
        "auroc": auroc,
        "average_precision": precision,
    }


def confidence_bins(confidence: Floats) -> Numbers:
    """Return the bin, of `BINS` equal ones of (0, 1], of each highest probability.

    >>> confidence_bins(np.array([0.05, 0.1, 0.11, 1.0])).tolist()
    [0, 0, 1, 9]
    """
    return np.clip(np.ceil(confidence * BINS - 1e-9).astype(np.intp) - 1, 0, BINS - 1)


def _gaps(outputs: Outputs) -> Floats:
    """Return each image's confidence minus its correctness in its bin, `(images, bins)`."""
    assert outputs.probabilities is not None
    confidence = outputs.probabilities.max(axis=1)
    # Of the most probable class; with a threshold, the predicted class may be another.
    gap = confidence - (outputs.labels == outputs.probabilities.argmax(axis=1))
    return np.asarray(np.eye(BINS)[confidence_bins(confidence)] * gap[:, None])


def _rankings(truth: Floats, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return AUROC and average precision, each class against the rest."""
    rankings = [
        _ranking(positive == 1, score, weights)
        for positive, score in zip(truth.T, probabilities.T, strict=True)
    ]
    auroc, precision = zip(*rankings, strict=True)
    return np.stack(auroc, axis=1), np.stack(precision, axis=1)


def _ranking(
    positive: npt.NDArray[np.bool_], score: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Return AUROC and average precision, from sums where an image of the class is."""
    order = np.argsort(-score, kind="stable")
    own = np.flatnonzero(positive[order])
    changes = np.flatnonzero(np.diff(score[order])) + 1
    starts, ends = np.append(0, changes), np.append(changes, len(order))  # of equal scores
    with_own = np.searchsorted(own, starts) < np.searchsorted(own, ends)
    starts, ends = starts[with_own], ends[with_own]
    seen, true = _sums(weights, order), _sums(weights, order[own])
    all_true, all_false = true[:, -1], seen[:, -1] - true[:, -1]
    true, seen_before, seen = true[:, np.searchsorted(own, ends)], seen[:, starts], seen[:, ends]
    steps = np.diff(true, axis=1, prepend=0)
    false, false_before = seen - true, seen_before - (true - steps)
    below = all_false[:, None] - (false + false_before) / 2  # equal scores count half
    precision = np.divide(true, seen, out=np.zeros_like(true), where=seen > 0)
    return (
        ratio((steps * below).sum(axis=1), all_true * all_false),
        ratio((steps * precision).sum(axis=1), all_true),
    )


def _sums(weights: Floats, images: Numbers) -> Floats:
    """Return the sums of the weights of the first 0, 1, 2 ... of some images."""
    sums = np.zeros((len(weights), len(images) + 1))
    np.cumsum(np.take(weights, images, axis=1), axis=1, out=sums[:, 1:])
    return sums


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return `part / whole`; NaN where the whole is 0."""
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.abs(whole) > 1e-12))


def _mean(figures: Floats) -> Floats:
    """Return the mean over the classes for which a figure is defined."""
    defined = ~np.isnan(figures)
    return ratio(np.where(defined, figures, 0).sum(axis=1), defined.sum(axis=1).astype(np.float64))
