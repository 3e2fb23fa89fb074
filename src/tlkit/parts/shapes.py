"""The dataset `shapes`: seeded drawings of geometric shapes, for trying things out without data.

Pixels are made only by ``+ - * /`` and comparisons, which IEEE 754 rounds exactly, so every
processor draws the same bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from attrs import field

from tlkit.data.splits import SPLITS, Example, Splits
from tlkit.parts.kinds import Dataset, part
from tlkit.parts.validators import at_least, between
from tlkit.system.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Field = npt.NDArray[np.floating]  # one number per pixel

SHAPES = ("circle", "square", "triangle")
SUPERSAMPLING = 2  # pixels drawn per side of an image's pixel, then averaged


@part("shapes")
class Shapes(Dataset):
    """Drawn circles, squares and triangles, for trying things out without data.

    Place, size, angle, colors and background are random; they say nothing about the class.

    Attributes:
        train: The number of training images, spread evenly over the classes.
        val: The number of validation images.
        test: The number of test images.
        image_px: Their height and width.
        draw_seed: The seed of the drawings.
    """

    train: int = field(default=45, validator=at_least(2))
    val: int = field(default=15, validator=at_least(2))
    test: int = field(default=15, validator=at_least(0))
    image_px: int = field(default=256, validator=between(16, 4096))
    draw_seed: int = field(default=0, validator=between(0, 2**31 - 1))

    def load(self) -> Splits:
        """Return the images' names; an image is drawn when it is read."""
        classes = self.classes or SHAPES
        if len(classes) > len(SHAPES):
            raise DataError(f"shapes: draws at most {len(SHAPES)} classes, got {len(classes)}")
        drawings: dict[str, tuple[int, tuple[int, ...]]] = {}
        examples: dict[str, tuple[Example, ...]] = {}
        for number, (split, count) in enumerate(
            zip(SPLITS, (self.train, self.val, self.test), strict=True)
        ):
            rows = []
            for index in range(count):
                shape = index % len(classes)
                path = f"{split}/{classes[shape]}/{index:05d}.png"
                drawings[path] = (shape, (self.draw_seed, number, index))
                rows.append(Example(path, classes[shape], source="shapes"))
            examples[split] = tuple(rows)
        return Splits(
            classes=classes,
            train=examples["train"],
            val=examples["val"],
            test=examples["test"],
            read=lambda path: _png(*drawings[path], self.image_px),
        )


def _png(shape: int, key: tuple[int, ...], image_px: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_shape(shape, key, image_px)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw_shape(shape: int, key: tuple[int, ...], image_px: int) -> npt.NDArray[np.uint8]:
    """Draw one shape on a textured background.

    Everything but the shape depends on `key` alone: the same key draws another shape at the same
    place, in the same colors.

    Args:
        shape: Position in `SHAPES`.
        key: Nonnegative integers that seed the drawing.
        image_px: Height and width of the image.

    Returns:
        RGB values of shape `(image_px, image_px, 3)`.
    """
    import numpy as np

    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    side = image_px * SUPERSAMPLING
    line = (np.arange(side) + 0.5) * (2 / side) - 1
    x, y = _turned(random, line[None, :], line[:, None])
    blend = (0.5 + 0.5 * _noise(random, side))[..., None]
    background = blend * random.uniform(20, 130, 3) + (1 - blend) * random.uniform(20, 130, 3)
    color = random.uniform(150, 250, 3) + 30 * _noise(random, side)[..., None]
    inside = (_circle, _square, _triangle)[shape](x, y) <= 1
    drawn = np.where(inside[..., None], color, background)
    grain = random.uniform(-10, 10, (image_px, image_px, 1))
    pixels = drawn.reshape(image_px, SUPERSAMPLING, image_px, SUPERSAMPLING, 3).mean(axis=(1, 3))
    image: npt.NDArray[np.uint8] = (pixels + grain).clip(0, 255).round().astype(np.uint8)
    return image


def _turned(random: np.random.Generator, x: Field, y: Field) -> tuple[Field, Field]:
    """Return coordinates in which a randomly placed, scaled and turned shape is a unit shape."""
    scale = random.uniform(0.35, 0.55)
    x, y = (x - random.uniform(-0.4, 0.4)) / scale, (y - random.uniform(-0.4, 0.4)) / scale
    half = random.uniform(-1, 1)  # the tangent of half the angle gives sine and cosine exactly
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    return cos * x + sin * y, cos * y - sin * x


def _circle(x: Field, y: Field) -> Field:
    return x * x + y * y


def _square(x: Field, y: Field) -> Field:
    import numpy as np

    return np.maximum(abs(x), abs(y)) / 0.886  # the area of the circle


def _triangle(x: Field, y: Field) -> Field:
    import numpy as np

    return np.maximum(abs(x) * 1.732 + y, -2 * y) / 1.555  # equilateral, the area of the circle


def _noise(random: np.random.Generator, side: int, cells: int = 5) -> Field:
    """Return smooth noise in [-1, 1]: a random lattice, interpolated."""
    import numpy as np

    lattice = random.uniform(-1, 1, (cells + 1, cells + 1))
    place = (np.arange(side) + 0.5) * (cells / side)
    cell = place.astype(np.intp)
    blend = place - cell
    rows = lattice[cell] + blend[:, None] * np.diff(lattice, axis=0)[cell]
    noise: Field = rows[:, cell] + blend * np.diff(rows, axis=1)[:, cell]
    return noise
