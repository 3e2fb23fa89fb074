"""What a dataset gives: rules for class names, and for images, labels and patients in splits."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tlkit.data.splits import Example, Splits, alike_notes
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import DataError


def splits(**settings: Any) -> Splits:
    """One image of each of two classes in each split, but for what is set."""
    examples = {
        split: tuple(Example(f"{split}/{label}.png", label) for label in ("normal", "covid-19"))
        for split in ("train", "val", "test")
    }
    return Splits(**{"classes": ("normal", "covid-19"), "read": str.encode, **examples, **settings})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "at least two classes are needed, got "),
        (("normal",), "at least two classes are needed, got "),
        (("normal", ""), "a class name must not be empty, got "),
        (("normal", "  "), "a class name must not be empty, got "),
        (("normal", "normal"), "must differ by more than case, got 'normal' twice"),
        (("normal", "Normal"), "must differ by more than case, got 'normal' twice"),
        (("normal", " normal"), "must differ by more than case, got 'normal' twice"),
        (("straße", "STRASSE"), "must differ by more than case, got 'strasse' twice"),
        (("caf\u00e9", "cafe\u0301"), "must differ by more than case, got 'café' twice"),
        (("CAF\u00c9", "cafe\u0301"), "must differ by more than case, got 'café' twice"),
    ],
)
def test_class_names_that_could_be_confused_are_refused(
    classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        splits(classes=classes)
    with pytest.raises(ValueError, match=message):
        Shapes(classes=classes)


def test_class_names_that_differ_are_kept_as_they_are() -> None:
    for classes in (("Normal", "COVID-19"), ("0", "00"), ("café", "cafe"), ("a", "a b")):
        assert Shapes(classes=classes).load().classes == classes


def test_counts_and_labels_are_in_the_order_of_the_classes() -> None:
    found = splits(
        classes=("covid-19", "normal"),
        train=(Example("1", "normal"), Example("2", "covid-19"), Example("3", "normal")),
    )
    assert list(found.counts("train").items()) == [("covid-19", 1), ("normal", 2)]
    assert found.labels(found.train) == [1, 0, 1]


def test_only_test_may_be_empty() -> None:
    found = splits(test=())
    assert [name for name, _ in found.items()] == ["train", "val"]
    assert found.counts("test") == {"normal": 0, "covid-19": 0}
    for split in ("train", "val"):
        with pytest.raises(DataError, match=rf"^{split} split: every class needs .* 'normal', "):
            splits(**{split: ()})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_class_needs_an_image_in_every_split(split: str) -> None:
    message = rf"^{split} split: every class needs at least one image, got none of 'covid-19'$"
    with pytest.raises(DataError, match=message):
        splits(**{split: (Example("x.png", "normal"),)})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_label_that_is_no_class_is_refused(split: str) -> None:
    labels = ("normal", "covid-19", "pneumonia")
    message = rf"^{split} split: label 'pneumonia' is none of the classes 'normal', 'covid-19'$"
    with pytest.raises(DataError, match=message):
        splits(**{split: tuple(Example(f"{label}.png", label) for label in labels)})


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_file_in_two_splits_is_refused(one: str, other: str) -> None:
    examples = (Example("same.png", "normal"), Example("x.png", "covid-19"))
    paths = {one: examples, other: (examples[0], Example("y.png", "covid-19"))}
    message = rf"^image 'same\.png': appears in {one} and {other}; each image must appear once$"
    with pytest.raises(DataError, match=message):
        splits(**paths)


def test_a_file_twice_in_one_split_is_refused() -> None:
    twice = (Example("a.png", "normal"), Example("a.png", "covid-19"))
    with pytest.raises(DataError, match=r"^image 'a\.png': appears twice in train; each image"):
        splits(train=twice)


@pytest.mark.parametrize("key", ["path", "label", "patient", "source", "view"])
def test_a_name_that_is_no_utf_8_is_refused(key: str) -> None:
    odd = {"path": "a", "label": "normal", key: "\udcff"}
    classes = ("normal", "covid-19", "\udcff")
    examples = [Example(**odd), *(Example(f"{name}.png", name) for name in classes)]
    everything = {split: tuple(evolve(e, path=f"{split}{e.path}") for e in examples)
                  for split in ("train", "val", "test")}  # fmt: skip
    with pytest.raises(DataError, match=r"must have a name in UTF-8; rename it$"):
        splits(classes=classes, **everything)


def test_a_patient_may_have_several_images_in_one_split() -> None:
    train = (Example("1", "normal", "p"), Example("2", "covid-19", "p"))
    assert splits(train=train).train == train


@pytest.mark.parametrize(
    ("classes", "alike"),
    [
        (("a", "b"), False),
        (("a", "a\u200b"), True),
        (("cat", "c\u0430t"), True),
        (("COVID", "\u0421\u041eVID"), True),
        (("\uff41", "a"), True),
        (("\u03bd", "n"), True),
        (("m\u00b2", "m2"), True),
    ],
)
def test_classes_that_look_alike_are_told(classes: tuple[str, ...], alike: bool) -> None:
    notes = alike_notes(classes)
    assert bool(notes) == alike
    assert all(note.isascii() for note in notes)  # or nobody would see the difference
