"""Pictures for tests of data: drawn ones, noise, and the facts about them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlkit.data.sources import LabeledImage
from tlkit.inspect.fingerprints import ImageFacts, image_facts

Pixels = npt.NDArray[np.uint8]


def picture(number: int, side: int = 64) -> Pixels:
    """Return a smooth gray picture; other numbers give pictures that are not alike."""
    coarse = np.random.default_rng(number).integers(0, 256, (9, 9), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def noise(number: int, height: int = 32, width: int = 32) -> Pixels:
    """Return gray noise."""
    random = np.random.default_rng(number)
    return random.integers(60, 200, (height, width), dtype=np.uint8)


def random_pixels(height: int = 16, width: int = 24, channels: int = 3) -> Pixels:
    """Return noise over all values, `(height, width, channels)`, or `(height, width)` for one."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: npt.NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return pixels as a file of one of Pillow's formats."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: Pixels | Image.Image) -> bytes:
    """Return pixels as a PNG file."""
    return encoded(pixels)


def facts_of(content: bytes, number: int = 0, **known: str) -> ImageFacts:
    """Return the facts about an image file."""
    path = f"{number}.png"
    return image_facts(LabeledImage(**{"path": path, "label": "a", "where": path} | known), content)


def write(top: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def contents(top: Path) -> dict[str, bytes]:
    """Return the PNG files below a folder."""
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*.png")}


PATIENT = "^(p[a-z0-9]+)_"


def two_classes(top: Path) -> Path:
    """Write 24 pictures of two classes in folders, two per patient by their names."""
    files = {
        f"{label}/p{label}{n // 2:02d}_{n}.png": png(picture(100 * number + n))
        for number, label in enumerate(("clear", "dense"))
        for n in range(12)
    }
    return write(top, files)


def manifest_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return [*csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))]


def change(manifest: Path, number: int, **values: str) -> dict[str, str]:
    """Change a row of a CSV file."""
    rows = manifest_rows(manifest)
    rows[number] |= values
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    manifest.write_text(buffer.getvalue())
    return rows[number]
