"""The dataset `digits`: real handwriting, in splits between writers."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn  # noqa: F401  # brings the digits; `make quick` skips the file here
from PIL import Image

import tlkit
from tlkit.data.images import to_pixels
from tlkit.parts.datasets import Digits


def test_all_digits_of_scikit_learn_are_there_unchanged() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    splits = Digits(image_px=8).load()
    rows = [example for _, images in splits.items() for example in images]
    assert [int(example.label) for example in rows] == labels.tolist()
    small = to_pixels(splits.read(rows[700].path), 8)[..., 0]
    assert (small == np.asarray(pixels[700].reshape(8, 8) * 255 // 16)).all()


def test_fewer_digits_keep_their_splits_and_shares() -> None:
    whole, some = Digits().load(), Digits(count=600).load()
    homes = {example.path: split for split, example in whole.rows()}
    assert {example.path: split for split, example in some.rows()}.items() <= homes.items()
    assert [len(images) for _, images in some.items()] == [344, 86, 170]


def test_a_few_classes_can_be_chosen_and_other_names_are_refused() -> None:
    assert set(Digits(classes=("7", "1")).load().counts("test")) == {"7", "1"}
    with pytest.raises(tlkit.DataError, match=r"^digits: has the classes 0, 1, .*, got 'seven'$"):
        Digits(classes=("seven", "1")).load()


def test_a_picture_is_enlarged() -> None:
    splits = Digits(count=100).load()
    assert Image.fromarray(to_pixels(splits.read(splits.train[0].path), 64)).size == (64, 64)
