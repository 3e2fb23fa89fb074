"""Checking a manifest: every row is true, and no split knows another's images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from tlkit.data.sources import collect
from tlkit.inspect.duplicates import NEAR_BITS, Duplicates, find_duplicates
from tlkit.inspect.fingerprints import ImageFacts, all_image_facts


@frozen(kw_only=True)
class Verification:
    """What is wrong with a manifest.

    Attributes:
        rows: How many rows there are.
        problems: Rows that are wrong by themselves: no file, no image, another hash.
        leaks: What is in two splits: patients, files, pictures, near-duplicates.
        conflicts: The same picture under two labels.
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
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> Verification:
    """Check every row of a manifest, or every image of a folder with splits.

    Args:
        path: A folder with a folder a class, below `train`, `val`, `test` or not, or a CSV file
            with columns `path, label` and, if known, `split, patient, source, view, sha256`.
        patient: A regular expression whose one group, found in an image's file name, is its
            patient; for data that do not say.
        near_bits: In how many of 256 bits the hashes of near-duplicates may differ; 0 leaves only
            those whose hash is the same.
        on_image: Told how many of how many are done.

    Raises:
        DataError: If the file cannot be read at all.
    """
    collection = collect(Path(path), patient)
    looks, broken = all_image_facts(collection, on_image)
    problems = [*collection.problems, *broken]
    for look in looks:
        image = look.image
        if not image.split:
            problems.append(f"{image.where}: is in no split")
        if image.sha256 not in {"", look.sha256}:
            problems.append(f"{image.where}: has SHA-256 {look.sha256}, expected {image.sha256}")
    duplicates = find_duplicates(looks, near_bits)
    unknown = sum(not look.image.patient for look in looks)
    notes = [f"{unknown} images have no patient; they are told apart by likeness alone"]
    return Verification(
        rows=len(collection.images) + len(collection.problems),
        problems=tuple(problems),
        leaks=(*_shared_patients(looks), *_shared_pictures(looks, duplicates)),
        conflicts=tuple(_conflicts(looks, duplicates)),
        notes=tuple(notes) if unknown else (),
    )


def _shared_patients(looks: Sequence[ImageFacts]) -> Iterator[str]:
    homes: dict[str, dict[str, str]] = defaultdict(dict)
    for look in looks:
        if look.image.patient:
            homes[look.image.patient].setdefault(look.image.split, look.image.where)
    for patient, home in homes.items():
        if len(home) > 1:
            told = ", ".join(f"{split} ({where})" for split, where in sorted(home.items()))
            yield f"patient {patient} is in {told}"


def _shared_pictures(looks: Sequence[ImageFacts], duplicates: Duplicates) -> Iterator[str]:
    kinds = {"bytes": "the same file", "pixels": "the same picture", "near": "nearly the same"}
    for pair in duplicates.pairs:
        one, other = looks[pair.one].image, looks[pair.other].image
        if one.split != other.split:
            bits = f" ({pair.bits} of 256 bits differ)" if pair.kind == "near" else ""
            yield (
                f"{kinds[pair.kind]}{bits}: {one.where} in {one.split}, "
                f"{other.where} in {other.split}"
            )


def _conflicts(looks: Sequence[ImageFacts], duplicates: Duplicates) -> Iterator[str]:
    for pair in duplicates.pairs:
        one, other = looks[pair.one].image, looks[pair.other].image
        if pair.kind != "near" and one.label != other.label:
            yield f"the same picture: {one.where} is {one.label}, {other.where} is {other.label}"
