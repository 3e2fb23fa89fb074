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

from tlkit.system.errors import ResourceError, RunFolderError, TlkitError
from tlkit.system.files import (
    partial_folder,
    remove_file,
    remove_folder,
    remove_partial,
    rename_folder,
    write_text,
)
from tlkit.system.lock import LOCK, holder, is_locked, unlock
from tlkit.system.notebook import choose_another, hint
from tlkit.system.seal import (
    MACHINE_SEAL,
    SEAL,
    check_content,
    hash_of_content,
    hashes_of,
    read_seal,
    seal,
    seals,
)
from tlkit.system.text import csv_table
from tlkit.system.untrusted import (
    TEXT_BYTES,
    exists,
    is_folder,
    parse_json,
    read_bytes,
    reason,
    require_own_folder,
)

EXPERIMENT, PLAN, ENVIRONMENT = "experiment.json", "plan.json", "environment.json"
MANIFEST, SKIPPED, LOOKS = "manifest.csv", "skipped.csv", "looks.csv"
EARLIER = "learned_before.csv"
HISTORY, TIMING = "history.csv", "timing.csv"
METRICS, PREDICTIONS, CALIBRATION = "metrics.json", "predictions.csv", "calibration.json"
WEIGHTS = "weights.safetensors"
ENSEMBLE = "ensemble.json"  # in the folder of an ensemble, which is not a run
UNFINISHED = "unfinished.json"  # only while the run is not finished
CHECKPOINTS = "checkpoints"
PAGES = ("report.html", "MODEL_CARD.md")
INPUTS = (EXPERIMENT, PLAN, MANIFEST, SKIPPED, LOOKS, EARLIER)
RESULTS = (HISTORY, WEIGHTS, CALIBRATION, PREDICTIONS)
BY_MACHINE = (ENVIRONMENT, TIMING, *PAGES)  # may differ from machine to machine
OWN_NAMES = {*INPUTS, *RESULTS, *BY_MACHINE, METRICS, UNFINISHED, CHECKPOINTS, SEAL, MACHINE_SEAL}
RUNS = "runs"  # where a run goes that names no folder


def is_own_name(name: str) -> bool:
    """Tell whether a run writes a file of its own under a name, on any system."""
    return name.casefold() in {own.casefold() for own in (*OWN_NAMES, LOCK)}


def claim_folder(out: Path | None, top: str, name: str) -> Path:
    """Make an empty folder: `out`, or the first free `TOP/NAME-N`."""
    try:
        (Path(top) if out is None else out.parent).mkdir(parents=True, exist_ok=True)
        return next(path for path in _candidates(out, top, name) if _make(path))
    except StopIteration:
        raise RunFolderError(folder_exists(out or Path(top))) from None
    except OSError as error:
        raise ResourceError(f"{out or top}: cannot be made: {error.strerror}") from None


