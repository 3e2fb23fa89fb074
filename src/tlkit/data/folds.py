"""Other splits of the same images: cross-validation's folds, and smaller training sets.

Images of one patient stay together, and so do copies of one file: whoever learns from one of them
is not to be judged by the other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from attrs import evolve

from tlkit.data.splits import Example, Splits
from tlkit.parts.kinds import Dataset
from tlkit.system.errors import ConfigError, DataError, Problem

INNER_FOLDS = 10  # `val` is a tenth of what is not held out, or more where a class is smaller


def resplit(dataset: Dataset, splits: Splits) -> Splits:
    """Return the splits that a dataset's keys `folds`, `fold` and `max_per_class` ask for.

    Raises:
        ConfigError: If the keys do not fit each other.
        DataError: If there are too few images.
    """
    _check_keys(dataset)
    if dataset.folds is not None and dataset.fold is not None:
        splits = fold_of(splits, dataset.folds, dataset.fold, dataset.split_seed)
    if dataset.max_per_class is not None:
        splits = subset(splits, dataset.max_per_class, dataset.split_seed)
    return splits


def _check_keys(dataset: Dataset) -> None:
    message = ""
    if dataset.folds is None and dataset.fold is not None:
        message = "is one of data.folds; set that too"
    elif dataset.folds is not None and dataset.fold is None:
        message = f"missing; set it, 1 to {dataset.folds}, or run them all with tlkit sweep"
    elif dataset.folds is not None and dataset.fold is not None and dataset.fold > dataset.folds:
        message = f"must be from 1 to data.folds = {dataset.folds}, got {dataset.fold}"
    elif dataset.split_seed and dataset.folds is None and dataset.max_per_class is None:
        message = "draws data.folds and data.max_per_class; set one of them"
        raise ConfigError([Problem("data.split_seed", message)])
    if message:
        raise ConfigError([Problem("data.fold", message)])


def fold_of(splits: Splits, folds: int, fold: int, seed: int) -> Splits:
    """Hold out one fold of `train` and `val` together as `test`; `val` is a tenth of the rest.

    A test split of the data's own is put aside. The folds are stratified by class.

    Args:
        splits: The data's own splits.
        folds: How many folds there are.
        fold: Which is held out, from 1.
        seed: What the folds depend on.

    Raises:
        DataError: If a class has too few images that do not belong together.
    """
    pooled = splits.train + splits.val
    groups = groups_of(pooled, [_content(splits, example) for example in pooled])
    labels = splits.labels(pooled)
    least, rarest = _least(labels, groups)
    if least < max(folds, 3):
        raise DataError(
            f"data.folds: {folds} folds need {max(folds, 3)} different images or patients of each "
            f"class, got {least} of {splits.classes[rarest]!r}"
        )
    held_out = _folds(labels, groups, folds, seed)[fold - 1]
    rest = [number for number in range(len(pooled)) if number not in held_out]
    rest_labels, rest_groups = [labels[n] for n in rest], [groups[n] for n in rest]
    inner = min(INNER_FOLDS, _least(rest_labels, rest_groups)[0])
    watched = {rest[n] for n in _folds(rest_labels, rest_groups, max(inner, 2), seed)[0]}
    try:
        return evolve(
            splits,
            train=tuple(pooled[n] for n in rest if n not in watched),
            val=tuple(pooled[n] for n in rest if n in watched),
            test=tuple(pooled[n] for n in sorted(held_out)),
            notes=(*splits.notes, *_notes(splits, pooled, groups)),
        )
    except DataError as error:
        raise DataError(f"fold {fold} of {folds}: {error}") from None


def _notes(splits: Splits, pooled: Sequence[Example], groups: Sequence[int]) -> Iterator[str]:
    """Yield what all folds have in common."""
    unknown = sum(not example.patient for example in pooled)
    disjoint = "patients and copies of a file are each in one fold only"
    if unknown:
        disjoint = (
            f"copies of a file are in one fold only; the patient of {unknown} is not known, so two "
            "pictures of one patient may be in different folds"
        )
    yield (
        f"test is one fold of train and val together, {len(pooled)} images in "
        f"{len(set(groups))} groups: {disjoint}"
    )
    if splits.test:
        yield f"the data's own test split of {len(splits.test)} images is put aside"


def _content(splits: Splits, example: Example) -> str:
    """Return the hash of an image file."""
    if example.sha256:
        return example.sha256
    try:
        return hashlib.sha256(splits.read(example.path)).hexdigest()
    except OSError as error:
        raise DataError(f"{splits.where(example.path)}: {error.strerror or error}") from None


def groups_of(examples: Sequence[Example], contents: Sequence[str]) -> list[int]:
    """Return a number for each image; those of one patient or of one content have the same.

    >>> images = [Example("1", "a", "p"), Example("2", "a", "p"), Example("3", "a"),
    ...           Example("4", "a")]
    >>> groups_of(images, ["x", "y", "y", "z"])
    [0, 0, 0, 3]
    """
    parent = list(range(len(examples)))

    def top(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, (example, content) in enumerate(zip(examples, contents, strict=True)):
        for what in (("patient", example.patient), ("content", content)):
            if what[1]:
                one, other = sorted((top(first.setdefault(what, number)), top(number)))
                parent[other] = one
    return [top(number) for number in range(len(examples))]


def _least(labels: Sequence[int], groups: Sequence[int]) -> tuple[int, int]:
    """Return how many groups the class with the fewest has, and its number."""
    pairs = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    return min((count, label) for label, count in pairs.items())


def _folds(labels: Sequence[int], groups: Sequence[int], folds: int, seed: int) -> list[set[int]]:
    """Return the numbers of the images in each fold: stratified, no group in two of them."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [set(map(int, held)) for _, held in splitter.split(labels, labels, groups)]


def subset(splits: Splits, max_per_class: int, seed: int) -> Splits:
    """Keep at most so many training images of each class.

    What is drawn for a smaller number is among what is drawn for a larger one.

    Args:
        splits: The splits.
        max_per_class: How many.
        seed: What the choice depends on.
    """

    def place(example: Example) -> str:
        return hashlib.sha256(f"{seed}/{example.path}".encode()).hexdigest()

    kept: set[str] = set()
    for name in splits.classes:
        of_class = [example for example in splits.train if example.label == name]
        kept |= {example.path for example in sorted(of_class, key=place)[:max_per_class]}
    train = tuple(example for example in splits.train if example.path in kept)
    most = f"at most {max_per_class} of each class"
    note = f"training images: {len(train)} of {len(splits.train)}, {most}"
    return evolve(splits, train=train, notes=(*splits.notes, note))
