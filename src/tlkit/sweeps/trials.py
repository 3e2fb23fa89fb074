"""The runs of a sweep, all planned and checked before the first one starts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import structure, unstructure
from tlkit.config.sweep import (
    MOST_RUNS,
    Range,
    SearchTable,
    Seeds,
    SweepTable,
    expressions,
    flat,
    grid,
)
from tlkit.config.toml import load_experiment, parse_assignment, read_table
from tlkit.data.splits import Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.validators import shown
from tlkit.runner.prepare import check_start
from tlkit.sweeps.draws import Settings, first_batches
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.notebook import argument
from tlkit.train.plan import Plan, make_plan


@frozen
class Variant:
    """One of the experiments that a sweep compares: a file and one combination of values.

    Attributes:
        file: The experiment file.
        settings: The values of the swept keys, without keys that have only one value.
    """

    file: Path
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return the variant in one line."""
        pairs = [f"{key.rpartition('.')[2]} {brief(v)}" for key, v in self.settings.items()]
        return ", ".join([self.file.stem, *pairs])


@frozen(kw_only=True)
class Trial:
    """One planned run of a sweep.

    Attributes:
        name: The name of its folder.
        variant: Its variant.
        fold: The fold that is held out; None without folds.
        seed: Its seed.
        overrides: All changes to the file, as ``--set`` expressions.
        experiment: The experiment.
        plan: The experiment's plan.
        batch: The number of the batch in which a search has drawn its variant, from 0.
    """

    name: str
    variant: Variant
    fold: int | None
    seed: int
    overrides: tuple[str, ...]
    experiment: Experiment
    plan: Plan
    batch: int = 0

    @property
    def sha256(self) -> str:
        """Return the experiment's fingerprint."""
        return fingerprint(self.experiment)

    @property
    def parameters(self) -> tuple[int, int]:
        """Return how many parameters the model has, and at most trains in a stage."""
        return self.plan.layers.params, max(s.trainable_params for s in self.plan.stages)

    @property
    def label(self) -> str:
        """Return the run in one line."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.variant.label}{fold}, seed {self.seed}"


def fingerprint(experiment: Experiment) -> str:
    """Return the SHA-256 of an experiment with all defaults written out."""
    return table_fingerprint(unstructure(experiment, base=experiment.base))


def table_fingerprint(table: Any) -> str:
    """Return the fingerprint of the experiment that a table of plain values describes."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def brief(value: Any) -> str:
    """Return a swept value for a label, a table as its name and other keys.

    >>> brief({"name": "pooled", "units": [32]}), brief(2e-05), brief(["a", "b"])
    ('pooled (units 32)', '2e-05', 'a b')
    """
    if isinstance(value, Mapping) and "name" in value:
        others = ", ".join(f"{key} {brief(v)}" for key, v in value.items() if key != "name")
        return f"{value['name']} ({others})" if others else str(value["name"])
    if isinstance(value, Mapping):
        return shown(dict(value))
    if isinstance(value, list | tuple):
        return " ".join(map(brief, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


@frozen(kw_only=True)
class Trials:
    """All planned runs of a sweep.

    Attributes:
        file: The sweep's file.
        trials: The runs in order.
        swept: The keys that have several values.
        notes: What the user should know about the data.
        texts: The text of each file that was read, by its absolute path.
        search: The file's `[sweep.search]`, if any.
        ranges: What a search draws from: the values of each key.
        waiting_draws: How many combinations are drawn once others have been tried.
    """

    file: Path
    trials: tuple[Trial, ...]
    swept: tuple[str, ...]
    notes: tuple[str, ...]
    texts: Mapping[Path, str] = field(factory=dict, repr=False)
    search: SearchTable | None = None
    ranges: Mapping[str, Any] = field(factory=dict, repr=False)
    waiting_draws: int = 0

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return the variants in order."""
        variants: list[Variant] = []
        for trial in self.trials:
            if trial.variant not in variants:
                variants.append(trial.variant)
        return tuple(variants)


def plan_trials(
    file: str | Path,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    *,
    plugins: Sequence[str | Path] | None = None,
    texts: Mapping[Path, str] | None = None,
    drawn: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> Trials:
    """Plan and check every run of a sweep.

    Args:
        file: A TOML file: a table `[sweep]` and an experiment, or a list of files in it.
        overrides: ``a.b=value`` expressions for each experiment; a list is several values.
        seeds: Such as ``0-4``; unset: those of `[sweep]`.
        plugins: The only files that may be imported; None: those that the experiments list.
        texts: The texts of the files by their absolute paths, instead of the files themselves.
        drawn: The combinations that a search has drawn since its beginning, by batches.

    Raises:
        TlkitError: With every problem of every run; the subclass says what kind.
    """
    file = Path(file)
    read = _Texts(texts)
    table, swept = _read(file, overrides, read(file))
    wanted = _seeds(seeds, table)
    if wanted and "seed" in swept:
        raise ConfigError(
            [Problem("seed", "is set twice, here and by the sweep's seeds")], str(file)
        )
    varied = tuple(key for key, value in swept.items() if _several(value))
    batches: list[list[Settings]] = [grid(swept)]
    if table.search is not None:
        batches = first_batches(table.search, swept)
        batches += [[_complete(settings, swept) for settings in some] for some in drawn]
    # Seeds are outermost, so a sweep cut short has every variant.
    runs = []
    for batch, drawn_together in enumerate(batches):
        of_one_seed = [
            (path, settings, fold, batch)
            for path in table.files or (file,)
            for settings in drawn_together
            for fold in _folds(path, settings, read(path))
        ]
        runs += [(seed, *run) for seed in wanted or (None,) for run in of_one_seed]
    waiting, done = 0, sum(map(len, batches))
    if table.search is not None and table.search.sampler == "tpe":
        waiting = max(0, table.search.draws - done) if batches[-1] else 0
    most = len(runs) * (done + waiting) // done
    if most > MOST_RUNS:
        raise ConfigError([Problem("sweep", f"has {most} runs; the maximum is {MOST_RUNS}")])
    checker = _Checker(read, plugins)
    width = max(3, len(str(most)))
    trials = []
    for number, (seed, path, settings, fold, batch) in enumerate(runs, start=1):
        more = {"data.fold": fold, "seed": seed}
        set_expressions = expressions(settings | {k: v for k, v in more.items() if v is not None})
        checked = checker(path, set_expressions)
        if checked is None:
            continue
        experiment, plan = checked
        trials.append(
            Trial(
                name=f"{number:0{width}d}-{_safe(path.stem)}",
                variant=Variant(path, {key: settings[key] for key in varied}),
                fold=fold,
                seed=experiment.seed,
                overrides=set_expressions,
                experiment=experiment,
                plan=plan,
                batch=batch,
            )
        )
    checker.raise_problems()
    notes = tuple(dict.fromkeys(checker.notes))
    return Trials(
        file=file,
        trials=tuple(trials),
        swept=varied,
        notes=notes,
        texts=read.known,
        search=table.search,
        ranges={key: swept[key] for key in varied},
        waiting_draws=waiting,
    )


def _complete(drawn: Mapping[str, Any], swept: Mapping[str, Any]) -> Settings:
    """Return drawn values with those of the keys that have only one."""
    single = {key: value[0] if isinstance(value, list) else value for key, value in swept.items()}
    return {key: drawn.get(key, single[key]) for key in swept}


def _several(value: Any) -> bool:
    return isinstance(value, Range) or (isinstance(value, list) and len(value) > 1)


def _safe(name: str) -> str:
    """Return a name for a folder that needs no quoting in a shell."""
    return re.sub(r"[^\w.-]+", "_", name)


@define
class _Texts:
    """Reads each file once; if texts are given, no file at all."""

    given: Mapping[Path, str] | None
    known: dict[Path, str] = field(factory=dict, init=False)

    def __call__(self, path: Path) -> str:
        place = Path(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps `..`
        if self.given is not None and place not in self.given:
            raise ConfigError([Problem("", "is not among the sweep's files")], str(path))
        if place not in self.known:
            self.known[place] = read_table(path)[0] if self.given is None else self.given[place]
        return self.known[place]


class _Checker:
    """Loads and plans experiments; loads each dataset once and keeps each problem once."""

    def __init__(self, read: _Texts, plugins: Sequence[str | Path] | None) -> None:
        self.read, self.plugins = read, plugins
        self.splits: dict[str, Splits] = {}
        self.problems: dict[str, Problem] = {}
        self.notes: list[str] = []

    def __call__(self, path: Path, overrides: tuple[str, ...]) -> tuple[Experiment, Plan] | None:
        try:
            experiment = load_experiment(
                path, overrides, in_sweep=True, plugins=self.plugins, text=self.read(path)
            )
            data = json.dumps(unstructure(experiment.data, base=Path()), sort_keys=True)
            key = f"{type(experiment.data)} {data}"
            if key not in self.splits:
                self.splits[key] = load_splits(experiment.data)
                self.notes += self.splits[key].notes
            plan = make_plan(experiment, self.splits[key])
            check_start(experiment, plan)
            return experiment, plan
        except ConfigError as error:
            for problem in error.problems:
                where = f"{error.source}: " if error.source else ""
                self.problems.setdefault(f"{where}{problem}", Problem("", f"{where}{problem}"))
            return None

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(self.problems.values())


def _read(file: Path, overrides: Sequence[str], text: str) -> tuple[SweepTable, dict[str, Any]]:
    """Return a file's `[sweep]` and the values of each key; the command line overrides the file."""
    _, table = read_table(file, text=text)
    sweep = table.get("sweep", {})
    if not isinstance(sweep, Mapping):
        raise ConfigError([Problem("sweep", f"expected a table, got {shown(sweep)}")], str(file))
    swept = sweep.get("set", {})
    if not isinstance(swept, Mapping):
        raise ConfigError(
            [Problem("sweep.set", f"expected a table, got {shown(swept)}")], str(file)
        )
    rest = {key: value for key, value in sweep.items() if key != "set"}
    settings = structure(_File, {"sweep": rest}, base=file.parent, source=str(file)).sweep
    if settings.files and (more := sorted(table.keys() - {"sweep", "schema"})):
        message = f"has no effect with sweep.files; move it to {settings.files[0].name}"
        raise ConfigError([Problem(key, message) for key in more], str(file))
    values = dict(flat(swept))
    values |= dict(parse_assignment(text) for text in overrides)
    empty = [Problem(f"sweep.set.{key}", "has no value") for key, v in values.items() if v == []]
    if empty:
        raise ConfigError(empty, str(file))
    return settings, _with_ranges(values, settings, file)


def _with_ranges(values: Mapping[str, Any], table: SweepTable, file: Path) -> dict[str, Any]:
    """Return the values with tables of two ends as ranges, which only a search draws from."""
    problems, ranges = [], {}
    for key, value in values.items():
        try:
            found = Range.of(value)
        except ValueError as error:
            problems.append(Problem(f"sweep.set.{key}", f"{error}, got {shown(value)}"))
            continue
        if found is not None and table.search is None:
            message = "is a range, from which only a search draws; add [sweep.search]"
            problems.append(Problem(f"sweep.set.{key}", message))
        ranges[key] = value if found is None else found
    if table.search is not None and not any(map(_several, ranges.values())) and not problems:
        problems.append(Problem("sweep.search", "has nothing to draw from; add [sweep.set]"))
    if table.search is not None and table.search.sampler == "tpe" and len(table.files) > 1:
        problems.append(Problem("sweep.search.sampler", "tpe searches one file"))
    if problems:
        raise ConfigError(problems, str(file))
    return ranges


@frozen(kw_only=True)
class _File:
    """The part of a file that is read first."""

    sweep: SweepTable


def _seeds(given: str | None, table: SweepTable) -> tuple[int, ...]:
    """Return the seeds on the command line, or else in the file; empty: the experiments' own."""
    if given is not None:
        try:
            return Seeds.parse(given).values
        except ValueError as error:
            raise ConfigError([Problem(argument("--seeds"), str(error))]) from None
    if isinstance(table.seeds, Seeds):
        return table.seeds.values
    return table.seeds or ()


def _folds(path: Path, settings: Mapping[str, Any], text: str) -> Iterable[int | None]:
    """Return the folds to run an experiment with: all of them, unless it names one itself."""
    _, table = read_table(path, expressions(settings), text)
    data = table.get("data")
    folds = data.get("folds") if isinstance(data, Mapping) and "fold" not in data else None
    # The experiment's own check refuses other values.
    return range(1, folds + 1) if isinstance(folds, int) and 2 <= folds <= 1000 else (None,)
