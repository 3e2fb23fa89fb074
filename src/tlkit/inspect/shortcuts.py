"""Shortcuts: how well source, size, format or border alone predict the label.

Each is given alone to a small model of extremely randomized trees, which predicts the labels of
images it has not seen, by cross-validation over groups of one patient or of duplicates. Where that
succeeds, a network can do the same, and its score says little about what the images show: DeGrave
et al., Nature Machine Intelligence 2021; Maguolo & Nanni, Information Fusion 2021.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, field, frozen

from tlkit.inspect.fingerprints import THUMB_SIDE, ImageFacts
from tlkit.system.parallel import available_cores, in_parallel

FOLDS = 5
TREES = 200
RESAMPLES = 200
STRONG, SOME = 0.8, 0.6  # verdicts, by the interval's lower end; 0.5 is chance
BORDER = 0.1  # the share of each side that is border: 28 % to 36 % of the picture
MOST = 4000  # images that are measured, equally many per class; more take minutes
SIDE = 16  # pixels of the pictures for the small model
WHOLE = "whole picture"

Table = npt.NDArray[np.float32]


@frozen
class ClassArea:
    """How well one property tells a class from the others.

    Attributes:
        auc: Area under the ROC curve; 0.5 is chance and 1 is certain.
        low: The lower end of the 95 % interval, from a bootstrap over patients where known.
        high: The upper end.
    """

    auc: float
    low: float
    high: float


@frozen(kw_only=True)
class Shortcut:
    """How well one property alone predicts the label.

    Attributes:
        what: The property.
        auc: The mean of the classes' areas under the ROC curve; None if it could not be measured.
        low: The lower end of its 95 % interval.
        high: The upper end.
        classes: The area of each class against the others.
        verdict: `strong`, `some` or `none`, by the lower ends of the mean and of each class, the
            highest counting; or `not measured` with the reason.
        control: Whether it is for comparison and not a shortcut by itself.
    """

    what: str
    auc: float | None
    low: float | None = None
    high: float | None = None
    classes: Mapping[str, ClassArea] = field(factory=dict)
    verdict: str = "none"
    control: bool = False

    @property
    def clearest(self) -> str:
        """Return the class that it tells best from the others; empty if nothing was measured."""
        return max(self.classes, key=lambda name: self.classes[name].low, default="")


def find_shortcuts(
    images: Sequence[ImageFacts], groups: Sequence[int], mask_center: float = 0.6, seed: int = 0
) -> list[Shortcut]:
    """Measure how well source, size, file, border and a masked picture predict the label."""
    chosen = evenly([one.image.label for one in images], seed)
    images, groups = [images[n] for n in chosen], [groups[n] for n in chosen]
    labels = np.array([one.image.label for one in images])
    controls = {_masked(mask_center), WHOLE}

    def measured(named: tuple[str, Table]) -> Shortcut:
        what, table = named
        reason = _unusable(table, labels, groups)
        if what == "source" and not any(one.image.source for one in images):
            reason = "not measured: is not known"
        shortcut = Shortcut(what=what, auc=None, verdict=reason, control=what in controls)
        if reason:
            return shortcut
        mean, classes = _areas(table, labels, np.array(groups), seed)
        low = max(area.low for area in (mean, *classes.values()))
        verdict = "strong" if low >= STRONG else "some" if low >= SOME else "none"
        return evolve(
            shortcut, auc=mean.auc, low=mean.low, high=mean.high, classes=classes, verdict=verdict
        )

    cores = available_cores()
    with warnings.catch_warnings():  # here, since threads share what is ignored
        # A fold may lack a class where patients are few, which then counts as not predicted; a
        # sample may lack one too, or all.
        warnings.simplefilter("ignore")
        return [*in_parallel(measured, _tables(images, mask_center).items(), cores, cores)]


def evenly(labels: Sequence[str], seed: int) -> list[int]:
    """Return the indices of the images to measure, sorted: all, or equally many per class."""
    names = sorted(set(labels))
    each = MOST // max(1, len(names))
    if len(labels) <= MOST:
        return list(range(len(labels)))
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    of_class = ([index for index in order if labels[index] == name] for name in names)
    return sorted(index for indices in of_class for index in indices[:each])


def _masked(mask_center: float) -> str:
    return f"picture, center {mask_center:.0%} black"


def _tables(images: Sequence[ImageFacts], mask_center: float) -> Mapping[str, Table]:
    """Return the numbers that each small model sees, one row per image."""
    thumbs = np.stack([one.thumb for one in images])
    size = [[x.width, x.height, x.width / x.height, x.width * x.height] for x in images]
    kinds = [f"{one.format} {one.mode}" for one in images]
    density = [[one.bytes, one.bytes / (one.width * one.height)] for one in images]
    masked = np.where(_inner(mask_center, THUMB_SIDE), 0, thumbs)
    return {
        "source": _one_hot([one.image.source for one in images]),
        "size": np.array(size, np.float32),
        "file": np.hstack([_one_hot(kinds), np.array(density, np.float32)]),
        "border": _small(thumbs)[:, ~_inner(1 - 2 * BORDER, SIDE)],
        _masked(mask_center): _small(masked).reshape(len(images), -1),
        WHOLE: _small(thumbs).reshape(len(images), -1),
    }


def _small(thumbs: npt.NDArray[Any]) -> Table:
    """Return thumbnails reduced further, by means over squares, `(n, 16, 16)`."""
    step = THUMB_SIDE // SIDE
    small: Table = thumbs.reshape(-1, SIDE, step, SIDE, step).mean((2, 4), dtype=np.float32)
    return small


def _inner(share: float, side: int) -> npt.NDArray[np.bool_]:
    """Return which pixels are in the centered square of a share of each side, `(side, side)`."""
    edge = round(side * (1 - share) / 2)
    inside = np.zeros((side, side), bool)
    inside[edge : side - edge, edge : side - edge] = True
    return inside


def _one_hot(values: Sequence[str]) -> Table:
    known = sorted(set(values))
    return np.array([[value == name for name in known] for value in values], np.float32)


def _unusable(table: Table, labels: npt.NDArray[Any], groups: Sequence[int]) -> str:
    """Return why nothing can be measured, or an empty string."""
    if (table == table[0]).all():
        return "not measured: the same for all images"
    per_class = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    if len(per_class) < 2:
        return "not measured: there is one class"
    if min(per_class.values()) < FOLDS:
        least = min(per_class, key=lambda label: per_class[label])
        return f"not measured: {least!r} has fewer than {FOLDS} separate images"
    return ""


def _areas(
    table: Table, labels: npt.NDArray[Any], groups: npt.NDArray[Any], seed: int
) -> tuple[ClassArea, dict[str, ClassArea]]:
    """Return the mean area and that of each class, of predictions for unseen images."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    model = ExtraTreesClassifier(
        TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(
        model, table, labels, groups=groups, cv=folds, method="predict_proba"
    )
    names = np.unique(labels)
    members = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]
    draw = np.random.default_rng(seed)
    drawn = np.stack([
        _class_areas(labels[chosen], scores[chosen], names)
        for chosen in (
            np.concatenate([members[n] for n in draw.integers(0, len(members), len(members))])
            for _ in range(RESAMPLES)
        )
    ])  # fmt: skip
    areas = _class_areas(labels, scores, names)
    means = np.nanmean(drawn, axis=1)
    classes = {str(n): _area(a, column) for n, a, column in zip(names, areas, drawn.T, strict=True)}
    return _area(np.nanmean(areas), means), classes


def _area(auc: Any, drawn: npt.NDArray[Any]) -> ClassArea:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return ClassArea(float(auc), float(low), float(high))


def _class_areas(
    labels: npt.NDArray[Any], scores: npt.NDArray[Any], classes: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return the area under each class's curve, against the others; NaN where undefined.

    The area is the share of pairs in the right order (Mann & Whitney), ties counting half.
    """
    from scipy.stats import rankdata

    areas = np.full(len(classes), np.nan)
    for column, name in enumerate(classes):
        positive = labels == name
        count, others = int(positive.sum()), int((~positive).sum())
        if count and others:
            ranks = rankdata(scores[:, column])[positive].sum()
            areas[column] = (ranks - count * (count + 1) / 2) / (count * others)
    return areas
