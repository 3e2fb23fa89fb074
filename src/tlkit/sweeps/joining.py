"""Taking part in a sweep: make runs until none is left, and write the tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve

from tlkit.sweeps.board import Board
from tlkit.sweeps.folder import SWEEP, SweepFolder
from tlkit.sweeps.processes import Worker
from tlkit.sweeps.results import Sweep
from tlkit.sweeps.summary import Outcome
from tlkit.sweeps.trials import plan_trials
from tlkit.system.errors import ConfigError, Problem, RunFolderError
from tlkit.system.lease import PATIENCE_S
from tlkit.system.notebook import either
from tlkit.system.text import shell_quoted

Work = Callable[[Mapping[str, Any]], Mapping[str, Any]]
POLL_S = 1.0


def open_board(
    folder: Path,
    plugins: Sequence[str | Path],
    *,
    retries: bool,
    patience_s: float = PATIENCE_S,
    file: str | Path | None = None,
    keep_text: bool = True,
    budget_s: float | None = None,
) -> Board:
    """Return the board of a sweep that has begun.

    Args:
        folder: The sweep's folder.
        plugins: The plugin files that the user has named; no others are imported.
        retries: Whether runs that failed are made again.
        patience_s: After how many seconds of silence a process on another machine counts as dead.
        file: The experiment file of a sweep that does not have its text.
        keep_text: Whether the folder gets its text.
        budget_s: After how many seconds no more runs are handed out; None: never.
    """
    named = tuple(str(Path(path).absolute()) for path in plugins)
    begun = SweepFolder(folder)
    command = begun.read_command()
    begun.check_leases()
    if command.texts is not None and file is not None:
        raise ConfigError([Problem("FILE", f"{folder} has its own text of it; leave it out")])
    if command.texts is None:
        if file is None:
            raise RunFolderError(not_named(folder, command.file))
        command = evolve(command, file=Path(file))
    trials = plan_trials(
        command.file,
        command.overrides,
        command.seeds,
        plugins=named,
        texts=command.texts,
        drawn=begun.read_draws(),
    )
    begun.check_unchanged(trials)
    if command.texts is None and keep_text:
        begun.write_plan(command, trials)
    return Board(begun, trials, retries, patience_s, named, budget_s)


def not_named(folder: Path, file: Path) -> str:
    """Return the message that a sweep's folder names a file outside, which is not read unasked."""
    known = shell_quoted(file), shell_quoted(folder)
    way_out = either(
        "tlkit sweep {} --resume {}".format(*known),
        f"tlkit.resume_sweep({str(folder)!r}, file={str(file)!r})",
    )
    return (
        f"{folder / SWEEP}: is of an earlier tlkit and names an experiment elsewhere, which is "
        f"read only if you name it: {way_out}"
    )


@contextmanager
def at_work(board: Board) -> Iterator[None]:
    """Keep the runs taken in the body alive, and give back those that it did not finish."""
    with board.leases.beating():
        try:
            yield
        finally:
            board.release()


def work_off(
    board: Board, work: Work, stop: threading.Event, on_end: Callable[[], None] = lambda: None
) -> None:
    """Make runs until none is left to make, here or elsewhere."""
    while not stop.is_set():
        lease, others = board.take()
        if lease is not None:
            answer = work(board.job(lease))
            if stop.is_set() and "error" in answer:
                return
            board.settle(lease, answer)
            on_end()
        elif others:  # one of them may die
            stop.wait(POLL_S)
        else:
            return


def take_part(
    folder: str,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    budget_s: float | None = None,
) -> None:
    """Make runs of a sweep in one process of this machine; what executors call elsewhere."""
    board = open_board(Path(folder), plugins, retries=False, budget_s=budget_s)
    with at_work(board), Worker(environment=thread_variables(threads)) as worker:
        work_off(board, worker, threading.Event())
    for _ in board.news():
        pass
    if board.is_complete:
        finish(board)


def finish(board: Board) -> Sweep:
    """Write the sweep's tables and page from its folder, and return it."""
    from tlkit.sweeps.page import write_results  # imports jinja2

    folder, trials = board.folder, board.trials
    waiting = {trial.name: Outcome(trial=trial, status="waiting") for trial in trials.trials}
    outcomes = list((waiting | board.outcomes | board.finished()).values())
    folder.write_runs(outcomes, trials.swept)
    folder.write_workers(board.leases.newest(), board.leases.seconds())
    done = Sweep.of(folder.path, trials, outcomes)
    write_results(folder, done)
    if board.is_complete:
        board.tidy()
        folder.seal(board.ended_leases())
    return done


def thread_variables(threads: int | None) -> dict[str, str]:
    """Return the environment variables that set TensorFlow's threads; none for None."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS") if threads else ()
    return dict.fromkeys(names, str(threads))
