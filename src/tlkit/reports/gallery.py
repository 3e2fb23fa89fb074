"""Pictures for the report: the worst mistakes, sure successes and the pairs most often confused."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from attrs import frozen
from PIL import Image, ImageDraw, ImageFont

from tlkit.data.images import ImageError, Pixels, Reader
from tlkit.explain import Explainer
from tlkit.runfolder.run_record import Prediction
from tlkit.system.errors import DataError

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


WORST, RIGHT, PAIRS, OF_PAIR = 6, 6, 3, 6  # how many are shown
SIDE_PX, QUALITY = 224, 80  # of the pictures in the report: some 8 kB each


@frozen
class Picture:
    """An image with what the model says about it.

    Attributes:
        prediction: What that is.
        image: The image as the model sees it, as a `data:` address.
        heat: The same with what speaks for the predicted class; empty if that is not known.
    """

    prediction: Prediction
    image: str
    heat: str = ""


@frozen
class Pair:
    """Images of one class that were called another.

    Attributes:
        label: The class.
        predicted: The other one.
        count: How many there are.
        of: How many images of the class there are.
        pictures: Those the model was surest about.
    """

    label: str
    predicted: str
    count: int
    of: int
    pictures: tuple[Picture, ...] = ()


@frozen(kw_only=True)
class Gallery:
    """The pictures of a report.

    Attributes:
        worst: Mistakes, those the model was surest about first.
        right: Right answers of every class, those it was surest about.
        pairs: The pairs of classes most often confused, with some of their images.
        missing: Why there are no pictures; empty if there are.
    """

    worst: tuple[Picture, ...] = ()
    right: tuple[Picture, ...] = ()
    pairs: tuple[Pair, ...] = ()
    missing: str = ""


@frozen
class Source:
    """Where pictures come from.

    Attributes:
        reader: Reads an image as the model sees it.
        classes: The class names in the order of the model's outputs.
        explainer: Finds what speaks for a class; None: nothing does.
    """

    reader: Reader
    classes: Sequence[str]
    explainer: Explainer | None = None


def unchanged(read: Callable[[str], bytes], hashes: Mapping[str, str]) -> Callable[[str], bytes]:
    """Return `read` for those images only that are what they were when the run began.

    Args:
        read: Gives the bytes at a path.
        hashes: The SHA-256 of each image by its path.
    """

    def read_unchanged(path: str) -> bytes:
        content = read(path)
        if hashlib.sha256(content).hexdigest() != hashes[path]:
            raise ImageError("is another one than when the run began")
        return content

    return read_unchanged


def make_gallery(judged: Sequence[Prediction], source: Source) -> Gallery:
    """Choose images and draw them; where one cannot be read there are none, and it says why."""
    worst, right, pairs = worst_mistakes(judged), surest_right(judged), confused_pairs(judged)
    try:
        return Gallery(
            worst=_explained(worst, source),
            right=_explained(right, source),
            pairs=tuple(
                Pair(pair.label, pair.predicted, pair.count, pair.of, _plain(some, source))
                for pair, some in pairs
            ),
        )
    except DataError as error:
        return Gallery(pairs=tuple(pair for pair, _ in pairs), missing=str(error))


def without_pictures(judged: Sequence[Prediction], why: str) -> Gallery:
    """Return a gallery of what can be said without the images."""
    return Gallery(pairs=tuple(pair for pair, _ in confused_pairs(judged)), missing=why)


def worst_mistakes(judged: Sequence[Prediction]) -> list[Prediction]:
    """Return the mistakes the model was surest about, the surest first."""
    return _surest(one for one in judged if not one.right)[:WORST]


def surest_right(judged: Sequence[Prediction]) -> list[Prediction]:
    """Return right answers the model was surest about, of every class in turn."""
    classes = dict.fromkeys(one.label for one in judged)
    ranked = [_surest(one for one in judged if one.right and one.label == c) for c in classes]
    rounds = [some[place] for place in range(RIGHT) for some in ranked if place < len(some)]
    return rounds[:RIGHT]


def confused_pairs(judged: Sequence[Prediction]) -> list[tuple[Pair, list[Prediction]]]:
    """Return the pairs of classes most often confused, with the surest of their images."""
    of = Counter(one.label for one in judged)
    counts = Counter((one.label, one.predicted) for one in judged if not one.right)
    found = []
    for (label, predicted), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        some = [one for one in judged if (one.label, one.predicted) == (label, predicted)]
        pair = Pair(label, predicted, count, of[label])
        found.append((pair, _surest(some)[:OF_PAIR]))
    return found[:PAIRS]


def _surest(predictions: Iterable[Prediction]) -> list[Prediction]:
    return sorted(predictions, key=lambda one: (-one.certainty, one.path))


def _plain(predictions: Sequence[Prediction], source: Source) -> tuple[Picture, ...]:
    return tuple(Picture(one, data_address(source.reader(one.path))) for one in predictions)


def _explained(predictions: Sequence[Prediction], source: Source) -> tuple[Picture, ...]:
    if not predictions or source.explainer is None:
        return _plain(predictions, source)
    pixels = np.stack([source.reader(one.path) for one in predictions])
    numbers = [source.classes.index(one.predicted) for one in predictions]
    try:
        maps = source.explainer(pixels, numbers)
    except Exception as error:  # of somebody's own layers; it must not cost a finished run
        logging.getLogger("tlkit").warning("no heatmaps in the report: %s", error)
        return _plain(predictions, source)
    return tuple(
        Picture(one, data_address(image), data_address(overlay(image, heat)))
        for one, image, heat in zip(predictions, pixels, maps, strict=True)
    )


def data_address(pixels: Pixels) -> str:
    """Return a picture as a `data:` address: JPEG, at most 224 px wide, grey where it is grey."""
    image = Image.fromarray(pixels)
    if _grey(pixels):
        image = image.convert("L")
    image.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _grey(pixels: npt.NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[..., :1]).all())
