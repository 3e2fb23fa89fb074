"""Images for the report: the worst mistakes, confident successes, the most confused classes."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen
from PIL import Image

from tlkit.data.decoding import ImageError
from tlkit.data.images import Pixels, Reader
from tlkit.reports.heatmap import overlay
from tlkit.runfolder.tables import Prediction
from tlkit.system.errors import DataError
from tlkit.system.parallel import available_cores, in_parallel

WORST, RIGHT, PAIRS, OF_PAIR = 6, 6, 3, 6  # how many are shown
MAX_SIDE_PX, QUALITY = 224, 80  # about 8 kB per picture

# Gives a heatmap for each image and class number.
Explain = Callable[[Pixels, Sequence[int]], npt.NDArray[np.float32]]


@frozen
class Picture:
    """An image with its prediction.

    Attributes:
        prediction: What the model predicts.
        image: The image as the model sees it, as a `data:` URL.
        heat: The same with a heatmap for the predicted class; empty if there is none.
    """

    prediction: Prediction
    image: str
    heat: str = ""


@frozen
class Pair:
    """Images of one class that were classified as another.

    Attributes:
        label: The true class.
        predicted: The predicted class.
        count: How many there are.
        of: How many images of the true class there are.
        pictures: Those with the most confident predictions.
    """

    label: str
    predicted: str
    count: int
    of: int
    pictures: tuple[Picture, ...] = ()


@frozen(kw_only=True)
class Gallery:
    """The images of a report.

    Attributes:
        worst: The most confident mistakes.
        right: The most confident correct predictions, from every class.
        pairs: The pairs of classes most often confused, with some of their images.
        missing: Why there are no images; empty if there are.
    """

    worst: tuple[Picture, ...] = ()
    right: tuple[Picture, ...] = ()
    pairs: tuple[Pair, ...] = ()
    missing: str = ""


@frozen
class Source:
    """Where images and heatmaps come from.

    Attributes:
        reader: Reads an image as the model sees it.
        classes: Class names in the order of the model's outputs.
        explainer: Makes heatmaps; None: there are none.
    """

    reader: Reader
    classes: Sequence[str]
    explainer: Explain | None = None


def unchanged(read: Callable[[str], bytes], hashes: Mapping[str, str]) -> Callable[[str], bytes]:
    """Return `read`, restricted to images that have not changed since the run started."""

    def read_unchanged(path: str) -> bytes:
        content = read(path)
        if hashlib.sha256(content).hexdigest() != hashes[path]:
            raise ImageError("has changed since the run started")
        return content

    return read_unchanged


def make_gallery(judged: Sequence[Prediction], source: Source) -> Gallery:
    """Choose images and draw them; if one cannot be read there are none, with the reason."""
    worst, right, pairs = worst_mistakes(judged), surest_right(judged), confused_pairs(judged)
    try:
        pictures = explained([*worst, *right], source)  # together, so that batches are full
        return Gallery(
            worst=pictures[: len(worst)],
            right=pictures[len(worst) :],
            pairs=tuple(
                Pair(pair.label, pair.predicted, pair.count, pair.of, plain(shown, source))
                for pair, shown in pairs
            ),
        )
    except DataError as error:
        return without_pictures(judged, str(error))


def without_pictures(judged: Sequence[Prediction], reason: str) -> Gallery:
    """Return what a gallery can say without the images."""
    return Gallery(pairs=tuple(pair for pair, _ in confused_pairs(judged)), missing=reason)


def worst_mistakes(judged: Sequence[Prediction]) -> list[Prediction]:
    """Return the mistakes the model was most confident in, most confident first."""
    return _by_confidence(answer for answer in judged if not answer.right)[:WORST]


def surest_right(judged: Sequence[Prediction]) -> list[Prediction]:
    """Return the most confident correct predictions, taking turns between the classes."""
    classes = dict.fromkeys(answer.label for answer in judged)
    ranked = [
        _by_confidence(answer for answer in judged if answer.right and answer.label == name)
        for name in classes
    ]
    turns = [of_class[turn] for turn in range(RIGHT) for of_class in ranked if turn < len(of_class)]
    return turns[:RIGHT]


def confused_pairs(judged: Sequence[Prediction]) -> list[tuple[Pair, list[Prediction]]]:
    """Return the pairs of classes most often confused, with their most confident mistakes."""
    totals = Counter(answer.label for answer in judged)
    mistakes: dict[tuple[str, str], list[Prediction]] = {}
    for answer in judged:
        if not answer.right:
            mistakes.setdefault((answer.label, answer.predicted), []).append(answer)
    most_frequent = sorted(mistakes.items(), key=lambda item: (-len(item[1]), item[0]))[:PAIRS]
    return [
        (Pair(*pair, len(answers), totals[pair[0]]), _by_confidence(answers)[:OF_PAIR])
        for pair, answers in most_frequent
    ]


def _by_confidence(predictions: Iterable[Prediction]) -> list[Prediction]:
    return sorted(predictions, key=lambda answer: (-answer.certainty, answer.path))


def plain(predictions: Sequence[Prediction], source: Source) -> tuple[Picture, ...]:
    """Return the images of predictions."""

    def draw(answer: Prediction) -> Picture:
        return Picture(answer, data_url(source.reader(answer.path)))

    return tuple(in_parallel(draw, predictions, available_cores()))


def explained(predictions: Sequence[Prediction], source: Source) -> tuple[Picture, ...]:
    """Return the images of predictions with heatmaps, if there can be any."""
    if not predictions or source.explainer is None:
        return plain(predictions, source)
    pixels = [
        *in_parallel(source.reader, (answer.path for answer in predictions), available_cores())
    ]
    numbers = [source.classes.index(answer.predicted) for answer in predictions]
    try:
        maps = source.explainer(np.stack(pixels), numbers)
    except Exception as error:  # from the user's own layers; it must not fail a finished run
        logging.getLogger("tlkit").warning("no heatmaps in the report: %s", error)
        return plain(predictions, source)

    def draw(shown: tuple[Prediction, Pixels, Any]) -> Picture:
        answer, image, heat = shown
        return Picture(answer, data_url(image), data_url(overlay(image, heat)))

    return tuple(in_parallel(draw, zip(predictions, pixels, maps, strict=True), available_cores()))


def data_url(pixels: Pixels) -> str:
    """Return an image as a `data:` URL: JPEG, at most 224 px wide, grayscale if it has no color."""
    image = Image.fromarray(pixels)
    if bool((pixels == pixels[..., :1]).all()):
        image = image.convert("L")
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
