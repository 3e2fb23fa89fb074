"""A sweep: many runs of one study, each in a folder of its own, and what they show together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.errors import RunFolderError
from tlkit.interruption import raised
from tlkit.lock import locked
from tlkit.sweeps.folder import RUNS, Command, SweepFolder
from tlkit.sweeps.outcomes import Outcome, read_outcome
from tlkit.sweeps.summary import VariantSummary, nested, summarise
from tlkit.sweeps.trials import Trials, plan_trials
from tlkit.sweeps.watcher import SweepWatcher
from tlkit.sweeps.workers import Worker

Work = Callable[[dict[str, Any]], dict[str, Any]]


@frozen(kw_only=True)
class Sweep:
    """A sweep that has gone through all its runs.

    Attributes:
        folder: Its folder.
        trials: What was to be run.
        outcomes: What came of it, run by run.
        summaries: The figures of each variant, over its seeds, folds pooled.
        nested: How good it is to choose a variant by `val` in each fold, if there are folds and
            several variants.
    """

    folder: Path
    trials: Trials
    outcomes: tuple[Outcome, ...]
    summaries: tuple[VariantSummary, ...]
    nested: VariantSummary | None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Return the runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def sweep(
    file: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    in_process: bool = False,
    watcher: SweepWatcher | None = None,
) -> Sweep:
    """Make every run that a file asks for, and tables of what they show.

    All runs are read and planned, their data found, before the first begins. A run that fails does
    not end the sweep. Runs share the feature cache.

    Args:
        file: A TOML file with a table `[sweep]`, or a plain experiment file.
        out: The sweep's folder, which must not exist; unset: `sweeps/NAME-N`.
        overrides: ``a.b=value`` expressions for each experiment; a list is several values.
        seeds: Such as ``0-4``; unset: those of `[sweep]`.
        in_process: Make the runs in this process: needed for parts that were registered in it, and
            then memory grows and a crash ends it all.
        watcher: Told how it goes; unset: nobody.

    Raises:
        TlkitError: Of the kind that says what is wrong, before the first run.
    """
    command = Command(Path(file), tuple(overrides), seeds)
    trials = plan_trials(command.file, command.overrides, command.seeds)
    folder = SweepFolder.claim(None if out is None else Path(out), command.file.stem)
    folder.write_plan(command, trials)
    return _go_on(folder, trials, in_process, watcher or SweepWatcher())


def resume_sweep(
    folder: str | Path, *, in_process: bool = False, watcher: SweepWatcher | None = None
) -> Sweep:
    """Make the runs of a sweep that are not finished; finished ones are kept.

    Args:
        folder: The sweep's folder; its TOML file must be where it was.
        in_process: As for `sweep`.
        watcher: Told how it goes; unset: nobody.

    Raises:
        RunFolderError: If it is no sweep's folder, an experiment has changed since, or another
            process is at work on it.
    """
    begun = SweepFolder(Path(folder))
    command = begun.read_command()
    trials = plan_trials(command.file, command.overrides, command.seeds)
    begun.check_unchanged(trials)
    return _go_on(begun, trials, in_process, watcher or SweepWatcher())


def _go_on(folder: SweepFolder, trials: Trials, in_process: bool, watcher: SweepWatcher) -> Sweep:
    with locked(folder.path), raised():
        return _gone_through(folder, trials, in_process, watcher)


def _gone_through(
    folder: SweepFolder, trials: Trials, in_process: bool, watcher: SweepWatcher
) -> Sweep:
    outcomes = [read_outcome(trial, folder.run(trial)) for trial in trials.trials]
    (folder.path / RUNS).mkdir(exist_ok=True)
    folder.write_runs(outcomes, trials.swept)
    watcher.planned(trials, folder.path)
    with ExitStack() as stack:
        work: Work
        if in_process:
            from tlkit.sweeps.worker import work
        else:
            work = stack.enter_context(Worker())
        for number, outcome in enumerate(outcomes):
            begun = time.monotonic()
            if outcome.status != "done":
                outcomes[number] = _made(folder, outcome, work)
                folder.write_runs(outcomes, trials.swept)
            seconds = time.monotonic() - begun if outcome.status != "done" else 0.0
            watcher.run_done(number + 1, len(outcomes), outcomes[number], seconds)
    found = Sweep(
        folder=folder.path,
        trials=trials,
        outcomes=tuple(outcomes),
        summaries=tuple(summarise(outcomes)),
        nested=nested(outcomes),
    )
    folder.write_summary([*found.summaries, *([found.nested] if found.nested else [])])

    from tlkit.sweeps.page import picture, sweep_page
    from tlkit.sweeps.published import published_beside, published_rows

    if rows := published_rows(published_beside(found)):
        folder.write_published(rows)
    if drawn := picture(found):
        folder.write_picture(drawn)
    folder.write_page(sweep_page(found))
    return found


def _made(folder: SweepFolder, waiting: Outcome, work: Work) -> Outcome:
    """Make one run and return what came of it."""
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
            found = read_outcome(trial, folder.run(trial))
        except RunFolderError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        else:
            if found.status == "done":
                return found
            answer = {"error": "the run has left no metrics", "exit_code": 1}
    return Outcome(
        trial=trial, status="failed", error=answer["error"], exit_code=answer["exit_code"]
    )
