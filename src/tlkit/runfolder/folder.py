"""The run folder: one file a fact, each written whole; nothing is ever overwritten.

Deterministic files carry no clock, host or absolute path, so two runs of one experiment can be
compared byte by byte; `environment.json` and `timing.csv` are the others.
"""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from attrs import frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import unstructure
from tlkit.data.splits import Example, Splits
from tlkit.model.layers import LayerTable
from tlkit.runfolder.record import ENVIRONMENT, EXPERIMENT, environment
from tlkit.runfolder.resume_state import UNFINISHED, record
from tlkit.system.errors import ResourceError, RunFolderError
from tlkit.system.files import (
    partial_folder,
    remove_file,
    remove_folder,
    remove_partial,
    rename_folder,
    write_text,
)
from tlkit.system.lock import holder, is_locked, unlock
from tlkit.system.text import csv_cell, shell_quoted
from tlkit.train.callback import Epoch
from tlkit.train.plan import Plan
from tlkit.weights.tensors import numbered_weights, read_tensors, snapshot, write_tensors

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt


def claimed(out: Path | None, name: str) -> Path:
    """Make a new, empty folder: `out`, or the first free `runs/NAME-N`.

    Raises:
        RunFolderError: If `out` exists.
        ResourceError: If it cannot be made.
    """
    try:
        (Path("runs") if out is None else out.parent).mkdir(parents=True, exist_ok=True)
        return next(path for path in _places(out, name) if _made(path))
    except StopIteration:
        raise RunFolderError(exists(out or Path("runs"))) from None
    except OSError as error:
        raise ResourceError(f"{out or 'runs'}: cannot be made: {error.strerror}") from None


def created(out: Path | None, name: str, fill: Callable[[Path], object]) -> Path:
    """Make a new folder with what it begins with: `out`, or the first free `runs/NAME-N`.

    It is filled under a hidden name and then renamed, so it is there whole or not at all, and
    of two processes that want the same one gets it.

    Args:
        out: Where; unset: the first free number.
        name: What it is called then.
        fill: Writes what the folder begins with, one file at least.

    Raises:
        RunFolderError: If `out` exists.
        ResourceError: If it cannot be made.
    """
    parent = Path("runs") if out is None else out.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(parent / name) as partial:
            fill(partial)
            for path in _places(out, name):
                if _renamed(partial, path):
                    return path
    except OSError as error:
        raise ResourceError(f"{out or 'runs'}: cannot be made: {error.strerror}") from None
    raise RunFolderError(exists(out or parent))


def exists(out: Path) -> str:
    """Return the message that a run folder is there already."""
    what = "choose another with --out, nothing is overwritten"
    if is_locked(out):
        what = f"{holder(out)} is writing to it; {what}"
    elif (out / UNFINISHED).is_file():
        what = f"go on with it: tlkit resume {shell_quoted(out)}, or {what}"
    return f"{out}: the run folder exists; {what}"


def _places(out: Path | None, name: str) -> Iterable[Path]:
    """Return where a folder may go: to `out`, or to the first free of these."""
    if out is not None:
        return [out]
    return (Path("runs") / f"{name}-{number}" for number in itertools.count(1))


