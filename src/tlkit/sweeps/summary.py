"""The results of a sweep: each run's outcome, and each variant's metrics over its seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from tlkit.data.leakage import same_patient
from tlkit.data.splits import Example
from tlkit.metrics.intervals import wilson
from tlkit.metrics.scores import OVERALL, TINY
from tlkit.runfolder.folder import ENVIRONMENT, METRICS, UNFINISHED, RunFolder
from tlkit.runfolder.inputs import AFFECTS_RESULTS, EnvironmentRecord
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import MetricsRecord
from tlkit.runfolder.tables import Prediction, read_manifest, read_predictions
from tlkit.sweeps.trials import Trial, Variant
from tlkit.system.untrusted import exists

Confusion = tuple[tuple[int, ...], ...]  # counts; rows are true classes
Status = Literal["done", "failed", "dropped", "waiting"]
LEVEL = 0.95
ONE_SEED = "Wilson over the images of one seed, as all seeds are equal"
LOSSES = {name: OVERALL[name] for name in ("log_loss", "brier")}  # means over images


@frozen
class Answer:
    """A prediction for an image.

    Attributes:
        label: The number of its class.
        predicted: The number of the predicted class.
        patient: Its patient; empty if unknown.
        image: The hash of its file; empty if unknown.
        log_loss: Minus the logarithm of its class's probability; None if unknown.
        brier: Half the squared distance of the probabilities from its class; None if unknown.
    """

    label: int
    predicted: int
    patient: str
    image: str = ""
    log_loss: float | None = None
    brier: float | None = None


@frozen(kw_only=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        trial: The run as planned.
        status: `done`, `failed`, `dropped` by a search, or `waiting`.
        error: Why it failed; empty otherwise.
        exit_code: The exit code `tlkit run` would have ended with.
        split: The split it was evaluated on.
        classes: Class names in the order of the confusion matrices.
        confusions: The confusion matrix of each split.
        losses: Log loss and Brier score on the split it was evaluated on.
        answers: The images of the split it was evaluated on; empty if not known.
        machine: Processor, threads and versions, as far as results depend on them, as JSON.
        epochs: After how many epochs it was dropped.
        val_accuracy: The accuracy on val for which it was dropped; None if unknown.
    """

    trial: Trial
    status: Status
    error: str = ""
    exit_code: int = 0
    split: str = ""
    classes: tuple[str, ...] = ()
    confusions: Mapping[str, Confusion] = field(factory=dict)
    losses: Mapping[str, float | None] = field(factory=dict)
    answers: tuple[Answer, ...] = field(default=(), repr=False)
    machine: str = field(default="", repr=False)
    epochs: int = 0
    val_accuracy: float | None = None

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
        losses={
            title: getattr(metrics.kept.scores[metrics.evaluated_on], name)
            for name, title in LOSSES.items()
        },
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
    split = metrics.evaluated_on
    images = {image.path: image for image in read_manifest(folder).get(split, ())}
    answers = read_predictions(folder, metrics.classes).get(split, ())
    number = {name: index for index, name in enumerate(metrics.classes)}
    return tuple(_answer(answer, number, images.get(answer.path)) for answer in answers)


def _answer(answer: Prediction, number: Mapping[str, int], image: Example | None) -> Answer:
    """Return an answer with its losses, as the run's own metrics have them."""
    own = min(max(answer.probabilities[answer.label], TINY), 1 - TINY)
    squares = ((p - (name == answer.label)) ** 2 for name, p in answer.probabilities.items())
    return Answer(
        label=number[answer.label],
        predicted=number[answer.predicted],
        patient=image.patient if image else "",
        image=image.sha256 if image else "",
        log_loss=-math.log(own),
        brier=math.fsum(squares) / 2,
    )


@frozen(kw_only=True)
class Figure:
    """One metric of a variant.

    Attributes:
        name: Such as `accuracy` or `cat recall`.
        values: Its value for each seed; None where it is undefined.
        low: The lower end of its 95 % interval; None if there is none.
        high: The upper end.
        kind: The kind of its interval if it is not its variant's.
    """

    name: str
    values: tuple[float | None, ...]
    low: float | None
    high: float | None
    kind: str = ""

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
        failed: The number of runs that failed.
        dropped: After how many epochs a search dropped it; 0 if it did not.
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
    failed: int = 0
    dropped: int = 0


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
    return [summary_of(variant, variant.label, group) for variant, group in groups]


