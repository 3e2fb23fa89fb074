"""The check of a manifest: every row holds, and splits share nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from tlkit.data.checks import hash_problem
from tlkit.data.leakage import same_patient, shared_patients
from tlkit.data.sources import read_labeled
from tlkit.inspect.fingerprints import (
    NEAR_BITS,
    Duplicates,
    ImageFacts,
    all_image_facts,
    find_duplicates,
)

KINDS = {"bytes": "the same file", "pixels": "the same picture", "near": "nearly the same"}


@frozen(kw_only=True)
class Verification:
    """What is wrong with a manifest.

    Attributes:
        rows: The number of rows.
        problems: Rows that are wrong by themselves: no file, not an image, another hash.
        leaks: Patients, files, pictures and near duplicates that are in two splits.
        conflicts: Pictures that have two labels.
        notes: What could not be checked.
    """

    rows: int
    problems: tuple[str, ...]
    leaks: tuple[str, ...]
    conflicts: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Return whether nothing is wrong."""
        return not (self.problems or self.leaks or self.conflicts)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"sound": self.sound, **attrs.asdict(self)}


def verify_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> Verification:
    """Check every row of a manifest, or every image of a folder with splits.

    Args:
        path: The folder or CSV file; see `inspect_data`.
        root: The folder that the paths in a CSV file are relative to; None: the file's own.
        patient: See `inspect_data`.
        near_bits: See `inspect_data`; 0 finds only equal hashes.
        on_image: Called with the number of images done and of all images.

    Raises:
        DataError: If the file cannot be read at all.
    """
    labeled = read_labeled(Path(path), patient, root)
    images, broken = all_image_facts(labeled, on_image)
    problems = [*labeled.problems, *broken]
    for facts in images:
        if not facts.image.split:
            problems.append(f"{facts.image.where}: is not in a split")
        if problem := hash_problem(facts.image, facts.sha256):
            problems.append(f"{facts.image.where}: {problem}")
    duplicates = find_duplicates(images, near_bits)
    unknown = sum(not same_patient(facts.image.patient) for facts in images)
    note = f"{unknown} images have no patient; among these only duplicates can be found"
    return Verification(
        rows=len(labeled.images) + len(labeled.problems),
        problems=tuple(problems),
        leaks=(*_leaked_patients(images), *_leaked_pictures(images, duplicates)),
        conflicts=tuple(_conflicts(images, duplicates)),
        notes=(*labeled.notes, *([note] if unknown else [])),
    )


def _leaked_patients(images: Sequence[ImageFacts]) -> Iterator[str]:
    for patient in shared_patients((facts.image.split, facts.image) for facts in images):
        first = {split: image.where for split, image in reversed(patient.places)}
        where = ", ".join(f"{split} ({row})" for split, row in sorted(first.items()))
        yield f"{patient.name} is in {where}"


def _leaked_pictures(images: Sequence[ImageFacts], duplicates: Duplicates) -> Iterator[str]:
    for pair in duplicates.pairs:
        one, other = images[pair.one].image, images[pair.other].image
        if one.split != other.split:
            bits = f" ({pair.bits} of 256 bits differ)" if pair.kind == "near" else ""
            where = f"{one.where} in {one.split}, {other.where} in {other.split}"
            yield f"{KINDS[pair.kind]}{bits}: {where}"


def _conflicts(images: Sequence[ImageFacts], duplicates: Duplicates) -> Iterator[str]:
    for pair in duplicates.pairs:
        one, other = images[pair.one].image, images[pair.other].image
        if pair.kind != "near" and one.label != other.label:
            yield f"the same picture: {one.where} is {one.label}, {other.where} is {other.label}"
