"""What a run results in, as typed records: scores and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import evolve, field, frozen

from tlkit.config.structure import structure
from tlkit.data.splits import Splits
from tlkit.metrics.scores import EpochScores, Scores
from tlkit.runfolder.inputs import NOT_A_KEY, DataFacts
from tlkit.system.errors import ConfigError, Problem
from tlkit.train.callback import FlipGain

if TYPE_CHECKING:
    from tlkit.metrics.calibration import CalibratedOutputs, Calibrator


@frozen(kw_only=True)
class MetricsRecord:
    """`metrics.json`: the scores of the kept weights, and of the last or best epoch's.

    Attributes:
        stand_in: What replaced missing data; None for real data.
        evaluated_on: The split that the run is judged on.
        classes: Class names in the order of the model's outputs.
        data: What a reader should know about the images.
        weights: The initial weights: `source`, `file`, `sha256`.
        keep: Whether the `last` or the `best` epoch's weights were kept.
        refit_images: The number of training and validation images to which these were fitted once
            more; None: they were not.
        kept: Scores of the kept weights.
        other: Scores of the best epoch's weights if the last were kept, and vice versa.
    """

    stand_in: str | None = None
    evaluated_on: Literal["val", "test"]
    classes: tuple[str, ...]
    data: DataFacts = field(factory=DataFacts)
    weights: dict[str, str] = field(factory=dict)
    keep: Literal["last", "best"]
    refit_images: int | None = None
    kept: EpochScores = field(metadata=NOT_A_KEY, default=EpochScores(0, {}))
    other: EpochScores = field(metadata=NOT_A_KEY, default=EpochScores(0, {}))

    @classmethod
    def from_json(cls, table: Any) -> MetricsRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        if not isinstance(table, Mapping):
            return structure(cls, table)  # raises
        scores = ("epoch", "val", "test", "last", "best")
        head = structure(cls, {k: v for k, v in table.items() if k not in scores})
        name = "best" if head.keep == "last" else "last"
        kept = _epoch_scores(head.classes, table, "")
        if head.evaluated_on not in kept.scores:
            raise ConfigError([Problem(head.evaluated_on, "missing; a table is required")])
        return evolve(head, kept=kept, other=_epoch_scores(head.classes, table.get(name), name))

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        table = attrs.asdict(self)
        del table["kept"], table["other"]
        if self.refit_images is None:
            del table["refit_images"]
        name = "best" if self.keep == "last" else "last"
        return {**table, **self.kept.as_json(), name: self.other.as_json()}


def _epoch_scores(classes: Sequence[str], table: Any, path: str) -> EpochScores:
    """Return the scores of an epoch, recorded under a key path."""
    if not isinstance(table, Mapping):
        raise ConfigError([Problem(path, "must be a table")])
    if type(epoch := table.get("epoch")) is not int:
        raise ConfigError([Problem(_join(path, "epoch"), f"must be an integer, got {epoch!r}")])
    scores = {}
    for split in ("val", "test"):
        if split in table:
            with _below(_join(path, split)):
                scores[split] = Scores.from_json(classes, table[split])
    return EpochScores(epoch, scores)


def _join(*path: str) -> str:
    return ".".join(filter(None, path))


@contextmanager
def _below(path: str) -> Iterator[None]:
    """Put a key path before those of the problems in the body."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            Problem(_join(path, problem.path), problem.message) for problem in error.problems
        ) from None


@frozen(kw_only=True)
class Threshold:
    """A class's own threshold.

    Attributes:
        name: The class.
        p: The least probability at which it is predicted.
        images: The number of validation images of the class, on which it was chosen; None in runs
            of earlier versions.
        recall: The class's recall on validation with this threshold.
    """

    name: str
    p: float
    images: int | None = None
    recall: float | None = None


@frozen(kw_only=True)
class RawFigures:
    """Figures before calibration, on one split."""

    accuracy: float
    log_loss: float
    calibration_error: float


