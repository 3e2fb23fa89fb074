"""Matching of the lists' rows to source images; the rest becomes validation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from attrs import frozen

from building.lists import Lists, Row
from building.sources import Candidate

MAX_HINTS = 50  # more unmatched rows mean a missing source; similar names take long to find


@frozen(kw_only=True)
class Image:
    """One image of the study.

    Attributes:
        split: `train`, `val` or `test`.
        label: Its class.
        patient: The patient.
        source: The source's short name.
        view: The projection, if known.
        file: The source's file.
        path: The PNG file, relative to the manifests.
    """

    split: str
    label: str
    patient: str
    source: str
    view: str
    file: Path
    path: str


@frozen(kw_only=True)
class Match:
    """The result of matching.

    Attributes:
        images: The images whose row, class and file agree.
        unmatched: Rows and images that could not be matched, with the reason.
        shared: By path, the reason why a validation image shares a patient with training or test.
        notes: Other remarks.
    """

    images: tuple[Image, ...]
    unmatched: tuple[str, ...]
    shared: Mapping[str, str]
    notes: tuple[str, ...] = ()


def match(lists: Lists, candidates: Iterable[Candidate]) -> Match:
    """Find the image of every row; use the images in neither list for validation."""
    offered: dict[str, Candidate] = {}
    problems = list(lists.problems)
    notes = list(lists.notes)
    for candidate in candidates:
        before = offered.setdefault(candidate.name, candidate)
        if before is candidate:
            continue
        if (before.source, before.label) == (candidate.source, candidate.label):
            notes.append(f"{candidate.where}: {candidate.name}: is already in {before.where}")
        else:
            problems.append(
                f"{candidate.where}: {candidate.name}: is {candidate.finding or 'unnamed'} of "
                f"{candidate.source} here and {before.finding or 'unnamed'} of {before.source} "
                f"in {before.where}"
            )
    images: list[Image] = []
    unknown: list[Row] = []
    existing = _Files(offered)
    for split, rows in (("train", lists.train), ("test", lists.test)):
        for row in rows.values():
            if row.file not in offered:
                unknown.append(row)
            elif problem := _problem(row, offered[row.file], existing):
                problems.append(problem)
            else:
                images.append(_image(split, offered[row.file]))
    listed = lists.rows
    for candidate in offered.values():
        if candidate.name in listed or not (candidate.label and candidate.frontal):
            continue
        if candidate.file in existing:
            images.append(_image("val", candidate))
        else:
            where = f"{candidate.where}: {candidate.name}"
            problems.append(f"{where}: {_missing(candidate, existing)}")
    spare = [name for name in offered if name not in listed]
    problems += [
        f"{row.where}: {row.file}: is not in any source's metadata"
        + (_hint(row.file, spare) if len(unknown) <= MAX_HINTS else "")
        for row in unknown
    ]
    shared = _shared(images)
    problems += [text for path, (split, text) in shared.items() if split == "test"]
    return Match(
        images=tuple(images),
        unmatched=tuple(problems),
        shared={path: text for path, (split, text) in shared.items() if split == "val"},
        notes=tuple(notes),
    )


def _problem(row: Row, candidate: Candidate, existing: _Files) -> str:
    """Return the problem with a row's image; empty if there is none."""
    if candidate.label != row.label:
        finding = candidate.finding or "of no class"
        return f"{row.where}: {row.file}: is {row.label} here and {finding!r} in {candidate.where}"
    if candidate.file not in existing:
        return f"{row.where}: {row.file}: {_missing(candidate, existing)}"
    return ""


def _missing(candidate: Candidate, existing: _Files) -> str:
    near = difflib.get_close_matches(candidate.file.name, existing.spare(candidate.file), n=1)
    hint = f"; {near[0]!r} exists; rename it if it is the same" if near else ""
    return f"its file is missing: {candidate.file.name}{hint}"


def _hint(name: str, spare: list[str]) -> str:
    same = [other for other in spare if PurePosixPath(other).stem == PurePosixPath(name).stem]
    near = same or difflib.get_close_matches(name, spare, n=1, cutoff=0.8)
    return (
        f"; {near[0]!r} exists and is in neither list; rename it if it is the same" if near else ""
    )


def _image(split: str, candidate: Candidate) -> Image:
    name = candidate.name if candidate.name.lower().endswith(".png") else f"{candidate.name}.png"
    return Image(
        split=split,
        label=candidate.label,
        patient=candidate.patient,
        source=candidate.source,
        view=candidate.view,
        file=candidate.file,
        path=f"images/{candidate.source}/{name}",
    )


def _shared(images: Iterable[Image]) -> dict[str, tuple[str, str]]:
    """Return split and message for each image whose patient is also in an earlier split."""
    order = ("train", "test", "val")
    first: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    for image in sorted(images, key=lambda image: order.index(image.split)):
        if (split := first.setdefault(image.patient, image.split)) != image.split:
            text = f"{image.path}: is in {image.split}, and patient {image.patient} is in {split}"
            found[image.path] = image.split, text
    return found


class _Files:
    """The existing files, listed once per folder: the RSNA challenge has 26,684."""

    def __init__(self, offered: Mapping[str, Candidate]) -> None:
        self.offered = {candidate.file for candidate in offered.values()}
        self.folders: dict[Path, set[str]] = {}
        self.spares: dict[Path, list[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self.folders:
            there = folder.iterdir() if folder.is_dir() else ()
            self.folders[folder] = {entry.name for entry in there}
        return path.name in self.folders[folder]

    def spare(self, path: Path) -> list[str]:
        """Return the names in a missing file's folder that no metadata mention."""
        folder = path.parent
        if folder not in self.spares:
            names = sorted(self.folders[folder])
            self.spares[folder] = [name for name in names if folder / name not in self.offered]
        return self.spares[folder]
