"""The members of an ensemble: runs, or variants of sweeps, with their recorded predictions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from tlkit.data.splits import Example
from tlkit.reports.compare import NOT_SETTINGS, Answer, ComparedRun, flatten
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord, read_run
from tlkit.runfolder.tables import Prediction
from tlkit.sweeps.folder import RUNS, SWEEP, SweepFolder
from tlkit.system.errors import RunFolderError
from tlkit.system.untrusted import exists

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FOLD = "data.fold"
Judged = tuple[Example, Prediction]


@frozen(kw_only=True)
class Member:
    """A run, or a variant of a sweep with one seed and all its folds.

    Attributes:
        name: Its folder; of a sweep with several, what sets it apart too.
        path: Its folder.
        settings: Every key of its experiment by path, as JSON; without the fold.
        classes: Class names in the order of the probabilities.
        split: The split that it was judged on.
        folds: By fold, as JSON, the images it was judged on and its predictions, sorted.
        of_sweep: Whether the folder is a sweep's.
        stand_in: The synthetic dataset it was trained on; empty for real data.
    """

    name: str
    path: Path
    settings: Mapping[str, str] = field(repr=False)
    classes: tuple[str, ...]
    split: str
    folds: Mapping[str, Sequence[Judged]] = field(repr=False)
    of_sweep: bool = False
    stand_in: str = ""

    @property
    def judged(self) -> list[Judged]:
        """Return the images and predictions of all folds."""
        return [pair for fold in sorted(self.folds) for pair in self.folds[fold]]

    @property
    def images(self) -> dict[str, list[tuple[str, str]]]:
        """Return the hash and class of each image, by fold."""
        return {fold: [_key(pair) for pair in some] for fold, some in self.folds.items()}

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probabilities of all folds, `(images, classes)`."""
        import numpy as np

        rows = [list(prediction.probabilities.values()) for _, prediction in self.judged]
        return np.array(rows, float).reshape(len(rows), len(self.classes))

    def compared(self) -> ComparedRun:
        """Return it for a comparison: its folds are pooled."""
        number = {name: index for index, name in enumerate(self.classes)}
        predicted = [number[prediction.predicted] for _, prediction in self.judged]
        return compared(self.name, self, self.probabilities, predicted, self.settings)


def compared(
    name: str,
    member: Member,
    probabilities: npt.NDArray[np.floating],
    predicted: Sequence[int],
    settings: Mapping[str, str],
) -> ComparedRun:
    """Return predictions for a member's images for a comparison."""
    from tlkit.metrics.scoring import score_examples

    examples = [example for example, _ in member.judged]
    return ComparedRun(
        name=name,
        settings=settings,
        split=member.split,
        scores=score_examples(examples, probabilities, member.classes, predicted),
        history=(),
        answers={
            example.sha256: Answer(example.label, member.classes[guess], example.patient)
            for example, guess in zip(examples, predicted, strict=True)
        },
        trained_on=frozenset(),  # nothing that others were judged on: the images are the same
        stand_in=member.stand_in,
    )


def read_members(folders: Sequence[Path]) -> list[Member]:
    """Read runs, or the variants of sweeps.

    Raises:
        RunFolderError: If there are fewer than two, or they are not of one kind, not finished or
            have other classes.
    """
    kinds = {exists(folder / SWEEP): folder for folder in folders}
    if len(kinds) > 1:
        message = "the members of an ensemble are all runs or all sweeps"
        raise RunFolderError(f"{kinds[False]}: is not a sweep, but {kinds[True]} is; {message}")
    for folder, other in itertools.combinations(folders, 2):
        if folder.resolve() == other.resolve():
            raise RunFolderError(f"{other}: is named twice")
    read = _of_sweep if True in kinds else _of_run
    members = [member for folder in folders for member in read(folder)]
    if len(members) < 2:
        where = f"{folders[0]}: " if folders else ""
        raise RunFolderError(f"{where}an ensemble needs two members or more, got {len(members)}")
    first = members[0]
    for member in members[1:]:
        if member.classes != first.classes:
            raise RunFolderError(
                f"{member.path}: has the classes {', '.join(member.classes)}, but {first.path} has "
                f"{', '.join(first.classes)}; an ensemble's must be the same"
            )
    return members


def difference(members: Sequence[Member]) -> str:
    """Return how the images of members differ; empty if all were judged on the same."""
    first = members[0]
    for member in members[1:]:
        if member.folds.keys() != first.folds.keys():
            return f"{member.name} has other folds than {first.name}"
        for fold, images in member.images.items():
            if images != first.images[fold]:
                where = f"in fold {fold}, " if len(first.folds) > 1 else ""
                return f"{where}{member.name} was judged on other images than {first.name}"
    return ""


def _of_run(folder: Path) -> list[Member]:
    run = read_run(RunFolder(folder))
    return [_member(str(folder), folder, _settings(run), [run])]


def _of_sweep(folder: Path) -> list[Member]:
    """Return a member per variant and seed of a sweep, in order."""
    groups: list[tuple[dict[str, str], list[RunRecord]]] = []
    for name in SweepFolder(folder).planned():
        run = read_run(RunFolder(folder / RUNS / name))
        settings = _settings(run)
        group = next((runs for known, runs in groups if known == settings), None)
        if group is None:
            groups.append((settings, [run]))
        else:
            group.append(run)
    keys = {key: None for settings, _ in groups for key in settings}
    apart = [key for key in keys if len({settings.get(key) for settings, _ in groups}) > 1]
    return [
        _member(_named(folder, settings, apart), folder, settings, runs, of_sweep=True)
        for settings, runs in groups
    ]


def _named(folder: Path, settings: Mapping[str, str], apart: Iterable[str]) -> str:
    return ", ".join([str(folder), *(f"{key}={settings[key]}" for key in apart if key in settings)])


def _settings(run: RunRecord) -> dict[str, str]:
    table = {k: v for k, v in run.experiment.table.items() if k not in NOT_SETTINGS}
    return {key: value for key, value in flatten(table).items() if key != FOLD}


def _member(
    name: str,
    path: Path,
    settings: Mapping[str, str],
    runs: Sequence[RunRecord],
    of_sweep: bool = False,
) -> Member:
    folds = {}
    for run in runs:
        examples = {example.path: example for example in run.manifest[run.split]}
        pairs = [(examples[prediction.path], prediction) for prediction in run.judged]
        fold = flatten(run.experiment.table).get(FOLD, "null")
        folds[fold] = sorted(pairs, key=lambda pair: (*_key(pair), pair[0].path))
    return Member(
        name=name,
        path=path,
        settings=settings,
        classes=runs[0].classes,
        split=runs[0].split,
        folds=folds,
        of_sweep=of_sweep,
        stand_in=runs[0].stand_in,
    )


def _key(pair: Judged) -> tuple[str, str]:
    return pair[0].sha256, pair[0].label
