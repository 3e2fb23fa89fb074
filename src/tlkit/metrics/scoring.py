"""Scores from labels and predictions, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tlkit.data.splits import Example, refuse_missing
from tlkit.metrics.bootstrap import (
    bootstrap_interval,
    draws,
    resampling_of,
    share_interval,
    unit_numbers,
)
from tlkit.metrics.intervals import FEW, Interval
from tlkit.metrics.scores import OVERALL, PER_CLASS, ClassScores, Scores
from tlkit.metrics.weighted import BINS, Outputs, figures_of
from tlkit.system.parallel import available_cores, in_parallel

SHARES = ("precision", "recall", "specificity")  # these and accuracy have Wilson's interval
Labels = Sequence[int] | npt.NDArray[Any]


def score(
    labels: Labels,
    probabilities: npt.NDArray[np.floating[Any]],
    classes: Sequence[str],
    patients: Sequence[str] = (),
    predicted: Labels | None = None,
) -> Scores:
    """Score predictions.

    Args:
        labels: True class numbers, `(images,)`.
        probabilities: `(images, classes)`.
        classes: Class names in the order of the columns.
        patients: Each image's patient, empty if unknown; no patients: all unknown.
        predicted: Predicted class numbers; None: the most probable classes.
    """
    labels = _class_numbers(labels, len(classes), "labels")
    shares = np.asarray(probabilities, np.float64)
    guesses = shares.argmax(axis=1)
    if predicted is not None:
        guesses = _class_numbers(predicted, len(classes), "predicted")
    return _scores(Outputs(labels, guesses, len(classes), shares), classes, patients)


def score_examples(
    examples: Sequence[Example],
    probabilities: npt.NDArray[np.floating[Any]],
    classes: Sequence[str],
    predicted: Labels | None = None,
) -> Scores:
    """Score predictions for labeled images; see `score`."""
    number = {name: index for index, name in enumerate(classes)}
    labels = [number[example.label] for example in examples]
    patients = [example.patient for example in examples]
    return score(labels, probabilities, classes, patients, predicted)


def score_predictions(
    labels: Labels, predicted: Labels, classes: Sequence[str], patients: Sequence[str] = ()
) -> Scores:
    """Score predicted class numbers against the true ones."""
    truth = _class_numbers(labels, len(classes), "labels")
    guesses = _class_numbers(predicted, len(classes), "predicted")
    return _scores(Outputs(truth, guesses, len(classes)), classes, patients)


def _class_numbers(labels: Labels, classes: int, what: str) -> npt.NDArray[np.intp]:
    """Return class numbers as integers."""
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        refuse_missing(values.ravel().tolist(), what)
    numbers = values.astype(np.intp)
    if (numbers != values).any() or not ((numbers >= 0) & (numbers < classes)).all():
        raise ValueError(f"{what}: must be class numbers from 0 to {classes - 1}, got {values!r}")
    return numbers


def score_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Scores:
    """Return the scores implied by a published confusion matrix."""
    counts = np.asarray(confusion).ravel()
    truth, guesses = np.divmod(np.repeat(np.arange(len(counts)), counts), len(classes))
    return score_predictions(truth, guesses, classes)


def confusion_matrix(
    labels: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], classes: int
) -> tuple[tuple[int, ...], ...]:
    """Return counts of true class (rows) by predicted class (columns)."""
    cells = np.bincount(labels * classes + predicted, minlength=classes**2)
    return tuple(map(tuple, cells.reshape(classes, classes).tolist()))


def point_figures(
    labels: Labels, probabilities: npt.NDArray[np.floating[Any]], classes: Sequence[str]
) -> dict[str, float]:
    """Return the figures of `OVERALL` without intervals, by name."""
    shares = np.asarray(probabilities, np.float64)
    numbers = np.asarray(labels, np.intp)
    outputs, _ = _in_order(Outputs(numbers, shares.argmax(axis=1), len(classes), shares), ())
    figures = figures_of(outputs, np.ones((1, len(numbers))))
    return {name: float(figures[name][0]) for name in OVERALL}


def _scores(outputs: Outputs, classes: Sequence[str], patients: Sequence[str]) -> Scores:
    outputs, patients = _in_order(outputs, patients)
    units = unit_numbers(len(outputs.labels), patients)
    resampling = resampling_of(units, any(patients), len(classes))
    values = {
        name: figures[0] for name, figures in figures_of(outputs, np.ones((1, len(units)))).items()
    }
    cores = available_cores()
    chunks = [*in_parallel(partial(figures_of, outputs), draws(units, resampling), cores, cores)]
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in values}

    def bootstrap(name: str, *index: int) -> Interval | None:
        drawn = np.moveaxis(resampled[name], 0, -1)[index]
        return bootstrap_interval(float(values[name][index]), drawn, len(units))

    correct = outputs.labels == outputs.predicted
    intervals = {name: bootstrap(name) for name in OVERALL if name in values}
    if "calibration_error" in intervals and len(units) < BINS * FEW:
        # Chance dominates with so few images per bin: in simulations with 31 and 200 images the
        # interval contained the truth in 20 and 79 of 100 cases.
        intervals["calibration_error"] = None
    intervals["accuracy"] = share_interval(correct, np.ones_like(correct), units)
    per_class = {}
    for k, name in enumerate(classes):
        own = {f: bootstrap(f, k) for f in PER_CLASS if f in values and f not in SHARES}
        own |= _share_intervals(outputs.labels == k, outputs.predicted == k, units)
        per_class[name] = ClassScores(
            **{figure: _defined(values.get(figure), k) for figure in PER_CLASS},
            support=int((outputs.labels == k).sum()),
            intervals={figure: own[figure] for figure in PER_CLASS if figure in own},
        )
    return Scores(
        classes=tuple(classes),
        images=len(units),
        accuracy=float(values["accuracy"]),
        **{name: _defined(values.get(name)) for name in OVERALL if name != "accuracy"},
        per_class=per_class,
        confusion=confusion_matrix(outputs.labels, outputs.predicted, len(classes)),
        intervals=intervals,
        resampling=resampling,
    )


def _in_order(outputs: Outputs, patients: Sequence[str]) -> tuple[Outputs, Sequence[str]]:
    """Sort the images by their content, so that the draws do not depend on their order."""
    shares = outputs.probabilities
    columns = [] if shares is None else list(shares.T)
    owners = [np.asarray(patients)] if any(patients) else []
    order = np.lexsort([*columns, outputs.predicted, outputs.labels, *owners])
    ordered = Outputs(
        outputs.labels[order],
        outputs.predicted[order],
        outputs.classes,
        None if shares is None else shares[order],
    )
    return ordered, [patients[index] for index in order] if any(patients) else ()


def _share_intervals(
    truth: npt.NDArray[np.bool_], guesses: npt.NDArray[np.bool_], units: npt.NDArray[np.intp]
) -> dict[str, Interval | None]:
    return {
        "precision": share_interval(truth, guesses, units),
        "recall": share_interval(guesses, truth, units),
        "specificity": share_interval(~guesses, ~truth, units),
    }


def _defined(values: Any, *index: int) -> float | None:
    value = math.nan if values is None else float(values[index])
    return None if math.isnan(value) else value
