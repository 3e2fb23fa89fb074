"""The build: sources and lists -> images of PLUS -> PNG files -> two manifests."""

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

SHOWN = 10  # lines per kind that a message lists
COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")


@frozen(kw_only=True)
class Options:
    """What to build, and what may be skipped.

    Attributes:
        folders: The projects' folders, by name.
        out: The folder for manifests and images.
        as_of: Use the two growing collections as of the end of this day; None: as they are now.
        keep_surplus: Keep more validation images than the paper has.
        leave_out_unmatched: Skip images that cannot be matched or decoded.
        leave_out_shared: Skip validation images of patients in training or test.
        seed: The seed for drawing MINI from PLUS.
        max_side: Shrink larger images to this many pixels; None: keep their size.
        workers: Images decoded in parallel.
        show_all: List all problems, not only the first ten of each kind.
        plus: The required counts of PLUS.
        mini: The counts of MINI.
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
    """The images of COVIDxPLUS, not decoded yet.

    Attributes:
        images: The images.
        left_out: Skipped images, with the reason.
        notes: Other remarks.
        used: Hashes of the files used, for the record.
    """

    images: tuple[Image, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    used: Mapping[str, str]


def study_lists(folder: Path) -> Lists:
    """Read the lists that the study used."""
    return read_lists(*(folder / name for name in sources.LISTS.holds))


def gather(options: Options) -> Plus:
    """Find the images of PLUS and check them against Table 2.

    Raises:
        DataError: With all problems that the options do not allow: unmatched images, shared
            patients, other counts than the paper's.
    """
    folders = options.folders
    cohen, figure1 = folders[sources.COHEN.folder], folders[sources.FIGURE1.folder]
    used: dict[str, str] = {}
    texts: dict[Path, str | None] = {cohen: None, figure1: None}
    if options.as_of:
        for clone in texts:
            commit = sources.commit_as_of(clone, options.as_of)
            texts[clone] = sources.metadata_at(clone, commit)
            used[f"{clone.name} as of {options.as_of}"] = commit
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
    if options.leave_out_shared:
        images = tuple(image for image in images if image.path not in found.shared)
    if problems := list(_problems(found, images, options)):
        raise DataError("\n\n".join(problems))
    left_out = [*found.unmatched, *(found.shared.values() if options.leave_out_shared else ())]
    return Plus(images=images, left_out=tuple(left_out), notes=found.notes, used=used)


def _problems(found: Match, images: Sequence[Image], options: Options) -> Iterable[str]:
    if found.unmatched and not options.leave_out_unmatched:
        yield listed(
            f"{len(found.unmatched)} cannot be matched; fix the sources, or build without them: "
            "--leave-out-unmatched",
            found.unmatched,
            options.show_all,
        )
    if found.shared and not options.leave_out_shared:
        yield listed(
            f"{len(found.shared)} validation images are of patients in training or test, which "
            "tlkit rejects; to skip them: --leave-out-shared",
            list(found.shared.values()),
            options.show_all,
        )
    counts = tables.sizes(images)
    more = [
        label
        for label, count, wanted in zip(CLASSES, counts["val"], options.plus["val"], strict=True)
        if count > wanted
    ]
    if more and not options.keep_surplus:
        way = (
            "the collections have grown since the study: --as-of DATE uses them as of a day "
            "(--find-date shows which), --keep-surplus keeps all"
        )
        yield listed(
            f"more validation images than the paper has; {way}\n"
            + tables.table("COVIDxPLUS", counts, options.plus)
            + "\nvalidation images of "
            + ", ".join(more),
            [image.path for image in images if image.split == "val" and image.label in more],
            options.show_all,
        )
    elif not more and counts != dict(options.plus) and not options.leave_out_unmatched:
        yield (
            "fewer images than the paper has; to build anyway: --leave-out-unmatched\n"
            + tables.table("COVIDxPLUS", counts, options.plus)
        )


def build(options: Options, plus: Plus, on_image: Callable[[int], None]) -> str:
    """Write the PNG files and the manifests.

    Returns:
        The tables, and what was skipped.

    Raises:
        DataError: If images cannot be decoded and may not be skipped. The others are kept for the
            next build.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    outcome = write_pictures(plus.images, options.out, options.max_side, options.workers, on_image)
    if outcome.broken and not options.leave_out_unmatched:
        raise DataError(
            listed(
                f"{len(outcome.broken)} cannot be decoded; replace them, or build without them: "
                "--leave-out-unmatched",
                list(outcome.broken.values()),
                options.show_all,
            )
        )
    images = [image for image in plus.images if image.path in outcome.hashes]
    images.sort(key=lambda image: (image.split, image.label, image.path))
    mini = tables.draw_mini(images, options.seed, options.mini)
    left_out = [*plus.left_out, *outcome.broken.values()]
    for name, chosen in (("covidxplus", images), ("covidxmini", mini)):
        write_text(options.out / f"{name}.csv", manifest(chosen, outcome.hashes))
    write_text(options.out / "left_out.txt", "".join(f"{line}\n" for line in left_out))
    record = {
        "sources": plus.used,
        "as_of": options.as_of,
        "seed": options.seed,
        "max_side": options.max_side,
        "counts": {"covidxplus": tables.sizes(images), "covidxmini": tables.sizes(mini)},
    }
    write_text(options.out / "build.json", json.dumps(record, indent=2) + "\n")
    parts = [
        tables.table("COVIDxPLUS", tables.sizes(images), options.plus),
        tables.table("COVIDxMINI", tables.sizes(mini), options.mini),
        f"{len(outcome.hashes):,} images, {outcome.kept:,} of them from before",
    ]
    if left_out:
        parts.append(listed(f"{len(left_out)} left out; see left_out.txt", left_out, False))
    return "\n\n".join(parts)


def manifest(images: Iterable[Image], hashes: Mapping[str, str]) -> str:
    """Return a manifest that tlkit reads."""
    return csv_text(
        COLUMNS,
        [(i.path, i.label, i.split, i.patient, i.source, i.view, hashes[i.path]) for i in images],
    )


def days(options: Options) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield each day on which a collection changed, with the validation images as of then.

    Reads the metadata of that day; image files are not checked.
    """
    folders = options.folders
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
    """Return the number of candidates per class that are in neither list."""
    names = {
        candidate.name: candidate.label
        for candidate in candidates
        if candidate.frontal and candidate.name not in listed_files
    }
    return tuple(sum(label == name for label in names.values()) for name in CLASSES)


def listed(head: str, lines: Sequence[str], everything: bool) -> str:
    """Return a message with its first lines, made printable."""
    shown = lines if everything else lines[:SHOWN]
    more = [f"  … and {len(lines) - len(shown)} more (--all)"] if len(shown) < len(lines) else []
    return "\n".join([head, *(f"  {printable(line)}" for line in shown), *more])
