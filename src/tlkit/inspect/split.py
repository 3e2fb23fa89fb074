"""Splits without leakage: images of one patient and duplicates stay together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from tlkit.data.holdout import assign, check_every_class, separate_groups
from tlkit.data.leakage import same_patient
from tlkit.data.manifest import COLUMNS
from tlkit.data.sources import LabeledImages, read_labeled
from tlkit.data.splits import SPLITS
from tlkit.inspect.fingerprints import (
    NEAR_BITS,
    Duplicates,
    ImageFacts,
    all_image_facts,
    find_duplicates,
)
from tlkit.system.errors import DataError
from tlkit.system.files import exists, is_dir, write_text
from tlkit.system.notebook import choose_another
from tlkit.system.text import csv_table, first_lines


@frozen(kw_only=True)
class SplitResult:
    """The result of a split.

    Attributes:
        counts: Images per class, by split.
        target: The same if every share were met exactly.
        groups: The number of groups that were kept together: one patient, or duplicates.
        without_patient: The number of images without a patient; only duplicates tie these together.
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
    root: str | Path | None = None,
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> SplitResult:
    """Write a manifest whose splits share no patient and no duplicates.

    Each class has about the same share in every split. The dataset `folder` draws the same splits
    for the same shares and seed.

    Args:
        path: The folder or CSV file; see `inspect_data`. Existing splits are not kept.
        out: The CSV file; must not exist, and be in the images' folder or above it.
        val: The share of validation images.
        test: The share of test images; 0 for none.
        seed: The seed of the draw.
        root: The folder that the paths in a CSV file are relative to; None: the file's own.
        patient: See `inspect_data`.
        near_bits: See `inspect_data`.
        on_image: Called with the number of images done and of all images.

    Raises:
        DataError: If images cannot be read, the same picture has two labels, a class has too few
            separate images, or the file cannot be written.
    """
    path, out = Path(path), Path(out)
    if not (val > 0 and test >= 0 and val + test < 1):
        raise DataError(f"val, test: must be shares that leave some to train, got {val} and {test}")
    if exists(out):
        raise DataError(f"{out}: exists; {choose_another()}")
    if not is_dir(out.parent):
        raise DataError(f"{out.parent}: there is no such folder")
    labeled = read_labeled(path, patient, root)
    top = labeled.root.path
    below = os.path.relpath(top, out.parent)
    if below.startswith(os.pardir):
        raise DataError(f"{out}: must be in {top} or above it; paths go down from it")
    images, broken = all_image_facts(labeled, on_image)
    if problems := [*labeled.problems, *broken]:
        head = f"{path}: {len(problems)} cannot be used"
        raise DataError("\n".join([head, *first_lines(problems)]))
    duplicates = find_duplicates(images, near_bits)
    _check_labels(images, duplicates)
    groups, _ = separate_groups([one.image for one in images], _contents(images, duplicates))
    labels = [one.image.label for one in images]
    names = [str(("file", one.sha256)) for one in images]
    splits = assign(labels, groups, names, {"val": val, "test": test}, seed)
    check_every_class(labels, splits)
    write_text(out, _manifest(images, splits, "" if below == os.curdir else f"{below}/"))
    shares = {"train": 1 - val - test, "val": val, "test": test}
    return _result(labeled, groups, splits, shares)


def _result(
    labeled: LabeledImages,
    groups: Sequence[int],
    splits: Sequence[str],
    shares: Mapping[str, float],
) -> SplitResult:
    labels = [image.label for image in labeled.images]
    counted, total = Counter(zip(splits, labels, strict=True)), Counter(labels)
    kept, classes = [split for split in SPLITS if shares[split]], labeled.classes
    had_splits = any(image.split for image in labeled.images)
    notes = ("the splits that the data had are not kept",) if had_splits else ()
    return SplitResult(
        counts={split: {name: counted[split, name] for name in classes} for split in kept},
        target={split: {name: shares[split] * total[name] for name in classes} for split in kept},
        groups=len(set(groups)),
        without_patient=sum(not same_patient(image.patient) for image in labeled.images),
        notes=(*labeled.notes, *notes),
    )


def _contents(images: Sequence[ImageFacts], duplicates: Duplicates) -> list[list[Hashable]]:
    """Return what each image shares with its copies; see `tlkit.data.folds.contents_of`."""
    keys: list[list[Hashable]] = [[("file", one.sha256), ("pixels", one.pixels)] for one in images]
    for pair in duplicates.pairs:
        if pair.kind == "near":
            for index in (pair.one, pair.other):
                keys[index].append(("near", pair.one, pair.other))
    return keys


def _check_labels(images: Sequence[ImageFacts], duplicates: Duplicates) -> None:
    wrong = [
        f"{one.where} ({one.label}) and {other.where} ({other.label})"
        for pair in duplicates.pairs
        for one, other in [(images[pair.one].image, images[pair.other].image)]
        if pair.kind != "near" and one.label != other.label
    ]
    if wrong:
        raise DataError("\n".join(["the same picture must have one label", *first_lines(wrong)]))


def _manifest(images: Sequence[ImageFacts], splits: Sequence[str], below: str) -> str:
    rows = []
    for facts, split in zip(images, splits, strict=True):
        image = facts.image
        known = (image.patient, image.source, image.view, facts.sha256)
        rows.append([below + image.path, image.label, split, *known])
    return csv_table(COLUMNS, rows)
