"""Heatmaps drawn over their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tlkit.train.images import Pixels

STRONGEST = 0.65  # how much of the image the hottest place covers: the anatomy stays visible
SIDE_PX = 336  # at least so wide is each of the two pictures
TEXT_PX, MARGIN_PX = 16, 12
INK, PAPER = (31, 35, 40), (255, 255, 255)


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Return an image with a heatmap over it; where the heat is 0 the image is as it was.

    Args:
        pixels: `(height, width, 3)` uint8.
        heat: `(height, width)` from 0 to 1.
    """
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255.0
    share = STRONGEST * heat[..., None]
    mixed: Pixels = np.rint((1 - share) * pixels + share * colours).astype(np.uint8)
    return mixed


def explanation(
    pixels: Pixels, heat: npt.NDArray[np.float32], caption: Sequence[str]
) -> Image.Image:
    """Return an image, the heatmap over it beside, and lines of text below.

    Args:
        pixels: `(height, width, 3)` uint8, as the model sees it.
        heat: `(height, width)` from 0 to 1.
        caption: The lines; one that is too long is cut.
    """
    scale = max(1, -(-SIDE_PX // pixels.shape[1]))
    side = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    pictures = [
        Image.fromarray(found).resize(side, Image.Resampling.BICUBIC)
        for found in (pixels, overlay(pixels, heat))
    ]
    line = TEXT_PX * 3 // 2
    width = 2 * side[0] + 3 * MARGIN_PX
    sheet = Image.new("RGB", (width, side[1] + 3 * MARGIN_PX + line * len(caption)), PAPER)
    for column, picture in enumerate(pictures):
        sheet.paste(picture, (MARGIN_PX + column * (side[0] + MARGIN_PX), MARGIN_PX))
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        at = (MARGIN_PX, side[1] + 2 * MARGIN_PX + number * line)
        draw.text(at, _fitting(draw, text, width - 2 * MARGIN_PX), INK, _font())
    return sheet


def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which Matplotlib brings along and which knows most alphabets."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), TEXT_PX
    )


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """Return a text as one line no wider than `width`; what does not print becomes a sign."""
    text = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    if draw.textlength(text, _font()) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = draw.textlength(text[:middle] + "…", _font()) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + "…"
