"""What the folder of a finished run says, from its files alone: nothing of it is imported."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from tlkit.config.experiment import Experiment, ModelCard, PublishedResult
from tlkit.config.structure import structure, with_new_names
from tlkit.data.splits import Example
from tlkit.metrics.calibration import CALIBRATION
from tlkit.metrics.scores import Scores
from tlkit.runfolder.folder import METRICS, PLAN, RunFolder
from tlkit.runfolder.record import EXPERIMENT
from tlkit.system.errors import ConfigError, RunFolderError
from tlkit.system.text import csv_text
from tlkit.train.callback import Epoch

MANIFEST, PREDICTIONS, HISTORY, ENVIRONMENT = (
    "manifest.csv",
    "predictions.csv",
    "history.csv",
    "environment.json",
)


@frozen
class Prediction:
    """What the kept weights say about one image.

    Attributes:
        path: The image's path, relative to the data's root.
        label: Its class.
        predicted: The class it is called.
        probabilities: Of every class, by its name, in the order of the classes.
    """

    path: str
    label: str
    predicted: str
    probabilities: Mapping[str, float] = field(hash=False)

    @property
    def right(self) -> bool:
        """Return whether the prediction is right."""
        return self.predicted == self.label

    @property
    def certainty(self) -> float:
        """Return the probability of the predicted class: not the highest if it has a threshold."""
        return self.probabilities[self.predicted]


@frozen(kw_only=True)
class RunRecord:
    """A finished run as its folder tells it.

    Attributes:
        name: The experiment's name: that of its TOML file, or of the folder.
        toml: The TOML file as it was; empty if there was none.
        experiment: `experiment.json`.
        plan: `plan.json`.
        metrics: `metrics.json`.
        environment: `environment.json`.
        history: The epochs.
        manifest: The images by split.
        predictions: What was predicted, by split.
        reference: Published results.
        card: What the experiment says about its use.
        calibration: `calibration.json`; empty if nothing was calibrated.
    """

    name: str
    toml: str = field(repr=False)
    experiment: Mapping[str, Any] = field(repr=False)
    plan: Mapping[str, Any] = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)
    environment: Mapping[str, Any] = field(repr=False)
    history: tuple[Epoch, ...] = field(repr=False)
    manifest: Mapping[str, tuple[Example, ...]] = field(repr=False)
    predictions: Mapping[str, tuple[Prediction, ...]] = field(repr=False)
    reference: tuple[PublishedResult, ...] = ()
    card: ModelCard = field(factory=ModelCard)
    calibration: Mapping[str, Any] = field(factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of the model's outputs."""
        return tuple(self.plan["classes"])

    @property
    def split(self) -> str:
        """Return the split that the run is judged by."""
        return str(self.metrics["evaluated_on"])

    @property
    def stand_in(self) -> str:
        """Return what took the place of data that were not there; empty for real data."""
        return self.metrics["stand_in"] or ""

    @cached_property
    def scores(self) -> Scores:
        """Return how good the kept weights are on that split."""
        return Scores.from_json(self.classes, self.metrics[self.split])

    @property
    def said(self) -> dict[str, str]:
        """Return what the experiment says about its model's use, by title, each in one line."""
        return {
            one.name.replace("_", " "): " ".join(getattr(self.card, one.name).split())
            for one in attrs.fields(ModelCard)
        }

    @property
    def judged(self) -> tuple[Prediction, ...]:
        """Return the predictions on that split."""
        return self.predictions[self.split]


def read_finished(folder: RunFolder) -> RunRecord:
    """Return what a run's folder says.

    Raises:
        RunFolderError: If the run is not finished, or a file is not as tlkit writes it.
    """
    metrics = folder.read_json(METRICS)  # written last: without it the run is not finished
    recorded, plan = folder.read_json(EXPERIMENT), folder.read_json(PLAN)
    try:
        experiment = with_new_names(Experiment, recorded)
        classes = tuple(plan["classes"])
        name, toml = _toml(folder.path)
        finished = RunRecord(
            name=name,
            toml=toml,
            experiment=experiment,
            plan=plan,
            metrics=metrics,
            environment=folder.read_json(ENVIRONMENT),
            history=tuple(_epoch(row) for row in _rows(folder.path / HISTORY)),
            manifest=_manifest(folder.path / MANIFEST),
            predictions=_predictions(folder.path / PREDICTIONS, classes),
            reference=tuple(structure(PublishedResult, one) for one in experiment["reference"]),
            card=structure(ModelCard, experiment.get("card", {})),
            calibration=_calibration(folder, experiment),
        )
        _check(finished)  # so that what is wrong is found here
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunFolderError(f"{folder.path}: is not as tlkit writes it: {error!r}") from None
    return finished


def _check(run: RunRecord) -> None:
    """Read what is read late, and compare what was predicted with what there is.

    Raises:
        KeyError, TypeError, ValueError: If something is wrong.
    """
    _ = run.scores, run.manifest["train"]
    if {one.path for one in run.judged} != {one.path for one in run.manifest[run.split]}:
        raise ValueError(f"{PREDICTIONS} and {MANIFEST} have other images")


def _calibration(folder: RunFolder, experiment: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = experiment.get("calibration", {})
    return dict(folder.read_json(CALIBRATION)) if any(asked.values()) else {}


def _toml(folder: Path) -> tuple[str, str]:
    """Return the name and text of a folder's only TOML file, if there is one."""
    found = sorted(folder.glob("*.toml"))
    if len(found) != 1:
        return folder.resolve().name, ""
    return found[0].stem, found[0].read_text(encoding="utf-8-sig", errors="replace")


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None


def _epoch(row: Mapping[str, str]) -> Epoch:
    numbers: dict[str, Any] = {one.name: float(row[one.name]) for one in attrs.fields(Epoch)}
    return Epoch(**numbers | {name: int(row[name]) for name in ("epoch", "stage")})


def _manifest(path: Path) -> dict[str, tuple[Example, ...]]:
    found: dict[str, list[Example]] = {}
    for row in _rows(path):
        text = {one.name: csv_text(row[one.name]) for one in attrs.fields(Example)}
        found.setdefault(row["split"], []).append(Example(**text))
    return {split: tuple(examples) for split, examples in found.items()}


def _predictions(path: Path, classes: tuple[str, ...]) -> dict[str, tuple[Prediction, ...]]:
    found: dict[str, list[Prediction]] = {}
    for row in _rows(path):
        path_, label, predicted = (csv_text(row[key]) for key in ("path", "label", "predicted"))
        shares = {name: float(row[f"p_{name}"]) for name in classes}
        found.setdefault(row["split"], []).append(Prediction(path_, label, predicted, shares))
    return {split: tuple(rows) for split, rows in found.items()}
