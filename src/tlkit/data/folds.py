"""Other splits of the same images: cross-validation folds and smaller training sets.

Images of one patient stay together, and so do copies of one picture: the same bytes, the same
pixels in another file, and near copies, such as a resized one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from attrs import evolve

from tlkit.data.leakage import linked, same_patient
from tlkit.data.splits import Example, Splits
from tlkit.system.cache import default_folder
from tlkit.system.errors import ConfigError, DataError, Problem
from tlkit.system.notebook import hint

INNER_FOLDS = 10  # `val` is a tenth of what is not held out, or more if a class is too small


def resplit(
    splits: Splits,
    *,
    folds: int | None = None,
    fold: int | None = None,
    max_per_class: int | None = None,
    seed: int = 0,
) -> Splits:
    """Return one fold of the images, a smaller training set, both, or the splits as they are."""
    _check_keys(folds, fold, max_per_class, 0 if splits.held_out else seed)
    if folds is not None and fold is not None:
        splits = fold_of(splits, folds, fold, seed)
    if max_per_class is not None:
        splits = subset(splits, max_per_class, seed)
    return splits


def _check_keys(folds: int | None, fold: int | None, max_per_class: int | None, seed: int) -> None:
    key, message = "data.fold", ""
    if folds is None and fold is not None:
        message = "is one of data.folds; set that too"
    elif folds is not None and fold is None:
        message = f"missing; set it, 1 to {folds}, or run them all with {hint('sweep', 'FILE')}"
    elif folds is not None and fold is not None and fold > folds:
        message = f"must be from 1 to data.folds = {folds}, got {fold}"
    elif seed and folds is None and max_per_class is None:
        key = "data.split_seed"
        message = "draws splits, folds and max_per_class, and these data have splits of their own"
    if message:
        raise ConfigError([Problem(key, message)])


def fold_of(splits: Splits, folds: int, fold: int, seed: int) -> Splits:
    """Hold out one fold of `train` and `val` together as `test`; `val` is a tenth of the rest.

    The folds are stratified by class. The data's own test split is put aside.
    """
    pooled = splits.train + splits.val

    def read(path: str) -> bytes:
        try:
            return splits.read(path)
        except OSError as error:
            raise DataError(f"{splits.where(path)}: {error.strerror or error}") from None

    groups = groups_of(pooled, contents_of(pooled, read))
    labels = splits.labels(pooled)
    smallest, rarest = fewest_groups(labels, groups)
    if smallest < max(folds, 3):
        raise DataError(
            f"data.folds: {folds} folds need {max(folds, 3)} different images or patients of each "
            f"class, got {smallest} of {splits.classes[rarest]!r}"
        )
    held_out = stratified_folds(labels, groups, folds, seed)[fold - 1]
    rest = [number for number in range(len(pooled)) if number not in held_out]
    rest_labels, rest_groups = [labels[n] for n in rest], [groups[n] for n in rest]
    inner = min(INNER_FOLDS, fewest_groups(rest_labels, rest_groups)[0])
    val = {rest[n] for n in stratified_folds(rest_labels, rest_groups, max(inner, 2), seed)[0]}
    try:
        return evolve(
            splits,
            train=tuple(pooled[n] for n in rest if n not in val),
            val=tuple(pooled[n] for n in rest if n in val),
            test=tuple(pooled[n] for n in sorted(held_out)),
            notes=(*splits.notes, *_notes(splits, pooled, groups)),
        )
    except DataError as error:
        raise DataError(f"fold {fold} of {folds}: {error}") from None


def _notes(splits: Splits, pooled: Sequence[Example], groups: Sequence[int]) -> Iterator[str]:
    """Yield what all folds have in common."""
    unknown = sum(not same_patient(example.patient) for example in pooled)
    disjoint = "patients and copies of a picture, also near ones, are each in one fold only"
    if unknown:
        disjoint = (
            "copies of a picture, also near ones, are in one fold only; the patient "
            f"of {unknown} is not known, so two "
            "pictures of one patient may be in different folds"
        )
    yield (
        f"test is one fold of train and val together, {len(pooled)} images in "
        f"{len(set(groups))} groups: {disjoint}"
    )
    if splits.test:
        yield f"the data's own test split of {len(splits.test)} images is put aside"


def contents_of(
    examples: Sequence[Example],
    read: Callable[[str], bytes],
    on_image: Callable[[int, int], None] = lambda done, count: None,
    unreadable: bool = False,
) -> list[list[Hashable]]:
    """Return what each image's copies share with it: its file, its pixels, a near copy.

    An image that cannot be decoded has its file only; whether that is an error, the run decides.
    With `unreadable`, a file that cannot be read counts as one that has its name as content.
    """
    import numpy as np

    from tlkit.data.near import near_pairs
    from tlkit.data.pictures import DecodedImageIndex, look_at

    paths, hashes = [e.path for e in examples], [e.sha256 for e in examples]
    index = DecodedImageIndex(default_folder())
    looks = look_at(read, paths, hashes, index, on_image, unreadable)
    keys: list[list[Hashable]] = [[("file", sha256)] for sha256, _ in looks]
    numbers = [number for number, (_, picture) in enumerate(looks) if picture]
    pictures = [picture for _, picture in looks if picture]
    for number, picture in zip(numbers, pictures, strict=True):
        keys[number].append(("pixels", picture.pixels))
    bits = [np.frombuffer(bytes.fromhex(picture.bits), np.uint8) for picture in pictures]
    for one, other, _ in near_pairs(bits):
        for place in (one, other):
            keys[numbers[place]].append(("near", one, other))
    return keys


def groups_of(examples: Sequence[Example], contents: Sequence[Iterable[Hashable]]) -> list[int]:
    """Return a group number per image: one patient or one content is one group.

    >>> images = [Example("1", "a", "p7"), Example("2", "a", "P007"), Example("3", "a"),
    ...           Example("4", "a")]
    >>> groups_of(images, [["x"], ["y"], ["y"], ["z"]])
    [0, 0, 0, 3]
    """
    patients = [same_patient(example.patient) for example in examples]
    return linked(
        (("patient", patient) if patient else "", *content)
        for patient, content in zip(patients, contents, strict=True)
    )


def fewest_groups(labels: Sequence[int], groups: Sequence[int]) -> tuple[int, int]:
    """Return the number of groups of the class with the fewest, and that class's number."""
    pairs = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    return min((count, label) for label, count in pairs.items())


def stratified_folds(
    labels: Sequence[int], groups: Sequence[int], folds: int, seed: int
) -> list[set[int]]:
    """Return the numbers of the images in each fold: stratified, each group in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [set(map(int, held)) for _, held in splitter.split(labels, labels, groups)]


def subset(splits: Splits, max_per_class: int, seed: int) -> Splits:
    """Keep at most `max_per_class` training images of each class.

    The images kept for a smaller number are among those kept for a larger one.
    """

    def rank(example: Example) -> str:
        return hashlib.sha256(f"{seed}/{example.path}".encode()).hexdigest()

    kept: set[str] = set()
    for name in splits.classes:
        of_class = [example for example in splits.train if example.label == name]
        kept |= {example.path for example in sorted(of_class, key=rank)[:max_per_class]}
    train = tuple(example for example in splits.train if example.path in kept)
    note = (
        f"training images: {len(train)} of {len(splits.train)}, at most {max_per_class} of each "
        "class"
    )
    return evolve(splits, train=train, notes=(*splits.notes, note))
