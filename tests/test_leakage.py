"""One patient in two splits: found however it is written, listed with every row."""

from __future__ import annotations

import pytest
from attrs import evolve, frozen

from tlkit.data.leakage import same_patient, shared_patients, shared_pictures
from tlkit.data.splits import Example, Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Dataset
from tlkit.system.errors import DataError


def splits(**patients: tuple[str, str]) -> Splits:
    """Two images in each split, `one` and `two`, of the given patients."""
    given = {"train": ("", ""), "val": ("", ""), "test": ("", ""), **patients}
    examples = {
        split: tuple(
            Example(f"{split}/{label}.png", label, patient)
            for label, patient in zip(("one", "two"), found, strict=True)
        )
        for split, found in given.items()
    }
    return Splits(classes=("one", "two"), read=str.encode, **examples)  # type: ignore[arg-type]  # the splits


@frozen(kw_only=True)
class Study(Dataset):
    """Given splits."""

    given: Splits

    def load(self) -> Splits:
        return self.given


@pytest.mark.parametrize(
    ("one", "other"),
    [("p1", "p1"), ("p1", "P1 "), ("007", "7"), ("P007", "p7"), ("é", "e\u0301"), ("0", "00")],
)
def test_one_patient_written_in_two_ways_is_one(one: str, other: str) -> None:
    assert same_patient(one) == same_patient(other)


@pytest.mark.parametrize(
    ("one", "other"), [("p1", "p10"), ("1.05", "1.5"), ("p1", "p2"), ("0", "")]
)
def test_two_patients_are_two(one: str, other: str) -> None:
    assert same_patient(one) != same_patient(other)


def test_patients_in_several_splits_are_listed_with_every_row() -> None:
    found = splits(train=("p1", "p2"), val=("p3", "P01"), test=("p2", "p1"))
    message = (
        r"^patient 'p1' = 'P01' in train and val and test: "
        r"train/one\.png \(train\), val/two\.png \(val\), test/two\.png \(test\)\n"
        r"patient 'p2' in train and test: train/two\.png \(train\), test/one\.png \(test\)\n"
        r"each must be in one split only: .* data\.allow_leakage = true$"
    )
    with pytest.raises(DataError, match=message):
        load_splits(Study(given=found))


def test_what_is_accepted_is_counted() -> None:
    found = splits(train=("p1", "p2"), val=("p1", "p2"))
    accepted = load_splits(Study(given=found, allow_leakage=True))
    assert accepted.facts()["leakage_accepted"] == {"patient": 2}
    assert accepted.train == found.train


def test_images_of_nobody_known_and_of_one_patient_in_one_split_are_fine() -> None:
    found = splits(train=("p1", "p1"), val=("", ""))
    assert shared_patients(found.rows()) == []
    assert load_splits(Study(given=found)) == found


@pytest.mark.parametrize(
    ("train", "known"), [(("", ""), "unknown"), (("p1", ""), "partly known"), (("a", "b"), "known")]
)
def test_whether_patients_are_known_is_told(train: tuple[str, str], known: str) -> None:
    found = splits(train=train, val=("", ""))
    if known == "known":
        found = evolve(found, test=(), val=splits(val=("c", "d")).val)
    assert found.patients == known
    assert found.facts()["patients"] == known


def test_a_name_in_a_message_is_printable() -> None:
    given = splits()
    odd = evolve(given, val=(Example("a\n\x1b.png", "one"), Example("b", "two")))
    pictures = {example.path: "same" for _, found in odd.items() for example in found}
    (found,) = shared_pictures(odd.rows(), pictures)
    assert r"a\n\x1b.png (val, one)" in str(found)
    assert str(found).isprintable()


def test_ten_rows_are_shown_and_the_rest_counted() -> None:
    many = tuple(Example(f"{n}.png", ("one", "two")[n % 2], "p") for n in range(12))
    (found,) = shared_patients(evolve(splits(val=("p", "p")), train=many).rows())
    assert str(found).endswith("9.png (train) and 4 more")


@pytest.mark.parametrize(
    "spelling",
    ["P7", "p7", " P7", "P7\u200b", "\ufeffP7", "\uff30\uff17", "P\u00a07", "P 7", "P07",
     "P\u00ad7", "P7\ufe0f", "P\u2060 007"],
)  # fmt: skip
def test_a_patient_is_one_whatever_the_characters(spelling: str) -> None:
    assert same_patient(spelling) == "p7"


@pytest.mark.parametrize("other", ["P70", "P-7", "Q7", "P7a", "P1", "P0"])
def test_other_patients_stay_others(other: str) -> None:
    assert same_patient(other) != same_patient("P7")


def test_zeros_before_any_number_make_no_difference() -> None:
    assert same_patient("A1-007") == same_patient("A1-7") != same_patient("A10-7")
    assert same_patient("000") == same_patient("0") != ""
