"""The whole way: sources and lists -> images of PLUS -> PNG files -> two manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from building import sources, tables
from building.lists import CLASSES, Lists, read_lists
from building.matching import Image, Match, match
from building.pictures import csv_text, write_pictures
from tlkit.system.errors import DataError
from tlkit.system.files import write_text
from tlkit.system.text import printable

SHOWN = 10  # how many lines of a kind a message lists
COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")


@frozen(kw_only=True)
class Wishes:
    """What is to be built, and what may be left out.

    Attributes:
        folders: Where the projects are, by their folders' names.
        out: Where the manifests and images go.
        as_of: Take the two growing collections as they were at the end of this day; None: as
            they are.
        keep_surplus: Keep more validation images than the paper has.
        leave_out_unmatched: Build without what cannot be matched or decoded.
        leave_out_shared: Leave out validation images of patients in training or test.
        seed: Draws MINI from PLUS.
        max_side: Larger pictures are made smaller; None leaves them.
        workers: How many images are decoded at the same time.
        show_all: List every problem, not the first ten of a kind.
        plus: The counts that PLUS must have.
        mini: The counts that MINI is drawn to.
    """

    folders: Mapping[str, Path]
    out: Path
    as_of: str | None = None
    keep_surplus: bool = False
    leave_out_unmatched: bool = False
    leave_out_shared: bool = False
    seed: int = 10
    max_side: int | None = None
    workers: int = 2
    show_all: bool = False
    plus: tables.Sizes = field(factory=lambda: tables.PLUS)
    mini: tables.Sizes = field(factory=lambda: tables.MINI)


@frozen(kw_only=True)
class Plus:
    """The images of COVIDxPLUS, before any is decoded.

    Attributes:
        images: They.
        left_out: What was left out, and why.
        notes: What else is worth knowing.
        used: What they were made from, for the record.
    """

    images: tuple[Image, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    used: Mapping[str, str]


def study_lists(folder: Path) -> Lists:
    """Read the lists that the study used."""
    return read_lists(*(folder / name for name in sources.LISTS.holds))


def gather(wishes: Wishes) -> Plus:
    """Find the images of PLUS and check them against Table 2.

    Raises:
        DataError: If some cannot be matched, a patient is shared, or the counts are not the
            paper's, and the wishes do not allow for it; with every kind of trouble at once.
    """
    folders = wishes.folders
    cohen, figure1 = folders[sources.COHEN.folder], folders[sources.FIGURE1.folder]
    used: dict[str, str] = {}
    texts: dict[Path, str | None] = {cohen: None, figure1: None}
    if wishes.as_of:
        for clone in texts:
            commit = sources.commit_as_of(clone, wishes.as_of)
            texts[clone] = sources.metadata_at(clone, commit)
            used[f"{clone.name} as of {wishes.as_of}"] = commit
    for project in sources.PROJECTS:
        for name in project.holds:
            path = folders[project.folder] / name
            if path.is_file() and texts.get(path.parent) is None:
                used[f"{project.folder}/{name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    found = match(
        study_lists(folders[sources.LISTS.folder]),
        [
            *sources.cohen(cohen, texts[cohen]),
            *sources.figure1(figure1, texts[figure1]),
            *sources.rsna(folders[sources.RSNA.folder]),
        ],
    )
    images = found.images
    if wishes.leave_out_shared:
        images = tuple(image for image in images if image.path not in found.shared)
    if troubles := list(_troubles(found, images, wishes)):
        raise DataError("\n\n".join(troubles))
    left_out = [*found.unmatched, *(found.shared.values() if wishes.leave_out_shared else ())]
    return Plus(images=images, left_out=tuple(left_out), notes=found.notes, used=used)


def _troubles(found: Match, images: Sequence[Image], wishes: Wishes) -> Iterable[str]:
    if found.unmatched and not wishes.leave_out_unmatched:
        yield listed(
            f"{len(found.unmatched)} cannot be matched; mend the sources, or build without them: "
            "--leave-out-unmatched",
            found.unmatched,
            wishes.show_all,
        )
    if found.shared and not wishes.leave_out_shared:
        yield listed(
            f"{len(found.shared)} validation images are of patients in training or test, which "
            "tlkit refuses: --leave-out-shared",
            list(found.shared.values()),
            wishes.show_all,
        )
    counts = tables.sizes(images)
    more = [
        label
        for label, count, wanted in zip(CLASSES, counts["val"], wishes.plus["val"], strict=True)
        if count > wanted
    ]
    if more and not wishes.keep_surplus:
        way = (
            "the collections have grown since the study: --as-of DATE takes them as of a day "
            "(--find-date shows which), --keep-surplus keeps all"
        )
        yield listed(
            f"more validation images than the paper has; {way}\n"
            + tables.table("COVIDxPLUS", counts, wishes.plus)
            + "\nvalidation images of "
            + ", ".join(more),
            [image.path for image in images if image.split == "val" and image.label in more],
            wishes.show_all,
        )
    elif not more and counts != dict(wishes.plus) and not wishes.leave_out_unmatched:
        yield (
            "fewer images than the paper has; to build with what is there: --leave-out-unmatched\n"
            + tables.table("COVIDxPLUS", counts, wishes.plus)
        )


def build(wishes: Wishes, plus: Plus, on_image: Callable[[int], None]) -> str:
    """Write the PNG files and the manifests.

    Returns:
        The tables, and what was left out.

    Raises:
        DataError: If images cannot be decoded and may not be left out; those that can be are kept
            for the next time.
    """
    wishes.out.mkdir(parents=True, exist_ok=True)
    outcome = write_pictures(plus.images, wishes.out, wishes.max_side, wishes.workers, on_image)
    if outcome.broken and not wishes.leave_out_unmatched:
        raise DataError(
            listed(
                f"{len(outcome.broken)} cannot be decoded; replace them, or build without them: "
                "--leave-out-unmatched",
                list(outcome.broken.values()),
                wishes.show_all,
            )
        )
    images = [image for image in plus.images if image.path in outcome.hashes]
    images.sort(key=lambda image: (image.split, image.label, image.path))
    mini = tables.draw_mini(images, wishes.seed, wishes.mini)
    left_out = [*plus.left_out, *outcome.broken.values()]
    for name, chosen in (("covidxplus", images), ("covidxmini", mini)):
        write_text(wishes.out / f"{name}.csv", manifest(chosen, outcome.hashes))
    write_text(wishes.out / "left_out.txt", "".join(f"{line}\n" for line in left_out))
    record = {
        "sources": plus.used,
        "as_of": wishes.as_of,
        "seed": wishes.seed,
        "max_side": wishes.max_side,
        "counts": {"covidxplus": tables.sizes(images), "covidxmini": tables.sizes(mini)},
    }
    write_text(wishes.out / "build.json", json.dumps(record, indent=2) + "\n")
    said = [
        tables.table("COVIDxPLUS", tables.sizes(images), wishes.plus),
        tables.table("COVIDxMINI", tables.sizes(mini), wishes.mini),
        f"{len(outcome.hashes):,} images, {outcome.kept:,} of them there already",
    ]
    if left_out:
        said.append(listed(f"{len(left_out)} left out, see left_out.txt", left_out, False))
    return "\n\n".join(said)


def manifest(images: Iterable[Image], hashes: Mapping[str, str]) -> str:
    """Return a manifest that tlkit reads."""
    return csv_text(
        COLUMNS,
        [(i.path, i.label, i.split, i.patient, i.source, i.view, hashes[i.path]) for i in images],
    )


def days(wishes: Wishes) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Return, for each day on which a collection changed, the validation images there were.

    Files are not looked for: only the metadata of the time are read.
    """
    folders = wishes.folders
    clones = (folders[sources.COHEN.folder], folders[sources.FIGURE1.folder])
    listed_files = study_lists(folders[sources.LISTS.folder]).rows
    fixed = _left(sources.rsna(folders[sources.RSNA.folder]), listed_files)
    first = max(min(sources.days_of_change(clone)) for clone in clones)
    for day in sorted(set().union(*map(sources.days_of_change, clones))):
        if day < first:
            continue
        texts = [sources.metadata_at(clone, sources.commit_as_of(clone, day)) for clone in clones]
        grown = [*sources.cohen(clones[0], texts[0]), *sources.figure1(clones[1], texts[1])]
        counts = _left(grown, listed_files)
        yield day, tuple(map(sum, zip(fixed, counts, strict=True)))


def _left(
    candidates: Iterable[sources.Candidate], listed_files: Mapping[str, object]
) -> tuple[int, ...]:
    """Return how many candidates of each class are in neither list."""
    names = {
        candidate.name: candidate.label
        for candidate in candidates
        if candidate.frontal and candidate.name not in listed_files
    }
    return tuple(sum(label == name for label in names.values()) for name in CLASSES)


def listed(head: str, lines: Sequence[str], everything: bool) -> str:
    """Return a message with its first lines, printable whatever they hold."""
    shown = lines if everything else lines[:SHOWN]
    more = [f"  … and {len(lines) - len(shown)} more (--all)"] if len(shown) < len(lines) else []
    return "\n".join([head, *(f"  {printable(line)}" for line in shown), *more])
