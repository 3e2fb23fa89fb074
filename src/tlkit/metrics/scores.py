"""Scores of a classifier with their 95 % intervals, as they stand in `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from tlkit.config.structure import structure
from tlkit.metrics.intervals import FEW, Interval, Resampling, format_share
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.notebook import data_frame, face, few_names, html_table

if TYPE_CHECKING:
    import pandas

TINY = 2.0**-23  # float32's epsilon: a float32 probability of 0 may stand for any below it
MATRIX_CLASSES = 12  # of a confusion matrix in a notebook
# Figures of all classes together and of each class, in display order.
OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "kappa": "Cohen's kappa",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
PER_CLASS = {
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
}


@frozen(kw_only=True)
class ClassScores:
    """Scores of one class; None where a figure is undefined or unknown.

    Attributes:
        precision: Share of the images predicted as this class that belong to it.
        recall: Share of this class's images predicted as such (sensitivity).
        specificity: Share of the other images not predicted as this class.
        f1: Harmonic mean of precision and recall.
        auroc: Area under the ROC curve, this class against the rest.
        average_precision: Area under the precision-recall curve, as a sum of steps.
        support: Number of images of the class.
        intervals: 95 % interval of each figure by name; None where there is none.
    """

    precision: float | None
    recall: float | None
    specificity: float | None = None
    f1: float | None
    auroc: float | None = None
    average_precision: float | None = None
    support: int
    intervals: dict[str, Interval | None] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class Scores:
    """Scores of a classifier on one split; None where a figure is undefined or unknown.

    Attributes:
        classes: Class names in the order of the model's outputs.
        images: Number of images.
        accuracy: Share of correct predictions.
        balanced_accuracy: Mean recall over the classes.
        macro_f1: Mean F1 over the classes.
        kappa: Cohen's kappa, agreement beyond chance.
        log_loss: Mean of −ln of the true class's probability.
        brier: Half the mean squared distance from the true class's one-hot vector, from 0 to 1.
        calibration_error: Mean gap between the highest probability and the share of correct
            predictions over ten bins (expected calibration error).
        per_class: Scores of each class by name.
        confusion: Confusion matrix in counts; rows are the truth.
        intervals: 95 % interval of each figure by name; None where there is none.
        resampling: How the bootstrap intervals were drawn.
    """

    classes: tuple[str, ...]
    images: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float | None = None
    kappa: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    calibration_error: float | None = None
    per_class: dict[str, ClassScores] = field(repr=False)
    confusion: tuple[tuple[int, ...], ...]
    intervals: dict[str, Interval | None] = field(factory=dict, repr=False)
    resampling: Resampling | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        accuracy = format_share(self.accuracy, self.intervals.get("accuracy"))
        return f"Scores(accuracy {accuracy}, {self.images} images of {few_names(self.classes)})"

    def _repr_html_(self) -> str:
        accuracy = format_share(self.accuracy, self.intervals.get("accuracy"))
        names = ("precision", "recall", "f1", "auroc")
        rows = [
            [
                label,
                of_class.support,
                *(
                    format_share(getattr(of_class, n), of_class.intervals.get(n), n in names[:2])
                    for n in names
                ),
            ]
            for label, of_class in self.per_class.items()
        ]
        blocks = [html_table(["class", "images", *(PER_CLASS[n] for n in names)], rows)]
        if len(self.classes) <= MATRIX_CLASSES:
            pairs = zip(self.classes, self.confusion, strict=True)
            matrix = [[label, *counts] for label, counts in pairs]
            blocks.append(html_table(["truth \\ predicted", *self.classes], matrix))
        note = '<p class="soft">in brackets: 95 % intervals</p>'
        return face(f"accuracy {accuracy}, {self.images} images", *blocks, note)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per class, and one of all classes, as a pandas DataFrame.

        Raises:
            ResourceError: If pandas is not installed.
        """
        return data_frame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return the figures of all classes together, then those of each class."""
        of_all = {name: getattr(self, name) for name in OVERALL}
        of_classes = [
            {"class": label} | {name: getattr(scores, name) for name in (*PER_CLASS, "support")}
            for label, scores in self.per_class.items()
        ]
        return [{"class": "all", **of_all, "support": self.images}, *of_classes]

    @property
    def few(self) -> dict[str, int]:
        """Return the classes with fewer than 50 images, and their numbers of images."""
        return {
            name: scores.support for name, scores in self.per_class.items() if scores.support < FEW
        }

    @property
    def never_predicted(self) -> tuple[str, ...]:
        """Return the classes that were never predicted."""
        predictions = map(sum, zip(*self.confusion, strict=True))
        return tuple(n for n, count in zip(self.classes, predictions, strict=True) if not count)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`; undefined figures are null."""
        table = attrs.asdict(self)
        return {
            "images": self.images,
            **{name: table[name] for name in OVERALL},
            "intervals": table["intervals"],
            "per_class": {
                name: {
                    **{figure: scores[figure] for figure in PER_CLASS},
                    "support": scores["support"],
                    "few": scores["support"] < FEW,
                    "intervals": scores["intervals"],
                }
                for name, scores in table["per_class"].items()
            },
            "confusion": [list(row) for row in self.confusion],
            "resampling": table["resampling"],
        }

    @classmethod
    def from_json(cls, classes: Sequence[str], table: Any) -> Scores:
        """Return the scores whose `as_json` gave a table.

        Raises:
            ConfigError: If the table has another form, with the keys that are wrong.
        """
        if isinstance(table, Mapping):
            per_class = _each(_without_few, table.get("per_class"))
            table = {**table, "classes": list(classes), "per_class": per_class}
        scores = structure(cls, table)
        if tuple(scores.per_class) != scores.classes:
            message = (
                f"must have the classes {', '.join(classes)}, got {', '.join(scores.per_class)}"
            )
            raise ConfigError([Problem("per_class", message)])
        if {len(scores.confusion), *map(len, scores.confusion)} != {len(scores.classes)}:
            raise ConfigError([Problem("confusion", "must have a row and a column per class")])
        return scores


def _each(change: Callable[[Any], Any], table: Any) -> Any:
    """Return a table with each value changed; anything else as it is."""
    if not isinstance(table, Mapping):
        return table
    return {key: change(value) for key, value in table.items()}


def _without_few(table: Any) -> Any:
    """Return a class's table without the key `few`, which follows from `support`."""
    if not isinstance(table, Mapping):
        return table
    return {key: value for key, value in table.items() if key != "few"}


@frozen
class EpochScores:
    """Scores of a model after one epoch.

    Attributes:
        epoch: The epoch's number.
        scores: Scores by split: `val`, and `test` if there is one.
    """

    epoch: int
    scores: dict[str, Scores]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        splits = {split: scores.as_json() for split, scores in self.scores.items()}
        return {"epoch": self.epoch, **splits}
