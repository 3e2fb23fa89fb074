"""A finished run, read back from its folder. Runs no code of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import field, frozen

from tlkit.config.experiment import ModelCard
from tlkit.data.splits import Example
from tlkit.metrics.scores import Scores
from tlkit.runfolder.folder import (
    CALIBRATION,
    ENVIRONMENT,
    EXPERIMENT,
    MANIFEST,
    METRICS,
    PLAN,
    PREDICTIONS,
    RunFolder,
)
from tlkit.runfolder.inputs import EnvironmentRecord, ExperimentRecord, PlanRecord
from tlkit.runfolder.results import CalibrationRecord, MetricsRecord, calibration_text
from tlkit.runfolder.tables import (
    Learned,
    Prediction,
    read_history,
    read_learned_before,
    read_manifest,
    read_predictions,
)
from tlkit.system.errors import ConfigError, RunFolderError
from tlkit.system.seal import read_seal
from tlkit.train.callback import Epoch

T = TypeVar("T")


@frozen(kw_only=True)
class RunRecord:
    """A finished run, read from its folder.

    Attributes:
        name: The name of the experiment's TOML file, or of the folder.
        toml: The text of that file; empty if there was none.
        experiment: The experiment.
        plan: The plan.
        metrics: The scores.
        environment: The environment.
        history: The epochs.
        manifest: The images by split.
        predictions: The predictions by split.
        calibration: What was fitted on validation; None if nothing was.
        learned_before: What the earlier runs that it started from have learned from.
    """

    name: str
    toml: str = field(repr=False)
    experiment: ExperimentRecord = field(repr=False)
    plan: PlanRecord = field(repr=False)
    metrics: MetricsRecord = field(repr=False)
    environment: EnvironmentRecord = field(repr=False)
    history: tuple[Epoch, ...] = field(repr=False)
    manifest: Mapping[str, tuple[Example, ...]] = field(repr=False)
    predictions: Mapping[str, tuple[Prediction, ...]] = field(repr=False)
    calibration: CalibrationRecord | None = field(default=None, repr=False)
    learned_before: tuple[Learned, ...] = field(default=(), repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return self.plan.classes

    @property
    def split(self) -> str:
        """The split that the run is judged on."""
        return self.metrics.evaluated_on

    @property
    def stand_in(self) -> str:
        """What replaced missing data; empty for real data."""
        return self.metrics.stand_in or ""

    @property
    def scores(self) -> Scores:
        """Scores of the kept weights on that split."""
        return self.metrics.kept.scores[self.split]

    @property
    def judged(self) -> tuple[Prediction, ...]:
        """The predictions on that split."""
        return self.predictions[self.split]

    @property
    def card_texts(self) -> dict[str, str]:
        """What the experiment says about the model's use, by title, each in one line."""
        return {
            key.name.replace("_", " "): " ".join(getattr(self.experiment.card, key.name).split())
            for key in attrs.fields(ModelCard)
        }

    @property
    def calibration_text(self) -> str:
        """What was fitted on validation, for people; empty if nothing was."""
        if self.calibration is None:
            return ""
        return calibration_text(self.calibration, self.split, self.scores.calibration_error)


def read_record(folder: RunFolder, name: str, make: Callable[[Any], T]) -> T:
    """Return the record in one of a folder's JSON files."""
    try:
        return make(folder.read_json(name))
    except ConfigError as error:
        path = folder.path / name
        raise RunFolderError(
            "\n".join(f"{path}: {problem}" for problem in error.problems)
        ) from None


def read_run(folder: RunFolder) -> RunRecord:
    """Return a finished run."""
    metrics = read_record(folder, METRICS, MetricsRecord.from_json)  # there if it is finished
    experiment = read_record(folder, EXPERIMENT, ExperimentRecord.from_json)
    plan = read_record(folder, PLAN, PlanRecord.from_json)
    name, toml = _toml(folder)
    run = RunRecord(
        name=name,
        toml=toml,
        experiment=experiment,
        plan=plan,
        metrics=metrics,
        environment=read_record(folder, ENVIRONMENT, EnvironmentRecord.from_json),
        history=read_history(folder),
        manifest=read_manifest(folder),
        predictions=read_predictions(folder, plan.classes),
        calibration=read_record(folder, CALIBRATION, CalibrationRecord.from_json)
        if experiment.calibration.wanted
        else None,
        learned_before=read_learned_before(folder),
    )
    _check(folder, run)
    return run


def _check(folder: RunFolder, run: RunRecord) -> None:
    """Check that the files belong together."""
    if run.metrics.classes != run.classes:
        raise RunFolderError(f"{folder.path}: {METRICS} and {PLAN} have different classes")
    judged, listed = run.predictions.get(run.split, ()), run.manifest.get(run.split, ())
    if "train" not in run.manifest or {p.path for p in judged} != {e.path for e in listed}:
        raise RunFolderError(f"{folder.path}: {PREDICTIONS} and {MANIFEST} have different images")


def _toml(folder: RunFolder) -> tuple[str, str]:
    """Return the name and text of a run's own TOML file, or of a folder's only one."""
    names = sorted(path.name for path in folder.path.glob("*.toml"))
    if sealed := read_seal(folder.path):
        names = [name for name in sealed if name.endswith(".toml")]
    if len(names) != 1:
        return folder.path.resolve().name, ""
    return Path(names[0]).stem, folder.read_bytes(names[0]).decode("utf-8-sig", errors="replace")
