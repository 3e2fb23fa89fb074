"""Contact sheets: what an augmentation does to images, to look at before training with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlkit.data.images import Pixels, Reader
from tlkit.parts.kinds import Augmentation
from tlkit.parts.shapes import SHAPES, draw_shape
from tlkit.system.files import atomic_write
from tlkit.system.keras import tf
from tlkit.train.feature_key import augmentation_keys

GAP_PX = 4
SEED = 0  # the sheet shows the first epochs of a run with this seed


def write_contact_sheet(
    path: Path, augmentation: Augmentation, files: Sequence[Path], image_px: int, draws: int = 5
) -> None:
    """Write a contact sheet as a PNG file; create its folder if necessary.

    Args:
        path: The file.
        augmentation: The augmentation to show.
        files: The images to augment; empty: drawn shapes.
        image_px: Height and width of each image.
        draws: The number of augmented versions per image.
    """
    images = _read(files, image_px) if files else _drawn_shapes(image_px)
    sheet = contact_sheet(augmentation, images, draws)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        sheet.save(partial, "PNG", optimize=True)


def _drawn_shapes(image_px: int) -> Pixels:
    """Return one drawing of each shape, `(shapes, image_px, image_px, 3)`."""
    return np.stack([draw_shape(number, (number,), image_px) for number in range(len(SHAPES))])


def _read(files: Sequence[Path], image_px: int) -> Pixels:
    reader = Reader(lambda path: Path(path).read_bytes(), image_px, "crop")
    return np.stack([reader(str(file)) for file in files])


def contact_sheet(augmentation: Augmentation, images: Pixels, draws: int) -> Image.Image:
    """Return a picture with one row per image: the original, then its augmented versions."""
    columns = [images, *(augmented(augmentation, images, SEED, view) for view in range(draws))]
    return _grid(np.stack(columns, axis=1))


def augmented(augmentation: Augmentation, images: Pixels, seed: int, view: int = 0) -> Pixels:
    """Return images as a view of a run with this seed has them."""
    augment = tf.function(augmentation.augment)
    keys = tf.constant(augmentation_keys(seed, view, len(images)))
    changed = augment(tf.constant(images, tf.float32), keys)
    pixels: Pixels = np.rint(changed.numpy()).astype(np.uint8)
    return pixels


def _grid(pictures: npt.NDArray[np.uint8]) -> Image.Image:
    """Return pictures, `(rows, columns, height, width, 3)`, arranged on white."""
    rows, columns, height, width, _ = pictures.shape
    step_x, step_y = width + GAP_PX, height + GAP_PX
    sheet = Image.new("RGB", (columns * step_x - GAP_PX, rows * step_y - GAP_PX), "white")
    for row, column in np.ndindex(rows, columns):
        sheet.paste(Image.fromarray(pictures[row, column]), (column * step_x, row * step_y))
    gray = (pictures == pictures[..., :1]).all()
    return sheet.convert("L") if gray else sheet
