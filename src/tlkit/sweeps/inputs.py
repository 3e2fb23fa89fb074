"""What the runs of a sweep start from: only runs of the same images and weights belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from tlkit.config.structure import unstructure
from tlkit.data.splits import Example
from tlkit.runfolder.folder import EXPERIMENT, METRICS, RunFolder
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import MetricsRecord
from tlkit.runfolder.tables import read_manifest
from tlkit.sweeps.summary import Outcome
from tlkit.sweeps.trials import Trial, table_fingerprint
from tlkit.system.errors import RunFolderError

WEIGHTS_KEYS = ("source", "file", "sha256", "head_sha256")
WAY_OUT = "restore it, remove its folder to make it again, or start another sweep"


@define
class SameInputs:
    """Compares each finished run with those before it.

    Attributes:
        images: The hash of each image's file by its path, by the place of the images.
        sets: The hash of all images of a run and the run's name, by what its data say.
        weights: The initial weights and the run's name, by what its backbone says.
    """

    images: dict[str, dict[str, str]] = field(factory=dict)
    sets: dict[str, tuple[str, str]] = field(factory=dict)
    weights: dict[str, tuple[Any, str]] = field(factory=dict)

    def checked(self, outcome: Outcome, run: Path) -> Outcome:
        """Return a run's outcome; as failed, if it is not the planned run or began otherwise."""
        if outcome.status != "done":
            return outcome
        try:
            problem = self._problem(outcome.trial, RunFolder(run))
        except RunFolderError as error:
            message = str(error)
        else:
            message = f"{run}: {problem}; {WAY_OUT}" if problem else ""
        if not message:
            return outcome
        return evolve(outcome, status="failed", error=message, exit_code=RunFolderError.exit_code)

    def _problem(self, trial: Trial, folder: RunFolder) -> str:
        if folder.has(EXPERIMENT):
            table = folder.read_json(EXPERIMENT)
            if table_fingerprint(table) != trial.sha256:
                return f"holds another run than {trial.name}, such as one copied or renamed"
        metrics = read_record(folder, METRICS, MetricsRecord.from_json)
        return self._other_weights(trial, metrics.weights) or self._other_images(
            trial, [e for examples in read_manifest(folder).values() for e in examples]
        )

    def _other_weights(self, trial: Trial, weights: Mapping[str, str]) -> str:
        experiment = trial.experiment
        table = unstructure(experiment.backbone, base=Path())
        key = _text([table, str(experiment.fit.head_weights)])
        now = {name: weights.get(name) for name in WEIGHTS_KEYS}
        before, name = self.weights.setdefault(key, (now, trial.name))
        return "" if before == now else f"began with other weights than {name}"

    def _other_images(self, trial: Trial, examples: list[Example]) -> str:
        data = trial.experiment.data
        table: dict[str, Any] = unstructure(data, base=Path())
        place = [table.get(key) for key in ("name", "path", "root")] if "path" in table else table
        known = self.images.setdefault(_text(place), {})
        for e in examples:
            if known.setdefault(e.path, e.sha256) != e.sha256:
                return f"was made with other images than the runs before it, such as {e.path!r}"
        if table.get("max_per_class") is None:  # all folds together have the same images
            table.pop("fold", None)
        rows = sorted((e.path, e.sha256, e.label, e.patient) for e in examples)
        now = hashlib.sha256(_text(rows).encode()).hexdigest()
        before, name = self.sets.setdefault(_text(table), (now, trial.name))
        return "" if before == now else f"was made with more, fewer or other images than {name}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
