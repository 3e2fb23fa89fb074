"""Running a sweep: many runs of one study, each in its own folder, and their summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tlkit.sweeps.callback import SweepCallback
from tlkit.sweeps.executors import Worker
from tlkit.sweeps.folder import RUNS, Command, SweepFolder
from tlkit.sweeps.summary import Outcome, Sweep, read_outcome
from tlkit.sweeps.trials import Trials, plan_trials
from tlkit.system.errors import RunFolderError
from tlkit.system.lock import locked
from tlkit.system.renames import renamed_keywords
from tlkit.system.signals import raise_on_signal

Work = Callable[[dict[str, Any]], dict[str, Any]]


@renamed_keywords(watcher="callback")
def sweep(
    file: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    in_process: bool = False,
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
        callback: Receives the sweep's progress.

    Raises:
        TlkitError: Before the first run, if anything is wrong; the subclass says what.
    """
    command = Command(Path(file), tuple(overrides), seeds)
    trials = plan_trials(command.file, command.overrides, command.seeds)
    folder = SweepFolder.claim(None if out is None else Path(out), command.file.stem)
    folder.write_plan(command, trials)
    return _execute(folder, trials, in_process, callback or SweepCallback())


@renamed_keywords(watcher="callback")
def resume_sweep(
    folder: str | Path, *, in_process: bool = False, callback: SweepCallback | None = None
) -> Sweep:
    """Make the unfinished runs of a sweep; finished ones are kept.

    Args:
        folder: The sweep's folder; its TOML file must be where it was.
        in_process: As for `sweep`.
        callback: As for `sweep`.

    Raises:
        RunFolderError: If it is not a sweep's folder, an experiment has changed, or another
            process is writing to it.
    """
    begun = SweepFolder(Path(folder))
    command = begun.read_command()
    trials = plan_trials(command.file, command.overrides, command.seeds)
    begun.check_unchanged(trials)
    return _execute(begun, trials, in_process, callback or SweepCallback())


def _execute(
    folder: SweepFolder, trials: Trials, in_process: bool, callback: SweepCallback
) -> Sweep:
    """Make the runs that are not finished, one after the other, and write the results."""
    from tlkit.sweeps.page import write_results  # imports jinja2

    with ExitStack() as stack:
        stack.enter_context(locked(folder.path))
        stack.enter_context(raise_on_signal())
        outcomes = [read_outcome(trial, folder.run(trial)) for trial in trials.trials]
        (folder.path / RUNS).mkdir(exist_ok=True)
        folder.write_runs(outcomes, trials.swept)
        callback.on_plan(trials, folder.path)
        work = _in_process() if in_process else stack.enter_context(Worker())
        for number, outcome in enumerate(outcomes):
            seconds = 0.0
            if outcome.status != "done":
                started = time.monotonic()
                outcomes[number] = _run(folder, outcome, work)
                folder.write_runs(outcomes, trials.swept)
                seconds = time.monotonic() - started
            callback.on_run_end(number + 1, len(outcomes), outcomes[number], seconds)
        done = Sweep.of(folder.path, trials, outcomes)
        write_results(folder, done)
        return done


def _in_process() -> Work:
    from tlkit.sweeps import worker  # imports TensorFlow

    return worker.work


def _run(folder: SweepFolder, waiting: Outcome, work: Work) -> Outcome:
    """Make one run and return its outcome."""
    trial = waiting.trial
    job = {
        "file": str(trial.variant.file),
        "overrides": list(trial.overrides),
        "out": str(folder.run(trial)),
        "sha256": trial.sha256,
    }
    answer = work(job)
    if "traceback" in answer:
        folder.write_traceback(trial, answer["traceback"])
    if "error" not in answer:
        try:
            outcome = read_outcome(trial, folder.run(trial))
        except RunFolderError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        else:
            if outcome.status == "done":
                return outcome
            answer = {"error": "the run wrote no metrics", "exit_code": 1}
    return Outcome(
        trial=trial, status="failed", error=answer["error"], exit_code=answer["exit_code"]
    )
