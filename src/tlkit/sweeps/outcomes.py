"""What came of each run of a sweep, read from its folder: nothing of TensorFlow is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from tlkit.errors import RunFolderError
from tlkit.sweeps.trials import Trial

Confusion = tuple[tuple[int, ...], ...]  # counts; rows are the truth
Status = Literal["done", "failed", "waiting"]
METRICS, UNFINISHED = "metrics.json", "unfinished.json"


@frozen(kw_only=True)
class Outcome:
    """What came of one run.

    Attributes:
        trial: What it was to be.
        status: `done`, `failed` or `waiting`.
        error: Why it failed; empty otherwise.
        exit_code: What `tlkit run` would have ended with.
        split: The split that it is judged by.
        classes: Class names in the order of the confusion matrices.
        confusions: The confusion matrix of each split.
    """

    trial: Trial
    status: Status
    error: str = ""
    exit_code: int = 0
    split: str = ""
    classes: tuple[str, ...] = ()
    confusions: Mapping[str, Confusion] = field(factory=dict)

    @property
    def confusion(self) -> Confusion:
        """Return the confusion matrix that the run is judged by."""
        return self.confusions[self.split]


def read_outcome(trial: Trial, run: Path) -> Outcome:
    """Return what the folder of a run says, `waiting` if the run is not finished.

    Raises:
        RunFolderError: If it is no folder that tlkit wrote.
    """
    if (run / UNFINISHED).is_file():  # it may have its metrics, but not all of its pages
        return Outcome(trial=trial, status="waiting")
    try:
        found: Any = json.loads((run / METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Outcome(trial=trial, status="waiting")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{run / METRICS}: cannot be read: {error}") from None
    try:
        confusions = {
            split: tuple(tuple(map(int, row)) for row in found[split]["confusion"])
            for split in ("val", "test")
            if split in found
        }
        return Outcome(
            trial=trial,
            status="done",
            split=found["evaluated_on"],
            classes=tuple(found["classes"]),
            confusions=confusions,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{run / METRICS}: is not as tlkit writes it: {error!r}") from None


def added(matrices: list[Confusion]) -> Confusion:
    """Return the sum of confusion matrices.

    >>> added([((1, 0), (2, 3)), ((1, 1), (0, 0))])
    ((2, 1), (2, 3))
    """
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))
