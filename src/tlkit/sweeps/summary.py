"""The results of a sweep: each run's outcome, and each variant's metrics over its seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from tlkit.data.leakage import same_patient
from tlkit.metrics.intervals import format_interval, format_value, wilson
from tlkit.runfolder.folder import ENVIRONMENT, METRICS, UNFINISHED, RunFolder
from tlkit.runfolder.inputs import AFFECTS_RESULTS, EnvironmentRecord
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import MetricsRecord
from tlkit.runfolder.tables import read_manifest, read_predictions
from tlkit.sweeps.trials import Trial, Trials, Variant
from tlkit.system.notebook import data_frame, face, html_table
from tlkit.system.untrusted import exists

if TYPE_CHECKING:
    import pandas

Confusion = tuple[tuple[int, ...], ...]  # counts; rows are true classes
Status = Literal["done", "failed", "waiting"]
LEVEL = 0.95


@frozen
class Answer:
    """A prediction for an image.

    Attributes:
        label: The number of its class.
        predicted: The number of the predicted class.
        patient: Its patient; empty if unknown.
    """

    label: int
    predicted: int
    patient: str


@frozen(kw_only=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        trial: The run as planned.
        status: `done`, `failed` or `waiting`.
        error: Why it failed; empty otherwise.
        exit_code: The exit code `tlkit run` would have ended with.
        split: The split it was evaluated on.
        classes: Class names in the order of the confusion matrices.
        confusions: The confusion matrix of each split.
        answers: The images of the split it was evaluated on; empty if not known.
        machine: Processor, threads and versions, as far as results depend on them, as JSON.
    """

    trial: Trial
    status: Status
    error: str = ""
    exit_code: int = 0
    split: str = ""
    classes: tuple[str, ...] = ()
    confusions: Mapping[str, Confusion] = field(factory=dict)
    answers: tuple[Answer, ...] = field(default=(), repr=False)
    machine: str = field(default="", repr=False)

    @property
    def confusion(self) -> Confusion:
        """Return the confusion matrix of the split it was evaluated on."""
        return self.confusions[self.split]


def read_outcome(trial: Trial, run: Path) -> Outcome:
    """Return the outcome that a run's folder records; `waiting` if the run is not finished."""
    if exists(run / UNFINISHED):  # it may have its metrics, but not yet all of its pages
        return Outcome(trial=trial, status="waiting")
    folder = RunFolder(run)
    if not folder.is_finished:
        return Outcome(trial=trial, status="waiting")
    metrics = read_record(folder, METRICS, MetricsRecord.from_json)
    return Outcome(
        trial=trial,
        status="done",
        split=metrics.evaluated_on,
        classes=metrics.classes,
        confusions={split: scores.confusion for split, scores in metrics.kept.scores.items()},
        answers=_answers(folder, metrics),
        machine=_machine(folder),
    )


def _machine(folder: RunFolder) -> str:
    """Return what of a finished run's environment may change its last bits."""
    if not folder.has(ENVIRONMENT):
        return ""
    record = read_record(folder, ENVIRONMENT, EnvironmentRecord.from_json)
    return json.dumps({key: getattr(record, key) for key in AFFECTS_RESULTS}, sort_keys=True)


def _answers(folder: RunFolder, metrics: MetricsRecord) -> tuple[Answer, ...]:
    """Return a finished run's answers on the split that it is judged on."""
    number = {name: index for index, name in enumerate(metrics.classes)}
    split = metrics.evaluated_on
    patients = {image.path: image.patient for image in read_manifest(folder).get(split, ())}
    return tuple(
        Answer(number[answer.label], number[answer.predicted], patients.get(answer.path, ""))
        for answer in read_predictions(folder, metrics.classes).get(split, ())
    )