@frozen(kw_only=True)
class CalibrationRecord:
    """`calibration.json`: what was fitted on validation.

    Attributes:
        temperature: The divisor of the logarithms of the probabilities.
        threshold: A class's own threshold; None: the most probable class is predicted.
        raw: Figures before calibration, by split.
        tta: What averaging with the mirror images does; None: it was not asked for.
    """

    temperature: float
    threshold: Threshold | None = None
    raw: dict[str, RawFigures]
    tta: FlipGain | None = None

    @classmethod
    def of(
        cls, outputs: CalibratedOutputs, splits: Splits, tta: FlipGain | None = None
    ) -> CalibrationRecord:
        """Return the record of a run's calibrated outputs."""
        from tlkit.metrics.scoring import point_figures  # needs NumPy

        calibrator, examples = outputs.calibrator, dict(splits.items())
        threshold = None
        if calibrator.favored is not None:
            name = splits.classes[calibrator.favored]
            own = outputs.scores["val"].per_class[name]
            threshold = Threshold(
                name=name, p=calibrator.threshold, images=own.support, recall=own.recall
            )
        raw = {}
        for split, probabilities in outputs.raw.items():
            labels = splits.labels(examples[split])
            figures = point_figures(labels, probabilities, splits.classes)
            names = (key.name for key in attrs.fields(RawFigures))
            raw[split] = RawFigures(**{name: figures[name] for name in names})
        return cls(temperature=calibrator.temperature, threshold=threshold, raw=raw, tta=tta)

    @classmethod
    def from_json(cls, table: Any) -> CalibrationRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        threshold = table.get("threshold") if isinstance(table, Mapping) else None
        if isinstance(threshold, Mapping):  # `class` cannot be an attribute's name
            renamed = {"name" if key == "class" else key: v for key, v in threshold.items()}
            table = {**table, "threshold": renamed}
        return structure(cls, table)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `calibration.json`."""
        threshold = None
        if self.threshold is not None:
            known = attrs.asdict(self.threshold, filter=lambda _, value: value is not None)
            threshold = {"class": known.pop("name"), **known}
        table = {**attrs.asdict(self), "threshold": threshold}
        if self.tta is None:
            del table["tta"]
        return table

    def calibrator(self, classes: Sequence[str]) -> Calibrator:
        """Return the calibrator of a model with these classes."""
        from tlkit.metrics.calibration import Calibrator  # needs NumPy

        if self.threshold is None:
            return Calibrator(temperature=self.temperature)
        if self.threshold.name not in classes:
            message = f"must be one of {', '.join(classes)}, got {self.threshold.name!r}"
            raise ConfigError([Problem("threshold.class", message)])
        number = classes.index(self.threshold.name)
        return Calibrator(temperature=self.temperature, favored=number, threshold=self.threshold.p)


def calibration_text(record: CalibrationRecord, split: str, error: float | None) -> str:
    """Return what was fitted on validation, for people; empty if it changes nothing.

    >>> raw = {"test": RawFigures(accuracy=0.8, log_loss=0.6, calibration_error=0.091)}
    >>> print(calibration_text(CalibrationRecord(temperature=1.7, raw=raw), "test", 0.04))
    Probabilities are calibrated on val (temperature 1.7: the model alone is overconfident); on \
test this changed the calibration error from 0.091 to 0.040.
    """
    sentences = []
    if record.tta:
        what = "Probabilities are averaged over each image and its horizontal mirror image"
        if not record.tta.kept:
            what = "Averaging over each image and its mirror image was tried and not kept"
        sentences.append(
            f"{what}: on val the log loss is {record.tta.averaged_log_loss:.3g} with it and "
            f"{record.tta.log_loss:.3g} without."
        )
    if record.temperature != 1:
        confidence = "overconfident" if record.temperature > 1 else "underconfident"
        effect = ""
        if error is not None:
            before = record.raw[split].calibration_error
            effect = (
                f"; on {split} this changed the calibration error from {before:.3f} to {error:.3f}"
            )
        sentences.append(
            f"Probabilities are calibrated on val (temperature {record.temperature:.3g}: the model "
            f"alone is {confidence}){effect}."
        )
    if record.threshold:
        sentences.append(
            f"An image is predicted as {record.threshold.name} if its probability of that class is "
            f"{100 * record.threshold.p:.1f} % or more, a threshold chosen on val{_met(record)}."
        )
    return " ".join(sentences)


def _met(record: CalibrationRecord) -> str:
    """Return what recall a threshold met on validation, if that is recorded."""
    threshold = record.threshold
    if threshold is None or threshold.images is None or threshold.recall is None:
        return ""
    found = round(threshold.recall * threshold.images)
    return f", where it finds {found} of {threshold.images} images of that class"
