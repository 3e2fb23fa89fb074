"""The result of `tlkit probe`: networks ranked by their pooled accuracy over the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from tlkit.metrics.scores import Scores

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
