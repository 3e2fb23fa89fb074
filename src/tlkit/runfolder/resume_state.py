"""What a run folder holds so that an unfinished run can be resumed, also from another place.

`unfinished.json` records the folder that the experiment's paths start from, and the experiment. It
is the only file with an absolute path, and is removed when the run finishes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from tlkit.config.experiment import Experiment, Origin
from tlkit.parts.kinds import Backbone
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import EXPERIMENT, UNFINISHED, RunFolder
from tlkit.system.errors import RunFolderError

CHANGED = "is not the run that was begun; undo the changes, or start another run"
MISSING = object()


class OtherInputs(RunFolderError):
    """The images or weights are not those that the run started with."""


def resume_state(experiment: Experiment, table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content of `unfinished.json`."""
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
    """Return the experiment of an unfinished run.

    The folder that its paths start from is first looked for relative to the run folder, so that
    both can be moved together, and then where it was.
    """
    state = folder.read_json(UNFINISHED)
    try:
        base, name, overrides = state["base"], state["file"], tuple(state["overrides"])
        bases = folder.path / base["from_here"], Path(base["absolute"])
        text = "" if name is None else folder.read_text(Path(name).name)
        edits = [*differences(state["experiment"], folder.read_json(EXPERIMENT))]
        if name is not None and _sha256(text) != state["file_sha256"]:
            edits.append(f"{name}: is not as it was; it was edited")
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{folder.path / UNFINISHED}: is not as tlkit writes it") from None
    if edits:
        raise refusal(folder.path, edits)
    candidates = [
        (read_experiment(folder, plugins, backbone, base, to_train=True), base) for base in bases
    ]
    present = (pair for pair in candidates if pair[0].data.absent() is None)
    experiment, base = next(present, candidates[0])
    if name is None:
        return experiment
    return evolve(experiment, origin=Origin(base / Path(name).name, text, overrides))


def refusal(
    folder: Path,
    changes: Sequence[str],
    message: str = CHANGED,
    kind: type[RunFolderError] = RunFolderError,
) -> RunFolderError:
    """Return the error that a run cannot be resumed because of changes, one per line."""
    lines = "\n".join(f"  {line}" for line in changes)
    return kind(f"{folder}: {message}\n{lines}")


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield a line with the key path for every value in which two plain values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(before.get(key, MISSING), now.get(key, MISSING), inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif before is MISSING or now is MISSING or before != now:
        yield f"{path}: was {_shown(before)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    return "missing" if value is MISSING else repr(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
