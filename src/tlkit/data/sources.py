"""The reader of labeled images: a folder per class, with or without splits, or a CSV manifest.

Every command goes by the same rules: `tlkit.data.walk` has those for folders, `tlkit.data.manifest`
those for rows.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from tlkit.data.manifest import COLUMNS, read_rows, refuse_rows
from tlkit.data.root import ImageRoot
from tlkit.data.splits import SPLITS, Example, spellings
from tlkit.data.walk import (
    NO_SPLIT,
    LeftOut,
    folders,
    holds_images,
    image_files_below,
    images_beside,
    left_out_notes,
)
from tlkit.system.errors import DataError
from tlkit.system.files import exists, is_dir, is_file
from tlkit.system.text import printable

STDIN = "-"
MAX_DEPTHS = 3  # times that a pattern may go down to all folders: each multiplies the time
VAL_NAMES = ("valid", "validation")  # next to `train`, other names of the folder `val`


@frozen(kw_only=True)
class LabeledImage(Example):
    """An image with its label, its split and where it was listed.

    Attributes:
        split: Its split; empty if there is none yet.
        where: Its name in messages: the row or path.
    """

    split: str = ""
    where: str = ""


@frozen(kw_only=True)
class LabeledImages:
    """Labeled images, split or not.

    Attributes:
        root: The folder that paths are relative to.
        images: The images in the order of the rows, or sorted by split, label and path.
        problems: The rows that cannot be used, and why.
        left_out: The files and folders that were skipped, and why.
        remarks: What is odd about a table, such as columns that look important and are not used.
    """

    root: ImageRoot
    images: tuple[LabeledImage, ...]
    problems: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the labels, sorted."""
        return tuple(sorted({image.label for image in self.images}))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was left out, counted by reason, and the remarks."""
        return (*left_out_notes(self.left_out), *self.remarks)

    def examples(
        self, split: str | None = None, classes: Sequence[str] = ()
    ) -> tuple[Example, ...]:
        """Return the images of one split, or all, without what names them in messages."""
        chosen = [image for image in self.images if split in {None, image.split}]
        if classes:
            chosen.sort(key=lambda image: classes.index(image.label))
        return tuple(
            Example(i.path, i.label, i.patient, i.source, i.view, i.sha256) for i in chosen
        )


def read_labeled(
    path: Path, patient: str | None = None, root: str | Path | None = None
) -> LabeledImages:
    """Return the labeled images of a folder or of a CSV file.

    Args:
        path: `CLASS/…` or `train|val|test/CLASS/…` below a folder, or a CSV file with columns
            `path, label` and, if known, `split, patient, source, view, sha256`.
        patient: A regular expression whose one group, searched in the file name, is the patient.
            Where it does not match, the patient stays as it is.
        root: The folder that the paths in a CSV file are relative to; None: that of the file.
    """
    if not exists(path):
        raise DataError(f"{path}: there is no such file or folder")
    where = ImageRoot(Path(root)) if root else None
    labeled = read_manifest(path, root=where) if is_file(path) else read_folder(path)
    if not labeled.images and not labeled.problems:
        raise DataError(f"{path}: has no images in folders per class, and no rows; see the help")
    try:
        return with_patients(labeled, patient)
    except ValueError as error:
        raise DataError(f"patient: {error}") from None


def with_patients(labeled: LabeledImages, pattern: str | None) -> LabeledImages:
    """Return images with the patients that a pattern finds in their file names, if there is one."""
    if pattern is None:
        return labeled
    rule = patient_rule(pattern)
    images = []
    for image in labeled.images:
        match = rule.search(PurePosixPath(image.path).name)
        images.append(evolve(image, patient=match[1] if match and match[1] else image.patient))
    return evolve(labeled, images=tuple(images))


def patient_rule(pattern: str) -> re.Pattern[str]:
    """Return a pattern that finds a patient in a file name; raise `ValueError` for another."""
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if rule.groups != 1:
        raise ValueError(f"{pattern!r} must have one group, such as '^([^_]+)_'")
    return rule


def read_folder(top: Path, classes: Sequence[str] | None = None) -> LabeledImages:
    """Return the images below a folder that has a folder per class, or such folders per split."""
    splits = split_folders(top, classes)
    images: list[LabeledImage] = []
    left_out = [*images_beside(top)]
    if splits:
        others = (name for name in folders(top) if name not in splits.values())
        left_out += [LeftOut(str(top / name), NO_SPLIT) for name in others]
    for split, name in (splits or {"": ""}).items():
        parent = top / name
        left_out += images_beside(parent) if name else ()
        for folder, label in class_folders(parent, classes or _train_names(top, splits)).items():
            start = len(str(parent / folder)) + 1
            above = (parent / folder).relative_to(top).as_posix()
            for file in image_files_below(parent / folder, left_out):
                path = f"{above}/{file[start:].replace(os.sep, '/')}"
                images.append(LabeledImage(path=path, label=label, split=split, where=path))
    root = ImageRoot(top, follow_links=True)
    return LabeledImages(root=root, images=tuple(images), left_out=tuple(left_out))


def class_folders(parent: Path, known: Sequence[str] = ()) -> dict[str, str]:
    """Return the class of each folder: its name, in the spelling of `known` or of the first."""
    return spellings(folders(parent), known)


def _train_names(top: Path, splits: Mapping[str, str]) -> tuple[str, ...]:
    return folders(top / splits["train"]) if "train" in splits else ()


def split_folders(top: Path, classes: Sequence[str] | None = None) -> dict[str, str]:
    """Return the folder name of each split that a folder has; see `read_folder`.

    Next to `train`, `valid` and `validation` are names of `val`. If none of the folders has folders
    in it but images, they are classes.
    """
    names = folders(top)
    if classes is not None and set(names) <= set(classes):
        return {}
    splits = {name: name for name in names if name in SPLITS}
    if any(map(holds_images, map(top.joinpath, splits))) and not any(
        folders(top / name) for name in splits
    ):
        return {}  # classes that are called so
    if "train" in splits and "val" not in splits:
        others = [name for name in names if name in VAL_NAMES and folders(top / name)]
        splits |= {"val": others[0]} if others else {}
    labels = {label for name in splits.values() for label in folders(top / name)}
    for name in names if splits else ():
        if name not in splits.values() and labels & set(folders(top / name)):
            raise DataError(
                f"{top / name}: has folders of classes like {next(iter(splits.values()))}, but "
                f"must be one of {', '.join(SPLITS)}; rename it or move it away"
            )
    return dict(sorted(splits.items()))


def read_manifest(
    path: Path,
    classes: Sequence[str] | None = None,
    root: ImageRoot | None = None,
    required: Sequence[str] = ("path", "label"),
) -> LabeledImages:
    """Return the images that a CSV file lists; wrong rows are `problems`."""
    root = root or ImageRoot(path.parent)
    images, problems = [], []
    rows, remarks = read_rows(path, root, required, classes)
    for row in rows:
        if row.problem:
            problems.append(f"row {row.number}: {row.problem}")
        else:
            known = {name: row.values.get(name, "") for name in COLUMNS}
            where = f"row {row.number}: {known['path']}"
            images.append(LabeledImage(**known, where=where))
    return LabeledImages(
        root=root, images=tuple(images), problems=tuple(problems), remarks=tuple(remarks)
    )


@frozen(kw_only=True)
class EvaluationImages:
    """Labeled images to evaluate a classifier on.

    Attributes:
        examples: The images.
        root: The folder they are read from.
        notes: What was left out, and what else is worth knowing.
    """

    examples: tuple[Example, ...]
    root: ImageRoot
    notes: tuple[str, ...] = ()


def read_evaluation_images(
    path: Path,
    classes: Sequence[str],
    split: str | None = None,
    root: ImageRoot | None = None,
    patient: str | None = None,
) -> EvaluationImages:
    """Return labeled images to evaluate a classifier on; `patient` is as for `with_patients`."""
    if is_file(path):
        labeled = with_patients(read_manifest(path, classes, root), patient)
        refuse_rows(path, labeled.problems)
        splits = {image.split for image in labeled.images}
        if "" in splits and len(splits) > 1:
            first = next(image for image in labeled.images if not image.split)
            raise DataError(f"{path}: {first.where}: is not in a split, other rows are")
        examples = labeled.examples(_chosen(splits - {""}, split))
    else:
        splits_there = split_folders(path, classes) if is_dir(path) else {}
        chosen = _chosen(splits_there, split) if is_dir(path) else None
        path = path / splits_there.get(chosen or "", chosen or "")
        if not is_dir(path):
            raise DataError(f"{path}: there is no such file or folder")
        others = [x for x, label in class_folders(path, classes).items() if label not in classes]
        if others:
            raise DataError(
                f"{path}: has folders of other classes than the run's: {', '.join(others)}; "
                f"the run knows {', '.join(classes)}"
            )
        labeled = with_patients(read_folder(path, classes), patient)
        examples = labeled.examples(classes=classes)
    if not examples:
        way_out = "" if is_file(path) else f"; they belong in {path}/CLASS/"
        raise DataError(f"{path}: has no images of the classes {', '.join(classes)}{way_out}")
    return EvaluationImages(examples=examples, root=labeled.root, notes=labeled.notes)


def _chosen(splits: Iterable[str], split: str | None) -> str | None:
    """Return the split to evaluate on; None if the images are not split and none is asked for."""
    known = set(splits)
    return split or (None if not known else "test" if "test" in known else "val")


@frozen
class Rejected:
    """A named image that was not classified.

    Attributes:
        path: What was named.
        reason: Why it was not classified.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def image_files(
    names: Sequence[str],
    stdin: Iterable[str] = (),
    left_out: list[LeftOut] | None = None,
    root: Callable[[Path], ImageRoot | None] = lambda path: None,
) -> Iterator[str | Rejected]:
    """Yield the images that are named, in order; each name yields at least one entry."""
    for name in names:
        reason, files = _named(name, stdin, [] if left_out is None else left_out, root)
        empty = True
        for file in files:
            empty = False
            yield file
        if empty:
            yield Rejected(name, reason)


