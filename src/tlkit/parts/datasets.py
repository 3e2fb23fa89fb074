"""Datasets: a folder per class, or a CSV manifest; and how a dataset is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from tlkit.data.folds import resplit
from tlkit.data.leakage import refuse, shared_patients
from tlkit.data.manifest import refuse_rows
from tlkit.data.root import ImageRoot
from tlkit.data.sources import LabeledImages, class_folders, read_folder, read_manifest
from tlkit.data.splits import SPLITS, Splits
from tlkit.parts.kinds import Dataset, part
from tlkit.parts.validators import shown
from tlkit.system.errors import DataError, PartError
from tlkit.system.text import nearest


@part("folder")
class Folder(Dataset):
    """A folder per split, in it a folder per class: `path/train/CLASS/…`, `path/val/CLASS/…`.

    Without `path/test`, the results are those on `val`, and every table says so.

    Attributes:
        path: The folder that contains `train`, `val` and optionally `test`.
    """

    path: Path

    def absent(self) -> Path | None:
        """Return the folder if it does not exist."""
        return None if self.path.exists() else self.path

    def load(self) -> Splits:
        """Return the images in the folders, sorted by class and path."""
        if not self.path.is_dir():
            raise DataError(f"{self.path}: the data's folder is not there; set data.path")
        for split in ("train", "val"):
            if not (self.path / split).is_dir():
                raise DataError(f"{self.path / split}: there is no such folder; it is needed")
        names = class_folders(self.path / "train")
        classes = self.classes or tuple(dict.fromkeys(names.values()))
        if len(classes) < 2:
            raise DataError(
                f"{self.path / 'train'}: needs one folder for each of two or more classes, "
                f"got {', '.join(classes) or 'none'}"
            )
        labeled = read_folder(self.path, self.classes)
        for split in SPLITS:
            self._check_classes(split, classes, labeled)
        return Splits(
            classes=classes,
            train=labeled.examples("train", classes),
            val=labeled.examples("val", classes),
            test=labeled.examples("test", classes),
            read=labeled.root.read,
            root=str(self.path),
            notes=labeled.notes,
        )

    def _check_classes(self, split: str, classes: tuple[str, ...], labeled: LabeledImages) -> None:
        """Check that a split, if there is one, has images of each class and no other classes."""
        top = self.path / split
        if not top.is_dir():
            return
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
                raise DataError(f"{top / label}: class {label!r} has no images in {split}")


@part("manifest")
class Manifest(Dataset):
    """A CSV file with one row per image: `path, label, split` and, if known, more.

    The other columns are `patient, source, view, sha256`. Image paths are relative to the CSV
    file's folder, or to `root`, and must stay below it.

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
        return None if self.path.exists() else self.path

    def load(self) -> Splits:
        """Return the images in the order of the rows."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: the manifest is not there; set data.path")
        root = ImageRoot(self.root or self.path.parent, self.follow_links)
        if not root.path.is_dir():
            raise DataError(f"{root.path}: the images' folder is not there; set data.root")
        labeled = read_manifest(self.path, self.classes, root, ("path", "label", "split"))
        refuse_rows(self.path, labeled.problems)
        classes = self.classes or labeled.classes
        if len(classes) < 2:
            raise DataError(
                f"{self.path}: needs two or more classes, got {', '.join(classes) or 'none'}"
            )
        try:
            return Splits(
                classes=classes,
                train=labeled.examples("train"),
                val=labeled.examples("val"),
                test=labeled.examples("test"),
                read=root.read,
                root=str(root.path),
                notes=labeled.notes,
            )
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None


def load_splits(dataset: Dataset) -> Splits:
    """Load a dataset, or its stand-in if it has one and the data are missing altogether.

    Raises:
        ConfigError: If the keys for folds do not fit each other.
        DataError: If the data are missing without a stand-in, or are wrong, or a patient is in two
            splits and that is not allowed.
    """
    splits = resplit(
        _loaded(dataset),
        folds=dataset.folds,
        fold=dataset.fold,
        max_per_class=dataset.max_per_class,
        seed=dataset.split_seed,
    )
    patients = shared_patients(splits.rows())
    if not dataset.allow_leakage:
        refuse(patients, str(getattr(dataset, "path", "")))
    return evolve(splits, leakage={"patient": len(patients)} if patients else {})


def _loaded(dataset: Dataset) -> Splits:
    """Return the data's own splits, or the stand-in's."""
    absent = dataset.absent()
    if absent is None or dataset.stand_in is None:
        splits: Any = dataset.load()  # other people's parts may return anything
        if not isinstance(splits, Splits):
            what = f"its `load` must return Splits, got {shown(splits)}"
            raise PartError(f"{type(dataset).__name__}: {what}")
        return splits
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
