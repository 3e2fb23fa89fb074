"""What a run folder holds while its run is not finished, so that it can go on elsewhere.

`unfinished.json` says where the experiment's paths start and what the experiment was. It is the one
file with an absolute path in it, and it goes when the run is finished.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from tlkit.config.experiment import Experiment, Origin
from tlkit.parts.kinds import Backbone
from tlkit.runfolder.record import EXPERIMENT, read_experiment
from tlkit.system.errors import RunFolderError

if TYPE_CHECKING:
    from tlkit.runfolder.folder import RunFolder

UNFINISHED = "unfinished.json"
ANOTHER = "is not the run that was begun; bring it back as it was, or start another run"
MISSING = object()


class OtherInputs(RunFolderError):
    """The images or the weights are not those that the run began with."""


def record(experiment: Experiment, table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content of `unfinished.json`.

    Args:
        experiment: What the run does.
        table: The same as plain values.
        folder: The run's folder.
    """
    origin = experiment.origin
    return {
        "base": {
            "from_here": Path(os.path.relpath(experiment.base, folder)).as_posix(),
            "absolute": str(experiment.base.absolute()),
        },
        "file": origin.path.name if origin else None,
        "file_sha256": _sha256(origin.text) if origin else None,
        "overrides": list(origin.overrides) if origin else [],
        "experiment": dict(table),
    }


def read_unfinished(
    folder: RunFolder, plugins: Sequence[str | Path] = (), backbone: Backbone | None = None
) -> Experiment:
    """Return the experiment of a run that is not finished, as it was when it began.

    Its paths are relative to a folder that is looked for from the run folder first, so that both
    can be moved together, and then where it was.

    Raises:
        RunFolderError: If the folder is none of such a run, or its experiment was edited.
        PartError: If a plugin file, another package or the backbone is missing, or is another.
    """
    began = folder.read_json(UNFINISHED)
    try:
        base, name, overrides = began["base"], began["file"], tuple(began["overrides"])
        bases = folder.path / base["from_here"], Path(base["absolute"])
        text = "" if name is None else _text(folder.path / Path(name).name)
        edited = [*differences(began["experiment"], folder.read_json(EXPERIMENT))]
        if name is not None and _sha256(text) != began["file_sha256"]:
            edited.append(f"{name}: is not as it was")
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{folder.path / UNFINISHED}: is not as tlkit writes it") from None
    if edited:
        raise refusal(folder.path, edited)
    found = [read_experiment(folder, plugins, backbone, base) for base in bases]
    chosen, base = next(
        ((one, base) for one, base in zip(found, bases, strict=True) if one.data.absent() is None),
        (found[0], bases[0]),
    )
    if name is None:
        return chosen
    return evolve(chosen, origin=Origin(base / Path(name).name, text, overrides))


def refusal(
    folder: Path,
    changed: Sequence[str],
    what: str = ANOTHER,
    kind: type[RunFolderError] = RunFolderError,
) -> RunFolderError:
    """Return the error that a run cannot go on because of what has changed."""
    lines = "\n".join(f"  {line}" for line in changed)
    return kind(f"{folder}: {what}\n{lines}")


def differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield a line for every value that two plain values differ in, with its key path."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in [*was, *(key for key in now if key not in was)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(was.get(key, MISSING), now.get(key, MISSING), inner)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, pair in enumerate(zip(was, now, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif was is MISSING or now is MISSING or was != now:
        yield f"{path}: was {_shown(was)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    return "not there" if value is MISSING else repr(value)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