def _named(
    name: str,
    stdin: Iterable[str],
    left_out: list[LeftOut],
    root: Callable[[Path], ImageRoot | None],
) -> tuple[str, Iterable[str | Rejected]]:
    """Return the images that one argument names, and what to say if there are none."""
    path = Path(name)
    if name == STDIN:
        lines = (line.rstrip("\r\n") for line in stdin)
        return "standard input names no image", (line for line in lines if line)
    if is_dir(path):
        return "no image below this folder", image_files_below(path, left_out)
    if path.suffix.lower() == ".csv" and is_file(path):
        return "the manifest has no rows", _listed(path, root(path) or ImageRoot(path.parent))
    if not os.path.lexists(path) and glob.has_magic(name):
        name = re.sub(r"(\*\*/)+", "**/", name)  # one after the other is no more than one
        if name.count("**") > MAX_DEPTHS:
            return f"the pattern has more than {MAX_DEPTHS} times **", ()
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # Path takes no absolute one
        return "no file matches this pattern", (m for m in matches if Path(m).is_file())
    return "", [name]


def _listed(path: Path, root: ImageRoot) -> Iterator[str | Rejected]:
    """Yield the images of a CSV file of which only the column `path` matters."""
    try:
        rows, _ = read_rows(path, root, required=("path",))
    except DataError as error:
        yield Rejected(str(path), str(error).removeprefix(f"{path}: "))
        return
    for row in rows:
        if row.problem:
            yield Rejected(f"{path}: row {row.number}", row.problem)
        else:
            yield str(root.path / row.values["path"])
