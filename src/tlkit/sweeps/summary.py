"""What a sweep shows: the figures of each variant, over its seeds, folds pooled."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from tlkit.sweeps.trials import Trial, Variant
from tlkit.system.errors import RunFolderError

Confusion = tuple[tuple[int, ...], ...]  # counts; rows are the truth
Status = Literal["done", "failed", "waiting"]
METRICS, UNFINISHED = "metrics.json", "unfinished.json"


@frozen(kw_only=True)
class Outcome:
    """What came of one run.

    Attributes:
        trial: What it was to be.
        status: `done`, `failed` or `waiting`.
        error: Why it failed; empty otherwise.
        exit_code: What `tlkit run` would have ended with.
        split: The split that it is judged by.
        classes: Class names in the order of the confusion matrices.
        confusions: The confusion matrix of each split.
    """

    trial: Trial
    status: Status
    error: str = ""
    exit_code: int = 0
    split: str = ""
    classes: tuple[str, ...] = ()
    confusions: Mapping[str, Confusion] = field(factory=dict)

    @property
    def confusion(self) -> Confusion:
        """Return the confusion matrix that the run is judged by."""
        return self.confusions[self.split]


def read_outcome(trial: Trial, run: Path) -> Outcome:
    """Return what the folder of a run says, `waiting` if the run is not finished.

    Raises:
        RunFolderError: If it is no folder that tlkit wrote.
    """
    if (run / UNFINISHED).is_file():  # it may have its metrics, but not all of its pages
        return Outcome(trial=trial, status="waiting")
    try:
        found: Any = json.loads((run / METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Outcome(trial=trial, status="waiting")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{run / METRICS}: cannot be read: {error}") from None
    try:
        confusions = {
            split: tuple(tuple(map(int, row)) for row in found[split]["confusion"])
            for split in ("val", "test")
            if split in found
        }
        return Outcome(
            trial=trial,
            status="done",
            split=found["evaluated_on"],
            classes=tuple(found["classes"]),
            confusions=confusions,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{run / METRICS}: is not as tlkit writes it: {error!r}") from None


def added(matrices: list[Confusion]) -> Confusion:
    """Return the sum of confusion matrices.

    >>> added([((1, 0), (2, 3)), ((1, 1), (0, 0))])
    ((2, 1), (2, 3))
    """
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))


LEVEL = 0.95
Counts = tuple[int, int]  # how many of how many


@frozen(kw_only=True)
class Figure:
    """One figure of a variant.

    Attributes:
        name: Such as `accuracy` or `covid-19 recall`.
        values: Its value for each seed; None where it is not defined.
        low: The lower end of its 95 % interval; None where there is none.
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
    def sd(self) -> float | None:
        """Return the sample standard deviation over these; None of fewer than two."""
        return statistics.stdev(self._defined) if len(self._defined) > 1 else None

    @property
    def _defined(self) -> list[float]:
        return [value for value in self.values if value is not None]


@frozen(kw_only=True)
class VariantSummary:
    """What came of one variant.

    Attributes:
        variant: Which.
        label: It, in one line.
        seeds: The seeds whose runs are all finished.
        folds: How many folds each of them has; 0 if none.
        runs: How many runs are finished.
        planned: How many there are to be.
        split: The split that it is judged by.
        images: How many images each seed is judged by.
        interval: What the intervals are.
        figures: The figures, by name.
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


def shares(confusion: Confusion, classes: Sequence[str]) -> dict[str, Counts]:
    """Return the figures of a confusion matrix that are shares, as counts.

    >>> shares(((3, 1), (0, 2)), ("a", "b"))["a recall"]
    (3, 4)
    """
    numbers = range(len(classes))
    found = {"accuracy": (sum(confusion[k][k] for k in numbers), sum(map(sum, confusion)))}
    for k, name in enumerate(classes):
        found[f"{name} precision"] = confusion[k][k], sum(row[k] for row in confusion)
        found[f"{name} recall"] = confusion[k][k], sum(confusion[k])
    return found


def values_of(confusion: Confusion, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the figures of a confusion matrix; None where one is not defined."""
    found = {n: hits / of if of else None for n, (hits, of) in shares(confusion, classes).items()}
    recalls = [share for name in classes if (share := found[f"{name} recall"]) is not None]
    return {
        "accuracy": found.pop("accuracy"),
        "balanced accuracy": statistics.fmean(recalls) if recalls else None,
        **found,
    }


def summarise(outcomes: Iterable[Outcome]) -> list[VariantSummary]:
    """Return a summary of each variant, in order."""
    of_variant: list[tuple[Variant, list[Outcome]]] = []
    for outcome in outcomes:
        known = next((some for v, some in of_variant if v == outcome.trial.variant), None)
        if known is None:
            of_variant.append((outcome.trial.variant, [outcome]))
        else:
            known.append(outcome)
    return [_summary(variant, variant.label, some) for variant, some in of_variant]


def _summary(variant: Variant | None, label: str, outcomes: Sequence[Outcome]) -> VariantSummary:
    pooled: dict[int, Confusion] = {}
    for seed in dict.fromkeys(outcome.trial.seed for outcome in outcomes):
        of_seed = [outcome for outcome in outcomes if outcome.trial.seed == seed]
        if all(outcome.status == "done" for outcome in of_seed):
            pooled[seed] = added([outcome.confusion for outcome in of_seed])
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    classes = done[0].classes if done else ()
    folds = len({o.trial.fold for o in outcomes if o.trial.fold is not None})
    matrices = list(pooled.values())
    images = sum(map(sum, matrices[0])) if matrices else 0
    interval = f"t over {len(pooled)} seeds" if len(pooled) > 1 else f"Wilson over {images} images"
    accuracies = [_accuracy(outcome.confusion) for outcome in done] if folds else []
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
        figures=figures_of(matrices, classes) if matrices else {},
        fold_accuracy=tuple(accuracies),
    )


def _accuracy(confusion: Confusion) -> float:
    hits, of = shares(confusion, ("",) * len(confusion))["accuracy"]
    return hits / of


def figures_of(matrices: Sequence[Confusion], classes: Sequence[str]) -> dict[str, Figure]:
    """Return the figures of confusion matrices, one a seed, with their intervals."""
    values = [values_of(matrix, classes) for matrix in matrices]
    found = {}
    for name in values[0]:
        column = tuple(one[name] for one in values)
        if len(matrices) > 1:
            ends = t_interval([value for value in column if value is not None])
        else:
            ends = wilson(*shares(matrices[0], classes).get(name, (0, 0)))
        low, high = ends or (None, None)
        found[name] = Figure(name=name, values=column, low=low, high=high)
    return found


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of a mean; None of fewer than two values.

    It is of the mean over seeds (or whatever the values differ in), cut off at 0 and 1.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    return max(0.0, mean - float(half)), min(1.0, mean + float(half))


def wilson(hits: int, of: int) -> tuple[float, float] | None:
    """Return Wilson's 95 % interval of a share; None of nothing."""
    if not of:
        return None
    from tlkit.metrics import intervals

    return intervals.wilson(hits / of, of)


def nested(outcomes: Sequence[Outcome]) -> VariantSummary | None:
    """Return how good it is to choose a variant by `val` in each fold, judged by `test`.

    The choice in a fold never sees its test images, so unlike the best of several variants it is
    no better than it should be. None unless all folds of two or more variants are finished.
    """
    folds = sorted({o.trial.fold for o in outcomes if o.trial.fold is not None})
    variants = summarise(outcomes)
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
