"""Which of a sweep's runs are done, taken or free, for any number of processes on any machines.

The sweep's folder is the only state. A run is made in `attempt-N/`, where N is the number of its
lease, and renamed into `runs/` when it ends. Taking over a run begins with renaming its folder, so
a process that lost it, and wakes up, finds nothing to write to.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field

from tlkit.runfolder.folder import METRICS, UNFINISHED, RunFolder
from tlkit.runfolder.tables import epochs_of, read_history
from tlkit.sweeps.draws import Tried, next_batch
from tlkit.sweeps.folder import SweepFolder
from tlkit.sweeps.halving import (
    WORST,
    Standing,
    Value,
    batches_of,
    mean_value,
    standing,
    value_after,
)
from tlkit.sweeps.inputs import SameInputs
from tlkit.sweeps.summary import Outcome, read_outcome
from tlkit.sweeps.trials import Trial, Trials, plan_trials
from tlkit.system.errors import RunFolderError
from tlkit.system.files import remove_file, remove_folder, rename_folder
from tlkit.system.lease import (
    DONE,
    FAILED,
    LOST,
    PATIENCE_S,
    PAUSED,
    STOPPED,
    WORKING,
    Lease,
    Leases,
)
from tlkit.system.lock import LOCK, is_locked
from tlkit.system.untrusted import exists, require_own_folder

LEASES, ATTEMPT = "leases", "attempt-{}"


@define
class Board:
    """A sweep's runs as one process sees them; its threads share it.

    Attributes:
        folder: The sweep's folder.
        trials: Its runs.
        retries: Whether runs that had failed before are made again.
        patience_s: After how many seconds of silence a process on another machine counts as dead.
        plugins: The plugin files that may be imported; None: those that the experiments list.
        budget_s: After how many seconds no more runs are handed out; None: never.
    """

    folder: SweepFolder
    trials: Trials
    retries: bool = True
    patience_s: float = PATIENCE_S
    plugins: tuple[str, ...] | None = None
    budget_s: float | None = None
    outcomes: dict[str, Outcome] = field(factory=dict, init=False)
    leases: Leases = field(init=False)
    _failed_before: dict[str, int] = field(factory=dict, init=False)
    _inputs: SameInputs = field(factory=SameInputs, init=False)
    _begun: dict[str, tuple[Lease, Path, float]] = field(factory=dict, init=False)
    _until: dict[str, int | None] = field(factory=dict, init=False)
    _values: dict[tuple[str, int], Value] = field(factory=dict, init=False)
    _draws: int = field(default=0, init=False)
    _opened: float = field(factory=time.monotonic, init=False)
    _lock: threading.RLock = field(factory=threading.RLock, init=False)

    def __attrs_post_init__(self) -> None:
        self.leases = Leases(self.folder.path / LEASES, self.patience_s)
        self._draws = len(self.folder.read_draws())
        if self.retries:
            newest = self.leases.newest().items()
            self._failed_before = {name: n.number for name, n in newest if n.status == FAILED}

    @property
    def is_complete(self) -> bool:
        """Whether every run has ended, as far as `news` has told."""
        ended = len(self.outcomes) == len(self.trials.trials)
        return ended and not self.trials.waiting_draws

    @property
    def left_s(self) -> float | None:
        """The seconds that are left of the budget, if there is one."""
        if self.budget_s is None:
            return None
        return self.budget_s - (time.monotonic() - self._opened)

    def news(self) -> Iterator[tuple[Outcome, float]]:
        """Yield each run that has ended since the last call, and the seconds it took."""
        with self._lock:
            self._read_draws()
        newest = self.leases.newest()
        limits = self.standing(newest)
        for trial in self.trials.trials:
            with self._lock:
                if trial.name in self.outcomes:
                    continue
                outcome = self._outcome(trial, newest, limits)
                if outcome is None:
                    continue
                self.outcomes[trial.name] = outcome
            lease = newest.get(trial.name)
            yield outcome, lease.seconds if lease else 0.0

    def _outcome(
        self, trial: Trial, newest: Mapping[str, Lease], limits: Standing
    ) -> Outcome | None:
        """Return a run's outcome if it has ended."""
        if self._is_finished(trial):
            return self._read(trial, self._inputs)
        lease = newest.get(trial.name)
        if lease is not None and self._has_failed(lease):
            return failed(trial, lease.error, lease.exit_code)
        if (epochs := limits.dropped.get(trial.name)) is not None:
            value = self._value_at(trial, epochs, newest)
            accuracy = None if value in (None, WORST) else value[0]
            return Outcome(trial=trial, status="dropped", epochs=epochs, val_accuracy=accuracy)
        return None

    def standing(self, newest: Mapping[str, Lease]) -> Standing:
        """Return how far each run may go, by the results so far."""
        return standing(self.trials, lambda trial, e: self._value_at(trial, e, newest))

    def _value_at(self, trial: Trial, epochs: int, newest: Mapping[str, Lease]) -> Value | None:
        """Return a run's value after some epochs; None if it is not that far."""
        known = self._values.get((trial.name, epochs))
        if known is not None:
            return known
        lease, is_finished = newest.get(trial.name), self._is_finished(trial)
        try:
            history = read_history(RunFolder(self.place(trial, lease)))
        except RunFolderError:
            history = ()
        if history and (is_finished or len(history) >= epochs):
            value = value_after(trial, history[:epochs])
            self._values[trial.name, epochs] = value
            return value
        return WORST if is_finished or (lease and self._has_failed(lease)) else None

    def finished(self) -> dict[str, Outcome]:
        """Return the outcomes of all finished runs, each compared with those before it in order."""
        inputs = SameInputs()
        trials = [trial for trial in self.trials.trials if self._is_finished(trial)]
        return {trial.name: self._read(trial, inputs) for trial in trials}

    def _read(self, trial: Trial, inputs: SameInputs) -> Outcome:
        """Return a finished run's outcome; as failed, if it is damaged or does not belong here."""
        run = self.folder.run(trial)
        try:
            require_own_folder(run.parent)
            require_own_folder(run)
            return inputs.checked(read_outcome(trial, run), run)
        except RunFolderError as error:
            return failed(trial, str(error), error.exit_code)

    def plugin_files(self) -> list[str]:
        """Return the plugin files that processes elsewhere may import."""
        if self.plugins is not None:
            return list(self.plugins)
        modules = (m for t in self.trials.trials for m in t.experiment.plugins.modules)
        return list(dict.fromkeys(str(module.absolute()) for module in modules))

    def _is_finished(self, trial: Trial) -> bool:
        run = self.folder.run(trial)
        return exists(run / METRICS) and not exists(run / UNFINISHED)

    def _has_failed(self, lease: Lease) -> bool:
        """Tell whether a run failed and is not to be made again."""
        return lease.status == FAILED and self._failed_before.get(lease.work) != lease.number

    def take(self) -> tuple[Lease | None, bool]:
        """Take the first free run."""
        require_own_folder(self.leases.folder)
        with self._lock:
            if self.left_s is not None and self.left_s <= 0:
                return None, False
            self._read_draws()
            lease, others = self._take(self.leases.newest())
            if lease is None and not others and self._draw():
                return self._take(self.leases.newest())
            return lease, others

    def _take(self, newest: Mapping[str, Lease]) -> tuple[Lease | None, bool]:
        others, limits = False, self.standing(newest)
        for trial in self.trials.trials:
            before = newest.get(trial.name)
            if trial.name in self.outcomes or trial.name in limits.dropped:
                continue
            if trial.name in self._begun:
                others = others or self.trials.search is not None
                continue
            if self._is_finished(trial) or (before and self._has_failed(before)):
                continue
            until = limits.until[trial.name]
            if before and until is not None and self._waits(trial, before, until):
                others = True
                continue
            lease = None
            if before is None or before.status != WORKING or self.leases.is_dead(before):
                lease = self.leases.claim(
                    trial.name, before.number + 1 if before else 0, self.left_s
                )
            if lease is None:
                others = True
                continue
            out = self._bring(trial, lease)
            self._begun[trial.name] = lease, out, time.monotonic()
            self._until[trial.name] = until
            if not self._is_finished(trial):  # else its last owner was only slow to say so
                return lease, others
            self._end(lease, DONE)
        return None, others

    def _waits(self, trial: Trial, lease: Lease, until: int) -> bool:
        """Tell whether a run has come as far as it may until others are known."""
        return lease.status == PAUSED and epochs_of(self.place(trial, lease)) >= until

    def _draw(self) -> bool:
        """Draw a search's next combinations, as all others have been tried; tell if there are."""
        if not self.trials.waiting_draws:
            return False
        assert self.trials.search is not None
        newest = self.leases.newest()
        limits = self.standing(newest)
        tried = [
            Tried(
                runs[0].variant.settings,
                self._tried_value(runs, limits.dropped.get(runs[0].name), newest),
                limits.dropped.get(runs[0].name),
            )
            for batch in batches_of(self.trials)
            for runs in batch
        ]
        drawn = next_batch(self.trials.search, self.trials.ranges, tried)
        known, count = self.folder.read_draws(), len(self.trials.trials)
        if len(known) == self._draws:
            self.folder.write_draws(drawn, self._planned([*known, drawn]).trials[count:])
        self._read_draws()
        return True

    def _tried_value(
        self, runs: Sequence[Trial], dropped: int | None, newest: Mapping[str, Lease]
    ) -> float | None:
        values = [self._value_at(t, dropped or t.plan.epochs, newest) for t in runs]
        value = mean_value(values)
        return None if value in (None, WORST) else value[0]

    def _read_draws(self) -> None:
        """Take over what a search has drawn since, here or elsewhere."""
        if self.trials.waiting_draws and len(drawn := self.folder.read_draws()) > self._draws:
            self.trials, self._draws = self._planned(drawn), len(drawn)

    def _planned(self, drawn: Sequence[Sequence[Mapping[str, Any]]]) -> Trials:
        command = self.folder.read_command()
        return plan_trials(
            command.file,
            command.overrides,
            command.seeds,
            plugins=self.plugins,
            texts=command.texts,
            drawn=drawn,
        )

    def _bring(self, trial: Trial, lease: Lease) -> Path:
        """Move what there is of a run to where its new owner makes it, out of others' reach."""
        run = self.folder.run(trial)
        require_own_folder(run.parent)
        run.parent.mkdir(exist_ok=True)
        if run.exists() and (is_locked(run) or not exists(run / UNFINISHED)):
            return run  # someone resumes it by hand, or it is no run: making it will say so
        out = self.attempt(trial, lease.number)
        require_own_folder(out.parent)
        out.parent.mkdir(exist_ok=True)
        numbers = range(lease.number - 1, -1, -1)
        for begun in (run, *(self.attempt(trial, number) for number in numbers)):
            with suppress(FileNotFoundError):
                if out.exists():
                    remove_folder(begun)  # what an owner before the last one left
                else:
                    rename_folder(begun, out)
                    remove_file(out / LOCK)  # its last owner may sleep and hold it
        return out

    def place(self, trial: Trial, lease: Lease | None) -> Path:
        """Return where a run's folder is, made by the owner of a lease or put into its place."""
        run = self.folder.run(trial)
        return run if lease is None or exists(run) else self.attempt(trial, lease.number)

    def attempt(self, trial: Trial, number: int) -> Path:
        """Return the folder in which the owner of this number makes a run."""
        return self.folder.path / ATTEMPT.format(number) / trial.name

    def job(self, lease: Lease) -> dict[str, Any]:
        """Return what a worker needs to know; see `tlkit.sweeps.worker.work`."""
        trial = self._trial(lease)
        return {
            "file": str(trial.variant.file),
            "text": trial.experiment.origin.text if trial.experiment.origin else None,
            "overrides": list(trial.overrides),
            "out": str(self._begun[lease.work][1]),
            "sha256": trial.sha256,
            "plugins": self.plugins,
            "plugin_sha256": list(trial.experiment.plugins.sha256),
            "until": self._until[lease.work],
        }

    def settle(self, lease: Lease, answer: Mapping[str, Any]) -> None:
        """Put a run into its place, and record how it ended by the worker's answer."""
        trial = self._trial(lease)
        if "traceback" in answer:
            self.folder.write_traceback(trial, answer["traceback"])
        is_lost = not self._put_down(lease)
        if self._is_finished(trial) and (is_lost or "error" not in answer):
            self._end(lease, DONE)
        elif is_lost:
            self._end(lease, LOST)
        elif answer.get("paused"):
            self._end(lease, PAUSED)
        else:
            answer = {"error": "the run wrote no metrics", "exit_code": 1} | dict(answer)
            self._end(lease, FAILED, error=answer["error"], exit_code=answer["exit_code"])

    def release(self) -> None:
        """Give back the runs that were taken and not settled; call it when no worker runs."""
        for lease, _, _ in list(self._begun.values()):
            self._put_down(lease)
            self._end(lease, STOPPED)

    def ended_leases(self) -> list[str]:
        """Return the files of the newest leases that have ended, by their paths in the folder."""
        newest = self.leases.newest().values()
        return sorted(f"{LEASES}/{lease.file}" for lease in newest if lease.status != WORKING)

    def tidy(self) -> None:
        """Remove what is left of attempts; call it when every run has ended."""
        newest = self.leases.newest()
        for trial in self.trials.trials:
            if self.outcomes[trial.name].status == "dropped" and trial.name in newest:
                with suppress(OSError):  # another process does the same
                    begun = self.attempt(trial, newest[trial.name].number)
                    rename_folder(begun, self.folder.run(trial))  # its owner died while it paused
        for attempt in self.folder.path.glob(ATTEMPT.format("*")):
            shutil.rmtree(attempt, ignore_errors=True)

    def _put_down(self, lease: Lease) -> bool:
        """Rename a run's folder to its place; return whether it was this process's to rename."""
        trial = self._trial(lease)
        out, run = self._begun[lease.work][1], self.folder.run(trial)
        if out == run:
            return True
        is_lost = self.leases.newest().get(lease.work, lease).number > lease.number
        with suppress(FileNotFoundError):  # taken over, or it ended before its folder was made
            if not is_lost and run.exists() and not self._is_finished(trial):
                remove_folder(run)  # put there by an owner that had lost it
            if is_lost or self._is_finished(trial) or not _rename(out, run):
                remove_folder(out)
        return not is_lost

    def _end(self, lease: Lease, status: str, **facts: Any) -> None:
        _, _, started = self._begun[lease.work]
        self.leases.settle(lease, status, round(time.monotonic() - started, 1), **facts)
        with self._lock:
            del self._begun[lease.work]

    def _trial(self, lease: Lease) -> Trial:
        return next(trial for trial in self.trials.trials if trial.name == lease.work)


def failed(trial: Trial, error: str, exit_code: int) -> Outcome:
    """Return the outcome of a run that failed."""
    return Outcome(trial=trial, status="failed", error=error, exit_code=exit_code)


def _rename(out: Path, run: Path) -> bool:
    """Rename a folder; return whether its new name was free."""
    try:
        rename_folder(out, run)
    except FileNotFoundError:
        raise
    except OSError:
        if not run.exists():
            raise
        return False
    return True
