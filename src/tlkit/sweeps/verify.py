"""`verify`: check every file of a run, a sweep or another folder against its seal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.runfolder.folder import (
    CHECKPOINTS,
    EXPERIMENT,
    METRICS,
    RESULTS,
    UNFINISHED,
    WEIGHTS,
    RunFolder,
)
from tlkit.runfolder.record import read_run
from tlkit.sweeps.folder import RUNS, SWEEP, SweepFolder
from tlkit.sweeps.trials import table_fingerprint
from tlkit.system.errors import RunFolderError, TlkitError, WeightsError
from tlkit.system.seal import problems, seals, sha256_of
from tlkit.system.untrusted import exists, is_folder, read_json, reason, require_own_folder
from tlkit.weights.files import safetensors_rows


@frozen
class SealCheck:
    """What a check of all files has found.

    Attributes:
        folder: The folder.
        files: The number of files that were compared with their hashes.
        problems: Every file that is missing, damaged or not what it should be.
        notes: What could not be checked.
    """

    folder: Path
    files: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(folder: str | Path) -> SealCheck:
    """Check every file of a run, a sweep, or an export, probe or evaluation.

    Files are compared with the hashes that were taken when they were written; runs are read as a
    report would read them, and their weights must be finite. Runs nothing.

    Args:
        folder: The folder.

    Raises:
        RunFolderError: If it is none of these.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise RunFolderError(f"{folder}: there is no such folder")
    if exists(folder / SWEEP):
        return _sweep(folder)
    if exists(folder / EXPERIMENT):
        return _run(folder)
    if not (hashes := seals(folder)):
        raise RunFolderError(f"{folder}: has no seal; there is nothing to compare its files with")
    return SealCheck(folder, len(hashes), tuple(problems(folder)))


def _sweep(folder: Path) -> SealCheck:
    """Check a sweep and all its runs, which must be the planned ones."""
    found, notes = [], []
    files = len(hashes := seals(folder))
    found += problems(folder)
    if not hashes:
        notes.append(f"{folder}: has no seal; it is of an earlier tlkit or unfinished")
    planned = SweepFolder(folder).planned()
    for path in sorted((folder / RUNS).glob("*")):
        try:
            require_own_folder(path)
            one = _run(path)
            found += one.problems
            notes += one.notes
            files += one.files
            if table_fingerprint(read_json(path / EXPERIMENT)) != planned.get(path.name):
                found.append(f"{path}: holds another run than the planned one")
        except (TlkitError, OSError, ValueError) as error:
            found.append(str(error))
    return SealCheck(folder, files, tuple(dict.fromkeys(found)), tuple(notes))


def _run(path: Path) -> SealCheck:
    """Check a run, finished or not."""
    folder, notes = RunFolder(path), []
    hashes = seals(path)
    count = len(hashes)
    if folder.is_finished:
        found = problems(path)
        try:
            read_run(folder)
            _check_weights(path / WEIGHTS)
        except TlkitError as error:
            found += str(error).splitlines()
    elif METRICS in hashes and not exists(path / UNFINISHED):  # it was finished
        found = problems(path)
    else:
        notes.append(f"{path}: the run is not finished")
        found = problems(path, but=(*RESULTS, METRICS))
        count = len(hashes.keys() - {*RESULTS, METRICS})
    lines = list(_checkpoint_problems(path / CHECKPOINTS))
    found += filter(None, lines)
    first: dict[str, str] = {}  # that a damaged file cannot be read either says no more
    for line in found:
        first.setdefault(line.partition(": ")[0], line)
    return SealCheck(path, count + len(lines), tuple(first.values()), tuple(notes))


def _check_weights(path: Path) -> None:
    """Check that a weights file can be read and has only finite values."""
    import numpy as np

    try:
        for name, array in safetensors_rows(path).items():
            if not np.isfinite(array.whole()).all():
                raise WeightsError(f"{path}: {name} has values that are not finite")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None


def _checkpoint_problems(folder: Path) -> Iterator[str]:
    """Yield a line for each damaged file of the checkpoints, and an empty one for each sound."""
    if not exists(folder):
        return
    require_own_folder(folder)
    for path in sorted(folder.glob("epoch-*")):
        manifest: Any = path / "manifest.json"
        try:
            files = read_json(manifest)["files"]
            for name, known in files.items():
                same = Path(name).name == name and (path / name).lstat().st_size == known["bytes"]
                if not same or sha256_of(path / name) != known["sha256"]:
                    yield f"{path / name}: has changed since it was written"
                else:
                    yield ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{manifest}: cannot be read: {reason(error)}"
