"""The trials of a sweep: which runs there will be, all of them checked before the first begins."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import structure, unstructure
from tlkit.config.sweep import MOST_RUNS, Seeds, SweepTable, expressions, flat, grid
from tlkit.config.toml import load_experiment, parse_assignment, read_table
from tlkit.data.splits import Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.validators import shown
from tlkit.system.errors import ConfigError, Problem
from tlkit.train.plan import Plan, make_plan


@frozen
class Variant:
    """What is compared in a sweep: a file and one combination of values.

    Attributes:
        file: The experiment file.
        settings: The values of the keys that are swept, those with one value left out.
    """

    file: Path
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return it in one line."""
        pairs = [f"{key.rpartition('.')[2]} {brief(v)}" for key, v in self.settings.items()]
        return ", ".join([self.file.stem, *pairs])


@frozen(kw_only=True)
class Trial:
    """One run that a sweep is to have.

    Attributes:
        name: Its folder's name.
        variant: What it is a trial of.
        fold: Which fold is held out; unset: none is.
        seed: Its seed.
        overrides: All that is changed in the file, as `--set` takes it.
        experiment: What will be run.
        plan: What that will do.
    """

    name: str
    variant: Variant
    fold: int | None
    seed: int
    overrides: tuple[str, ...]
    experiment: Experiment
    plan: Plan

    @property
    def sha256(self) -> str:
        """Return the hash of everything that is asked for, every default written out."""
        return fingerprint(self.experiment)

    @property
    def label(self) -> str:
        """Return it in one line."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.variant.label}{fold}, seed {self.seed}"


def fingerprint(experiment: Experiment) -> str:
    """Return the hash of an experiment with every default written out."""
    table = unstructure(experiment, base=experiment.base)
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def brief(value: Any) -> str:
    """Return a swept value for a label: a table by its name.

    >>> brief({"name": "balanced"}), brief(2e-05), brief(["a", "b"])
    ('balanced', '2e-05', 'a b')
    """
    if isinstance(value, Mapping):
        return str(value.get("name", shown(dict(value))))
    if isinstance(value, list | tuple):
        return " ".join(map(brief, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@frozen(kw_only=True)
class Trials:
    """All trials of a sweep.

    Attributes:
        file: The file that asks for them.
        trials: The runs, in order.
        swept: The keys that have several values.
        notes: What the user should know about the data, each said once.
    """

    file: Path
    trials: tuple[Trial, ...]
    swept: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return what is compared, in order."""
        found: list[Variant] = []
        for trial in self.trials:
            if trial.variant not in found:
                found.append(trial.variant)
        return tuple(found)


def plan_trials(
    file: str | Path, overrides: Sequence[str] = (), seeds: str | None = None
) -> Trials:
    """Decide and check every run of a sweep.

    Args:
        file: A TOML file: a table `[sweep]` and an experiment, or a list of files in it.
        overrides: ``a.b=value`` expressions for each experiment; a list is several values.
        seeds: Such as ``0-4``; unset: those of `[sweep]`.

    Raises:
        TlkitError: Of the kind that says what is wrong, with every problem of every run.
    """
    file = Path(file)
    table, swept = _read(file, overrides)
    wanted = _seeds(seeds, table)
    if wanted and "seed" in swept:
        raise ConfigError([Problem("seed", "is set twice; the sweep has seeds too")], str(file))
    varied = tuple(
        key for key, value in swept.items() if isinstance(value, list) and len(value) > 1
    )
    cells = [
        (path, settings, fold)
        for path in table.files or (file,)
        for settings in grid(swept)
        for fold in _folds(path, settings)
    ]
    # Seeds are outermost: a sweep cut short has every variant.
    runs = [(seed, *cell) for seed in wanted or (None,) for cell in cells]
    if len(runs) > MOST_RUNS:
        raise ConfigError([Problem("sweep", f"has {len(runs)} runs, {MOST_RUNS} at most")])
    checker = _Checker()
    width = max(3, len(str(len(runs))))
    trials = []
    for number, (seed, path, settings, fold) in enumerate(runs, start=1):
        more = {"data.fold": fold, "seed": seed}
        found = expressions(settings | {k: v for k, v in more.items() if v is not None})
        checked = checker(path, found)
        if checked is None:
            continue
        experiment, plan = checked
        trials.append(
            Trial(
                name=f"{number:0{width}d}-{_plain(path.stem)}",
                variant=Variant(path, {key: settings[key] for key in varied}),
                fold=fold,
                seed=experiment.seed,
                overrides=found,
                experiment=experiment,
                plan=plan,
            )
        )
    checker.raise_problems()
    notes = tuple(dict.fromkeys(checker.notes))
    return Trials(file=file, trials=tuple(trials), swept=varied, notes=notes)


