"""Where a new folder goes: to a place of its own, whole, and never over another."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from tlkit.errors import ResourceError, RunFolderError
from tlkit.escapes import typed
from tlkit.files import folder_beside, rename_folder
from tlkit.lock import holder, is_locked
from tlkit.results.unfinished import UNFINISHED


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
        with folder_beside(parent / name) as partial:
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
        what = f"go on with it: tlkit resume {typed(out)}, or {what}"
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
