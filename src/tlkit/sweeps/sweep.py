"""Running a sweep: many runs of one study, each in its own folder, and their summary."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from tlkit.config.sweep import parse_budget
from tlkit.sweeps.board import Board
from tlkit.sweeps.executors import Executor, executor_of
from tlkit.sweeps.folder import Command, SweepFolder
from tlkit.sweeps.joining import POLL_S, at_work, finish, open_board, work_off
from tlkit.sweeps.results import Sweep
from tlkit.sweeps.text import SweepCallback
from tlkit.sweeps.trials import plan_trials
from tlkit.system.lease import PATIENCE_S
from tlkit.system.lock import locked
from tlkit.system.renames import renamed_keywords
from tlkit.system.signals import raise_on_signal


@renamed_keywords(watcher="callback")
def sweep(
    file: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    in_process: bool = False,
    workers: int | str = 1,
    processes: int | None = None,
    threads: int | None = None,
    budget: str | None = None,
    callback: SweepCallback | None = None,
) -> Sweep:
    """Run a study many times and summarize the results.

    All runs are planned and checked, and their data found, before the first one starts. A run that
    fails does not end the sweep. Runs share the feature cache.

    Args:
        file: A TOML file with a table `[sweep]`, or a plain experiment file.
        out: The sweep's folder, which must not exist; unset: `sweeps/NAME-N`.
        overrides: ``a.b=value`` expressions for each experiment; a list is several values.
        seeds: Such as ``0-4``; unset: those of `[sweep]`.
        in_process: Run in this process, as parts need that were registered in it. Memory then
            grows with each run, and a crash ends the sweep.
        workers: The number of processes on this machine, or an executor: ``ray:auto``,
            ``ray:HOST:PORT``, ``slurm:PARTITION``.
        processes: The number of an executor's processes; unset: what suits it.
        threads: TensorFlow's threads per process; unset: the machine's, shared out. The last bits
            of a result depend on it.
        budget: After what time no further run is begun, such as ``2h``, ``1h30m`` or ``90s``;
            those that run go to their end, and `resume_sweep` makes the others.
        callback: Receives the sweep's progress.

    Raises:
        TlkitError: Before the first run, if anything is wrong; the subclass says what.
    """
    executor = None if in_process else executor_of(workers, processes, threads)
    budget_s = parse_budget(budget) if budget else None
    command = Command(Path(file), tuple(overrides), seeds)
    trials = plan_trials(command.file, command.overrides, command.seeds)
    folder = SweepFolder.create(None if out is None else Path(out), command, trials)
    with locked(folder.path):
        board = Board(folder, trials, budget_s=budget_s)
        return _execute(board, executor, callback or SweepCallback())


@renamed_keywords(watcher="callback")
def resume_sweep(
    folder: str | Path,
    *,
    file: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    in_process: bool = False,
    workers: int | str = 1,
    processes: int | None = None,
    threads: int | None = None,
    budget: str | None = None,
    callback: SweepCallback | None = None,
) -> Sweep:
    """Make the unfinished runs of a sweep; finished ones are kept.

    Runs that are not the planned ones, or were made with other images or weights than the runs
    before them, count as failed.

    Args:
        folder: The sweep's folder.
        file: Its TOML file, if the sweep was begun by tlkit 0.1, whose folders do not hold it.
        plugins: The plugin files of its experiments, unchanged. The folder says which experiments
            these are, so no file is imported that is not named here.
        in_process: As for `sweep`.
        workers: As for `sweep`.
        processes: As for `sweep`.
        threads: As for `sweep`.
        budget: As for `sweep`.
        callback: As for `sweep`.

    Raises:
        RunFolderError: If it is not a sweep's folder, an experiment has changed, or another
            process is writing to it.
        PartError: If a plugin file is not named.
    """
    executor = None if in_process else executor_of(workers, processes, threads)
    budget_s = parse_budget(budget) if budget else None
    board = open_board(Path(folder), plugins, retries=True, file=file, budget_s=budget_s)
    with locked(board.folder.path):
        board.folder.seal_plan()
        return _execute(board, executor, callback or SweepCallback())


def join_sweep(
    folder: str | Path,
    *,
    file: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    workers: int | str = 1,
    processes: int | None = None,
    threads: int | None = None,
    budget: str | None = None,
    patience_s: float = PATIENCE_S,
    callback: SweepCallback | None = None,
) -> Sweep:
    """Take part in a sweep that has begun, next to any number of other processes and machines.

    Returns when every run has ended, wherever it was made.

    Args:
        folder: The sweep's folder, which all of them see.
        file: As for `resume_sweep`.
        plugins: As for `resume_sweep`.
        workers: As for `sweep`.
        processes: As for `sweep`.
        threads: As for `sweep`.
        budget: As for `sweep`.
        patience_s: After how many seconds without a sign of life the run of a process on another
            machine is taken over. One on this machine is taken over as soon as it has ended.
        callback: As for `sweep`.

    Raises:
        RunFolderError: If it is not a sweep's folder, or an experiment has changed.
        PartError: If a plugin file is not named.
    """
    executor = executor_of(workers, processes, threads)
    budget_s = parse_budget(budget) if budget else None
    board = open_board(
        Path(folder),
        plugins,
        retries=False,
        patience_s=patience_s,
        file=file,
        budget_s=budget_s,
    )
    return _execute(board, executor, callback or SweepCallback())


def _execute(board: Board, executor: Executor | None, callback: SweepCallback) -> Sweep:
    """Have the runs made that are not finished, and write the results."""
    kept = [outcome for outcome, _ in board.news()]
    callback.on_plan(board.trials, board.folder.path)
    ended = itertools.count(1)
    for outcome in kept:
        callback.on_run_end(next(ended), len(board.trials.trials), outcome, 0.0)

    def report() -> None:
        for outcome, seconds in board.news():
            total = len(board.trials.trials)  # a search may have drawn more
            callback.on_run_end(next(ended), total, outcome, max(seconds, 0.1))

    stop = threading.Event()
    with raise_on_signal(), at_work(board):
        if executor is None:
            from tlkit.sweeps import worker  # imports TensorFlow

            work_off(board, worker.work, stop, report)
        else:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(executor.run, board, stop)
                try:
                    while wait([running], timeout=POLL_S).not_done:
                        report()
                finally:
                    stop.set()
            running.result()
    report()
    return finish(board)
