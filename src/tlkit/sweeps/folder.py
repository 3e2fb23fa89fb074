"""The folder of a sweep: its plan, its runs, and the tables made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.runfolder.folder import create_folder
from tlkit.sweeps.summary import Outcome, machine_numbers, values_of
from tlkit.sweeps.trials import Trial, Trials, brief
from tlkit.system.errors import RunFolderError
from tlkit.system.files import new_folder, remove_file, write_text
from tlkit.system.lease import Lease
from tlkit.system.notebook import choose_another, hint
from tlkit.system.seal import MACHINE_SEAL, check_content, files_of, hashes_of, read_seal, seal
from tlkit.system.text import csv_table
from tlkit.system.untrusted import (
    exists,
    is_folder,
    parse_json,
    read_bytes,
    read_json,
    reason,
    require_own_folder,
)

SWEEP, RUNS, DRAWS = "sweep.json", "runs", "draws"
WORKERS, TRACEBACK, DRAW = "workers.csv", ".traceback.txt", "draw.json"


@frozen
class Command:
    """How a sweep was called.

    Attributes:
        file: The TOML file.
        overrides: The ``--set`` expressions.
        seeds: The seeds on the command line, if any.
        texts: The text of each experiment file by its absolute path; None: not known, as in
            folders of earlier versions.
    """

    file: Path
    overrides: tuple[str, ...] = ()
    seeds: str | None = None
    texts: Mapping[Path, str] | None = None


@frozen
class SweepFolder:
    """The folder of one sweep.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def create(cls, out: Path | None, command: Command, trials: Trials) -> SweepFolder:
        """Make a folder with its plan: `out`, or the first free `sweeps/FILE-N`."""

        def fill(partial: Path) -> None:
            cls(partial).write_plan(command, trials)

        return cls(create_folder(out, "sweeps", command.file.stem, fill, _exists))

    def run(self, trial: Trial) -> Path:
        """Return the folder of a run."""
        return self.path / RUNS / trial.name

    def write_plan(self, command: Command, trials: Trials) -> None:
        """Write `sweep.json`: the command, the texts of its files, and the runs it plans."""
        content = {
            "file": os.path.relpath(command.file, self.path),
            "overrides": list(command.overrides),
            "seeds": command.seeds,
            "texts": {os.path.relpath(path, self.path): t for path, t in trials.texts.items()},
            "runs": _planned(trials.trials),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / SWEEP, text + "\n")
        self.seal_plan()

    def read_draws(self) -> list[list[dict[str, Any]]]:
        """Return the combinations that a search has drawn since its beginning, by batches.

        Raises:
            RunFolderError: If they are damaged.
        """
        return [[dict(one) for one in table["drawn"]] for table in self._drawn()]

    def write_draws(self, drawn: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> None:
        """Record the next batch of a search, unless another process was faster."""
        content = {"drawn": list(drawn), "runs": _planned(trials)}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        number = len(self._drawn()) + 1
        try:
            with new_folder(self.path / DRAWS / str(number)) as folder:
                write_text(folder / DRAW, text + "\n")
        except OSError:
            if not exists(self.path / DRAWS / str(number) / DRAW):
                raise

    def _drawn(self) -> list[Any]:
        """Return what is recorded of each batch that was drawn later."""
        tables: list[Any] = []
        while exists(path := self.path / DRAWS / str(len(tables) + 1) / DRAW):
            try:
                require_own_folder(path.parent.parent)
                require_own_folder(path.parent)
                table = read_json(path)
                if not all(
                    isinstance(one, dict) for key in ("drawn", "runs") for one in table[key]
                ):
                    raise TypeError
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise RunFolderError(f"{path}: cannot be read: {reason(error)}") from None
            tables.append(table)
        return tables

    def seal_plan(self) -> None:
        """Seal the plan alone, as the rest is about to be written."""
        remove_file(self.path / MACHINE_SEAL)
        seal(self.path, hashes_of(self.path, [SWEEP]))

    def read_command(self) -> Command:
        """Return how the sweep was called."""
        plan = self._read_plan()
        try:
            file = Path(os.path.normpath(self.path / plan["file"]))
            overrides, seeds, texts = plan["overrides"], plan["seeds"], plan.get("texts")
            if not isinstance(overrides, list) or not isinstance(seeds, str | None):
                raise TypeError
            if texts is not None:
                here = self.path.absolute()
                texts = {Path(os.path.normpath(here / p)): t for p, t in texts.items()}
                if not all(isinstance(text, str) for text in texts.values()):
                    raise TypeError
            return Command(file, tuple(map(str, overrides)), seeds, texts)
        except (KeyError, TypeError, AttributeError):
            raise RunFolderError(f"{self.path / SWEEP}: is not as tlkit writes it") from None

    def check_unchanged(self, trials: Trials) -> None:
        """Check that the sweep is still the one that was started."""
        before = self.planned()
        now = {trial.name: trial.sha256 for trial in trials.trials}
        changed = [name for name in before | now if before.get(name) != now.get(name)]
        if changed:
            raise RunFolderError(
                f"{self.path}: cannot be resumed, because {len(changed)} of its experiments have "
                f"changed, such as {min(changed)}; undo the change, or start another sweep"
            )

    def planned(self) -> dict[str, str]:
        """Return the fingerprint of each planned run's experiment by the run's name."""
        runs = self._read_plan()["runs"] + [run for table in self._drawn() for run in table["runs"]]
        if not all(isinstance(run, dict) for run in runs):
            raise RunFolderError(f"{self.path / SWEEP}: is not as tlkit writes it")
        return {str(run.get("run")): str(run.get("sha256")) for run in runs}

    def seal(self, leases: Iterable[str]) -> None:
        """Seal the tables and pages, which are all written, and apart who made the runs.

        Of the leases only those that have ended are given: the others may still change.
        """
        names = files_of(self.path)
        by_machine = {name for name in names if name == WORKERS or name.endswith(TRACEBACK)}
        seal(self.path, hashes_of(self.path, sorted({*names} - by_machine)))
        seal(self.path, hashes_of(self.path, [*sorted(by_machine), *leases]), MACHINE_SEAL)

    def check_leases(self) -> None:
        """Check that the leases of a finished sweep are as they were sealed."""
        for name in read_seal(self.path, MACHINE_SEAL):
            if "/" in name and exists(self.path / name):
                try:
                    check_content(self.path, name)
                except OSError as error:
                    message = f"{self.path / name}: cannot be read: {reason(error)}; remove it"
                    raise RunFolderError(message) from None

    def _read_plan(self) -> Any:
        if not is_folder(self.path):
            raise RunFolderError(f"{self.path}: there is no such folder")
        try:
            content = read_bytes(self.path / SWEEP)
            plan = parse_json(content.decode())
        except FileNotFoundError:
            raise RunFolderError(f"{self.path}: is not a sweep, it has no {SWEEP}") from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / SWEEP}: cannot be read: {reason(error)}") from None
        check_content(self.path, SWEEP, content)
        if not isinstance(plan, dict) or not isinstance(plan.get("runs"), list):
            raise RunFolderError(f"{self.path / SWEEP}: is not as tlkit writes it")
        return plan

    def write_traceback(self, trial: Trial, text: str) -> None:
        """Write the traceback of a bug, for whoever fixes it."""
        write_text(self.path / f"{trial.name}{TRACEBACK}", text)

    def write_runs(self, outcomes: Sequence[Outcome], swept: Sequence[str]) -> None:
        """Write `sweep.csv`: one row per run; with the kind of machine if there are several.

        How long each took is in `workers.csv`, since it differs from time to time.
        """
        kinds = machine_numbers(outcomes)
        kinds = kinds if len(kinds) > 1 else {}
        figures = [
            {**values_of(o.confusion, o.classes), **o.losses} if o.status == "done" else {}
            for o in outcomes
        ]
        names = list(dict.fromkeys(name for of_run in figures for name in of_run))
        machine = ["machine"] if kinds else []
        head = ["run", "file", *swept, "fold", "seed", "status", *machine, "split", *names]
        rows = [
            [o.trial.name, o.trial.variant.file.name,
             *(brief(o.trial.variant.settings.get(key, "")) for key in swept),
             "" if o.trial.fold is None else o.trial.fold, o.trial.seed, o.status,
             *([kinds.get(o.machine, "")] if kinds else []), o.split,
             *(figure_cell(of_run.get(name)) for name in names),
             figure_cell(_val_accuracy(o)), *o.trial.parameters, o.error]
            for o, of_run in zip(outcomes, figures, strict=True)
        ]  # fmt: skip
        columns = [*head, "val accuracy", "parameters", "trainable", "error"]
        self.write_csv("sweep.csv", columns, rows)

    def write_workers(self, leases: Mapping[str, Lease], seconds: Mapping[str, float]) -> None:
        """Write `workers.csv`: who made each run, at which attempt, and what it took in all."""
        rows = [
            [work, lease.status, lease.number + 1, lease.owner.host, lease.owner.process,
             round(seconds[work], 1)]
            for work, lease in sorted(leases.items())
        ]  # fmt: skip
        head = ["run", "status", "attempts", "host", "process", "seconds"]
        self.write_csv(WORKERS, head, rows)

    def write_csv(self, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table into the folder."""
        write_text(self.path / name, csv_table(head, rows))


def _planned(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    return [
        {"run": t.name, "file": t.variant.file.name, "set": list(t.overrides), "sha256": t.sha256}
        for t in trials
    ]


def _exists(out: Path) -> str:
    again = hint("sweep --resume", out)
    return f"{out}: the folder exists; continue it with {again}, or {choose_another()}"


def _val_accuracy(outcome: Outcome) -> float | None:
    if outcome.status != "done":
        return outcome.val_accuracy
    return values_of(outcome.confusions["val"], outcome.classes)["accuracy"]


def figure_cell(value: float | None) -> str:
    """Return a number for a CSV cell; empty for None."""
    return "" if value is None else format(value, ".6g")
