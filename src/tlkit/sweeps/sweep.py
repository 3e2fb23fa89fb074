"""A sweep: many runs of one study, each in a folder of its own, and what they show together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.sweeps.executors import Worker
from tlkit.sweeps.folder import RUNS, Command, SweepFolder
from tlkit.sweeps.summary import Outcome, VariantSummary, nested, read_outcome, summarise
from tlkit.sweeps.trials import Trials, plan_trials
from tlkit.system.errors import RunFolderError
from tlkit.system.lock import locked
from tlkit.system.signals import raise_on_signal

if TYPE_CHECKING:
    from tlkit.sweeps.trials import Trials


class SweepCallback:
    """Somebody who is told how a sweep goes and does nothing about it; override what matters."""

    def planned(self, trials: Trials, folder: Path) -> None:
        """Everything is checked and the first run is about to begin."""

    def run_done(self, number: int, count: int, outcome: Outcome, seconds: float) -> None:
        """A run has ended.

        Args:
            number: Its place in the sweep, from 1.
            count: How many runs the sweep has.
            outcome: What became of it.
            seconds: How long it took; 0 if it had been finished before.
        """


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
    callback: SweepCallback | None = None,
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
        callback: Told how it goes; unset: nobody.

    Raises:
        TlkitError: Of the kind that says what is wrong, before the first run.
    """
    command = Command(Path(file), tuple(overrides), seeds)
    trials = plan_trials(command.file, command.overrides, command.seeds)
    folder = SweepFolder.claim(None if out is None else Path(out), command.file.stem)
    folder.write_plan(command, trials)
    return _go_on(folder, trials, in_process, callback or SweepCallback())


def resume_sweep(
    folder: str | Path, *, in_process: bool = False, callback: SweepCallback | None = None
) -> Sweep:
    """Make the runs of a sweep that are not finished; finished ones are kept.

    Args:
        folder: The sweep's folder; its TOML file must be where it was.
        in_process: As for `sweep`.
        callback: Told how it goes; unset: nobody.

    Raises:
        RunFolderError: If it is no sweep's folder, an experiment has changed since, or another
            process is at work on it.
    """
    begun = SweepFolder(Path(folder))
    command = begun.read_command()
    trials = plan_trials(command.file, command.overrides, command.seeds)
    begun.check_unchanged(trials)
    return _go_on(begun, trials, in_process, callback or SweepCallback())


def _go_on(folder: SweepFolder, trials: Trials, in_process: bool, callback: SweepCallback) -> Sweep:
    with locked(folder.path), raise_on_signal():
        return _gone_through(folder, trials, in_process, callback)


def _gone_through(
    folder: SweepFolder, trials: Trials, in_process: bool, callback: SweepCallback
) -> Sweep:
    outcomes = [read_outcome(trial, folder.run(trial)) for trial in trials.trials]
    (folder.path / RUNS).mkdir(exist_ok=True)
    folder.write_runs(outcomes, trials.swept)
    callback.planned(trials, folder.path)
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
            callback.run_done(number + 1, len(outcomes), outcomes[number], seconds)
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
