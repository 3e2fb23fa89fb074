"""Splitting a data set so that nothing in one split is known from another."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from tlkit.data.sources import COLUMNS, collect
from tlkit.data.splits import SPLITS
from tlkit.inspect.duplicates import NEAR_BITS, Duplicates, find_duplicates, joined
from tlkit.inspect.fingerprints import ImageFacts, all_image_facts
from tlkit.system.errors import DataError
from tlkit.system.files import write_text

MOST_FOLDS = 20  # splits are made of whole folds, so shares are met to a twentieth
SHOWN = 10


@frozen(kw_only=True)
class SplitResult:
    """What a split gave.

    Attributes:
        counts: Images of each class by split.
        target: How many there would be if every share were met exactly.
        groups: How many groups of images were kept together: those of one patient or alike.
        without_patient: How many images have no patient, and are kept apart by likeness alone.
        notes: What else is worth knowing.
    """

    counts: Mapping[str, Mapping[str, int]]
    target: Mapping[str, Mapping[str, float]]
    groups: int
    without_patient: int
    notes: tuple[str, ...] = ()


def split_data(
    path: str | Path,
    out: str | Path,
    *,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> SplitResult:
    """Write a manifest with splits that share no patient and no two images that are alike.

    Each class has about the same share in every split (scikit-learn's StratifiedGroupKFold).

    Args:
        path: A folder with a folder a class, or a CSV file with columns `path, label` and, if
            known, `patient, source, view, sha256`. Splits that it has are not kept.
        out: The CSV file; must not exist, and lie in the images' folder or above it.
        val: The share of validation images.
        test: The share of test images; 0 gives none.
        seed: Draws another split.
        patient: A regular expression whose one group, found in an image's file name, is its
            patient; for data that do not say.
        near_bits: In how many of 256 bits the hashes of near-duplicates may differ.
        on_image: Told how many of how many are done.

    Raises:
        DataError: If images cannot be read, the same picture has two labels, a class has too few
            separate images, or the file cannot be written.
    """
    path, out = Path(path), Path(out)
    if not (val > 0 and test >= 0 and val + test < 1):
        raise DataError(f"val, test: must be shares that leave some to train, got {val} and {test}")
    if out.exists():
        raise DataError(f"{out}: exists; nothing is overwritten")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent}: there is no such folder")
    collection = collect(path, patient)
    below = os.path.relpath(collection.root, out.parent)
    if below.startswith(os.pardir):
        raise DataError(f"{out}: must lie in {collection.root} or above it; paths go down from it")
    looks, broken = all_image_facts(collection, on_image)
    if problems := [*collection.problems, *broken]:
        raise DataError(_listed(f"{path}: {len(problems)} cannot be used", problems))
    duplicates = find_duplicates(looks, near_bits)
    _check_labels(looks, duplicates)
    groups = joined(looks, duplicates)
    labels = [look.image.label for look in looks]
    splits = assign(labels, groups, {"val": val, "test": test}, seed)
    _check(labels, groups, splits)
    write_text(out, _manifest(looks, splits, "" if below == os.curdir else f"{below}/"))
    shares = {"train": 1 - val - test, "val": val, "test": test}
    return _result(collection.classes, looks, groups, splits, shares)


def _result(
    classes: Sequence[str],
    looks: Sequence[ImageFacts],
    groups: Sequence[int],
    splits: Sequence[str],
    shares: Mapping[str, float],
) -> SplitResult:
    """Return what a split gave, beside what was asked for."""
    labels = [look.image.label for look in looks]
    counted, total = Counter(zip(splits, labels, strict=True)), Counter(labels)
    kept = [split for split in SPLITS if shares[split]]
    had_splits = any(look.image.split for look in looks)
    return SplitResult(
        counts={split: {name: counted[split, name] for name in classes} for split in kept},
        target={split: {name: shares[split] * total[name] for name in classes} for split in kept},
        groups=len(set(groups)),
        without_patient=sum(not look.image.patient for look in looks),
        notes=("the splits that the data had are not kept",) if had_splits else (),
    )


def assign(
    labels: Sequence[str], groups: Sequence[int], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Return a split for each image; images of one group are in one split.

    Args:
        labels: The images' classes.
        groups: A number for each image.
        shares: The share of each split but `train`, which has the rest.
        seed: Draws another assignment.

    Raises:
        DataError: If a class has fewer groups than there are splits.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    wanted = {split: share for split, share in shares.items() if share}
    separate = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    least = min(separate, key=lambda label: separate[label])
    if separate[least] <= len(wanted):
        raise DataError(
            f"class {least!r}: {len(wanted) + 1} splits need as many separate images (of "
            f"other patients, not alike), got {separate[least]}"
        )
    folds, taken = _folds(list(wanted.values()), min(MOST_FOLDS, separate[least]))
    names = [split for split, count in zip(wanted, taken, strict=True) for _ in range(count)]
    names += ["train"] * (folds - len(names))
    found = ["train"] * len(labels)
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    places = np.zeros((len(labels), 1))
    for name, (_, fold) in zip(names, parts.split(places, labels, groups), strict=True):
        for place in fold:
            found[place] = name
    return found


def _folds(shares: Sequence[float], most: int) -> tuple[int, list[int]]:
    """Return how many folds there are to be and how many of them each share takes.

    >>> _folds([0.15, 0.15], 20), _folds([0.2], 20), _folds([0.15, 0.15], 4)
    ((20, [3, 3]), (20, [4]), (4, [1, 1]))
    """

    def taken(folds: int) -> list[int]:
        return [max(1, round(share * folds)) for share in shares]

    def miss(folds: int) -> float:
        return sum(abs(n / folds - s) for n, s in zip(taken(folds), shares, strict=True))

    possible = [folds for folds in range(most, 1, -1) if sum(taken(folds)) < folds]
    best = min(possible, key=lambda folds: round(miss(folds), 9))
    return best, taken(best)


def _check(labels: Sequence[str], groups: Sequence[int], splits: Sequence[str]) -> None:
    """Check what was promised: no group in two splits, every class in every split."""
    homes: dict[int, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        homes[group].add(split)
    assert all(len(home) == 1 for home in homes.values())
    for split in set(splits):
        there = {label for label, own in zip(labels, splits, strict=True) if own == split}
        if lacking := set(labels) - there:
            raise DataError(
                f"{split}: has no image of {min(lacking)!r}: its images are in too few groups of "
                "one patient or alike; another --seed or share may do"
            )


def _check_labels(looks: Sequence[ImageFacts], duplicates: Duplicates) -> None:
    wrong = [
        f"{one.where} ({one.label}) and {other.where} ({other.label})"
        for pair in duplicates.pairs
        for one, other in [(looks[pair.one].image, looks[pair.other].image)]
        if pair.kind != "near" and one.label != other.label
    ]
    if wrong:
        raise DataError(_listed("the same picture must have one label", wrong))


def _manifest(looks: Sequence[ImageFacts], splits: Sequence[str], below: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for look, split in zip(looks, splits, strict=True):
        image = look.image
        known = (image.patient, image.source, image.view, look.sha256)
        writer.writerow((below + image.path, image.label, split, *known))
    return buffer.getvalue()


def _listed(head: str, lines: Sequence[str]) -> str:
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([head, *lines[:SHOWN], *more])
