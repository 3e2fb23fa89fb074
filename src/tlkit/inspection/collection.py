"""Labelled images as they lie there: a folder a class, with or without splits, or a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from attrs import evolve, field, frozen

from tlkit.errors import DataError
from tlkit.parts.datasets import SUFFIXES
from tlkit.parts.splits import SPLITS, Example

COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")


@frozen(kw_only=True)
class Listed(Example):
    """An image, and what is said of it.

    Attributes:
        split: Its split; empty if there is none yet.
        where: What names it in a message: the file's row or path.
    """

    split: str = ""
    where: str = ""


@frozen(kw_only=True)
class Collection:
    """Labelled images, whether they are split or not.

    Attributes:
        root: The folder that paths are relative to.
        images: They, in the order of the rows or sorted by path.
        problems: Rows that cannot be used, and why.
    """

    root: Path
    images: tuple[Listed, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the labels, sorted."""
        return tuple(sorted({image.label for image in self.images}))

    def read(self, image: Listed) -> bytes:
        """Return an image file's bytes."""
        return (self.root / image.path).read_bytes()


def collect(path: Path, patient: str | None = None) -> Collection:
    """Find labelled images.

    Args:
        path: `CLASS/…` or `train|val|test/CLASS/…` below a folder, or a CSV file with columns
            `path, label` and, if known, `split, patient, source, view, sha256`.
        patient: A regular expression whose first group, found in an image's file name, is its
            patient; for data that do not say. Where it does not match, the patient is unknown.

    Raises:
        DataError: If there is nothing of the kind. Single wrong rows are `problems`.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    found = _from_rows(path) if path.is_file() else _from_folders(path)
    if not found.images and not found.problems:
        raise DataError(f"{path}: has no images in folders a class, or rows; see the help")
    if patient is None:
        return found
    return evolve(found, images=tuple(_with_patients(found.images, patient)))


def _with_patients(images: Iterable[Listed], pattern: str) -> Iterable[Listed]:
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise DataError(f"patient: {pattern!r} is no regular expression: {error}") from None
    if rule.groups != 1:
        raise DataError(f"patient: {pattern!r} must have one group, such as '^([^_]+)_'")
    for image in images:
        match = rule.search(PurePosixPath(image.path).name)
        yield evolve(image, patient=match[1] if match and match[1] else image.patient)


def _from_folders(top: Path) -> Collection:
    children = [child for child in sorted(top.iterdir()) if child.is_dir() and child.name[0] != "."]
    splits = [child for child in children if child.name in SPLITS]
    if splits and len(splits) < len(children):
        other = next(child for child in children if child not in splits)
        raise DataError(f"{other}: is no split, but {splits[0].name} beside it is one")
    images = [
        Listed(
            path=file.relative_to(top).as_posix(),
            label=label.name,
            split="" if parent is top else parent.name,
            where=file.relative_to(top).as_posix(),
        )
        for parent in (splits or [top])
        for label in sorted(parent.iterdir())
        if label.is_dir() and label.name[0] != "."
        for file in sorted(label.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()
    ]
    return Collection(root=top, images=tuple(images))


def _from_rows(path: Path) -> Collection:
    """Read a CSV file; a row that is wrong is named and the others still read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [name for name in ("path", "label") if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: there is no column {missing[0]!r}")
        images, problems, first = [], [], dict[str, int]()
        for row in reader:
            number = reader.line_num
            problem = _problem(row, path.parent)
            if not problem and (before := first.setdefault(row["path"], number)) != number:
                problem = f"path: {row['path']!r} stands in row {before} already"
            if problem:
                problems.append(f"row {number}: {problem}")
            else:
                known = {name: row.get(name) or "" for name in COLUMNS}
                images.append(Listed(**known, where=f"row {number}: {row['path']}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8: {error}") from None
    return Collection(root=path.parent, images=tuple(images), problems=tuple(problems))


def _problem(row: Mapping[str | None, str | None], root: Path) -> str:
    """Return what is wrong with a row, or nothing."""
    if None in row or None in row.values():
        return "must have as many values as there are columns"
    path = row["path"] or ""
    if not path or "\0" in path:
        return "path: is empty or not a path"
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "://" in path:
        return f"path: must stay below the file's folder, got {path!r}"
    if not row["label"]:
        return f"label: is empty for {path!r}"
    if row.get("split") and row["split"] not in SPLITS:
        return f"split: must be one of {', '.join(SPLITS)}, got {row['split']!r}"
    if not (root / path).is_file():
        return f"path: there is no file {path!r}"
    return ""
