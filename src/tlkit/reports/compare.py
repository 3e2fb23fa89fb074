"""Runs next to each other: settings that differ, results, and whether the difference is chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from attrs import asdict, frozen

from tlkit.metrics.bootstrap import bootstrap_interval, draws, resampling_of, unit_numbers
from tlkit.metrics.intervals import Interval, format_share
from tlkit.metrics.published import LEVEL, Verdict
from tlkit.metrics.scores import OVERALL, PER_CLASS, ClassScores, Scores
from tlkit.reports.charts import MAX_LINES, comparison_charts
from tlkit.reports.console import table
from tlkit.reports.page import page
from tlkit.reports.tables import PERCENT, p_text
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import read_run as read_record
from tlkit.system.files import write_text
from tlkit.system.notebook import data_frame, face, few_names, html_table
from tlkit.system.text import printable
from tlkit.train.callback import Epoch

if TYPE_CHECKING:
    import pandas

NOT_SETTINGS = ("reference", "card")  # tables that do not change a run
MAX_VALUE = 40  # characters of a setting's value in a table
ABSENT = "-"  # for a key or metric that a run does not have
PAIR_HEAD = ("on the same images", "images", "accuracy, points", "95 % interval",
             "only it correct", "only [1] correct", "p", "difference")  # fmt: skip


@frozen
class Answer:
    """A run's prediction for one image.

    Attributes:
        label: The image's class.
        predicted: The predicted class.
        patient: The patient; empty if unknown.
    """

    label: str
    predicted: str
    patient: str = ""

    @property
    def correct(self) -> bool:
        """Return whether the prediction is correct."""
        return self.label == self.predicted


@frozen(kw_only=True)
class ComparedRun:
    """What is compared of a finished run.

    Attributes:
        name: Its folder.
        settings: Every key of its experiment by path, such as `fit.epochs`, as JSON.
        split: The split it was evaluated on.
        scores: Its scores on that split.
        history: Its epochs.
        answers: Its prediction for each image of that split, by the image's SHA-256.
        trained_on: The SHA-256 of each training image.
        stand_in: The synthetic dataset it was trained on; empty for real data.
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
        values: Its value in each run as JSON; a hyphen where a run has no such key.
    """

    key: str
    values: tuple[str, ...]


@frozen(kw_only=True)
class Paired:
    """Two runs on the images that both were evaluated on.

    Attributes:
        images: Number of these images.
        only_first: How many of them only the first run classifies correctly.
        only_second: How many only the second does.
        difference: The second run's accuracy on them minus the first's.
        interval: Its 95 % interval by a paired bootstrap; None where resampling says nothing.
        unit: What was resampled: `image` or `patient`.
        p: The two-sided p-value of McNemar's exact test: the probability of a difference at least
            this large if both were equally good.
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
    """Read a finished run's folder. Runs nothing in it."""
    run = read_record(RunFolder(path))
    examples = {example.path: example for example in run.manifest[run.split]}
    return ComparedRun(
        name=str(path),
        settings=flatten({k: v for k, v in run.experiment.table.items() if k not in NOT_SETTINGS}),
        split=run.split,
        scores=run.scores,
        history=run.history,
        answers={
            examples[answer.path].sha256: Answer(
                answer.label, answer.predicted, examples[answer.path].patient
            )
            for answer in run.judged
        },
        trained_on=frozenset(example.sha256 for example in run.manifest["train"]),
        stand_in=run.stand_in,
    )


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested table's values by key path, as JSON; an empty table has none.

    >>> flatten({"fit": {"epochs": 3}, "seed": 0, "none": {}})
    {'fit.epochs': '3', 'seed': '0'}
    """
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):  # phases
            flat |= flatten({f"{key}[{place}]": each for place, each in enumerate(value)}, prefix)
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat


def marks(runs: Sequence[ComparedRun]) -> list[str]:
    """Return how runs are called in tables and notes: `[1]`, `[2]`, …."""
    return [f"[{number}]" for number in range(1, len(runs) + 1)]


def differences(runs: Sequence[ComparedRun]) -> tuple[Difference, ...]:
    """Return the keys whose values differ between the runs, in the experiments' order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key, ABSENT) for run in runs) for key in keys}
    return tuple(Difference(key, of_key) for key, of_key in values.items() if len({*of_key}) > 1)