def _plain(name: str) -> str:
    """Return a name for a folder that no shell minds."""
    return re.sub(r"[^\w.-]+", "_", name)


class _Checker:
    """Reads, loads and plans experiments; each data is loaded once, each problem kept once."""

    def __init__(self) -> None:
        self.splits: dict[str, Splits] = {}
        self.problems: dict[str, Problem] = {}
        self.notes: list[str] = []

    def __call__(self, path: Path, overrides: tuple[str, ...]) -> tuple[Experiment, Plan] | None:
        try:
            experiment = load_experiment(path, overrides, in_sweep=True)
            data = json.dumps(unstructure(experiment.data, base=Path()), sort_keys=True)
            key = f"{type(experiment.data)} {data}"
            if key not in self.splits:
                self.splits[key] = load_splits(experiment.data)
                self.notes += self.splits[key].notes
            return experiment, make_plan(experiment, self.splits[key])
        except ConfigError as error:
            for problem in error.problems:
                where = f"{error.source}: " if error.source else ""
                self.problems.setdefault(f"{where}{problem}", Problem("", f"{where}{problem}"))
            return None

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(self.problems.values())


def _read(file: Path, overrides: Sequence[str]) -> tuple[SweepTable, dict[str, Any]]:
    """Return a file's `[sweep]` and the values of each key; the command line's go first."""
    _, table = read_table(file)
    said = table.get("sweep", {})
    if not isinstance(said, Mapping):
        raise ConfigError([Problem("sweep", f"expected a table, got {shown(said)}")], str(file))
    swept = said.get("set", {})
    if not isinstance(swept, Mapping):
        raise ConfigError(
            [Problem("sweep.set", f"expected a table, got {shown(swept)}")], str(file)
        )
    rest = {key: value for key, value in said.items() if key != "set"}
    found = structure(_File, {"sweep": rest}, base=file.parent, source=str(file)).sweep
    if found.files and (more := sorted(table.keys() - {"sweep", "schema"})):
        message = f"is of no use beside sweep.files; put it into {found.files[0].name}"
        raise ConfigError([Problem(key, message) for key in more], str(file))
    values = dict(flat(swept))
    values |= dict(parse_assignment(text) for text in overrides)
    empty = [Problem(f"sweep.set.{key}", "has no value") for key, v in values.items() if v == []]
    if empty:
        raise ConfigError(empty, str(file))
    return found, values


@frozen(kw_only=True)
class _File:
    """What of a file is read first."""

    sweep: SweepTable


def _seeds(given: str | None, table: SweepTable) -> tuple[int, ...]:
    """Return the seeds of the command line, or else of the file; none: the experiments' own."""
    if given is not None:
        try:
            return Seeds.parse(given).values
        except ValueError as error:
            raise ConfigError([Problem("--seeds", str(error))]) from None
    if isinstance(table.seeds, Seeds):
        return table.seeds.values
    return table.seeds or ()


def _folds(path: Path, settings: Mapping[str, Any]) -> Iterable[int | None]:
    """Return the folds that an experiment is to be run with: all, unless it names one itself."""
    _, table = read_table(path, expressions(settings))
    data = table.get("data")
    folds = data.get("folds") if isinstance(data, Mapping) and "fold" not in data else None
    # What is no number, or too many, the experiment's own check refuses.
    return range(1, folds + 1) if isinstance(folds, int) and 2 <= folds <= 1000 else (None,)


def of_variant(trials: Iterable[Trial], variant: Variant) -> Iterator[Trial]:
    """Yield the trials of one variant."""
    return (trial for trial in trials if trial.variant == variant)