def create_folder(
    out: Path | None,
    top: str,
    name: str,
    fill: Callable[[Path], object],
    exists: Callable[[Path], str] | None = None,
) -> Path:
    """Make a folder with its first files: `out`, or the first free `TOP/NAME-N`.

    The folder is filled under a hidden name and then renamed. It is either complete or not there,
    and if two processes want the same name, one of them gets it.
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
    raise RunFolderError((exists or folder_exists)(out or parent))


def folder_exists(out: Path) -> str:
    """Return the message that a run folder exists, with the way out."""
    way_out = choose_another()
    if is_locked(out):
        way_out = f"{holder(out)} is writing to it; {way_out}"
    elif exists(out / UNFINISHED):
        way_out = f"continue it with: {hint('resume', out)}, or {way_out}"
    return f"{out}: the run folder exists; {way_out}"


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
        """Return the content of a JSON file."""
        try:
            return parse_json(self.read_text(name))
        except ValueError as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def read_text(self, name: str) -> str:
        """Return the content of a text file, with its line ends; see `read_bytes`."""
        try:
            return self.read_bytes(name).decode()
        except ValueError as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def read_bytes(self, name: str, max_bytes: int = TEXT_BYTES) -> bytes:
        """Return the content of a file; that of a finished run must be as it was sealed."""
        if not is_folder(self.path):
            raise RunFolderError(f"{self.path}: there is no such run folder")
        try:
            content = read_bytes(self.path / name, max_bytes)
        except FileNotFoundError:
            raise RunFolderError(self._missing(name)) from None
        except OSError as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {reason(error)}") from None
        # The seal of a run that was killed while it tidied up may leave this file out already.
        if self.is_finished and (name != UNFINISHED or name in seals(self.path)):
            check_content(self.path, name, content)
        return content

    def check(self, name: str, error: type[TlkitError]) -> None:
        """Check that a file that is read elsewhere is as it was sealed; a missing one passes."""
        try:
            check_content(self.path, name, None, error)
        except FileNotFoundError:
            return
        except OSError as problem:
            raise error(f"{self.path / name}: cannot be read: {reason(problem)}") from None

    def has(self, name: str) -> bool:
        """Tell whether the folder has a file, or should have it by its seal."""
        return exists(self.path / name) or (self.is_finished and name in seals(self.path))

    def _missing(self, name: str) -> str:
        if exists(self.path / ENSEMBLE):
            return f"{self.path}: is an ensemble, which this cannot use; name one of its members"
        if not exists(self.path / EXPERIMENT):
            return f"{self.path}: this is not a run folder, it has no {name}"
        if self.is_finished:
            return f"{self.path}: the run folder is incomplete, it has no {name}"
        way_out = f"; {hint('resume', self.path)}" if name == METRICS else ""
        return f"{self.path}: the run is not finished, it has no {name}{way_out}"

    def write_json(self, name: str, content: Any) -> None:
        """Write plain values as JSON."""
        write_text(self.path / name, _json_text(content))

    def seal_inputs(self) -> None:
        """Seal what the run starts from."""
        toml = [path.name for path in self.path.glob("*.toml")]
        seal(self.path, hashes_of(self.path, (*INPUTS, *toml)))
        seal(self.path, hashes_of(self.path, (ENVIRONMENT, UNFINISHED)), MACHINE_SEAL)

    def finish(self, metrics: Any) -> None:
        """Seal the results and write the metrics, which finishes the run."""
        if not exists(self.path / SEAL):  # begun by an earlier tlkit
            self.seal_inputs()
        text = _json_text(metrics)
        own = {METRICS: hash_of_content(text.encode())}
        seal(self.path, read_seal(self.path) | hashes_of(self.path, RESULTS) | own)
        write_text(self.path / METRICS, text)

    def reseal(self, *names: str) -> None:
        """Seal files of this machine again, which have been written anew."""
        if exists(self.path / SEAL):
            known = read_seal(self.path, MACHINE_SEAL)
            seal(self.path, known | hashes_of(self.path, names), MACHINE_SEAL)

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table as CSV; see `csv_table`."""
        write_text(self.path / name, csv_table(columns, rows))

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished: its metrics are written last."""
        return exists(self.path / METRICS)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of an unfinished run."""
        return self.path / CHECKPOINTS

    def remove_partial(self) -> None:
        """Remove partial files left by a crash; requires the folder's lock."""
        require_own_folder(self.checkpoints)
        for folder in (self.path, self.checkpoints):
            remove_partial(folder)

    def tidy(self, keep_checkpoints: bool) -> None:
        """Remove what only an unfinished run needs, and seal the rest."""
        require_own_folder(self.checkpoints)
        if self.checkpoints.is_dir() and not keep_checkpoints:
            remove_folder(self.checkpoints)
        if exists(self.path / SEAL):
            known = read_seal(self.path, MACHINE_SEAL)
            kept = {name: known[name] for name in (ENVIRONMENT,) if name in known}
            seal(self.path, hashes_of(self.path, BY_MACHINE) | kept, MACHINE_SEAL)
        unlock(self.path)
        remove_file(self.path / UNFINISHED)  # last: until then, another process may tidy again


def _json_text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