def summary_of(variant: Variant | None, label: str, outcomes: Sequence[Outcome]) -> VariantSummary:
    """Return the summary of runs that belong together: a variant's, or chosen ones."""
    pooled: dict[int, Confusion] = {}
    losses: list[dict[str, float | None]] = []
    for seed in dict.fromkeys(outcome.trial.seed for outcome in outcomes):
        of_seed = [outcome for outcome in outcomes if outcome.trial.seed == seed]
        if all(outcome.status == "done" for outcome in of_seed):
            pooled[seed] = sum_matrices([outcome.confusion for outcome in of_seed])
            losses.append({title: _pooled_loss(of_seed, title) for title in LOSSES.values()})
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    classes = done[0].classes if done else ()
    folds = len({o.trial.fold for o in outcomes if o.trial.fold is not None})
    matrices = list(pooled.values())
    images = sum(map(sum, matrices[0])) if matrices else 0
    first = next(iter(pooled), None)
    answers = [a for o in done if o.trial.seed == first for a in o.answers]
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
        figures=figures_of(matrices, classes, answers, losses) if matrices else {},
        fold_accuracy=tuple(accuracy_of(outcome.confusion) for outcome in done if folds),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        dropped=max(outcome.epochs for outcome in outcomes),
    )


def sum_matrices(matrices: Sequence[Confusion]) -> Confusion:
    """Return the sum of confusion matrices.

    >>> sum_matrices([((1, 0), (2, 3)), ((1, 1), (0, 0))])
    ((2, 1), (2, 3))
    """
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))


def accuracy_of(confusion: Confusion) -> float:
    """Return the accuracy that a confusion matrix gives."""
    hits, total = shares(confusion, ("",) * len(confusion))["accuracy"]
    return hits / total


def figures_of(
    matrices: Sequence[Confusion],
    classes: Sequence[str],
    answers: Sequence[Answer] = (),
    losses: Sequence[Mapping[str, float | None]] = (),
) -> dict[str, Figure]:
    """Return the metrics of confusion matrices, one per seed, with their intervals.

    Several seeds have Student's interval of the mean, a single one has Wilson's over its images;
    images of one patient count as in a run's own intervals. Where all seeds give the same value,
    as of runs that learned nothing, Student's would have no width; they count as a single one.
    """
    values = [values_of(matrix, classes) for matrix in matrices]
    if losses:
        values = [{**ours, **theirs} for ours, theirs in zip(values, losses, strict=True)]
    single: Mapping[str, tuple[float, float] | None] | None = None
    figures = {}
    for name in values[0]:
        column = tuple(of_seed[name] for of_seed in values)
        defined = [value for value in column if value is not None]
        if len({*defined}) > 1:
            ends = t_interval(defined, math.inf if name in LOSSES.values() else 1.0)
        else:
            single = single or _share_intervals(matrices[0], classes, answers)
            ends = single.get(name)
        low, high = ends or (None, None)
        kind = ONE_SEED if ends and len(matrices) > 1 and len({*defined}) == 1 else ""
        figures[name] = Figure(name=name, values=column, low=low, high=high, kind=kind)
    return figures


def _pooled_loss(outcomes: Sequence[Outcome], title: str) -> float | None:
    """Return a mean over the images of all folds; None if that of one is not known."""
    pairs = [(outcome.losses.get(title), sum(map(sum, outcome.confusion))) for outcome in outcomes]
    known = [(value, images) for value, images in pairs if value is not None]
    if len(known) < len(pairs):
        return None
    return sum(value * images for value, images in known) / sum(images for _, images in known)


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


def t_interval(values: Sequence[float], most: float = 1.0) -> tuple[float, float] | None:
    """Return Student's 95 % interval of a mean, from 0 to `most`; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    return max(0.0, mean - float(half)), min(most, mean + float(half))
