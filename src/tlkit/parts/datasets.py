"""Datasets: a folder a class, a CSV manifest, or drawn chest phantoms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from tlkit.data.folds import resplit
from tlkit.data.leakage import refuse, shared_patients
from tlkit.data.sources import ImageRoot, folders, image_files_below, read_manifest
from tlkit.data.splits import SPLITS, Example, Splits
from tlkit.parts.kinds import Dataset, registries
from tlkit.parts.phantom_drawing import FINDINGS, draw_chest
from tlkit.parts.validators import at_least, between, shown
from tlkit.system.errors import DataError, PartError
from tlkit.system.text import nearest


@registries.datasets.register("folder")
@frozen(kw_only=True)
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


@registries.datasets.register("manifest")
@frozen(kw_only=True)
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


@registries.datasets.register("phantom")
@frozen(kw_only=True)
class Phantom(Dataset):
    """Drawn chest X-rays with up to three findings, for trying things out without any data.

    Finding 1 is clear lungs, 2 a dense opacity on one side, 3 hazy opacities on both sides.

    Attributes:
        train: How many training images, spread evenly over the classes.
        val: How many validation images.
        test: How many test images.
        image_px: Their height and width.
        draw_seed: Which pictures are drawn.
    """

    train: int = field(default=45, validator=at_least(2))
    val: int = field(default=15, validator=at_least(2))
    test: int = field(default=15, validator=at_least(0))
    image_px: int = field(default=256, validator=between(16, 4096))
    draw_seed: int = field(default=0, validator=between(0, 2**31 - 1))

    def load(self) -> Splits:
        """Return the pictures' names; they are drawn when they are read."""
        classes = self.classes or FINDINGS
        if len(classes) > len(FINDINGS):
            raise DataError(
                f"phantom: there are {len(FINDINGS)} findings to draw, got classes {classes}"
            )
        counts = {"train": self.train, "val": self.val, "test": self.test}
        keys: dict[str, tuple[int, tuple[int, ...]]] = {}
        found: dict[str, tuple[Example, ...]] = {}
        for number, split in enumerate(SPLITS):
            examples = []
            for index in range(counts[split]):
                finding = index % len(classes)
                path = f"{split}/{classes[finding]}/{index:05d}.png"
                keys[path] = (finding, (self.draw_seed, number, index))
                examples.append(Example(path, classes[finding], source="phantom"))
            found[split] = tuple(examples)
        return Splits(
            classes=classes,
            train=found["train"],
            val=found["val"],
            test=found["test"],
            read=lambda path: _png(*keys[path], self.image_px),
        )


def _png(finding: int, key: tuple[int, ...], image_px: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_chest(finding, key, image_px)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


STAND_INS: Mapping[str, type[Phantom]] = {"phantom": Phantom}


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
    drawn = STAND_INS[dataset.stand_in](classes=dataset.classes).load()
    note = f"{absent} is not there: these are drawn phantoms, not real images"
    return Splits(
        classes=drawn.classes,
        train=drawn.train,
        val=drawn.val,
        test=drawn.test,
        read=drawn.read,
        stand_in=dataset.stand_in,
        notes=(note,),
    )
