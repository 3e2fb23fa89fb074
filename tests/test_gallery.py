"""Pictures of the report: the right ones, and only images that are what they were."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tlkit.data.decoding import ImageError
from tlkit.data.images import Reader
from tlkit.explain import Explainer
from tlkit.reports.gallery import (
    OF_PAIR,
    PAIRS,
    RIGHT,
    WORST,
    Source,
    confused_pairs,
    data_url,
    make_gallery,
    surest_right,
    unchanged,
    worst_mistakes,
)
from tlkit.runfolder.tables import Prediction
from tlkit.system.errors import DataError

CLASSES = ("a", "b", "c")


@st.composite
def predictions(draw: st.DrawFn) -> list[Prediction]:
    """Up to 40 images of three classes."""
    found = []
    for number in range(draw(st.integers(0, 40))):
        parts = draw(st.lists(st.integers(1, 9), min_size=3, max_size=3))
        shares = {name: part / sum(parts) for name, part in zip(CLASSES, parts, strict=True)}
        predicted = draw(st.sampled_from(CLASSES))  # with a threshold it is not the likeliest
        found.append(Prediction(f"{number}.png", draw(st.sampled_from(CLASSES)), predicted, shares))
    return found


@given(judged=predictions())
def test_the_worst_mistakes_are_mistakes_and_no_other_was_surer(judged: list[Prediction]) -> None:
    worst = worst_mistakes(judged)
    wrong = [one for one in judged if one.label != one.predicted]
    assert len(worst) == min(WORST, len(wrong))
    assert set(worst) <= set(wrong)
    left = set(wrong) - set(worst)
    assert not left or min(w.certainty for w in worst) >= max(x.certainty for x in left)


@given(judged=predictions())
def test_right_answers_of_every_class_are_shown(judged: list[Prediction]) -> None:
    right = [one for one in judged if one.label == one.predicted]
    chosen = surest_right(judged)
    assert len(chosen) == min(RIGHT, len(right))
    assert set(chosen) <= set(right)
    assert {one.label for one in chosen} == {one.label for one in right}


@given(judged=predictions())
def test_the_pairs_most_often_confused_are_counted(judged: list[Prediction]) -> None:
    pairs = confused_pairs(judged)
    assert len(pairs) <= PAIRS
    assert [pair.count for pair, _ in pairs] == sorted([p.count for p, _ in pairs], reverse=True)
    for pair, some in pairs:
        of_class = [one for one in judged if one.label == pair.label]
        assert pair.of == len(of_class)
        assert pair.count == sum(one.predicted == pair.predicted for one in of_class)
        assert len(some) == min(OF_PAIR, pair.count)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (9, 9), grey).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"right.png": png(200), "wrong.png": png(50)}
HASHES = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
JUDGED = [
    Prediction("right.png", "a", "a", {"a": 0.9, "b": 0.05, "c": 0.05}),
    Prediction("wrong.png", "b", "c", {"a": 0.1, "b": 0.2, "c": 0.7}),
]


def source(read: Callable[[str], bytes]) -> Source:
    return Source(Reader(unchanged(read, HASHES), 16), CLASSES)


def opened(address: str) -> Image.Image:
    kind, content = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_pictures_are_the_images_as_the_model_sees_them() -> None:
    gallery = make_gallery(JUDGED, source(FILES.__getitem__))
    assert gallery.missing == ""
    (worst,), (right,), (pair,) = gallery.worst, gallery.right, gallery.pairs
    assert (worst.prediction, right.prediction) == (JUDGED[1], JUDGED[0])
    for picture, grey in ((worst, 50), (right, 200), (pair.pictures[0], 50)):
        image = opened(picture.image)
        assert (image.size, image.mode) == ((16, 16), "L")
        assert np.asarray(image).mean() == pytest.approx(grey, abs=2)


def test_an_image_that_has_changed_is_not_shown() -> None:
    gallery = make_gallery(JUDGED, source(lambda path: png(51)))
    assert "has changed since the run started" in gallery.missing
    assert (gallery.worst, gallery.right) == ((), ())
    assert [(pair.label, pair.predicted, pair.count) for pair in gallery.pairs] == [("b", "c", 1)]


def test_an_image_that_is_gone_is_named() -> None:
    def gone(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file", path)

    assert "wrong.png" in make_gallery(JUDGED, source(gone)).missing


class Explains(Explainer):
    """Finds that everything speaks for the class, or that it cannot tell."""

    def __init__(self, able: bool) -> None:
        self.able = able

    def __call__(self, pixels: Any, class_numbers: Any) -> Any:
        if not self.able:
            raise ValueError("this layer has no slope")
        assert sorted(class_numbers) == [0, 2]  # the worst and the right ones together
        return np.ones(pixels.shape[:3], np.float32)


def test_beside_a_picture_stands_what_speaks_for_the_predicted_class() -> None:
    gallery = make_gallery(JUDGED, evolve(source(FILES.__getitem__), explainer=Explains(True)))
    for picture in (*gallery.worst, *gallery.right):
        assert opened(picture.heat).mode == "RGB"
    assert gallery.pairs[0].pictures[0].heat == ""


def test_a_model_that_cannot_be_explained_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    gallery = make_gallery(JUDGED, evolve(source(FILES.__getitem__), explainer=Explains(False)))
    assert (gallery.worst[0].heat, gallery.missing) == ("", "")
    assert "no heatmaps in the report: this layer has no slope" in caplog.text


def test_only_what_is_unchanged_is_read() -> None:
    read = unchanged(FILES.__getitem__, HASHES | {"wrong.png": "0" * 64})
    assert read("right.png") == FILES["right.png"]
    with pytest.raises(ImageError, match="has changed"):
        read("wrong.png")
    with pytest.raises(DataError, match=r"^wrong\.png: "):
        Reader(read, 8)("wrong.png")


def test_a_picture_in_colour_stays_so_and_a_large_one_becomes_small() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[..., 0] = 255
    image = opened(data_url(pixels))
    assert (image.size, image.mode) == ((224, 224), "RGB")
