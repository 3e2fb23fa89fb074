"""Datasets: a folder per class, a CSV manifest, or digits; and how a dataset is loaded."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from tlkit.data.folds import resplit
from tlkit.data.holdout import SHARE, check_every_class, hold_out
from tlkit.data.leakage import refuse, shared_patients
from tlkit.data.manifest import refuse_rows
from tlkit.data.root import ImageRoot
from tlkit.data.sources import (
    LabeledImages,
    class_folders,
    patient_rule,
    read_folder,
    read_manifest,
    split_folders,
    with_patients,
)
from tlkit.data.splits import SPLITS, Example, Splits, alike_notes
from tlkit.parts.kinds import Dataset, part, typed_init
from tlkit.parts.validators import between, fraction, open_interval, shown, unless_none
from tlkit.system.errors import ConfigError, DataError, FieldError, PartError, Problem
from tlkit.system.files import exists, is_dir, is_file
from tlkit.system.text import nearest

OnImage = Callable[[int, int], None]


@typed_init
@frozen(kw_only=True)
class Files(Dataset):
    """Image files, in splits of their own or in splits that tlkit draws.

    Attributes:
        val: The share of the images held out for validation if the data have no `val`, stratified
            by class; images of one patient and near-copies stay together. Unset: 0.15. Files are
            not moved.
        test: The share held out for the final score if the data have no `test`. Unset: 0.15 if the
            data have no splits at all and `folds` is unset, otherwise none.
        patient: For data that do not state patients: a regular expression whose one group,
            searched in the file name, is the patient, such as '^(p[0-9]+)_'.
    """

    val: float | None = field(default=None, validator=unless_none(open_interval(0, 1)))
    test: float | None = field(default=None, validator=unless_none(fraction(1)))
    patient: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.patient is not None:
            try:
                patient_rule(self.patient)
            except ValueError as error:
                raise FieldError("patient", str(error)) from None
        if (self.val or SHARE) + (self.test or 0) >= 1:
            raise FieldError("test", "and val must be shares that leave some to train")
        if self.folds is not None and self.val is not None:
            raise FieldError("val", "is a tenth of what data.folds does not hold out; remove one")

    def load(self) -> Splits:
        """Return the images in their splits."""
        return self.load_counting(lambda done, count: None)

    @abstractmethod
    def load_counting(self, on_image: OnImage) -> Splits:
        """Do the same, and tell how many images were read and of how many."""

    def _splits(
        self,
        labeled: LabeledImages,
        parts: Mapping[str, tuple[Example, ...]],
        classes: tuple[str, ...],
        on_image: OnImage,
    ) -> Splits:
        """Return the splits; those that `parts` lacks are held out, of `""` or of `train`."""
        shares = self._shares(parts)
        rest = parts.get("") or parts.get("train", ())
        known, notes = dict(parts), labeled.notes
        if shares and rest:
            splits, said = hold_out(rest, labeled.root.read, shares, self.split_seed, on_image)
            check_every_class([example.label for example in rest], splits)
            for split in ("train", *shares):
                pairs = zip(rest, splits, strict=True)
                known[split] = tuple(example for example, own in pairs if own == split)
            notes += said
        return Splits(
            classes=classes,
            train=known.get("train", ()),
            val=known.get("val", ()),
            test=known.get("test", ()),
            read=labeled.root.read,
            root=str(labeled.root.path),
            notes=notes,
            held_out=shares,
        )

    def _shares(self, parts: Mapping[str, tuple[Example, ...]]) -> dict[str, float]:
        """Return the share of each split that is to be held out."""
        shares = {}
        for split, share in (("val", self.val), ("test", self.test)):
            if parts.get(split):
                if share is not None:
                    message = f"the data have a split {split} of their own; remove the key"
                    raise ConfigError([Problem(f"data.{split}", message)])
                continue
            usual = SHARE if split == "val" or ("" in parts and self.folds is None) else 0.0
            shares[split] = usual if share is None else share
        return {split: share for split, share in shares.items() if share}


@part("folder")
class Folder(Files):
    """A folder per class: `path/CLASS/…`, or `path/train/CLASS/…` and `path/val/CLASS/…`.

    Without folders for the splits, tlkit holds out images for `val` and `test`. With `path/train`
    and `path/val` but without `path/test`, the results are those on `val`, and every table says so.
    `valid` and `validation` are other names of `val`.

    Attributes:
        path: The folder that contains a folder per class, or `train` and, if they are there, `val`
            and `test`.
    """

    path: Path

    def absent(self) -> Path | None:
        """Return the folder if it does not exist."""
        return None if exists(self.path) else self.path

    def load_counting(self, on_image: OnImage) -> Splits:
        """Return the images in the folders, sorted by class and path."""
        if not is_dir(self.path):
            raise DataError(f"{self.path}: the data's folder is not there; set data.path")
        names = split_folders(self.path, self.classes) or {"": ""}
        if "" not in names and "train" not in names:
            raise DataError(f"{self.path / 'train'}: there is no such folder; it is needed")
        top = self.path / names.get("train", "")
        classes = self.classes or tuple(dict.fromkeys(class_folders(top).values()))
        if len(classes) < 2:
            raise DataError(
                f"{top}: needs one folder for each of two or more classes, "
                f"got {', '.join(classes) or 'none'}"
            )
        labeled = with_patients(read_folder(self.path, self.classes), self.patient)
        for split, name in names.items():
            self._check_classes(split, self.path / name, classes, labeled)
        parts = {split: labeled.examples(split, classes) for split in names}
        return self._splits(labeled, parts, classes, on_image)

    def _check_classes(
        self, split: str, top: Path, classes: tuple[str, ...], labeled: LabeledImages
    ) -> None:
        """Check that a folder has images of each class and no other classes."""
        names = class_folders(top, classes)
        extra = [name for name, label in names.items() if label not in classes]
        if extra:
            raise DataError(
                f"{top / extra[0]}: is none of the classes {', '.join(classes)}"
                f"{nearest(extra[0], classes)}; name it in data.classes or move it away"
            )
        filled = {image.label for image in labeled.images if image.split == split}
        for label in classes:
            if label not in filled:
                where = f" in {split}" if split else ""
                raise DataError(f"{top / label}: class {label!r} has no images{where}")


@part("manifest")
class Manifest(Files):
    """A CSV file with one row per image: `path, label` and, if known, more.

    The other columns are `split, patient, source, view, sha256`. If there is no split, tlkit holds
    out images for `val` and `test`. Image paths are relative to the CSV file's folder, or to
    `root`, and must stay below it.

    Attributes:
        path: The CSV file.
        root: The folder that image paths are relative to; unset: the CSV file's.
        follow_links: Whether symbolic links may lead out of that folder.
    """

    path: Path
    root: Path | None = None
    follow_links: bool = False

    def absent(self) -> Path | None:
        """Return the CSV file if it does not exist."""
        return None if exists(self.path) else self.path

    def load_counting(self, on_image: OnImage) -> Splits:
        """Return the images in the order of the rows."""
        if not is_file(self.path):
            raise DataError(f"{self.path}: the manifest is not there; set data.path")
        root = ImageRoot(self.root or self.path.parent, self.follow_links)
        if not is_dir(root.path):
            raise DataError(f"{root.path}: the images' folder is not there; set data.root")
        labeled = read_manifest(self.path, self.classes, root)
        present = {image.split for image in labeled.images}
        if "" in present and len(present) > 1:  # each row without a split is a problem then
            labeled = read_manifest(self.path, self.classes, root, ("path", "label", "split"))
        refuse_rows(self.path, labeled.problems)
        labeled = with_patients(labeled, self.patient)
        classes = self.classes or labeled.classes
        if len(classes) < 2:
            raise DataError(
                f"{self.path}: needs two or more classes, got {', '.join(classes) or 'none'}"
            )
        parts = {split: labeled.examples(split) for split in sorted(present)}
        try:
            return self._splits(labeled, parts, classes, on_image)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None


def load_splits(dataset: Dataset, on_image: OnImage = lambda done, count: None) -> Splits:
    """Load a dataset, or its stand-in if it has one and the data are missing altogether."""
    splits = resplit(
        _loaded(dataset, on_image),
        folds=dataset.folds,
        fold=dataset.fold,
        max_per_class=dataset.max_per_class,
        seed=dataset.split_seed,
    )
    splits = evolve(splits, notes=(*splits.notes, *alike_notes(splits.classes)))
    patients = shared_patients(splits.rows())
    if not dataset.allow_leakage:
        refuse(patients, str(getattr(dataset, "path", "")))
    return evolve(splits, leakage={"patient": len(patients)} if patients else {})


def _bytes_of(read: Callable[[str], Any], dataset: str, path: str) -> bytes:
    content = read(path)
    if not isinstance(content, bytes):
        what = f"its `read` must return bytes, got {shown(content)} for {path}"
        raise PartError(f"{dataset}: {what}")
    return content


def _loaded(dataset: Dataset, on_image: OnImage) -> Splits:
    """Return the data's own splits, or the stand-in's."""
    absent = dataset.absent()
    if absent is None or dataset.stand_in is None:
        # Other people's parts may return anything.
        splits: Any = (
            dataset.load_counting(on_image) if isinstance(dataset, Files) else dataset.load()
        )
        if not isinstance(splits, Splits):
            what = f"its `load` must return Splits, got {shown(splits)}"
            raise PartError(f"{type(dataset).__name__}: {what}")
        if isinstance(dataset, Files):
            return splits
        return evolve(splits, read=partial(_bytes_of, splits.read, type(dataset).__name__))
    drawn = dataset.stand_in.dataset(classes=dataset.classes).load()
    return Splits(
        classes=drawn.classes,
        train=drawn.train,
        val=drawn.val,
        test=drawn.test,
        read=drawn.read,
        stand_in=str(dataset.stand_in),
        notes=(f"{absent} does not exist: the dataset {dataset.stand_in} stands in for it",),
    )


CLASSES = tuple("0123456789")
SIDE = 8  # of the scanned digits, in pixels
DARKEST = 16  # their gray values are from 0 to this
FIRST = {"train": 0, "val": 1029, "test": 1287}  # rows; the file starts over with each writer


@part("digits")
class Digits(Dataset):
    """Handwritten digits, 1,797 in all, from scikit-learn's copy of Optdigits (Alpaydin 1998).

    Their 8 × 8 pixels are enlarged. Each writer's digits are next to each other in the file, and
    the splits are cut between writers: the test digits are of people not seen in training.

    Attributes:
        count: The number of digits to use, of each split the first.
        image_px: The height and width to which they are enlarged.
    """

    count: int = field(default=1797, validator=between(100, 1797))
    image_px: int = field(default=64, validator=between(SIDE, 1024))

    def load(self) -> Splits:
        """Return the digits' names; a picture is made when it is read."""
        classes = self.classes or CLASSES
        if others := sorted(set(classes) - set(CLASSES)):
            raise DataError(f"digits: has the classes {', '.join(CLASSES)}, got {others[0]!r}")
        rows = _rows()
        examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
        pixels: dict[str, bytes] = {}
        for split, end in zip(SPLITS, [*FIRST.values(), len(rows)][1:], strict=True):
            first = FIRST[split]
            kept = round((end - first) * self.count / len(rows))
            for number, row in enumerate(rows[first : first + kept], start=first):
                if row[-1] in classes:
                    path = f"{split}/{row[-1]}/{number:04d}.png"
                    pixels[path] = bytes(round(float(v)) * 255 // DARKEST for v in row[:-1])
                    examples[split].append(Example(path, row[-1], source="optdigits"))
        return Splits(
            classes=classes,
            train=tuple(examples["train"]),
            val=tuple(examples["val"]),
            test=tuple(examples["test"]),
            read=lambda path: _png(pixels[path], self.image_px),
        )


def _rows() -> list[list[str]]:
    """Return the table of digits: 64 gray values and the label; without importing scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: comes with scikit-learn, which is not installed")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return [*csv.reader(lines)]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _png(gray: bytes, image_px: int) -> bytes:
    from PIL import Image

    small = Image.frombytes("L", (SIDE, SIDE), gray)
    buffer = io.BytesIO()
    small.resize((image_px, image_px), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
