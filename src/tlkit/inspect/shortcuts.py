"""What betrays the label without any medicine: the source, the size, the file, the border.

Each is given alone to a small model, extremely randomised trees, and the label is predicted for
images that the model has not seen, by cross-validation over groups of one patient or alike. Where
that succeeds, a network can learn the same, and its score says little about the disease: DeGrave
et al., Nature Machine Intelligence 2021; Maguolo & Nanni, Information Fusion 2021.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.inspect.fingerprints import THUMB_SIDE, ImageFacts

FOLDS = 5
TREES = 200
RESAMPLES = 200
STRONG, SOME = 0.8, 0.6  # the interval's lower end from which a verdict is given; 0.5 is chance
BORDER = 0.1  # the share of each side that is border: 28 % to 36 % of the picture
MOST = 4000  # images that are measured, shared out evenly to the classes; more take minutes
SIDE = 16  # small pictures for the small model

Table = npt.NDArray[np.float32]


@frozen(kw_only=True)
class Shortcut:
    """How well the label can be told from one thing.

    Attributes:
        what: From what.
        auc: Area under the ROC curve, one class against the others, mean over the classes; 0.5 is
            chance and 1 is certain. None if it could not be measured.
        low: The lower end of the 95 % interval, from a bootstrap over the images.
        high: Its upper end.
        verdict: `strong`, `some` or `none`, by the lower end; `not measured` with the reason.
        control: Whether it is a measure to compare with and no shortcut by itself.
    """

    what: str
    auc: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = "none"
    control: bool = False


def find_shortcuts(
    looks: Sequence[ImageFacts], groups: Sequence[int], mask_center: float = 0.6, seed: int = 0
) -> list[Shortcut]:
    """Measure how well source, size, file, border and a covered picture tell the label.

    Args:
        looks: The images.
        groups: A number for each; images of one number are never learnt from and judged by both.
        mask_center: The share of each side that is blacked out in the control.
        seed: Of folds, trees and bootstrap.
    """
    chosen = evenly([look.image.label for look in looks], seed)
    looks, groups = [looks[n] for n in chosen], [groups[n] for n in chosen]
    labels = np.array([look.image.label for look in looks])
    tables = _tables(looks, mask_center)
    controls = {f"picture, centre {mask_center:.0%} black", "whole picture"}
    found = []
    for what, table in tables.items():
        control = what in controls
        known = what != "source" or any(look.image.source for look in looks)
        if reason := _unusable(table, labels, groups) if known else "not measured: is not known":
            found.append(Shortcut(what=what, auc=None, verdict=reason, control=control))
            continue
        auc, low, high = _auc(table, labels, np.array(groups), seed)
        verdict = "strong" if low >= STRONG else "some" if low >= SOME else "none"
        found.append(
            Shortcut(what=what, auc=auc, low=low, high=high, verdict=verdict, control=control)
        )
    return found


def evenly(labels: Sequence[str], seed: int) -> list[int]:
    """Return the places to measure, sorted: all, or of each class as many as all may have."""
    names = sorted(set(labels))
    each = MOST // max(1, len(names))
    if len(labels) <= MOST:
        return list(range(len(labels)))
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    of_class = ([place for place in order if labels[place] == name] for name in names)
    return sorted(place for places in of_class for place in places[:each])


def _tables(looks: Sequence[ImageFacts], mask_center: float) -> Mapping[str, Table]:
    """Return the numbers that each small model sees: one row an image."""
    thumbs = np.stack([look.thumb for look in looks])
    size = [[x.width, x.height, x.width / x.height, x.width * x.height] for x in looks]
    kinds = [f"{look.format} {look.mode}" for look in looks]
    density = [[look.bytes, look.bytes / (look.width * look.height)] for look in looks]
    return {
        "source": _one_hot([look.image.source for look in looks]),
        "size": np.array(size, np.float32),
        "file": np.hstack([_one_hot(kinds), np.array(density, np.float32)]),
        "border": _small(thumbs)[:, ~_inner(1 - 2 * BORDER, SIDE)],
        f"picture, centre {mask_center:.0%} black": _small(
            np.where(_inner(mask_center, THUMB_SIDE), 0, thumbs)
        ).reshape(len(looks), -1),
        "whole picture": _small(thumbs).reshape(len(looks), -1),
    }


def _small(thumbs: npt.NDArray[Any]) -> Table:
    """Return the small pictures smaller still, by means over squares: `(n, 16, 16)`."""
    step = THUMB_SIDE // SIDE
    small: Table = thumbs.reshape(-1, SIDE, step, SIDE, step).mean((2, 4), dtype=np.float32)
    return small


def _inner(share: float, side: int) -> npt.NDArray[np.bool_]:
    """Return which pixels are in the centred square of a share of each side: `(side, side)`."""
    edge = round(side * (1 - share) / 2)
    inside = np.zeros((side, side), bool)
    inside[edge : side - edge, edge : side - edge] = True
    return inside


def _one_hot(values: Sequence[str]) -> Table:
    known = sorted(set(values))
    return np.array([[value == name for name in known] for value in values], np.float32)


def _unusable(table: Table, labels: npt.NDArray[Any], groups: Sequence[int]) -> str:
    if (table == table[0]).all():
        return "not measured: the same for all images"
    per_class = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    if len(per_class) < 2:
        return "not measured: there is one class"
    if min(per_class.values()) < FOLDS:
        least = min(per_class, key=lambda label: per_class[label])
        return f"not measured: {least!r} has fewer than {FOLDS} separate images"
    return ""


def _auc(
    table: Table, labels: npt.NDArray[Any], groups: npt.NDArray[Any], seed: int
) -> tuple[float, float, float]:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    model = ExtraTreesClassifier(
        TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A fold without a class, where patients are few: that class counts as not predicted there.
        warnings.simplefilter("ignore")
        scores = cross_val_predict(
            model, table, labels, groups=groups, cv=folds, method="predict_proba"
        )
    draw = np.random.default_rng(seed)
    drawn = [
        _macro_auc(labels[chosen], scores[chosen], np.unique(labels))
        for chosen in (draw.integers(0, len(labels), len(labels)) for _ in range(RESAMPLES))
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return _macro_auc(labels, scores, np.unique(labels)), float(low), float(high)


def _macro_auc(
    labels: npt.NDArray[Any], scores: npt.NDArray[Any], classes: npt.NDArray[Any]
) -> float:
    """Return the mean area under the curves, one class against the others.

    The area is the share of pairs in the right order (Mann & Whitney), ties counting half.
    """
    from scipy.stats import rankdata

    areas = []
    for column, name in enumerate(classes):
        is_it = labels == name
        inside, outside = int(is_it.sum()), int((~is_it).sum())
        if inside and outside:
            ranks = rankdata(scores[:, column])[is_it].sum()
            areas.append((ranks - inside * (inside + 1) / 2) / (inside * outside))
    return float(np.mean(areas)) if areas else float("nan")
