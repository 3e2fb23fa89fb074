"""The folder of a sweep: what was planned, the runs, and the tables made of them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.sweeps.summary import Outcome, VariantSummary, values_of
from tlkit.sweeps.trials import Trial, Trials, brief
from tlkit.system.errors import ResourceError, RunFolderError
from tlkit.system.files import write_text
from tlkit.system.text import csv_cell

SWEEP, RUNS = "sweep.json", "runs"


@frozen
class Command:
    """How a sweep was asked for.

    Attributes:
        file: The TOML file.
        overrides: The ``--set`` expressions.
        seeds: The seeds of the command line, if there were any.
    """

    file: Path
    overrides: tuple[str, ...] = ()
    seeds: str | None = None


@frozen
class SweepFolder:
    """The folder of one sweep.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def claim(cls, out: Path | None, name: str) -> SweepFolder:
        """Make a new folder: `out`, or the first free `sweeps/NAME-N` below the working directory.

        Raises:
            RunFolderError: If `out` exists.
            ResourceError: If it cannot be made.
        """
        try:
            if out is not None:
                out.mkdir(parents=True)
                return cls(out)
            Path("sweeps").mkdir(exist_ok=True)
            for number in itertools.count(1):
                try:
                    (found := Path("sweeps", f"{name}-{number}")).mkdir()
                except FileExistsError:
                    continue
                return cls(found)
        except FileExistsError:
            message = f"{out}: the folder exists; choose another with --out, or go on with --resume"
            raise RunFolderError(message) from None
        except OSError as error:
            where = out or "sweeps"
            raise ResourceError(f"{where}: cannot be made: {error.strerror}") from None
        raise AssertionError("there is a number for every folder")

    def run(self, trial: Trial) -> Path:
        """Return the folder of a run."""
        return self.path / RUNS / trial.name

    def write_plan(self, command: Command, trials: Trials) -> None:
        """Write what was asked for and what that is, run by run."""
        content = {
            "file": os.path.relpath(command.file, self.path),
            "overrides": list(command.overrides),
            "seeds": command.seeds,
            "runs": [
                {"run": t.name, "file": t.variant.file.name, "set": list(t.overrides),
                 "sha256": t.sha256}
                for t in trials.trials
            ],
        }  # fmt: skip
        self._write_json(SWEEP, content)

    def read_command(self) -> Command:
        """Return how the sweep was asked for.

        Raises:
            RunFolderError: If this is no sweep's folder.
        """
        found = self._read_plan()
        try:
            file = Path(os.path.normpath(self.path / found["file"]))
            return Command(file, tuple(map(str, found["overrides"])), found["seeds"])
        except (KeyError, TypeError):
            raise RunFolderError(f"{self.path / SWEEP}: is not as tlkit writes it") from None

    def check_unchanged(self, trials: Trials) -> None:
        """Raise if the sweep would not be the one that was begun.

        Raises:
            RunFolderError: If a run is another, or there are more or fewer.
        """
        was = {run.get("run"): run.get("sha256") for run in self._read_plan()["runs"]}
        now = {trial.name: trial.sha256 for trial in trials.trials}
        changed = [name for name in was | now if was.get(name) != now.get(name)]
        if changed:
            raise RunFolderError(
                f"{self.path}: cannot be resumed, since {len(changed)} of its experiments have "
                f"changed, such as {min(changed)}; undo the change, or begin another sweep"
            )

    def _read_plan(self) -> Any:
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: there is no such folder")
        try:
            found = json.loads((self.path / SWEEP).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(f"{self.path}: this is not a sweep, it has no {SWEEP}") from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / SWEEP}: cannot be read: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("runs"), list):
            raise RunFolderError(f"{self.path / SWEEP}: is not as tlkit writes it")
        return found

    def write_traceback(self, trial: Trial, text: str) -> None:
        """Write what a bug left, for whoever mends it."""
        write_text(self.path / f"{trial.name}.traceback.txt", text)

    def write_runs(self, outcomes: Sequence[Outcome], swept: Sequence[str]) -> None:
        """Write `sweep.csv`: a run a row."""
        figures = [
            values_of(o.confusion, o.classes) if o.status == "done" else {} for o in outcomes
        ]
        names = list(dict.fromkeys(name for found in figures for name in found))
        head = ["run", "file", *swept, "fold", "seed", "status", "split", *names]
        rows = [
            [o.trial.name, o.trial.variant.file.name, *_settings(o.trial, swept),
             "" if o.trial.fold is None else o.trial.fold, o.trial.seed, o.status, o.split,
             *(_number(found.get(name)) for name in names),
             _number(_val_accuracy(o)), o.error]
            for o, found in zip(outcomes, figures, strict=True)
        ]  # fmt: skip
        self._write_csv("sweep.csv", [*head, "val accuracy", "error"], rows)

    def write_summary(self, summaries: Iterable[VariantSummary]) -> None:
        """Write `summary.csv`: a figure of a variant a row."""
        rows = [
            [s.label, figure.name, len(s.seeds), s.folds, s.images, _number(figure.mean),
             _number(figure.sd), _number(figure.low), _number(figure.high), s.interval]
            for s in summaries
            for figure in s.figures.values()
        ]  # fmt: skip
        head = ["variant", "figure", "seeds", "folds", "images", "mean", "sd", "low", "high"]
        self._write_csv("summary.csv", [*head, "interval"], rows)

    def write_published(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write `published.csv`: a figure that somebody published a row, ours beside it."""
        head = ["figure", "ours", "sd", "published", "source"]
        shown = [[what, *map(_number, figures), source] for what, *figures, source in rows]
        self._write_csv("published.csv", head, shown)

    def write_page(self, page: str) -> None:
        """Write `sweep.html`."""
        write_text(self.path / "sweep.html", page)

    def write_picture(self, svg: str) -> None:
        """Write `accuracy.svg`, the page's picture for use elsewhere."""
        write_text(self.path / "accuracy.svg", svg + "\n")

    def _write_json(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / name, text + "\n")

    def _write_csv(self, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(
            [csv_cell(cell) if isinstance(cell, str) else cell for cell in row]
            for row in (head, *rows)
        )
        write_text(self.path / name, buffer.getvalue())


def _settings(trial: Trial, swept: Sequence[str]) -> list[str]:
    return [brief(trial.variant.settings.get(key, "")) for key in swept]


def _val_accuracy(outcome: Outcome) -> float | None:
    if outcome.status != "done":
        return None
    return values_of(outcome.confusions["val"], outcome.classes)["accuracy"]


def _number(value: float | None) -> str:
    return "" if value is None else format(value, ".6g")