@frozen(kw_only=True)
class Figure:
    """One metric of a variant.

    Attributes:
        name: Such as `accuracy` or `cat recall`.
        values: Its value for each seed; None where it is undefined.
        low: The lower end of its 95 % interval; None if there is none.
        high: The upper end.
    """

    name: str
    values: tuple[float | None, ...]
    low: float | None
    high: float | None

    @property
    def mean(self) -> float | None:
        """Return the mean over the seeds for which it is defined."""
        return statistics.fmean(self._defined) if self._defined else None

    @property
    def count(self) -> int:
        """Return the number of seeds for which it is defined, over which the mean is taken."""
        return len(self._defined)

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over these seeds; None for fewer than two."""
        return statistics.stdev(self._defined) if len(self._defined) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def _defined(self) -> list[float]:
        return [value for value in self.values if value is not None]


@frozen(kw_only=True)
class VariantSummary:
    """The results of one variant.

    Attributes:
        variant: The variant; None for a choice among all of them.
        label: Its name in one line.
        seeds: The seeds whose runs are all finished.
        folds: The number of folds per seed; 0 without folds.
        runs: The number of finished runs.
        planned: The number of planned runs.
        split: The split it was evaluated on.
        images: The number of images per seed on that split.
        interval: The kind of the intervals.
        figures: The metrics by name.
        fold_accuracy: The accuracy of every run, if there are folds.
    """

    variant: Variant | None
    label: str
    seeds: tuple[int, ...]
    folds: int
    runs: int
    planned: int
    split: str
    images: int
    interval: str
    figures: Mapping[str, Figure]
    fold_accuracy: tuple[float, ...] = ()


@frozen(kw_only=True)
class Sweep:
    """A sweep that has gone through all its runs.

    Attributes:
        folder: Its folder.
        trials: The runs as planned.
        outcomes: The outcome of each run.
        summaries: The metrics of each variant over its seeds, with folds pooled.
        nested: The metrics when the variant is chosen on `val` in each fold; None without folds
            or with one variant.
    """

    folder: Path
    trials: Trials
    outcomes: tuple[Outcome, ...]
    summaries: tuple[VariantSummary, ...]
    nested: VariantSummary | None

    @classmethod
    def of(cls, folder: Path, trials: Trials, outcomes: Sequence[Outcome]) -> Sweep:
        """Return the sweep with these outcomes, summarized.

        Args:
            folder: The sweep's folder.
            trials: Its trials.
            outcomes: The outcome of each trial.
        """
        return cls(
            folder=folder,
            trials=trials,
            outcomes=tuple(outcomes),
            summaries=tuple(summarize(outcomes)),
            nested=nested(outcomes),
        )

    def __repr__(self) -> str:
        count, failed = len(self.outcomes), len(self.failed)
        best = max((s for s in self.summaries if s.figures), key=_mean_accuracy, default=None)
        result = f"; best mean accuracy {_mean_accuracy(best):.1%}" if best else ""
        return (
            f"Sweep({len(self.summaries)} variants, {count} runs, {failed} failed{result}; "
            f"{str(self.folder)[-80:]!r})"
        )

    def _repr_html_(self) -> str:
        head = ["variant", "runs", "seeds", "accuracy", "sd", "95 % interval", "balanced accuracy"]
        rows = []
        for summary in self.all_summaries:
            accuracy = summary.figures.get("accuracy")
            balanced = summary.figures.get("balanced accuracy")
            rows.append(
                [
                    summary.label,
                    f"{summary.runs} of {summary.planned}",
                    len(summary.seeds),
                    format_value(accuracy.mean if accuracy else None, missing="-"),
                    format_value(accuracy.sd if accuracy else None, missing="-"),
                    format_interval(accuracy.interval if accuracy else None),
                    format_value(balanced.mean if balanced else None, missing="-"),
                ]
            )
        failed = [[outcome.trial.name, outcome.error] for outcome in self.failed]
        blocks = [html_table(head, rows)]
        blocks += [html_table(["failed", "error"], failed)] if failed else []
        return face(f"Sweep, {len(self.outcomes)} runs; {self.folder}", *blocks)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per variant and metric as a pandas DataFrame.

        Raises:
            ResourceError: If pandas is not installed.
        """
        return data_frame(
            {"variant": summary.label, "metric": name, "seeds": figure.count, "mean": figure.mean,
             "sd": figure.sd, "low": figure.low, "high": figure.high}
            for summary in self.all_summaries
            for name, figure in summary.figures.items()
        )  # fmt: skip

    @property
    def machines(self) -> dict[str, int]:
        """Return the number of each kind of machine, by what results depend on."""
        return machine_numbers(self.outcomes)

    @property
    def machine_note(self) -> str:
        """Return the note that runs were made on unlike machines; empty if they were not."""
        if len(self.machines) < 2:
            return ""
        return (
            f"The runs were made on {len(self.machines)} kinds of machine, which differ in "
            "processor, threads or versions, so the last bits of results may differ: column "
            "machine of sweep.csv."
        )

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Return the runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def all_summaries(self) -> tuple[VariantSummary, ...]:
        """Return the variants' summaries, and that of the nested choice if there is one."""
        return (*self.summaries, *([self.nested] if self.nested else []))

    @property
    def stand_in(self) -> str:
        """Return the synthetic dataset that took the place of missing data; empty if none did."""
        return next((t.plan.stand_in for t in self.trials.trials if t.plan.stand_in), "")


