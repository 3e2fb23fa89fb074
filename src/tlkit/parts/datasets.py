"""Datasets: a folder per class, or a CSV manifest; and how a dataset is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from tlkit.data.folds import resplit
from tlkit.data.leakage import refuse, shared_patients
from tlkit.data.sources import ImageRoot, folders, image_files_below, read_manifest
from tlkit.data.splits import SPLITS, Example, Splits
from tlkit.parts.kinds import Dataset, part
from tlkit.parts.validators import shown
from tlkit.system.errors import DataError, PartError
from tlkit.system.text import nearest


@part("folder")
class Folder(Dataset):
    """One folder a split, in it one folder a class: `path/train/CLASS/…`, `path/val/CLASS/…`.

    Without `path/test` the results are those on `val`, and every table says so.

    Attributes:
        path: The folder that holds `train`, `val` and, if there is one, `test`.
    """

    path: Path

    def absent(self) -> Path | None:
        """Return the folder if it does not exist."""
        return None if self.path.exists() else self.path

    def load(self) -> Splits:
        """Return what the folders hold, sorted by path."""
        if not self.path.is_dir():
            raise DataError(f"{self.path}: the data's folder is not there; set data.path")
        for split in ("train", "val"):
            if not (self.path / split).is_dir():
                raise DataError(f"{self.path / split}: there is no such folder; it is needed")
        classes = self.classes or folders(self.path / "train")
        if len(classes) < 2:
            raise DataError(
                f"{self.path / 'train'}: needs one folder for each of two or more classes, "
                f"got {', '.join(classes) or 'none'}"
            )
        found: dict[str, tuple[Example, ...]] = {}
        left_out: list[str] = []
        for split in SPLITS:
            found[split] = self._examples(split, classes, left_out)
        notes = []
        if left_out:
            count, first = len(left_out), min(left_out)
            what = f"{count} file(s) that are no images by name or kind were left out"
            notes.append(f"{what}, such as {first}")
        return Splits(
            classes=classes,
            train=found["train"],
            val=found["val"],
            test=found["test"],
            read=ImageRoot(self.path, follow_links=True).read,
            root=str(self.path),
            notes=tuple(notes),
        )

    def _examples(
        self, split: str, classes: tuple[str, ...], left_out: list[str]
    ) -> tuple[Example, ...]:
        top = self.path / split
        if not top.is_dir():
            return ()
        extra = [name for name in folders(top) if name not in classes]
        if extra:
            raise DataError(
                f"{top / extra[0]}: is none of the classes {', '.join(classes)}"
                f"{nearest(extra[0], classes)}; name it in data.classes or move it away"
            )
        examples = []
        for label in classes:
            images = image_files_below(top / label, left_out)
            if not images:
                raise DataError(f"{top / label}: class {label!r} has no images in {split}")
            examples += [Example(path.relative_to(self.path).as_posix(), label) for path in images]
        return tuple(examples)


@part("manifest")
class Manifest(Dataset):
    """A CSV file, one row an image: `path, label, split`, optional `patient, source, view, sha256`.

    Image paths are relative to the CSV file's folder, or to `root`, and must stay below it.

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
        """Return what the rows say, in their order."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: the manifest is not there; set data.path")
        root = ImageRoot(self.root or self.path.parent, self.follow_links)
        if not root.path.is_dir():
            raise DataError(f"{root.path}: the images' folder is not there; set data.root")
        rows = read_manifest(self.path, self.classes, root)
        classes = self.classes or tuple(
            sorted({example.label for examples in rows.values() for example in examples})
        )
        if len(classes) < 2:
            raise DataError(
                f"{self.path}: needs two or more classes, got {', '.join(classes) or 'none'}"
            )
        try:
            return Splits(
                classes=classes,
                train=tuple(rows["train"]),
                val=tuple(rows["val"]),
                test=tuple(rows["test"]),
                read=root.read,
                root=str(root.path),
            )
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None


def load_splits(dataset: Dataset) -> Splits:
    """Load a dataset, or its stand-in if it has one and the data are not there at all.

    Raises:
        ConfigError: If the keys for folds do not fit each other.
        DataError: If the data are missing without a stand-in, or are wrong, or a patient is in two
            splits and that is not allowed.
    """
    splits = resplit(dataset, _as_it_is(dataset))
    patients = shared_patients(splits)
    if not dataset.allow_leakage:
        refuse(patients, str(getattr(dataset, "path", "")))
    return evolve(splits, leakage={"patient": len(patients)} if patients else {})


def _as_it_is(dataset: Dataset) -> Splits:
    """Return the data's own splits, or the stand-in's."""
    absent = dataset.absent()
    if absent is None or dataset.stand_in is None:
        found: Any = dataset.load()  # other people's parts may give anything
        if not isinstance(found, Splits):
            what = f"its `load` must give Splits, got {shown(found)}"
            raise PartError(f"{type(dataset).__name__}: {what}")
        return found
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
