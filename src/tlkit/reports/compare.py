"""Runs side by side: what differs in their settings, how good each is, whether that is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from attrs import frozen
from scipy.stats import binomtest

from tlkit.metrics.bootstrap import bootstrap_interval, draws, resampling_of, unit_numbers
from tlkit.metrics.intervals import Interval
from tlkit.metrics.published import LEVEL, Verdict
from tlkit.metrics.scores import OVERALL, PER_CLASS, ClassScores, Scores
from tlkit.reports.tables import flattened
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.run_record import read_finished
from tlkit.train.callback import Epoch

PERCENT = ("accuracy", "balanced_accuracy")  # of all classes together; the others are no shares
TOLD = ("reference", "card")  # what an experiment says beside its settings
ABSENT = "-"  # what stands for a key that a run's parts do not have


@frozen
class Answer:
    """What a run says of one image.

    Attributes:
        label: The image's class.
        predicted: The class it is called.
        patient: Whose it is; empty if unknown.
    """

    label: str
    predicted: str
    patient: str = ""

    @property
    def right(self) -> bool:
        """Tell whether it is called what it is."""
        return self.label == self.predicted


@frozen(kw_only=True)
class ComparedRun:
    """What is compared of a finished run.

    Attributes:
        name: Its folder.
        settings: Every key of its experiment by its path, such as `fit.epochs`, as JSON.
        split: The split that it is judged by.
        scores: How good it is there.
        history: Its epochs.
        answers: What it says of each image of that split, by the image's SHA-256.
        trained_on: The SHA-256 of each image that it has learnt from.
        stand_in: What it was trained on in place of real data; empty for real data.
    """

    name: str
    settings: Mapping[str, str]
    split: str
    scores: Scores
    history: tuple[Epoch, ...]
    answers: Mapping[str, Answer]
    trained_on: frozenset[str]
    stand_in: str = ""


@frozen
class Difference:
    """A key whose values differ.

    Attributes:
        key: Its path, such as `optimizer.learning_rate`.
        values: Its value in each run, as JSON; a hyphen where a run has no such key.
    """

    key: str
    values: tuple[str, ...]


@frozen(kw_only=True)
class Paired:
    """Two runs on the images that both are judged by.

    Attributes:
        images: How many images these are.
        only_first: How many of them the first alone classifies rightly.
        only_second: How many the second alone does.
        difference: The second's accuracy on them less the first's.
        interval: Its 95 % interval by a paired bootstrap; None where resampling tells nothing.
        unit: What was drawn: an `image` or a `patient`.
        p: The two-sided p of McNemar's exact test: how often a difference so large would come
            about if both were equally good.
    """

    images: int
    only_first: int
    only_second: int
    difference: float
    interval: Interval | None
    unit: Literal["image", "patient"]
    p: float

    @property
    def verdict(self) -> Verdict:
        """Return whether the accuracies differ beyond chance, at 5 %."""
        return "beyond chance" if self.p < LEVEL else "within chance"


def read_run(path: Path) -> ComparedRun:
    """Read a finished run's folder; nothing of it is executed.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
    """
    run = read_finished(RunFolder(path))
    of = {example.path: example for example in run.manifest[run.split]}
    return ComparedRun(
        name=str(path),
        settings=flattened({k: v for k, v in run.experiment.items() if k not in TOLD}),
        split=run.split,
        scores=run.scores,
        history=run.history,
        answers={
            of[one.path].sha256: Answer(one.label, one.predicted, of[one.path].patient)
            for one in run.judged
        },
        trained_on=frozenset(example.sha256 for example in run.manifest["train"]),
        stand_in=run.stand_in,
    )


def differences(runs: Sequence[ComparedRun]) -> tuple[Difference, ...]:
    """Return the keys whose values are not the same in all runs, in the experiments' order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = (Difference(key, tuple(run.settings.get(key, ABSENT) for run in runs)) for key in keys)
    return tuple(one for one in found if len(set(one.values)) > 1)