def _mean_accuracy(summary: VariantSummary) -> float:
    return summary.figures["accuracy"].mean or 0.0


def machine_numbers(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the number of each kind of machine on which runs were made."""
    kinds = dict.fromkeys(o.machine for o in outcomes if o.status == "done")
    return {kind: number for number, kind in enumerate(kinds, start=1)}


def shares(confusion: Confusion, classes: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the metrics that are proportions, each as hits and total.

    >>> shares(((3, 1), (0, 2)), ("a", "b"))["a recall"]
    (3, 4)
    """
    numbers = range(len(classes))
    pairs = {"accuracy": (sum(confusion[k][k] for k in numbers), sum(map(sum, confusion)))}
    for k, name in enumerate(classes):
        pairs[f"{name} precision"] = confusion[k][k], sum(row[k] for row in confusion)
        pairs[f"{name} recall"] = confusion[k][k], sum(confusion[k])
    return pairs


def values_of(confusion: Confusion, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the metrics of a confusion matrix; None where one is undefined."""
    values = {n: hits / of if of else None for n, (hits, of) in shares(confusion, classes).items()}
    recalls = [share for name in classes if (share := values[f"{name} recall"]) is not None]
    return {
        "accuracy": values.pop("accuracy"),
        "balanced accuracy": statistics.fmean(recalls) if recalls else None,
        **values,
    }


def summarize(outcomes: Iterable[Outcome]) -> list[VariantSummary]:
    """Return a summary of each variant, in order."""
    groups: list[tuple[Variant, list[Outcome]]] = []  # a variant cannot be hashed
    for outcome in outcomes:
        group = next((some for v, some in groups if v == outcome.trial.variant), None)
        if group is None:
            groups.append((outcome.trial.variant, [outcome]))
        else:
            group.append(outcome)
    return [_summary(variant, variant.label, group) for variant, group in groups]


def _summary(variant: Variant | None, label: str, outcomes: Sequence[Outcome]) -> VariantSummary:
    pooled: dict[int, Confusion] = {}
    for seed in dict.fromkeys(outcome.trial.seed for outcome in outcomes):
        of_seed = [outcome for outcome in outcomes if outcome.trial.seed == seed]
        if all(outcome.status == "done" for outcome in of_seed):
            pooled[seed] = sum_matrices([outcome.confusion for outcome in of_seed])
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    classes = done[0].classes if done else ()
    folds = len({o.trial.fold for o in outcomes if o.trial.fold is not None})
    matrices = list(pooled.values())
    images = sum(map(sum, matrices[0])) if matrices else 0
    answers = [a for o in done if o.trial.seed in pooled for a in o.answers]
    patients = len({same_patient(answer.patient) for answer in answers} - {""})
    interval = f"Wilson over {images} images" + (f" of {patients} patients" if patients else "")
    if len(pooled) > 1:
        interval = f"t over {len(pooled)} seeds"
    return VariantSummary(
        variant=variant,
        label=label,
        seeds=tuple(pooled),
        folds=folds,
        runs=len(done),
        planned=len(outcomes),
        split=done[0].split if done else "",
        images=images,
        interval=interval if pooled else "",
        figures=figures_of(matrices, classes, answers) if matrices else {},
        fold_accuracy=tuple(_accuracy(outcome.confusion) for outcome in done if folds),
    )


def sum_matrices(matrices: Sequence[Confusion]) -> Confusion:
    """Return the sum of confusion matrices.

    >>> sum_matrices([((1, 0), (2, 3)), ((1, 1), (0, 0))])
    ((2, 1), (2, 3))
    """
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))


def _accuracy(confusion: Confusion) -> float:
    hits, total = shares(confusion, ("",) * len(confusion))["accuracy"]
    return hits / total


def figures_of(
    matrices: Sequence[Confusion], classes: Sequence[str], answers: Sequence[Answer] = ()
) -> dict[str, Figure]:
    """Return the metrics of confusion matrices, one per seed, with their intervals.

    Several seeds have Student's interval of the mean, a single one has Wilson's over its images;
    images of one patient count as in a run's own intervals.
    """
    values = [values_of(matrix, classes) for matrix in matrices]
    single = _share_intervals(matrices[0], classes, answers) if len(matrices) == 1 else {}
    figures = {}
    for name in values[0]:
        column = tuple(of_seed[name] for of_seed in values)
        ends = single.get(name)
        if len(matrices) > 1:
            ends = t_interval([value for value in column if value is not None])
        low, high = ends or (None, None)
        figures[name] = Figure(name=name, values=column, low=low, high=high)
    return figures


def _share_intervals(
    confusion: Confusion, classes: Sequence[str], answers: Sequence[Answer]
) -> dict[str, tuple[float, float] | None]:
    """Return the 95 % intervals of the metrics that are proportions."""
    if not any(answer.patient for answer in answers):
        counts = shares(confusion, classes).items()
        return {name: wilson(hits / of, of) if of else None for name, (hits, of) in counts}
    import numpy as np

    from tlkit.metrics.bootstrap import share_interval, unit_numbers

    truth, guess = (np.array([getattr(a, n) for a in answers]) for n in ("label", "predicted"))
    units = unit_numbers(len(answers), [answer.patient for answer in answers])
    pairs = {"accuracy": (truth == guess, np.ones(len(answers), bool))}
    for k, name in enumerate(classes):
        pairs[f"{name} precision"] = truth == k, guess == k
        pairs[f"{name} recall"] = guess == k, truth == k
    intervals = {name: share_interval(hits, of, units) for name, (hits, of) in pairs.items()}
    return {name: (i.low, i.high) if i else None for name, i in intervals.items()}


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of a mean, clipped to 0 and 1; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    return max(0.0, mean - float(half)), min(1.0, mean + float(half))


def nested(outcomes: Sequence[Outcome]) -> VariantSummary | None:
    """Return the result of choosing the variant on `val` in each fold, evaluated on `test`.

    The choice never sees the fold's test images, so unlike the best of several variants it is not
    optimistic. None unless all folds of two or more variants are finished.
    """
    folds = sorted({o.trial.fold for o in outcomes if o.trial.fold is not None})
    variants = summarize(outcomes)
    if not folds or len(variants) < 2 or any(o.status != "done" for o in outcomes):
        return None
    chosen: list[Outcome] = []
    numbers: list[str] = []
    for fold in folds:
        in_fold = [outcome for outcome in outcomes if outcome.trial.fold == fold]
        by_variant = [[o for o in in_fold if o.trial.variant == v.variant] for v in variants]
        means = [statistics.fmean(_accuracy(o.confusions["val"]) for o in b) for b in by_variant]
        best = means.index(max(means))
        numbers.append(str(best + 1))
        chosen += by_variant[best]
    label = f"chosen on val in each fold (variants {', '.join(numbers)})"
    return _summary(None, label, chosen)


@frozen
class PublishedRow:
    """A variant's metric next to published values.

    Attributes:
        label: The variant, and the metric if it is not the accuracy.
        ours: Our metric; None if no seed is finished.
        theirs: The published value of each source; None where it gives none.
    """

    label: str
    ours: Figure | None
    theirs: tuple[float | None, ...]


@frozen
class Published:
    """A sweep's metrics next to published ones.

    Attributes:
        sources: Where they were published.
        accuracy: One row per variant.
        per_class: One row per variant and published precision or recall.
    """

    sources: tuple[str, ...]
    accuracy: tuple[PublishedRow, ...]
    per_class: tuple[PublishedRow, ...]

    @property
    def class_sources(self) -> tuple[int, ...]:
        """Return the indices of the sources that give any precision or recall."""
        indices = range(len(self.sources))
        return tuple(i for i in indices if any(row.theirs[i] is not None for row in self.per_class))


def published_results(sweep: Sweep) -> Published:
    """Return what the experiments' `[[reference]]` tables cite, next to our results."""
    from tlkit.metrics.published import cited_figures, figure_names

    cited: list[tuple[VariantSummary, dict[str, dict[str, float | None]]]] = []
    names: dict[str, None] = {}
    for summary in sweep.summaries:
        trial = next(t for t in sweep.trials.trials if t.variant == summary.variant)
        cited.append((summary, cited_figures(trial.experiment.reference, trial.plan.classes)))
        names |= dict.fromkeys(figure_names(trial.plan.classes))
    sources = tuple(dict.fromkeys(source for _, by_source in cited for source in by_source))

    def row(label: str, name: str, summary: VariantSummary, by_source: Any) -> PublishedRow:
        theirs = tuple(by_source.get(source, {}).get(name) for source in sources)
        return PublishedRow(label, summary.figures.get(name), theirs)

    per_class = [
        row(f"{summary.label}, {name}", name, summary, by_source)
        for summary, by_source in cited
        for name in names
        if name != "accuracy"
    ]
    return Published(
        sources=sources,
        accuracy=tuple(row(s.label, "accuracy", s, by_source) for s, by_source in cited),
        per_class=tuple(r for r in per_class if any(value is not None for value in r.theirs)),
    )