def _made(path: Path) -> bool:
    """Make a folder and tell whether it is new: of two runs at once, one is told so."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _renamed(partial: Path, path: Path) -> bool:
    """Give a filled folder its name, and tell whether the name was free."""
    if path.exists():
        return False
    try:
        rename_folder(partial, path)
    except OSError as error:  # another process was faster
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            return False
        raise
    return True


PLAN, MANIFEST, TIMING, METRICS, WEIGHTS = (
    "plan.json",
    "manifest.csv",
    "timing.csv",
    "metrics.json",
    "weights.safetensors",
)

# Images with their probabilities, `(images, classes)`, and their predicted class numbers.
Answers: TypeAlias = "tuple[Sequence[Example], npt.NDArray[np.float32], npt.NDArray[np.int64]]"


@frozen
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def claim(cls, out: Path | None, name: str) -> RunFolder:
        """Make a new, empty folder; see `claimed`."""
        return cls(claimed(out, name))

    @classmethod
    def create(cls, out: Path | None, name: str, fill: Callable[[RunFolder], object]) -> RunFolder:
        """Make a new folder with what it begins with; see `created`."""
        return cls(created(out, name, lambda partial: fill(cls(partial))))

    def write_inputs(
        self, experiment: Experiment, plan: Plan, splits: Splits, hashes: Mapping[str, str]
    ) -> None:
        """Write what the run starts from."""
        if experiment.origin is not None:
            write_text(self.path / experiment.origin.path.name, experiment.origin.text)
        table = resolved(experiment)
        self.write_json(EXPERIMENT, table)
        self.write_json(UNFINISHED, record(experiment, table, self.path))
        self.write_json(PLAN, plan.as_json())
        write_text(self.path / MANIFEST, manifest(splits, hashes))
        if splits.skipped:
            left_out = [
                [one.example.path, one.split, one.example.label, one.reason]
                for one in splits.skipped
            ]
            self.write_csv("skipped.csv", ["path", "split", "label", "reason"], left_out)

    def write_environment(self, experiment: Experiment, weights: Mapping[str, str]) -> None:
        """Write what may differ from machine to machine."""
        self.write_json(ENVIRONMENT, environment(experiment, weights))

    def note_changes(self, changed: Sequence[str]) -> None:
        """Add to the environment that the run went on in another one."""
        known = self.read_json(ENVIRONMENT)
        self.write_json(ENVIRONMENT, known | {"changed": [*known.get("changed", []), *changed]})

    def write_history(self, history: Sequence[Epoch], seconds: Sequence[float]) -> None:
        """Write the epochs so far."""
        columns = [field.name for field in attrs.fields(Epoch)]
        rows = [[repr(getattr(epoch, name)) for name in columns] for epoch in history]
        self.write_csv("history.csv", columns, rows)
        timing = [[e.epoch, f"{s:.3f}"] for e, s in zip(history, seconds, strict=True)]
        self.write_csv(TIMING, ["epoch", "seconds"], timing)

    def read_seconds(self, history: Sequence[Epoch]) -> list[float]:
        """Return how long epochs took that an earlier process has left; 0 where it is not known."""
        try:
            lines = (self.path / TIMING).read_text(encoding="utf-8").splitlines()[1:]
            found = {int(epoch): float(seconds) for epoch, seconds in csv.reader(lines)}
        except (OSError, ValueError):
            found = {}
        return [found.get(epoch.epoch, 0.0) for epoch in history]

    def write_results(
        self,
        metrics: Mapping[str, Any],
        splits: Splits,
        probabilities: Mapping[str, npt.NDArray[np.float32]],
        predicted: Mapping[str, npt.NDArray[np.int64]],
    ) -> None:
        """Write the predictions and the metrics, which come last: with them the run is finished."""
        examples = dict(splits.items())
        self.write_predictions(
            splits.classes,
            {
                split: (examples[split], found, predicted[split])
                for split, found in probabilities.items()
            },
        )
        self.write_json(METRICS, metrics)

    def write_predictions(self, classes: Sequence[str], answers: Mapping[str, Answers]) -> None:
        """Write what is said of images, by split: probabilities to float32's nine digits."""
        columns = ["path", "label", "predicted", "split", *(f"p_{name}" for name in classes)]
        rows = [
            [example.path, example.label, classes[number], split,
             *(format(float(p), ".9g") for p in row)]
            for split, (examples, probabilities, predicted) in answers.items()
            for example, row, number in zip(examples, probabilities, predicted, strict=True)
        ]  # fmt: skip
        self.write_csv("predictions.csv", columns, rows)

    def write_weights(self, model: keras.Model, layers: LayerTable) -> None:
        """Write every array of the model, the frozen ones too."""
        write_tensors(self.path / WEIGHTS, snapshot(numbered_weights(model, layers)))

    def read_json(self, name: str) -> Any:
        """Return the content of one of the folder's JSON files.

        Raises:
            RunFolderError: If this is no run's folder, or that of one that is not so far.
        """
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def read_text(self, name: str) -> str:
        """Return the content of one of the folder's text files.

        Raises:
            RunFolderError: If this is no run's folder, or that of one that is not so far.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: there is no such run folder")
        try:
            return (self.path / name).read_bytes().decode()  # line ends as they are
        except FileNotFoundError:
            unfinished = (self.path / EXPERIMENT).is_file()
            what = "the run is not finished" if unfinished else "this is not a run folder"
            hint = (
                f"; tlkit resume {shell_quoted(self.path)}"
                if unfinished and name == METRICS
                else ""
            )
            raise RunFolderError(f"{self.path}: {what}, it has no {name}{hint}") from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def write_json(self, name: str, content: Any) -> None:
        """Write plain values."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / name, text + "\n")

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table; what a spreadsheet would take for a formula is marked, see `escapes`."""
        write_text(self.path / name, _csv(columns, rows))

    @property
    def is_finished(self) -> bool:
        """Tell whether its run has come to its end: the metrics are written last."""
        return (self.path / METRICS).is_file()

    @property
    def checkpoints(self) -> Path:
        """Return where its checkpoints are while it is not finished."""
        return self.path / "checkpoints"

    def remove_partial(self) -> None:
        """Remove what crashes have left; only whoever holds its lock may."""
        for folder in (self.path, self.checkpoints):
            remove_partial(folder)

    def tidy(self, keep_checkpoints: bool) -> None:
        """Remove what only an unfinished run needs."""
        if self.checkpoints.is_dir() and not keep_checkpoints:
            remove_folder(self.checkpoints)
        unlock(self.path)
        remove_file(self.path / UNFINISHED)  # last: while it is there, somebody may tidy again


def manifest(splits: Splits, hashes: Mapping[str, str]) -> str:
    """Return a table of all images with their hashes, as CSV."""
    rows = [
        [e.path, hashes[e.path], split, e.label, e.patient, e.source, e.view]
        for split, examples in splits.items()
        for e in examples
    ]
    return _csv(["path", "sha256", "split", "label", "patient", "source", "view"], rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return buffer.getvalue()


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as plain values with every default written out."""
    table: dict[str, Any] = unstructure(experiment, base=experiment.base)
    return table


def read_weights(path: Path, model: keras.Model, layers: LayerTable) -> None:
    """Put a run's arrays into a model.

    Raises:
        WeightsError: If the file is missing or broken, or names, shapes or dtypes differ.
    """
    read_tensors(path, numbered_weights(model, layers))
