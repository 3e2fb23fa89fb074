"""The result of `tlkit probe`, networks ranked by accuracy, as JSON, text and a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.metrics.scores import Scores
from tlkit.reports.compare import PAIR_HEAD, pair_rows
from tlkit.reports.console import table
from tlkit.reports.page import page
from tlkit.reports.svg import interval_plot
from tlkit.system.notebook import command
from tlkit.system.text import printable

if TYPE_CHECKING:
    from tlkit.reports.compare import Paired


@frozen(kw_only=True)
class ProbedBackbone:
    """A backbone and how well a linear classifier on its features did.

    Attributes:
        name: Its registered name; of a joined one, its members'.
        source: The source of its weights.
        table: The `[backbone]` table that chooses it; its paths are relative to the result's
            folder.
        image_size: Height and width of its input, in pixels.
        params: The number of its parameters.
        features: The number of pooled features per image.
        ms_per_image: Milliseconds per image through the network, without decoding.
        scores: Scores of the predictions of all folds together, with 95 % intervals.
        l2: The strength of regularization chosen in each fold.
        answers: Each image's predicted class.
        probabilities: Each image's probabilities, in the order of the classes.
    """

    name: str
    source: str
    table: Mapping[str, Any] = field(repr=False)
    image_size: int
    params: int
    features: int
    ms_per_image: float
    scores: Scores = field(repr=False)
    l2: tuple[float, ...]
    answers: tuple[str, ...] = field(repr=False)
    probabilities: tuple[tuple[float, ...], ...] = field(repr=False)

    @property
    def label(self) -> str:
        """Return its name, with the source if that is not `imagenet`."""
        usual = set(self.source.split(" + ")) == {"imagenet"}
        return self.name if usual else f"{self.name} ({self.source})"

    @property
    def rank(self) -> tuple[float, float]:
        """Return what backbones are sorted by: accuracy, then log loss."""
        return -self.scores.accuracy, self.scores.log_loss or 0.0


@frozen(kw_only=True)
class ProbeResult:
    """Backbones ranked by a linear probe.

    Attributes:
        folder: Where everything was written.
        data: The folder or CSV file.
        classes: The classes' names.
        images: The number of images in the folds.
        groups: The number of groups that were kept together: one patient, or copies of a picture.
        folds: The number of folds.
        seed: The seed of the folds.
        notes: What else is worth knowing.
        backbones: The backbones, the best first.
        against_best: Each other backbone's comparison with the best, in the same order.
        experiment: The experiment file with the best backbone.
        patient: The regular expression that found patients in file names, if there was one.
    """

    folder: Path
    data: Path
    classes: tuple[str, ...]
    images: int
    groups: int
    folds: int
    seed: int
    notes: tuple[str, ...] = ()
    backbones: tuple[ProbedBackbone, ...]
    against_best: tuple[Paired, ...]
    experiment: Path
    patient: str | None = None

    @property
    def best(self) -> ProbedBackbone:
        """Return the backbone with the highest accuracy."""
        return self.backbones[0]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `probe.json`."""
        return {
            "data": str(self.data),
            "classes": list(self.classes),
            "images": self.images,
            "groups": self.groups,
            "folds": self.folds,
            "seed": self.seed,
            "patient": self.patient,
            "notes": list(self.notes),
            "backbones": [_backbone_json(backbone) for backbone in self.backbones],
            "against_best": [attrs.asdict(pair) for pair in self.against_best],
        }


def _backbone_json(backbone: ProbedBackbone) -> dict[str, Any]:
    names = ("name", "source", "image_size", "params", "features", "ms_per_image")
    return {
        **{name: getattr(backbone, name) for name in names},
        "backbone": dict(backbone.table),
        "l2": list(backbone.l2),
        **backbone.scores.as_json(),
    }


