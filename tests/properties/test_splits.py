"""Laws of splits: what is accepted is disjoint and whole, and what is not is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from tlkit.data.leakage import refuse, shared_patients
from tlkit.data.splits import Example, Splits
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import DataError
from tlkit.testing import class_counts

Examples = dict[str, tuple[Example, ...]]


@st.composite
def studies(draw: st.DrawFn) -> tuple[tuple[str, ...], Examples]:
    """Classes and examples that are a valid study: every patient and file is in one split."""
    classes = tuple(draw(class_counts()))
    examples: Examples = {}
    for split in ("train", "val", "test"):
        labels = [*classes, *draw(st.lists(st.sampled_from(classes), max_size=4))]
        patients = st.sampled_from(["", f"{split}-1", f"{split}-2"])
        shuffled = draw(st.permutations(labels))
        examples[split] = tuple(
            Example(f"{split}/{number}.png", label, draw(patients))
            for number, label in enumerate(shuffled)
        )
    if draw(st.booleans()):
        examples["test"] = ()
    return classes, examples


def splits(classes: tuple[str, ...], examples: Examples) -> Splits:
    train, val, test = (examples[split] for split in ("train", "val", "test"))
    return Splits(classes=classes, train=train, val=val, test=test, read=str.encode)


@given(studies())
def test_every_example_is_counted_once_under_its_label(
    study: tuple[tuple[str, ...], Examples],
) -> None:
    classes, examples = study
    found = splits(classes, examples)
    for split in examples:
        assert found.counts(split) == {
            **dict.fromkeys(classes, 0),
            **Counter(example.label for example in examples[split]),
        }
        assert list(found.counts(split)) == list(classes)
        labels = found.labels(examples[split])
        assert [classes[label] for label in labels] == [e.label for e in examples[split]]
    assert dict(found.items()) == {name: rows for name, rows in examples.items() if rows}


@given(studies(), st.data())
def test_moving_any_file_or_patient_to_a_second_split_as_well_is_refused(
    study: tuple[tuple[str, ...], Examples], data: st.DataObject
) -> None:
    classes, examples = study
    one, other = data.draw(st.permutations([name for name, rows in examples.items() if rows]))[:2]
    leaked = data.draw(st.sampled_from(examples[one]))
    again = data.draw(
        st.sampled_from(
            [evolve(leaked, patient=""), evolve(leaked, path="new.png", patient="leaked")]
        )
    )
    if again.patient:
        place = examples[one].index(leaked)
        named = evolve(leaked, patient="leaked")
        examples[one] = (*examples[one][:place], named, *examples[one][place + 1 :])
    examples[other] += (again,)
    message = r"^image '.*': appears |^patient 'leaked' in .*\neach must be in one split"
    with pytest.raises(DataError, match=message):
        refuse(shared_patients(splits(classes, examples).rows()))


@given(studies(), st.data())
def test_taking_a_class_out_of_a_split_is_refused(
    study: tuple[tuple[str, ...], Examples], data: st.DataObject
) -> None:
    classes, examples = study
    split = data.draw(st.sampled_from([name for name, rows in examples.items() if rows]))
    gone = data.draw(st.sampled_from(classes))
    examples[split] = tuple(row for row in examples[split] if row.label != gone)
    with pytest.raises(DataError, match=f"^{split} split: every class .* got none of '{gone}'$"):
        splits(classes, examples)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 40), st.integers(2, 3))
def test_shapes_are_as_many_as_asked_for_and_spread_evenly(
    train: int, val: int, test: int, classes: int
) -> None:
    assume(min(train, val, test or classes) >= classes)
    names = ("a", "b", "c")[:classes]
    found = Shapes(train=train, val=val, test=test, classes=names).load()
    for split, wanted in (("train", train), ("val", val), ("test", test)):
        counts = found.counts(split).values()
        assert sum(counts) == wanted
        assert max(counts) - min(counts) <= 1
