"""The state of a sweep while any number of processes work on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
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
        status: `done`, `failed`, `dropped`, `working` or `waiting`.
        owner: Who works on it, or did; empty if nobody has yet.
        epochs: The epochs that are finished.
        planned_epochs: All its epochs.
        expected_epochs: How many it will have: fewer, where a search may drop it.
        attempts: How often a process began it or took it over.
        seconds: How long its owners took; of one that works on it, not known yet.
        budget_s: For how many seconds its owner still begins other runs, if it has a budget.
    """

    name: str
    label: str
    status: str
    owner: str = ""
    epochs: int = 0
    planned_epochs: int = 0
    expected_epochs: float = 0.0
    attempts: int = 0
    seconds: float = 0.0
    budget_s: float | None = None

    @property
    def known_epochs(self) -> int:
        """Return its finished epochs; of a finished run without a history, the planned ones."""
        return self.epochs or self.planned_epochs * (self.status == "done")


@frozen(kw_only=True)
class SweepStatus:
    """The state of a sweep.

    Attributes:
        folder: Its folder.
        runs: Its runs in order.
        not_drawn: How many runs a search will add, by what it has drawn so far.
    """

    folder: Path
    runs: tuple[RunStatus, ...]
    not_drawn: float = 0.0

    @property
    def working(self) -> list[RunStatus]:
        """Return the runs that are being made."""
        return [run for run in self.runs if run.status == WORKING]

    @property
    def epochs_left(self) -> float:
        """Return how many epochs are to be made, on average over what a search may drop.

        Finished runs say how many of their planned epochs runs have, as some stop early.
        """
        done = [run for run in self.runs if run.status == "done"]
        planned = sum(run.planned_epochs for run in done)
        share = sum(run.known_epochs for run in done) / planned if planned else 1.0
        expected = [share * run.expected_epochs for run in self.runs]
        rest = [
            max(0.0, epochs - run.epochs)
            for run, epochs in zip(self.runs, expected, strict=True)
            if run.status in {WORKING, "waiting"}
        ]
        return math.fsum(rest) + self.not_drawn * math.fsum(expected) / max(1, len(expected))

    @property
    def remaining_s(self) -> float | None:
        """Return the seconds until the end if all goes on as it did; None if nobody can know.

        Runs that have ended, or pause, give the seconds per epoch.
        """
        timed = [run for run in self.runs if run.seconds and run.known_epochs]
        if not timed or not self.working:
            return None
        per_epoch = sum(run.seconds for run in timed) / sum(run.known_epochs for run in timed)
        return per_epoch * self.epochs_left / len(self.working)

    @property
    def budget_s(self) -> float | None:
        """Return the seconds after which nobody begins a run; None if somebody has no budget."""
        budgets = [run.budget_s for run in self.working]
        known = [budget for budget in budgets if budget is not None]
        return max(known) if known and len(known) == len(budgets) else None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [attrs.asdict(run) for run in self.runs]
        names = ("not_drawn", "epochs_left", "remaining_s", "budget_s")
        figures = {name: getattr(self, name) for name in names}
        return {"sweep": str(self.folder), **figures, "runs": rows}

    def __str__(self) -> str:
        rows = [[f"{run.name}  {run.label}", run.status, _progress(run), run.owner]
                for run in self.runs]  # fmt: skip
        counts = Counter(run.status for run in self.runs)
        known = ("done", "failed", "dropped", WORKING, "waiting")
        words = [f"{counts[word]} {word}" for word in known if counts[word]]
        words += [f"about {self.not_drawn:.0f} to be drawn"] if self.not_drawn else []
        left, budget_s = self.remaining_s, self.budget_s
        if left is not None:
            words.append(f"about {duration_text(left)} left")
            if budget_s is not None and budget_s < left:
                words.append(f"no run is begun after {duration_text(budget_s)}, as the budget ends")
        elif counts[WORKING] + counts["waiting"]:
            words.append("no estimate: " + ("no run is finished yet" if counts[WORKING] else
                                            "no process works on it"))  # fmt: skip
        return "\n".join([table(["run", "status", "progress", "by"], rows), ", ".join(words)])


def _progress(run: RunStatus) -> str:
    is_begun = run.status == WORKING or (run.status == "waiting" and run.epochs)
    words = [f"{run.epochs} of {run.planned_epochs} epochs"] if is_begun else []
    words += [f"{run.seconds:.0f} s"] if run.seconds and run.status == "done" else []
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
    runs, trials = tuple(_runs(board)), board.trials
    not_drawn = trials.waiting_draws * len(runs) / max(1, len(trials.variants))
    return SweepStatus(folder=Path(folder), runs=runs, not_drawn=not_drawn)


def _runs(board: Board) -> Iterator[RunStatus]:
    ended = {outcome.trial.name: outcome for outcome, _ in board.news()}
    newest, seconds = board.leases.newest(), board.leases.seconds()
    expected = board.standing(newest).epochs
    for trial in board.trials.trials:
        lease, status = newest.get(trial.name), "waiting"
        if trial.name in ended:
            status = ended[trial.name].status
        elif lease is not None and lease.status == WORKING and not lease.owner.is_gone:
            status = WORKING
        yield RunStatus(
            name=trial.name,
            label=trial.label,
            status=status,
            owner=str(lease.owner) if lease and status != "waiting" else "",
            epochs=epochs_of(board.place(trial, lease)) if lease else 0,
            planned_epochs=trial.plan.epochs,
            expected_epochs=expected[trial.name],
            attempts=lease.number + 1 if lease else 0,
            seconds=0.0 if status == WORKING else seconds.get(trial.name, 0.0),
            budget_s=lease.budget_left_s if lease and status == WORKING else None,
        )
