"""The state of a sweep while any number of processes work on it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from tlkit.reports.console import table
from tlkit.runfolder.tables import epochs_of
from tlkit.sweeps.board import Board
from tlkit.sweeps.joining import open_board
from tlkit.system.lease import WORKING
from tlkit.train.cost import duration_text


@frozen(kw_only=True)
class RunStatus:
    """One run of a sweep.

    Attributes:
        name: Its folder's name.
        label: What it is, in one line.
        status: `done`, `failed`, `working` or `waiting`.
        owner: Who works on it, or did; empty if nobody has yet.
        epochs: The epochs that are finished, of a run that is being made.
        planned_epochs: All its epochs.
        attempts: How often a process began it or took it over.
        seconds: How long it took, if it is done.
    """

    name: str
    label: str
    status: str
    owner: str = ""
    epochs: int = 0
    planned_epochs: int = 0
    attempts: int = 0
    seconds: float = 0.0


@frozen(kw_only=True)
class SweepStatus:
    """The state of a sweep.

    Attributes:
        folder: Its folder.
        runs: Its runs in order.
    """

    folder: Path
    runs: tuple[RunStatus, ...]

    @property
    def remaining_s(self) -> float | None:
        """Return the seconds until the end if all goes on as it did; None if nobody can know.

        Finished runs give the mean; the ones that are being made count with what they lack.
        """
        took = [run.seconds for run in self.runs if run.status == "done" and run.seconds]
        working = [run for run in self.runs if run.status == WORKING]
        waiting = sum(run.status == "waiting" for run in self.runs)
        if not took or not working:
            return None
        shares = [1 - run.epochs / max(run.planned_epochs, 1) for run in working]
        return statistics.fmean(took) * (waiting + sum(shares)) / len(working)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [attrs.asdict(run) for run in self.runs]
        return {"sweep": str(self.folder), "remaining_s": self.remaining_s, "runs": rows}

    def __str__(self) -> str:
        rows = [[f"{run.name}  {run.label}", run.status, _progress(run), run.owner]
                for run in self.runs]  # fmt: skip
        counts = Counter(run.status for run in self.runs)
        words = [f"{counts[word]} {word}" for word in ("done", "failed", WORKING, "waiting")
                 if counts[word]]  # fmt: skip
        left = counts[WORKING] + counts["waiting"]
        if self.remaining_s is not None:
            words.append(f"about {duration_text(self.remaining_s)} left")
        elif left:
            words.append("no estimate: " + ("no run is finished yet" if counts[WORKING] else
                                            "no process works on it"))  # fmt: skip
        return "\n".join([table(["run", "status", "progress", "by"], rows), ", ".join(words)])


def _progress(run: RunStatus) -> str:
    words = [f"{run.epochs} of {run.planned_epochs} epochs"] if run.status == WORKING else []
    words += [f"{run.seconds:.0f} s"] if run.seconds else []
    words += [f"attempt {run.attempts}"] if run.attempts > 1 else []
    return ", ".join(words)


def sweep_status(
    folder: str | Path, *, file: str | Path | None = None, plugins: Sequence[str | Path] = ()
) -> SweepStatus:
    """Return who makes which run of a sweep, and what is left; changes nothing.

    Args:
        folder: The sweep's folder.
        file: As for `resume_sweep`.
        plugins: As for `resume_sweep`.

    Raises:
        RunFolderError: If it is not a sweep's folder, or an experiment has changed.
        PartError: If a plugin file is not named.
    """
    board = open_board(Path(folder), plugins, retries=False, file=file, keep_text=False)
    return SweepStatus(folder=Path(folder), runs=tuple(_runs(board)))


def _runs(board: Board) -> list[RunStatus]:
    ended = {outcome.trial.name: outcome for outcome, _ in board.news()}
    newest = board.leases.newest()
    runs = []
    for trial in board.trials.trials:
        lease, status = newest.get(trial.name), "waiting"
        if trial.name in ended:
            status = ended[trial.name].status
        elif lease is not None and lease.status == WORKING and not lease.owner.is_gone:
            status = WORKING
        runs.append(
            RunStatus(
                name=trial.name,
                label=trial.label,
                status=status,
                owner=str(lease.owner) if lease and status != "waiting" else "",
                epochs=epochs_of(board.place(trial, lease)) if lease else 0,
                planned_epochs=trial.plan.epochs,
                attempts=lease.number + 1 if lease else 0,
                seconds=lease.seconds if lease and status == "done" else 0.0,
            )
        )
    return runs
