"""The dataset `digits`: real handwriting that comes with scikit-learn, so nothing is downloaded."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
from pathlib import Path

from attrs import field

from tlkit.data.splits import SPLITS, Example, Splits
from tlkit.parts.kinds import Dataset, part
from tlkit.parts.validators import between
from tlkit.system.errors import DataError

CLASSES = tuple("0123456789")
SIDE = 8  # of the scanned digits, in pixels
DARKEST = 16  # their gray values are from 0 to this
FIRST = {"train": 0, "val": 1029, "test": 1287}  # rows; the file starts over with each writer


@part("digits")
class Digits(Dataset):
    """Handwritten digits, 1,797 in all, from scikit-learn's copy of Optdigits (Alpaydin 1998).

    Their 8 × 8 pixels are enlarged. Each writer's digits are next to each other in the file, and
    the splits are cut between writers: the test digits are of people not seen in training.

    Attributes:
        count: The number of digits to use, of each split the first.
        image_px: The height and width to which they are enlarged.
    """

    count: int = field(default=1797, validator=between(100, 1797))
    image_px: int = field(default=64, validator=between(SIDE, 1024))

    def load(self) -> Splits:
        """Return the digits' names; a picture is made when it is read."""
        classes = self.classes or CLASSES
        if others := sorted(set(classes) - set(CLASSES)):
            raise DataError(f"digits: has the classes {', '.join(CLASSES)}, got {others[0]!r}")
        rows = _rows()
        examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
        pixels: dict[str, bytes] = {}
        for split, end in zip(SPLITS, [*FIRST.values(), len(rows)][1:], strict=True):
            first = FIRST[split]
            kept = round((end - first) * self.count / len(rows))
            for number, row in enumerate(rows[first : first + kept], start=first):
                if row[-1] in classes:
                    path = f"{split}/{row[-1]}/{number:04d}.png"
                    pixels[path] = bytes(round(float(v)) * 255 // DARKEST for v in row[:-1])
                    examples[split].append(Example(path, row[-1], source="optdigits"))
        return Splits(
            classes=classes,
            train=tuple(examples["train"]),
            val=tuple(examples["val"]),
            test=tuple(examples["test"]),
            read=lambda path: _png(pixels[path], self.image_px),
        )


def _rows() -> list[list[str]]:
    """Return the table of digits: 64 gray values and the label; without importing scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: comes with scikit-learn, which is not installed")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return [*csv.reader(lines)]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _png(gray: bytes, image_px: int) -> bytes:
    from PIL import Image

    small = Image.frombytes("L", (SIDE, SIDE), gray)
    buffer = io.BytesIO()
    small.resize((image_px, image_px), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
