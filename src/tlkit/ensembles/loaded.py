"""An ensemble of runs as a classifier: load it, predict, evaluate."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from tlkit.classifier import Classifier, Images, Prediction, load
from tlkit.config.experiment import Experiment
from tlkit.data.sources import Rejected
from tlkit.evaluation import Evaluation, Probabilities, evaluation_of
from tlkit.reports.caveats import score_caveats
from tlkit.runfolder.folder import ENSEMBLE, WEIGHTS
from tlkit.system.errors import ConfigError, DataError, Problem, RunFolderError
from tlkit.system.notebook import face, few_names, html_table
from tlkit.system.seal import check_content, sha256_of
from tlkit.system.untrusted import parse_json, read_bytes, reason


@frozen(kw_only=True)
class Ensemble:
    """Several trained models, whose calibrated probabilities are averaged.

    It has `predict`, `predict_proba`, `iter_predict` and `evaluate` of a `Classifier`. A member's
    threshold of a class has no effect: the predicted class is the most probable one.

    Attributes:
        members: The models.
    """

    members: tuple[Classifier, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"Ensemble({len(self.members)} members; {few_names(self.classes)})"

    def _repr_html_(self) -> str:
        rows = [[number, repr(member)] for number, member in enumerate(self.members, start=1)]
        return face(repr(self), html_table(["", "member"], rows))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of the probabilities."""
        return self.members[0].classes

    @property
    def stand_in(self) -> str:
        """Return what replaced missing data in a member's training; empty for real data."""
        return next((member.stand_in for member in self.members if member.stand_in), "")

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is different on this machine from training, for any member."""
        return tuple(dict.fromkeys(note for member in self.members for note in member.notes))

    @property
    def experiment(self) -> Experiment:
        """Return how the first member was trained."""
        return self.members[0].experiment

    def predict(self, images: Images) -> list[str]:
        """Return the predicted class name of each image; see `predict_proba`."""
        return [self.classes[k] for k in self.predict_proba(images).argmax(axis=1)]

    def predict_proba(self, images: Images) -> Probabilities:
        """Return the mean probability of every class for each image.

        Args:
            images: See `Classifier.predict_proba`; pixels only if all members have their size.

        Returns:
            `(images, classes)` float32; each row sums to 1.

        Raises:
            DataError: If a file is not a valid image, or pixels have another size or dtype.
        """
        return _mean([member.predict_proba(images) for member in self.members])

    def iter_predict(
        self, files: Iterable[str | Rejected], features: bool = False, layer: str | None = None
    ) -> Iterator[Prediction | Rejected]:
        """Yield the prediction for each image, in order, in constant memory.

        Args:
            files: Paths of image files, and entries that were rejected earlier.
            features: Must be False: members have features of their own.
            layer: Must be None.

        Raises:
            ConfigError: If features are requested.
        """
        if features or layer is not None:
            message = "an ensemble has no features of its own; name one of its members"
            raise ConfigError([Problem("features", message)])
        copies = itertools.tee(files, len(self.members))
        streams = [m.iter_predict(copy) for m, copy in zip(self.members, copies, strict=True)]
        return self._averaged(streams)

    def _averaged(
        self, streams: Sequence[Iterator[Prediction | Rejected]]
    ) -> Iterator[Prediction | Rejected]:
        for items in zip(*streams, strict=True):
            sound = [item for item in items if isinstance(item, Prediction)]
            if len(sound) < len(items):
                yield next(item for item in items if isinstance(item, Rejected))
                continue
            mean = _mean([prediction.probabilities for prediction in sound])
            predicted = self.classes[int(mean.argmax())]
            yield evolve(sound[0], predicted=predicted, probabilities=mean)

    def evaluate(
        self, data: str | Path, split: str | None = None, root: str | Path | None = None
    ) -> Evaluation:
        """Classify labeled images and score the predictions.

        Args:
            data: See `Classifier.evaluate`.
            split: See there.
            root: See there.

        Raises:
            DataError: If there are no such images, one is not valid, or a member skips images
                that another does not.
        """
        parts = [member.evaluate(data, split, root) for member in self.members]
        first = parts[0]
        if any(part.examples != first.examples for part in parts):
            raise DataError(f"{data}: the ensemble's members skip different images there")
        mean = _mean([part.probabilities for part in parts])
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        evaluation = evaluation_of(
            split, first.examples, mean, mean.argmax(axis=1), self.classes, tuple(notes)
        )
        of_scores = {text for part in parts for text in score_caveats(part.scores)}
        caveats = [text for part in parts for text in part.caveats if text not in of_scores]
        caveats += score_caveats(evaluation.scores)
        return evolve(evaluation, caveats=tuple(dict.fromkeys(caveats)))


def load_ensemble(folder: str | Path, *, plugins: Sequence[str | Path] = ()) -> Ensemble:
    """Load an ensemble of runs; see `load`.

    Args:
        folder: The folder that `ensemble` made. Its members must be where they were, as seen from
            it.
        plugins: Files with the members' own backbones or heads, unchanged to the byte.

    Raises:
        RunFolderError: If it is not an ensemble of runs, or a member has changed since it was made.
        WeightsError: If a member's weights are missing or do not fit.
        ConfigError: If this tlkit does not know a member's backbone, head or keys.
        PartError: If a plugin file or package is missing.
    """
    members = []
    for run, sha256 in _members(Path(folder)):
        try:
            changed = sha256_of(run / WEIGHTS) != sha256
        except OSError as error:
            raise RunFolderError(f"{run / WEIGHTS}: cannot be read: {reason(error)}") from None
        if changed:
            raise RunFolderError(f"{run}: has other weights than when {folder} was made")
        members.append(load(run, plugins=plugins))
    if any(member.classes != members[0].classes for member in members):
        raise RunFolderError(f"{folder}: its members have different classes")
    return Ensemble(members=tuple(members))


def _members(folder: Path) -> list[tuple[Path, str]]:
    """Return the run folders of an ensemble, and the hashes of their weights."""
    path = folder / ENSEMBLE
    try:
        content = read_bytes(path)
        table: Any = parse_json(content.decode())
        check_content(folder, ENSEMBLE, content)
        if table["of"] == "sweeps":
            raise RunFolderError(
                f"{folder}: is an ensemble of sweeps, which has another model for each fold; to "
                "predict, make one of runs"
            )
        runs = [(one["folder"], one["weights_sha256"]) for one in table["members"]]
        if not runs or not all(isinstance(text, str) for run in runs for text in run):
            raise TypeError
    except FileNotFoundError:
        raise RunFolderError(f"{folder}: is not an ensemble, it has no {ENSEMBLE}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read: {reason(error)}") from None
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path}: is not as tlkit writes it") from None
    return [(Path(os.path.normpath(folder / run)), sha256) for run, sha256 in runs]


def _mean(parts: Sequence[Probabilities]) -> Probabilities:
    """Return the mean of probabilities, in double precision on the way."""
    mean: Probabilities = np.stack(parts).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
