"""The report on a data set before it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from tlkit.data.leakage import same_patient
from tlkit.data.pictures import DARK, LOOKS_DARK
from tlkit.data.sources import LabeledImages, read_labeled
from tlkit.data.splits import SPLITS
from tlkit.inspect.fingerprints import (
    NEAR_BITS,
    Duplicates,
    ImageFacts,
    all_image_facts,
    find_duplicates,
    group_numbers,
)
from tlkit.inspect.shortcuts import Shortcut, find_shortcuts

Counts = Mapping[str, Mapping[str, int]]


@frozen(kw_only=True)
class Inspection:
    """The contents of a data set.

    Attributes:
        classes: The labels, sorted.
        images: The number of images that can be read.
        counts: Images per class, by split; the split is empty where there is none.
        sources: Images per class, by source; the source is empty where it is unknown.
        formats: Images by file format and kind of pixels.
        widths: The smallest, median and largest width in pixels.
        heights: The same for heights.
        patients: The number of known patients.
        without_patient: The number of images whose patient is unknown.
        facts: What was read from each image, for further use.
        duplicates: The duplicate images.
        shortcuts: How well the label can be told from single properties.
        problems: Rows and images that cannot be used, and why.
        notes: What else is worth knowing, such as the number of files left out.
    """

    classes: tuple[str, ...]
    images: int
    counts: Counts
    sources: Counts
    formats: Mapping[str, int]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    patients: int
    without_patient: int
    facts: tuple[ImageFacts, ...]
    duplicates: Duplicates
    shortcuts: tuple[Shortcut, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def pairs(self) -> list[dict[str, Any]]:
        """Return the pairs of duplicates with their labels and splits, as plain values."""
        pairs = []
        for pair in self.duplicates.pairs:
            one, other = self.facts[pair.one].image, self.facts[pair.other].image
            pairs.append(
                {
                    "kind": pair.kind,
                    "bits": pair.bits,
                    "one": one.path,
                    "other": other.path,
                    "labels": sorted({one.label, other.label}),
                    "splits": sorted({one.split, other.split}),
                }
            )
        return pairs

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        nested = ("facts", "duplicates", "shortcuts")
        values = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name not in nested)
        values["duplicates"] = self.pairs()
        values["shortcuts"] = [attrs.asdict(shortcut) for shortcut in self.shortcuts]
        return values


def inspect_data(
    path: str | Path,
    *,
    root: str | Path | None = None,
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    mask_center: float = 0.6,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> Inspection:
    """Inspect a folder of images or a CSV file.

    Args:
        path: A folder with a folder per class, below `train`, `val` and `test` or not, or a CSV
            file with columns `path, label` and, if known, `split, patient, source, view, sha256`.
        root: The folder that the paths in a CSV file are relative to; None: the file's own.
        patient: A regular expression whose one group, searched in the file name, is the patient;
            for data that do not state it.
        near_bits: The most bits, of 256, in which the hashes of near duplicates may differ.
        mask_center: The share of each side that is blacked out in the control.
        on_image: Called with the number of images done and of all images.

    Raises:
        DataError: If there are no images at all.
    """
    labeled = read_labeled(Path(path), patient, root)
    facts, broken = all_image_facts(labeled, on_image)
    duplicates = find_duplicates(facts, near_bits)
    groups = group_numbers(facts, duplicates)
    patients = [same_patient(one.image.patient) for one in facts]
    return Inspection(
        classes=labeled.classes,
        images=len(facts),
        counts=_counts(labeled, facts, "split"),
        sources=_counts(labeled, facts, "source"),
        formats=dict(Counter(f"{one.format} {one.mode}" for one in facts).most_common()),
        widths=_range([one.width for one in facts]),
        heights=_range([one.height for one in facts]),
        patients=len(set(patients) - {""}),
        without_patient=patients.count(""),
        facts=tuple(facts),
        duplicates=duplicates,
        shortcuts=tuple(find_shortcuts(facts, groups, mask_center) if facts else ()),
        problems=(*labeled.problems, *broken),
        notes=(*labeled.notes, *_dark(facts)),
    )


def _dark(facts: list[ImageFacts]) -> list[str]:
    dark = [one.image.where for one in facts if one.brightest <= DARK]
    return [f"{len(dark)} nearly black, {LOOKS_DARK}, such as {dark[0]}"] if dark else []


def _counts(labeled: LabeledImages, facts: list[ImageFacts], by: str) -> dict[str, dict[str, int]]:
    """Return the images per class, by an attribute; splits in their usual order, others sorted."""
    counted = Counter((getattr(one.image, by), one.image.label) for one in facts)
    values = {value for value, _ in counted}
    ordered = [split for split in SPLITS if split in values] + sorted(values - set(SPLITS))
    return {value: {label: counted[value, label] for label in labeled.classes} for value in ordered}


def _range(values: list[int]) -> tuple[int, int, int]:
    """Return the smallest, median and largest value; zeros if there are none."""
    ordered = sorted(values) or [0]
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