def prediction_rows(
    result: ProbeResult, paths: Sequence[str], labels: Sequence[str], fold_of: Sequence[int]
) -> list[list[Any]]:
    """Return a row per backbone and image for `predictions.csv`."""
    return [
        [backbone.label, path, label, fold, answer, *map(repr, probabilities)]
        for backbone in result.backbones
        for path, label, fold, answer, probabilities in zip(
            paths, labels, fold_of, backbone.answers, backbone.probabilities, strict=True
        )
    ]


HEAD = ("", "accuracy", "95 %", "balanced", "95 %", "ms per image", "px", "parameters")
MAX_CLASSES = 12  # classes whose recall the page shows


def probe_text(result: ProbeResult) -> str:
    """Return the ranking and the comparison with the best, for a terminal."""
    rows = [
        [f"[{number}] {one.label}", *_cells(one)]
        for number, one in enumerate(result.backbones, start=1)
    ]
    blocks = [table(HEAD, rows)]
    if result.against_best:
        blocks.append(table(PAIR_HEAD, pair_rows(result.against_best)))
    if texts := [f"! {printable(text)}" for text in cautions(result)]:
        blocks.append("\n".join(texts))
    return "\n\n".join(blocks)


def _cells(one: ProbedBackbone) -> list[str]:
    scores = one.scores
    return [
        format_value(scores.accuracy),
        format_interval(scores.intervals["accuracy"]),
        format_value(scores.balanced_accuracy),
        format_interval(scores.intervals["balanced_accuracy"]),
        f"{one.ms_per_image:.1f}",
        str(one.image_size),
        f"{one.params / 1e6:.1f} M",
    ]


def cautions(result: ProbeResult) -> Iterator[str]:
    """Yield what a reader should know before choosing."""
    if len(result.backbones) > 1:
        yield ("the best of several looks better than it is, because it was chosen on these images")
    if len(result.backbones) > 2:
        yield f"p-values are not corrected for {len(result.backbones) - 1} comparisons"


def probe_page(result: ProbeResult) -> str:
    """Return the page."""
    images = f"{result.images:,} images in {result.groups:,} groups"
    classes = result.classes[:MAX_CLASSES]
    return page(
        "probe.html.j2",
        title=f"{result.data.name}: {len(result.backbones)} networks probed",
        name=result.data.name,
        lead=f"{images}, {len(result.classes)} classes, {result.folds} folds, seed {result.seed}",
        cautions=[f"{text[:1].upper()}{text[1:]}." for text in cautions(result)],
        notes=[f"{text[:1].upper()}{text[1:]}." for text in result.notes],
        rows=[_row(number, one) for number, one in enumerate(result.backbones, start=1)],
        unit="patient" if _by_patient(result.best.scores) else "image",
        pair_head=PAIR_HEAD,
        pairs=pair_rows(result.against_best),
        classes=classes,
        more_classes=len(result.classes) - len(classes),
        recalls=[
            (one.label, [_recall(one.scores, name) for name in classes]) for one in result.backbones
        ],
        command=command("run", result.experiment),
    )


def _row(number: int, one: ProbedBackbone) -> dict[str, Any]:
    scores = one.scores
    return {
        "number": number,
        "label": one.name,
        "source": one.source,
        "accuracy": scores.accuracy,
        "ends": scores.intervals["accuracy"],
        "plot": interval_plot(scores.accuracy, scores.intervals["accuracy"]),
        "balanced": scores.balanced_accuracy,
        "balanced_ends": scores.intervals["balanced_accuracy"],
        "ms": f"{one.ms_per_image:.1f}",
        "px": one.image_size,
        "params": f"{one.params / 1e6:.1f} M",
        "features": f"{one.features:,}",
        "l2": ", ".join(f"{l2:.2g}" for l2 in sorted(set(one.l2), reverse=True)),
    }


def _recall(scores: Scores, name: str) -> str:
    own = scores.per_class[name]
    return f"{format_value(own.recall)} ({format_interval(own.intervals['recall'])})"


def _by_patient(scores: Scores) -> bool:
    return scores.resampling is not None and scores.resampling.unit == "patient"
