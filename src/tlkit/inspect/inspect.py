"""Everything there is to say of a data set before it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from tlkit.data.sources import Collection, collect
from tlkit.inspect.duplicates import NEAR_BITS, Duplicates, find_duplicates, joined
from tlkit.inspect.fingerprints import ImageFacts, all_image_facts
from tlkit.inspect.shortcuts import Shortcut, find_shortcuts

Counts = Mapping[str, Mapping[str, int]]


@frozen(kw_only=True)
class Inspection:
    """What a data set holds.

    Attributes:
        classes: Its labels, sorted.
        images: How many images can be read.
        counts: Images of each class by split; the split is empty where there is none.
        sources: Images of each class by source; empty where it is unknown.
        formats: Images by file format and kind of pixels.
        widths: The least, median and greatest width in pixels.
        heights: The same of the heights.
        patients: How many patients are known.
        without_patient: How many images have none.
        looks: What was seen of each image, to be used further.
        duplicates: Which images are alike.
        shortcuts: What tells the label by itself.
        problems: What cannot be read, and why.
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
    looks: tuple[ImageFacts, ...]
    duplicates: Duplicates
    shortcuts: tuple[Shortcut, ...]
    problems: tuple[str, ...]

    def pairs(self) -> list[dict[str, Any]]:
        """Return the pairs of images that are alike, with what tells them apart."""
        return [
            {
                "kind": pair.kind,
                "bits": pair.bits,
                "one": self.looks[pair.one].image.path,
                "other": self.looks[pair.other].image.path,
                "labels": sorted({self.looks[place].image.label for place in places}),
                "splits": sorted({self.looks[place].image.split for place in places}),
            }
            for pair in self.duplicates.pairs
            for places in [(pair.one, pair.other)]
        ]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        left = ("looks", "duplicates", "shortcuts")
        found = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name not in left)
        found["duplicates"] = self.pairs()
        found["shortcuts"] = [attrs.asdict(shortcut) for shortcut in self.shortcuts]
        return found


def inspect_data(
    path: str | Path,
    *,
    patient: str | None = None,
    near_bits: int = NEAR_BITS,
    mask_center: float = 0.6,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> Inspection:
    """Look at a folder of images or a CSV file.

    Args:
        path: A folder with a folder a class, below `train`, `val`, `test` or not, or a CSV file
            with columns `path, label` and, if known, `split, patient, source, view, sha256`.
        patient: A regular expression whose one group, found in an image's file name, is its
            patient; for data that do not say.
        near_bits: In how many of 256 bits the hashes of near-duplicates may differ.
        mask_center: The share of each side that is blacked out in the control.
        on_image: Told how many of how many are done.

    Raises:
        DataError: If there are no images at all.
    """
    collection = collect(Path(path), patient)
    looks, broken = all_image_facts(collection, on_image)
    duplicates = find_duplicates(looks, near_bits)
    shortcuts = find_shortcuts(looks, joined(looks, duplicates), mask_center) if looks else []
    widths, heights = ([getattr(look, side) for look in looks] for side in ("width", "height"))
    return Inspection(
        classes=collection.classes,
        images=len(looks),
        counts=_counts(collection, looks, "split"),
        sources=_counts(collection, looks, "source"),
        formats=dict(Counter(f"{look.format} {look.mode}" for look in looks).most_common()),
        widths=_range(widths),
        heights=_range(heights),
        patients=len({look.image.patient for look in looks} - {""}),
        without_patient=sum(not look.image.patient for look in looks),
        looks=tuple(looks),
        duplicates=duplicates,
        shortcuts=tuple(shortcuts),
        problems=(*collection.problems, *broken),
    )


def _counts(collection: Collection, looks: list[ImageFacts], by: str) -> dict[str, dict[str, int]]:
    counted = Counter((getattr(look.image, by), look.image.label) for look in looks)
    order = ["train", "val", "test"]
    keys = {key for key, _ in counted}
    keys_sorted = [key for key in order if key in keys] + sorted(keys - set(order))
    return {
        key: {label: counted[key, label] for label in collection.classes} for key in keys_sorted
    }


def _range(values: list[int]) -> tuple[int, int, int]:
    """Return the least, the middle and the greatest value; zeros if there is none."""
    found = sorted(values) or [0]
    return found[0], found[len(found) // 2], found[-1]
