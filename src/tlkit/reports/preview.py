"""Contact sheets: what an augmentation draws, to look at before training with it."""

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
from tlkit.system.keras import start_keras
from tlkit.train.feature_key import augmentation_keys

GAP_PX = 4
SEED = 0  # the draws shown are those of a run with this seed, in its first epochs


def write_contact_sheet(
    path: Path, augmentation: Augmentation, files: Sequence[Path], image_px: int, draws: int = 5
) -> None:
    """Write a PNG file that shows what an augmentation draws; its folder is made if need be.

    Args:
        path: The file.
        augmentation: What draws.
        files: The images to draw from; none: drawn shapes.
        image_px: The side of each picture.
        draws: How many draws of each image are shown.

    Raises:
        DataError: If an image cannot be read; the message names it.
    """
    images = _read(files, image_px) if files else drawn_shapes(image_px)
    sheet = contact_sheet(augmentation, images, draws)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        sheet.save(partial, "PNG", optimize=True)


def drawn_shapes(image_px: int) -> Pixels:
    """Return one drawing of each shape, `(3, image_px, image_px, 3)`."""
    return np.stack([draw_shape(number, (number,), image_px) for number in range(len(SHAPES))])


def _read(files: Sequence[Path], image_px: int) -> Pixels:
    reader = Reader(lambda path: Path(path).read_bytes(), image_px, "crop")
    return np.stack([reader(str(file)) for file in files])


def contact_sheet(augmentation: Augmentation, images: Pixels, draws: int) -> Image.Image:
    """Return a picture with a row for each image: first as it is, then drawn several times.

    Args:
        augmentation: What draws.
        images: `(images, height, width, 3)`.
        draws: How many columns of draws there are.
    """
    start_keras()
    import tensorflow as tf

    augment = tf.function(augmentation.augment)
    pixels = tf.constant(images, tf.float32)
    columns = [images]
    for view in range(draws):
        changed = augment(pixels, tf.constant(augmentation_keys(SEED, view, len(images))))
        columns.append(np.rint(changed.numpy()).astype(np.uint8))
    return _grid(np.stack(columns, axis=1))


def _grid(pictures: npt.NDArray[np.uint8]) -> Image.Image:
    """Return pictures, `(rows, columns, height, width, 3)`, side by side on white."""
    rows, columns, height, width, _ = pictures.shape
    step_x, step_y = width + GAP_PX, height + GAP_PX
    sheet = Image.new("RGB", (columns * step_x - GAP_PX, rows * step_y - GAP_PX), "white")
    for row, column in np.ndindex(rows, columns):
        sheet.paste(Image.fromarray(pictures[row, column]), (column * step_x, row * step_y))
    grey = (pictures == pictures[..., :1]).all()
    return sheet.convert("L") if grey else sheet
