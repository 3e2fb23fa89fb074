"""The paper's Table 2: images per class and split; and the draw of MINI from PLUS."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from building.lists import CLASSES
from building.matching import Image
from tlkit.reports.console import table as aligned

Sizes = Mapping[str, tuple[int, ...]]  # images per class, by split

PLUS: Sizes = {"train": (7966, 5451, 152), "val": (785, 494, 71), "test": (100, 100, 31)}
MINI: Sizes = {"train": (200, 200, 152), "val": (100, 100, 71), "test": (100, 100, 31)}


def sizes(images: Iterable[Image]) -> dict[str, tuple[int, ...]]:
    """Return the number of images per class, by split."""
    counted = Counter((image.split, image.label) for image in images)
    return {split: tuple(counted[split, label] for label in CLASSES) for split in PLUS}


def table(name: str, counts: Sizes, wanted: Sizes) -> str:
    """Return a table of the counts, with the paper's where they differ."""
    rows = [
        [split, *(_cell(*pair) for pair in zip(counts[split], wanted[split], strict=True))]
        for split in wanted
    ]
    return aligned([name, *CLASSES], rows)


def _cell(count: int, wanted: int) -> str:
    return f"{count}" if count == wanted else f"{count} (paper {wanted}, {count - wanted:+d})"


def draw_mini(images: Sequence[Image], seed: int, wanted: Sizes = MINI) -> list[Image]:
    """Return the images of MINI: those with the lowest ranks per class and split.

    An image's rank is the SHA-256 of seed and path, so it does not depend on other images, their
    order or the version of a random generator.
    """

    def rank(image: Image) -> str:
        return hashlib.sha256(f"{seed} {image.path}".encode()).hexdigest()

    chosen: set[str] = set()
    for split, counts in wanted.items():
        for label, count in zip(CLASSES, counts, strict=True):
            of_kind = [image for image in images if (image.split, image.label) == (split, label)]
            chosen |= {image.path for image in sorted(of_kind, key=rank)[:count]}
    return [image for image in images if image.path in chosen]