def metric_table(runs: Sequence[ComparedRun]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each metric's name, and its value with its interval in each run.

    Metrics of a class that a run does not have are hyphens there.
    """
    rows = [
        (title, tuple(_metric(run.scores, name) for run in runs)) for name, title in OVERALL.items()
    ]
    for label in dict.fromkeys(name for run in runs for name in run.scores.classes):
        rows += [
            (
                f"{label} {PER_CLASS[name]}",
                tuple(_metric(run.scores.per_class.get(label), name) for run in runs),
            )
            for name in ("precision", "recall")
        ]
    return rows


def _metric(scores: Scores | ClassScores | None, name: str) -> str:
    if scores is None:
        return ABSENT
    return format_share(getattr(scores, name), scores.intervals.get(name), name in PERCENT)


def paired(first: ComparedRun, second: ComparedRun) -> Paired | None:
    """Compare two runs on the images that both were evaluated on; None if there are none.

    Images are the same if their files are identical and have the same label in both runs.
    """
    both = [
        (answer, second.answers[key])
        for key, answer in first.answers.items()
        if key in second.answers and second.answers[key].label == answer.label
    ]
    return paired_answers(both) if both else None


def paired_answers(both: Sequence[tuple[Answer, Answer]]) -> Paired:
    """Compare two classifiers by their answers on the same images, at least one."""
    gains = np.array([theirs.correct - ours.correct for ours, theirs in both], float)
    only_first, only_second = int((gains < 0).sum()), int((gains > 0).sum())
    patients = [answer.patient for answer, _ in both]
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


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 if both are always right together.

    Args:
        only_first: Number of images that only the first classifier gets right.
        only_second: Number of images that only the second gets right.
    """
    from scipy.stats import binomtest  # slow to import

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def pair_rows(pairs: Sequence[Paired | None]) -> list[list[str]]:
    """Return a row for each run after the first, under `PAIR_HEAD`."""
    return [
        [
            f"[{number}] against [1]",
            *(["0", *[ABSENT] * (len(PAIR_HEAD) - 2)] if pair is None else _pair_row(pair)),
        ]
        for number, pair in enumerate(pairs, start=2)
    ]


def _pair_row(pair: Paired) -> list[str]:
    return [
        str(pair.images),
        *points(pair),
        str(pair.only_second),
        str(pair.only_first),
        p_text(pair.p),
        pair.verdict,
    ]


def points(pair: Paired) -> tuple[str, str]:
    """Return the difference in accuracy in percentage points, and its interval.

    >>> interval = Interval(-0.02, 0.06, "bootstrap", 50)
    >>> points(Paired(images=50, only_first=1, only_second=2, difference=0.02, interval=interval,
    ...               unit="image", p=1.0))
    ('+2.0', '-2.0 to +6.0')
    """
    interval = pair.interval
    ends = f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}" if interval else ABSENT
    return f"{100 * pair.difference:+.1f}", ends


