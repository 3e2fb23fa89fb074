"""Heatmaps laid over images, and the pictures that `tlkit explain` writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tlkit.data.images import Pixels

OPACITY = 0.65  # of the hottest pixel: what is below stays visible
MIN_SIDE_PX = 336  # of each of the two pictures
TEXT_PX, MARGIN_PX = 16, 12
INK, PAPER = (31, 35, 40), (255, 255, 255)
FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"  # covers most alphabets
# The 256 colors of matplotlib's "inferno", by N. J. Smith and S. van der Walt (CC0), as RGB bytes.
INFERNO = bytes.fromhex(
    "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f"
    "0a07220b07240c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c43"
    "1e0c451f0c48210c4a230c4c240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f360961"
    "3809623909633b09643d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c"
    "510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e"
    "69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c"
    "801f6c82206c84206b85216b87216b88226a8a226a8c23698d23698f2469902568922568932667952667972766"
    "9827669a28659b29649d29649f2a63a02a63a22b62a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305c"
    "b0315bb1325ab3325ab43359b63458b73557b93556ba3655bc3754bd3853bf3952c03a51c13a50c33b4fc43c4e"
    "c63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545d24644d34743d44842d54a41d74b3fd84c3e"
    "d94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2ee8602d"
    "e9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819"
    "f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207"
    "fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0ffcac11fcae12"
    "fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932f9cb35"
    "f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865"
    "f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1"
    "fcffa4"
)


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Return an image with a heatmap over it; it is unchanged where the heat is 0.

    Args:
        pixels: `(height, width, 3)` uint8.
        heat: `(height, width)` from 0 to 1.
    """
    colors = np.frombuffer(INFERNO, np.uint8).reshape(256, 3)
    color = colors[np.clip(heat * 256, 0, 255).astype(np.intp)]
    opacity = OPACITY * heat[..., None]
    mixed: Pixels = np.rint((1 - opacity) * pixels + opacity * color).astype(np.uint8)
    return mixed


def explanation(
    pixels: Pixels, heat: npt.NDArray[np.float32], caption: Sequence[str]
) -> Image.Image:
    """Return an image next to the same image with its heatmap, and lines of text below.

    Args:
        pixels: `(height, width, 3)` uint8, as the model sees it.
        heat: `(height, width)` from 0 to 1.
        caption: The lines; one that is too long is cut.
    """
    scale = max(1, -(-MIN_SIDE_PX // pixels.shape[1]))
    side = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    line = TEXT_PX * 3 // 2
    width = 2 * side[0] + 3 * MARGIN_PX
    sheet = Image.new("RGB", (width, side[1] + 3 * MARGIN_PX + line * len(caption)), PAPER)
    for column, picture in enumerate((pixels, overlay(pixels, heat))):
        resized = Image.fromarray(picture).resize(side, Image.Resampling.BICUBIC)
        sheet.paste(resized, (MARGIN_PX + column * (side[0] + MARGIN_PX), MARGIN_PX))
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        at = (MARGIN_PX, side[1] + 2 * MARGIN_PX + number * line)
        draw.text(at, _fitting(draw, text, width - 2 * MARGIN_PX), INK, _font())
    return sheet


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), TEXT_PX)


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """Return a text as one line no wider than `width`, with a sign for what cannot be printed."""
    text = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    if draw.textlength(text, _font()) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = draw.textlength(text[:middle] + "…", _font()) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + "…"
