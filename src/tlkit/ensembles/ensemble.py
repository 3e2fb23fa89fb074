"""`ensemble`: average runs, or the recorded predictions of sweeps, and judge the average."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.ensembles.members import Member, compared, difference, read_members
from tlkit.metrics.intervals import format_share
from tlkit.reports.compare import Comparison, paired
from tlkit.runfolder.folder import ENSEMBLE, WEIGHTS, RunFolder, create_folder
from tlkit.runfolder.tables import write_predictions
from tlkit.system.errors import RunFolderError
from tlkit.system.notebook import choose_another, face
from tlkit.system.seal import seal_tree, sha256_of
from tlkit.system.untrusted import reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlkit.metrics.scores import Scores

FOLDER, PAGE, SCORES = "ensembles", "ensemble.html", "scores.csv"


@frozen(kw_only=True)
class EnsembleResult:
    """An ensemble that was made, with what its members' recorded predictions say about it.

    Attributes:
        folder: Its folder.
        members: The names of its members.
        of_sweeps: Whether they are of sweeps, so that it cannot be loaded.
        comparison: The average, as the first, next to its members on the same images, with folds
            pooled; None if they were judged on different images.
        note: What to know about it.
    """

    folder: Path
    members: tuple[str, ...]
    of_sweeps: bool
    comparison: Comparison | None
    note: str = ""

    @property
    def scores(self) -> Scores | None:
        """Return the scores of the average."""
        return self.comparison.runs[0].scores if self.comparison else None

    def __repr__(self) -> str:
        accuracy = "not judged"
        if self.scores is not None:
            interval = self.scores.intervals["accuracy"]
            accuracy = f"accuracy {format_share(self.scores.accuracy, interval)}"
        folder = str(self.folder)[-80:]
        return f"EnsembleResult({len(self.members)} members, {accuracy}; {folder!r})"

    def _repr_html_(self) -> str:
        body = self.comparison._repr_html_() if self.comparison else ""
        return face(f"{self!r} {self.note}".strip(), body)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        judged = self.comparison.as_json() if self.comparison else {}
        own = {"ensemble": str(self.folder), "members": list(self.members), "note": self.note}
        return own | judged


def ensemble(*members: str | Path, out: str | Path | None = None) -> EnsembleResult:
    """Average the probabilities of runs, or of sweeps, all with the same weight.

    No network runs: the members' recorded, calibrated probabilities are averaged, fold by fold and
    image by image. An ensemble of runs can then be loaded with `load_ensemble`.

    Args:
        members: The folders of finished runs, or of sweeps; each variant and seed of a sweep is a
            member.
        out: A new folder. None: `ensembles/NAME-N`.

    Raises:
        RunFolderError: If they are not such folders, or do not fit together.
    """
    read = read_members([Path(member) for member in members])
    note, comparison, average = difference(read), None, None
    if note and read[0].of_sweep:
        raise RunFolderError(f"{note}; sweeps are averaged fold by fold, on the same images")
    if note:
        note += ", so this ensemble has no scores yet"
    else:
        note = _threshold_note(read)
        average = _average(read)
        comparison = _compared(read, average)
    folder = create_folder(
        None if out is None else Path(out),
        FOLDER,
        read[0].path.resolve().name,
        lambda partial: _fill(RunFolder(partial), read, average, comparison),
        lambda path: f"{path}: the folder exists; {choose_another()}",
    )
    return EnsembleResult(
        folder=folder,
        members=tuple(member.name for member in read),
        of_sweeps=read[0].of_sweep,
        comparison=comparison,
        note=note,
    )


def _threshold_note(members: Sequence[Member]) -> str:
    """Return the note that a class's threshold has no effect; empty if no member has one."""
    keys = {key for member in members for key in member.settings}
    if not any(key.startswith("calibration.min_recall.") for key in keys):
        return ""
    return "thresholds of members (calibration.min_recall) have no effect on the average"


def _average(members: Sequence[Member]) -> npt.NDArray[np.float32]:
    """Return the mean probabilities on the images of all, `(images, classes)`."""
    import numpy as np

    parts = np.stack([member.probabilities for member in members])
    mean: npt.NDArray[np.float32] = parts.mean(axis=0).astype(np.float32)
    return mean


def _compared(members: Sequence[Member], average: npt.NDArray[np.float32]) -> Comparison:
    """Return the average next to each member."""
    name = f"the average of {len(members)}"
    common = set.intersection(*(set(member.settings.items()) for member in members))
    ours = compared(name, members[0], average, average.argmax(axis=1).tolist(), dict(common))
    theirs = [member.compared() for member in members]
    return Comparison((ours, *theirs), tuple(paired(ours, run) for run in theirs))


def _fill(
    folder: RunFolder,
    members: Sequence[Member],
    average: npt.NDArray[np.float32] | None,
    comparison: Comparison | None,
) -> None:
    """Write an ensemble's folder, and seal it."""
    first = members[0]
    content: dict[str, Any] = {
        "of": "sweeps" if first.of_sweep else "runs",
        "classes": list(first.classes),
        "members": [_named(member, folder.path) for member in members],
    }
    if average is not None and comparison is not None:
        scores = comparison.runs[0].scores
        content[first.split] = scores.as_json()
        examples = tuple(example for example, _ in first.judged)
        judged = (examples, average, average.argmax(axis=1))
        write_predictions(folder, first.classes, {first.split: judged})
        folder.write_csv(SCORES, *_scores_table(comparison))
        comparison.write(folder.path / PAGE)
    folder.write_json(ENSEMBLE, content)
    seal_tree(folder.path)


def _named(member: Member, folder: Path) -> dict[str, str]:
    """Return how an ensemble's folder names a member."""
    path = Path(os.path.relpath(member.path.resolve(), folder.resolve())).as_posix()
    if member.of_sweep:
        return {"folder": path, "variant": member.name[len(str(member.path)) + 2 :]}
    RunFolder(member.path).check(WEIGHTS, RunFolderError)
    try:
        return {"folder": path, "weights_sha256": sha256_of(member.path / WEIGHTS)}
    except OSError as error:
        message = f"{member.path / WEIGHTS}: cannot be read: {reason(error)}"
        raise RunFolderError(message) from None


def _scores_table(comparison: Comparison) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the head and the rows of `scores.csv`: one per member and class."""
    rows = [{"member": run.name} | row for run in comparison.runs for row in run.scores.records()]
    head = list(dict.fromkeys(key for row in rows for key in row))
    return head, ([row.get(key, "") for key in head] for row in rows)