def notes(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Return what must be known before the runs are compared."""
    texts = []
    first = runs[0]
    for number, run in enumerate(runs, start=1):
        if run.stand_in:
            texts.append(f"[{number}] was trained on synthetic images ({run.stand_in})")
        if set(run.scores.classes) != set(first.scores.classes):
            texts.append(f"[{number}] has other classes than [1]")
        if run.split != first.split:
            texts.append(f"[{number}] was evaluated on {run.split}, [1] on {first.split}")
        shared = len(run.answers.keys() & first.answers.keys())
        if shared < max(len(run.answers), len(first.answers)):
            texts.append(
                f"[{number}] and [1] share {shared} test images, of {len(run.answers)} and "
                f"{len(first.answers)}"
            )
        for other_number, other in enumerate(runs, start=1):
            leaked = len(run.trained_on & other.answers.keys())
            if run is not other and leaked:
                texts.append(
                    f"[{number}] was trained on {leaked} of the images that [{other_number}] was "
                    "evaluated on"
                )
    if len(runs) > 2:
        texts.append(f"p-values are not corrected for {len(runs) - 1} comparisons")
    return tuple(texts)


@frozen
class Comparison:
    """Finished runs next to each other.

    Attributes:
        runs: What is compared of each.
        pairs: Each run against the first, from the second on; None if no image is in both.
    """

    runs: tuple[ComparedRun, ...]
    pairs: tuple[Paired | None, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what must be known before the runs are compared."""
        return notes(self.runs)

    @property
    def differences(self) -> dict[str, tuple[str, ...]]:
        """Return the settings that differ: each run's value as JSON, by the key's path."""
        return {each.key: each.values for each in differences(self.runs)}

    def __repr__(self) -> str:
        names = few_names([run.name for run in self.runs])
        verdicts = ", ".join(
            pair.verdict if pair else "no common images" for pair in self.pairs[:4]
        )
        return f"Comparison({len(self.runs)} runs: {names}; against the first: {verdicts})"

    def __str__(self) -> str:
        return "\n\n".join(
            [
                "\n".join(
                    f"{mark} {printable(run.name)}"
                    for mark, run in zip(marks(self.runs), self.runs, strict=True)
                ),
                *(table(head, rows) if rows else "all settings are the same"
                  for head, rows in self._tables()),
            ]
        )  # fmt: skip

    def _repr_html_(self) -> str:
        runs = [*zip(marks(self.runs), (run.name for run in self.runs), strict=True)]
        blocks = [html_table(["", "run"], runs)]
        blocks += [html_table(["before you compare"], [[note] for note in self.notes])]
        tables = [html_table(head, rows) for head, rows in self._tables() if rows]
        return face(f"{len(self.runs)} runs compared", *blocks[: 1 + bool(self.notes)], *tables)

    def _tables(self) -> list[tuple[Sequence[str], list[list[str]]]]:
        columns = marks(self.runs)
        splits = " and ".join(dict.fromkeys(run.split for run in self.runs))
        metrics = [["images", *(str(run.scores.images) for run in self.runs)]]
        metrics += [[title, *values] for title, values in metric_table(self.runs)]
        settings = [[key, *map(_shortened, values)] for key, values in self.differences.items()]
        return [
            (["settings that differ", *columns], settings),
            (PAIR_HEAD, pair_rows(self.pairs)),
            ([f"on {splits}, with 95 % intervals", *columns], metrics),
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per run and metric as a pandas DataFrame.

        Raises:
            ResourceError: If pandas is not installed.
        """
        return data_frame(
            {"run": run.name, **row} for run in self.runs for row in run.scores.records()
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "runs": [{"run": run.name, run.split: run.scores.as_json()} for run in self.runs],
            "notes": self.notes,
            "differences": [asdict(difference) for difference in differences(self.runs)],
            "against_first": [pair and asdict(pair) for pair in self.pairs],
        }

    def write(self, path: str | Path) -> None:
        """Write the comparison as a page that needs no other file; create its folder if needed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.page())

    def page(self) -> str:
        """Return the comparison as a page that needs no other file."""
        return comparison_page(self.runs, self.pairs)


def compare(*folders: str | Path) -> Comparison:
    """Compare finished runs with the first of them, on the images that both were evaluated on.

    Args:
        folders: Two run folders or more.

    Raises:
        RunFolderError: If one is not the folder of a finished run.
        ValueError: If there are fewer than two.
    """
    if len(folders) < 2:
        raise ValueError(f"compare: needs two runs or more, got {len(folders)}")
    runs = tuple(read_run(Path(folder)) for folder in folders)
    return Comparison(runs, tuple(paired(runs[0], run) for run in runs[1:]))


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def comparison_page(runs: Sequence[ComparedRun], pairs: Sequence[Paired | None]) -> str:
    """Return the comparison as a page that needs no other file."""
    histories = {mark: run.history for mark, run in zip(marks(runs), runs, strict=True)}
    names = [f"{mark} {run.name}" for mark, run in zip(marks(runs), runs, strict=True)]
    return page(
        "compare.html.j2",
        title=f"{len(runs)} runs compared",
        runs=runs,
        marks=marks(runs),
        notes=notes(runs),
        differences=differences(runs),
        metrics=metric_table(runs),
        splits=" and ".join(dict.fromkeys(run.split for run in runs)),
        pair_head=PAIR_HEAD,
        pairs=pair_rows(pairs),
        run_names=names[:MAX_LINES],
        learning=comparison_charts(histories) if all(histories.values()) else [],
    )
