"""A run's folder: how it is made, and how its files are written and read.

Every fact is in one file, every file is written whole, and none is overwritten. Apart from
`environment.json` and `timing.csv`, no file has a clock time, host name or absolute path, so two
runs of the same experiment can be compared byte by byte.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

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
from tlkit.system.text import choose_another, csv_table, shell_quoted

EXPERIMENT, PLAN, ENVIRONMENT = "experiment.json", "plan.json", "environment.json"
MANIFEST, SKIPPED, LOOKS = "manifest.csv", "skipped.csv", "looks.csv"
EARLIER = "learned_before.csv"
HISTORY, TIMING = "history.csv", "timing.csv"
METRICS, PREDICTIONS, CALIBRATION = "metrics.json", "predictions.csv", "calibration.json"
WEIGHTS = "weights.safetensors"
UNFINISHED = "unfinished.json"  # only while the run is not finished
RUNS = "runs"  # where a run goes that names no folder


def claim_folder(
    out: Path | None, top: str, name: str, exists: Callable[[Path], str] | None = None
) -> Path:
    """Make an empty folder: `out`, or the first free `TOP/NAME-N`.

    Args:
        out: The folder; None: the first free number.
        top: The folder for numbered ones, below the working directory.
        name: The name before the number.
        exists: Returns the message if `out` exists.

    Raises:
        RunFolderError: If `out` exists.
        ResourceError: If the folder cannot be made.
    """
    try:
        (Path(top) if out is None else out.parent).mkdir(parents=True, exist_ok=True)
        return next(path for path in _candidates(out, top, name) if _make(path))
    except StopIteration:
        raise RunFolderError((exists or folder_exists)(out or Path(top))) from None
    except OSError as error:
        raise ResourceError(f"{out or top}: cannot be made: {error.strerror}") from None


def create_folder(out: Path | None, top: str, name: str, fill: Callable[[Path], object]) -> Path:
    """Make a folder with its first files: `out`, or the first free `TOP/NAME-N`.

    The folder is filled under a hidden name and then renamed. It is either complete or not there,
    and if two processes want the same name, one of them gets it.

    Args:
        out: The folder; None: the first free number.
        top: The folder for numbered ones, below the working directory.
        name: The name before the number.
        fill: Writes the first files, at least one.

    Raises:
        RunFolderError: If `out` exists.
        ResourceError: If the folder cannot be made.
    """
    parent = Path(top) if out is None else out.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(parent / name) as partial:
            fill(partial)
            for path in _candidates(out, top, name):
                if _rename(partial, path):
                    return path
    except OSError as error:
        raise ResourceError(f"{out or top}: cannot be made: {error.strerror}") from None
    raise RunFolderError(folder_exists(out or parent))


def folder_exists(out: Path) -> str:
    """Return the message that a run folder exists, with the way out."""
    hint = choose_another()
    if is_locked(out):
        hint = f"{holder(out)} is writing to it; {hint}"
    elif (out / UNFINISHED).is_file():
        hint = f"continue it with: tlkit resume {shell_quoted(out)}, or {hint}"
    return f"{out}: the run folder exists; {hint}"


def free_folder(top: Path, name: str) -> Path:
    """Return the first `TOP/NAME-N` that does not exist, without making it."""
    return next(path for path in _candidates(None, str(top), name) if not path.exists())


def _candidates(out: Path | None, top: str, name: str) -> Iterable[Path]:
    if out is not None:
        return [out]
    return (Path(top) / f"{name}-{number}" for number in itertools.count(1))


def _make(path: Path) -> bool:
    """Make a folder; return whether it is new."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _rename(partial: Path, path: Path) -> bool:
    """Give a filled folder its name; return whether the name was free."""
    if path.exists():
        return False
    try:
        rename_folder(partial, path)
    except OSError as error:  # another process was faster
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            return False
        raise
    return True


@frozen
class RunFolder:
    """The folder of a run.

    Attributes:
        path: Its path.
    """

    path: Path

    @classmethod
    def claim(cls, out: Path | None, name: str) -> RunFolder:
        """Make an empty folder: `out`, or the first free `runs/NAME-N`; see `claim_folder`."""
        return cls(claim_folder(out, RUNS, name))

    @classmethod
    def create(cls, out: Path | None, name: str, fill: Callable[[RunFolder], object]) -> RunFolder:
        """Make a folder with its first files; see `create_folder`."""
        return cls(create_folder(out, RUNS, name, lambda partial: fill(cls(partial))))

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            RunFolderError: If this is not a run folder, or the file has not been written yet.
        """
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def read_text(self, name: str) -> str:
        """Return the content of a text file, with its line ends.

        Raises:
            RunFolderError: If this is not a run folder, or the file has not been written yet.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: there is no such run folder")
        try:
            return (self.path / name).read_bytes().decode()
        except FileNotFoundError:
            raise RunFolderError(self._missing(name)) from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def _missing(self, name: str) -> str:
        if not (self.path / EXPERIMENT).is_file():
            return f"{self.path}: this is not a run folder, it has no {name}"
        if self.is_finished:
            return f"{self.path}: the run folder is incomplete, it has no {name}"
        hint = f"; tlkit resume {shell_quoted(self.path)}" if name == METRICS else ""
        return f"{self.path}: the run is not finished, it has no {name}{hint}"

    def write_json(self, name: str, content: Any) -> None:
        """Write plain values as JSON."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / name, text + "\n")

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table as CSV; see `csv_table`."""
        write_text(self.path / name, csv_table(columns, rows))

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished: its metrics are written last."""
        return (self.path / METRICS).is_file()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of an unfinished run."""
        return self.path / "checkpoints"

    def remove_partial(self) -> None:
        """Remove partial files left by a crash; requires the folder's lock."""
        for folder in (self.path, self.checkpoints):
            remove_partial(folder)

    def tidy(self, keep_checkpoints: bool) -> None:
        """Remove what only an unfinished run needs."""
        if self.checkpoints.is_dir() and not keep_checkpoints:
            remove_folder(self.checkpoints)
        unlock(self.path)
        remove_file(self.path / UNFINISHED)  # last: until then, another process may tidy again
