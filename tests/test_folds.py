"""Folds and subsets: nobody is on both sides, every image is tested once, small is in large."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import picture, png

import tlkit
from tlkit.data.checks import check_images
from tlkit.data.folds import fold_of, groups_of, resplit, subset
from tlkit.data.splits import Example, Splits
from tlkit.parts.datasets import Folder, load_splits
from tlkit.parts.kinds import StandIn
from tlkit.parts.shapes import Shapes

CLASSES = ("normal", "covid-19")


def splits(train: list[Example], val: list[Example], **more: Any) -> Splits:
    """Return splits whose files hold their own paths, but for copies: `copy/1/x` holds `x`."""
    return Splits(
        classes=CLASSES,
        train=tuple(train),
        val=tuple(val),
        read=lambda path: path.rpartition("/")[2].encode(),
        **more,
    )


@st.composite
def studies(draw: st.DrawFn) -> Splits:
    """Studies of patients with several images of one class, some without a name, and copies."""
    split: dict[str, list[Example]] = {"train": [], "val": []}
    for label in CLASSES:
        for patient in range(draw(st.integers(8, 14))):
            name = f"{label}-{patient}"
            known = draw(st.booleans())
            where = draw(st.sampled_from(["train", "val"])) if patient > 1 else ("train", "val")[
                patient]  # fmt: skip
            copies = draw(st.integers(1, 3))
            split[where] += [
                Example(f"copy/{number}/{name}" if not known else f"{name}-{number}", label,
                        patient=name if known else "")
                for number in range(copies)
            ]  # fmt: skip
    return splits(split["train"], split["val"])


def who(study: Splits, example: Example) -> str:
    return example.patient or study.read(example.path).decode()


@given(studies(), st.integers(2, 4), st.integers(0, 3))
@settings(max_examples=25)
def test_every_image_is_tested_once_and_nobody_is_on_two_sides(
    study: Splits, folds: int, seed: int
) -> None:
    pooled = {example.path for example in study.train + study.val}
    tested: Counter[str] = Counter()
    for fold in range(1, folds + 1):
        try:
            found = fold_of(study, folds, fold, seed)
        except tlkit.DataError:  # a class may be missing where groups are large
            reject()
        sides = [{who(study, e) for e in some} for _, some in found.items()]
        assert len(set.union(*sides)) == sum(map(len, sides))
        assert {e.path for _, some in found.items() for e in some} == pooled
        tested.update(example.path for example in found.test)
    assert tested == Counter(pooled)


def plain(count: int, val: int = 2) -> Splits:
    images = [Example(f"{label}-{n}", label) for n in range(count) for label in CLASSES]
    return splits(images[2 * val :], images[: 2 * val])


def test_folds_are_stratified_and_val_is_a_tenth_of_the_rest() -> None:
    found = fold_of(plain(50), 5, 1, 0)
    assert [found.counts(split) for split in ("train", "val", "test")] == [
        dict.fromkeys(CLASSES, 36),
        dict.fromkeys(CLASSES, 4),
        dict.fromkeys(CLASSES, 10),
    ]


def test_a_seed_draws_other_folds_and_the_same_seed_the_same() -> None:
    one, again, other = (fold_of(plain(20), 5, 1, seed).test for seed in (0, 0, 1))
    assert one == again != other


def test_the_notes_say_what_folds_are_disjoint_by() -> None:
    assert "the patient of 40 is not known" in fold_of(plain(20), 5, 1, 0).notes[0]
    whose = [Example(e.path, e.label, patient=e.path) for e in plain(20).train]
    known = fold_of(splits(whose[4:], whose[:4], test=plain(20).val), 5, 1, 0)
    assert "patients and copies of a picture, also near ones, are each in" in known.notes[0]
    assert known.notes[1] == "the data's own test split of 4 images is put aside"


def test_too_few_images_of_a_class_are_named() -> None:
    with pytest.raises(tlkit.DataError, match=r"5 folds need 5 different .* got 4 of 'normal'"):
        fold_of(plain(4), 5, 1, 0)
    with pytest.raises(tlkit.DataError, match=r"2 folds need 3 different .* got 2 of"):
        fold_of(plain(2, val=1), 2, 1, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    gone = splits(list(plain(9).train), list(plain(9).val))
    broken = Splits(
        classes=CLASSES, train=gone.train, val=gone.val,
        read=lambda path: (tmp_path / path).read_bytes(), root="data",
    )  # fmt: skip
    with pytest.raises(tlkit.DataError, match=r"^data/normal-2: No such file"):
        fold_of(broken, 3, 1, 0)


def test_a_file_whose_stated_hash_is_known_is_not_read_again() -> None:
    contents = {f"{n}": png(picture(n // 2)) for n in range(24)}
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    same = [Example(p, CLASSES[int(p) // 2 % 2], sha256=hashes[p]) for p in contents]

    def fail(path: str) -> bytes:
        raise AssertionError(path)

    for read in (contents.__getitem__, fail):
        study = Splits(classes=CLASSES, train=tuple(same[4:]), val=tuple(same[:4]), read=read)
        for _, some in fold_of(study, 3, 1, 0).items():
            assert all(n == 2 for n in Counter(example.sha256 for example in some).values())


def test_a_chain_of_patients_and_copies_is_one_group() -> None:
    images = [Example("1", "normal", "p"), Example("2", "normal", "q"), Example("3", "normal", "q"),
              Example("4", "normal")]  # fmt: skip
    assert groups_of(images, [["x"], ["x"], ["y"], ["y"]]) == [0, 0, 0, 0]
    assert groups_of(images, [["x"], ["z"], ["y"], ["w"]]) == [0, 1, 1, 3]


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 5))
def test_a_smaller_subset_is_in_a_larger_one(small: int, more: int, seed: int) -> None:
    study = plain(12)
    one, other = (set(subset(study, n, seed).train) for n in (small, small + more))
    assert one <= other
    assert set(Counter(e.label for e in one).values()) == {min(small, 10)}


def test_a_subset_keeps_the_order_and_val_and_says_how_many() -> None:
    study = plain(12)
    found = subset(study, 3, 0)
    assert [e for e in study.train if e in found.train] == list(found.train)
    assert found.val == study.val
    assert found.notes == ("training images: 6 of 20, at most 3 of each class",)
    assert subset(study, 3, 1).train != found.train


def test_a_class_with_fewer_images_keeps_what_it_has() -> None:
    study = splits([*plain(12).train, Example("normal-x", "normal")], [*plain(12).val])
    assert subset(study, 11, 0).counts("train") == {"normal": 11, "covid-19": 10}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"folds": 5},
            r"^data\.fold: missing; set it, 1 to 5, or run them all with tlkit sweep FILE$",
        ),
        ({"fold": 1}, r"^data\.fold: is one of data\.folds; set that too$"),
        ({"folds": 5, "fold": 6}, r"^data\.fold: must be from 1 to data\.folds = 5, got 6$"),
        ({"split_seed": 1}, r"^data\.split_seed: draws splits, folds and max_per_class, and these"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        load_splits(Shapes(**keys))


def test_a_subset_is_of_the_fold_and_a_stand_in_has_folds_too(tmp_path: Path) -> None:
    drawn = load_splits(Shapes(train=30, val=9, folds=3, fold=2, max_per_class=2))
    assert drawn.counts("train") == dict.fromkeys(drawn.classes, 2)
    absent = Folder(path=tmp_path / "none", stand_in=StandIn.parse("shapes"), folds=3, fold=2)
    stand_in = load_splits(absent)
    assert stand_in.stand_in == "shapes"
    assert stand_in.notes[-1].startswith("the data's own test split")


def test_without_the_keys_nothing_is_changed() -> None:
    study = plain(6)
    assert resplit(study) is study


def encoded(pixels: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_copies_of_every_degree_stay_in_one_fold() -> None:
    """The same bytes, the same pixels in another format, resized, recompressed."""
    files: dict[str, bytes] = {}
    for number in range(24):
        pixels = picture(number, 128)
        small = np.asarray(Image.fromarray(pixels).resize((80, 80)))
        versions = [
            encoded(pixels, "PNG"), encoded(pixels, "PNG"), encoded(pixels, "BMP"),
            encoded(small, "PNG"), encoded(pixels, "JPEG", quality=60),
        ]  # fmt: skip
        files |= {f"{number}-{version}": content for version, content in enumerate(versions)}
    images = [Example(path, CLASSES[int(path.partition("-")[0]) % 2]) for path in files]
    study = Splits(
        classes=CLASSES, train=tuple(images[20:]), val=tuple(images[:20]), read=files.__getitem__
    )
    for fold in (1, 2, 3):
        found = fold_of(study, 3, fold, 0)
        assert "in 24 groups" in found.notes[0]
        sides = [{e.path.partition("-")[0] for e in some} for _, some in found.items()]
        assert sum(map(len, sides)) == 24
        check_images(found)  # which refuses the same picture in two splits


def test_flat_pictures_and_files_that_are_no_images_are_not_copies_of_each_other() -> None:
    files = {f"{n}": encoded(np.full((8, 8), 10 * n, np.uint8), "PNG") for n in range(12)}
    files |= {f"{n}": f"no image {n}".encode() for n in range(12, 24)}
    images = [Example(path, CLASSES[int(path) % 2]) for path in files]
    study = Splits(
        classes=CLASSES, train=tuple(images[4:]), val=tuple(images[:4]), read=files.__getitem__
    )
    assert "in 24 groups" in fold_of(study, 3, 1, 0).notes[0]