def figures_beside(runs: Sequence[ComparedRun]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each figure's name, and its value with its interval in each run.

    Figures of a class that a run does not know are hyphens there.
    """
    rows = [
        (title, tuple(_figure(run.scores, name, name in PERCENT) for run in runs))
        for name, title in OVERALL.items()
    ]
    for label in dict.fromkeys(name for run in runs for name in run.scores.classes):
        rows += [
            (
                f"{label} {PER_CLASS[name]}",
                tuple(_figure(run.scores.per_class.get(label), name, True) for run in runs),
            )
            for name in ("precision", "recall")
        ]
    return rows


def _figure(scores: Scores | ClassScores | None, name: str, percent: bool) -> str:
    """Return a figure with its interval as text."""
    if scores is None:
        return ABSENT
    value, interval = getattr(scores, name), scores.intervals.get(name)
    if value is None:
        return "undefined"
    text = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
    if interval is None:
        return text
    ends = [f"{100 * x:.1f}" if percent else f"{x:.3f}" for x in (interval.low, interval.high)]
    return f"{text} ({'–'.join(ends)})"


def paired(first: ComparedRun, second: ComparedRun) -> Paired | None:
    """Compare two runs on the images that both are judged by; None if there are none.

    Images are the same if their files are, byte by byte, and have the same label in both.
    """
    both = [
        (answer, second.answers[key])
        for key, answer in first.answers.items()
        if key in second.answers and second.answers[key].label == answer.label
    ]
    if not both:
        return None
    gains = np.array([other.right - one.right for one, other in both], float)
    only_first, only_second = int((gains < 0).sum()), int((gains > 0).sum())
    patients = [one.patient for one, _ in both]
    units = unit_numbers(len(both), patients)
    resampling = resampling_of(units, any(patients), 1)
    means = np.concatenate(
        [times @ gains / times.sum(axis=1) for times in draws(units, resampling)]
    )
    return Paired(
        images=len(both),
        only_first=only_first,
        only_second=only_second,
        difference=float(gains.mean()),
        interval=bootstrap_interval(float(gains.mean()), means, len(both)),
        unit=resampling.unit,
        p=mcnemar(only_first, only_second),
    )


def points(paired: Paired) -> tuple[str, str]:
    """Return the difference in accuracy in percentage points, and its interval, as text.

    >>> interval = Interval(-0.02, 0.06, "bootstrap", 50)
    >>> points(Paired(images=50, only_first=1, only_second=2, difference=0.02, interval=interval,
    ...               unit="image", p=1.0))
    ('+2.0', '-2.0 to +6.0')
    """
    interval = paired.interval
    ends = f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}" if interval else ABSENT
    return f"{100 * paired.difference:+.1f}", ends


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test; 1 if no image tells the two apart.

    Args:
        only_first: How many images the first classifier alone gets right.
        only_second: How many the second alone gets right.
    """
    apart = only_first + only_second
    return float(binomtest(only_first, apart).pvalue) if apart else 1.0


def notes(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Return what must be known before the runs are compared; they are called [1], [2], …."""
    found = []
    first = runs[0]
    for number, run in enumerate(runs, start=1):
        if run.stand_in:
            found.append(f"[{number}] was trained on drawn {run.stand_in}s, not real images")
        if set(run.scores.classes) != set(first.scores.classes):
            found.append(f"[{number}] knows other classes than [1]")
        if run.split != first.split:
            found.append(f"[{number}] is judged by {run.split}, [1] by {first.split}")
        shared = len(run.answers.keys() & first.answers.keys())
        if shared < max(len(run.answers), len(first.answers)):
            counts = f"{len(run.answers)} and {len(first.answers)}"
            found.append(f"[{number}] and [1] are judged by {shared} common images of {counts}")
        for judge, other in enumerate(runs, start=1):
            leaked = len(run.trained_on & other.answers.keys())
            if run is not other and leaked:
                found.append(
                    f"[{number}] has learnt from {leaked} of the images that [{judge}] is judged by"
                )
    if len(runs) > 2:
        found.append(f"p is not corrected for {len(runs) - 1} comparisons")
    return tuple(found)
