"""How good a classifier is, from labels and probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from tlkit.config.experiment import Reference


@frozen
class ClassScores:
    """How well one class is recognised; None where a figure is not defined.

    Attributes:
        precision: The share of images called this class that are; undefined if none was.
        recall: The share of this class's images called so (sensitivity).
        f1: The harmonic mean of both.
        support: How many images of the class there are.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@frozen(kw_only=True)
class Scores:
    """How good a classifier is on one split.

    Attributes:
        classes: Class names in the order of rows and columns.
        images: How many images there are.
        accuracy: The share of images classified rightly.
        balanced_accuracy: The mean of the classes' recalls.
        per_class: The figures of each class, by name.
        confusion: Counts; rows are the truth, columns the prediction.
    """

    classes: tuple[str, ...]
    images: int
    accuracy: float
    balanced_accuracy: float | None
    per_class: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`; what is undefined is null."""
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "per_class": {
                name: {
                    "precision": scores.precision,
                    "recall": scores.recall,
                    "f1": scores.f1,
                    "support": scores.support,
                }
                for name, scores in self.per_class.items()
            },
            "confusion": [list(row) for row in self.confusion],
        }


def score(
    labels: Sequence[int] | npt.NDArray[Any],
    probabilities: npt.NDArray[np.floating[Any]],
    classes: Sequence[str],
) -> Scores:
    """Score predictions; the class with the highest probability is the predicted one.

    Args:
        labels: The true class numbers, `(images,)`.
        probabilities: `(images, classes)`.
        classes: Class names in the order of the columns.
    """
    return score_predictions(labels, probabilities.argmax(axis=1), classes)


def score_predictions(
    labels: Sequence[int] | npt.NDArray[Any],
    predicted: Sequence[int] | npt.NDArray[Any],
    classes: Sequence[str],
) -> Scores:
    """Score predicted class numbers against the true ones."""
    numbers = range(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=np.nan
    )
    per_class = {
        name: ClassScores(
            _defined(precision[k]), _defined(recall[k]), _defined(f1[k]), int(support[k])
        )
        for k, name in enumerate(classes)
    }
    recalls = [float(value) for value in recall if not math.isnan(value)]
    counted = confusion_matrix(labels, predicted, labels=numbers)
    return Scores(
        classes=tuple(classes),
        images=len(labels),
        accuracy=float(accuracy_score(labels, predicted)),
        balanced_accuracy=math.fsum(recalls) / len(recalls) if recalls else None,
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in counted),
    )


def score_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Scores:
    """Return the scores that a published confusion matrix implies."""
    pairs = [
        (truth, guess)
        for truth, row in enumerate(confusion)
        for guess, count in enumerate(row)
        for _ in range(count)
    ]
    return score_predictions([t for t, _ in pairs], [g for _, g in pairs], classes)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def reference_figures(reference: Reference, classes: Sequence[str]) -> dict[str, float | None]:
    """Return a published result's figures under the names of `figures`; None where not given."""
    found: dict[str, float | None] = {}
    if reference.confusion is not None:
        found = figures(score_confusion(reference.confusion, classes))
    if reference.accuracy is not None:
        found["accuracy"] = reference.accuracy
    for kind, values in (("precision", reference.precision), ("recall", reference.recall)):
        found |= {f"{name} {kind}": value for name, value in values.items()}
    return {name: found.get(name) for name in figure_names(classes)}


def figure_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the figures that are set beside published ones."""
    kinds = ("precision", "recall")
    return ("accuracy", *(f"{name} {kind}" for name in classes for kind in kinds))


def figures(scores: Scores) -> dict[str, float | None]:
    """Return the figures that are set beside published ones, by name."""
    found: dict[str, float | None] = {"accuracy": scores.accuracy}
    for name, one in scores.per_class.items():
        found[f"{name} precision"], found[f"{name} recall"] = one.precision, one.recall
    return found
