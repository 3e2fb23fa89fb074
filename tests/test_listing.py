"""Predictions as text: every answer has its row, in order, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.classifier import Prediction
from tlkit.cli.listing import Format, Listing
from tlkit.data.sources import Rejected
from tlkit.system.text import csv_text

CLASSES = ("normal", "covid-19", "other")
ANSWERS = (
    Prediction("b.png", "covid-19", np.array([0.25, 0.7, 0.05], np.float32)),
    Rejected("bad.png", "is no image"),
    Prediction('a "quoted", name.png', "normal", np.array([0.5, 0.125, 0.375], np.float32)),
)


def listed(form: str, top: int | None = None, answers: Sequence[Any] = ANSWERS) -> str:
    return "".join(f"{line}\n" for line in Listing(Format(form), CLASSES, top).lines(answers))


def test_csv_has_a_row_an_answer() -> None:
    assert listed("csv") == (
        "path,predicted,p_normal,p_covid-19,p_other\n"
        "b.png,covid-19,0.25,0.7,0.05\n"
        '"a ""quoted"", name.png",normal,0.5,0.125,0.375\n'
    )


def test_csv_of_the_most_probable_classes() -> None:
    assert listed("csv", top=2).splitlines()[:2] == [
        "path,predicted,class_1,p_1,class_2,p_2",
        "b.png,covid-19,covid-19,0.7,normal,0.25",
    ]


def test_more_classes_than_there_are_cannot_be_listed() -> None:
    assert listed("csv", top=9).startswith("path,predicted,class_1,p_1,class_2,p_2,class_3,p_3\n")


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_has_an_entry_for_what_was_rejected_too(form: str) -> None:
    text = listed(form)
    found = json.loads(text) if form == "json" else list(map(json.loads, text.splitlines()))
    assert found == [
        {"path": "b.png", "predicted": "covid-19", "p_normal": 0.25, "p_covid-19": 0.7,
         "p_other": 0.05},
        {"path": "bad.png", "error": "is no image"},
        {"path": 'a "quoted", name.png', "predicted": "normal", "p_normal": 0.5,
         "p_covid-19": 0.125, "p_other": 0.375},
    ]  # fmt: skip
    assert json.loads(listed("jsonl", top=1).splitlines()[0])["top"] == [
        {"class": "covid-19", "p": 0.7}
    ]


def test_the_table_is_aligned() -> None:
    assert listed("table").splitlines() == [
        "path                  predicted  p_normal  p_covid-19  p_other",
        "b.png                  covid-19     0.250       0.700    0.050",
        'a "quoted", name.png     normal     0.500       0.125    0.375',
    ]


def test_a_table_of_many_classes_shows_the_most_probable() -> None:
    classes = tuple(f"class {number}" for number in range(7))
    answer = Prediction("a.png", "class 3", np.array([0, 0.1, 0, 0.6, 0, 0.3, 0], np.float32))
    shown = "\n".join(Listing(Format.table, classes).lines([answer]))
    assert " ".join(shown.split()[-9:]) == "class 3 0.600 class 5 0.300 class 1 0.100"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", ""),
        ("csv", "path,predicted,p_normal,p_covid-19,p_other\n"),
        ("json", "[\n]\n"),
        ("jsonl", ""),
    ],
)
def test_no_answers_are_listed_soundly(form: str, text: str) -> None:
    assert listed(form, answers=[]) == text


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_lines_come_as_the_answers_do(form: str) -> None:
    """So that a million images need no more memory than ten."""
    taken = []

    def answers() -> Iterator[Prediction]:
        for number in range(100):
            taken.append(number)
            yield Prediction(f"{number}.png", "normal", np.array([1, 0, 0], np.float32))

    lines = iter(Listing(Format(form), CLASSES).lines(answers()))
    for _ in range(3):
        next(lines)
    assert len(taken) <= 4


ROWS = st.lists(
    st.one_of(
        st.builds(Rejected, st.text(), st.just("is no image")),
        st.builds(
            lambda path: Prediction(path, "other", np.array([0, 0, 1], np.float32)), st.text()
        ),
    ),
    max_size=5,
)


@given(ROWS)
def test_rows_and_rejected_are_all_there_is_in_order(answers: list[Any]) -> None:
    found = json.loads(listed("json", answers=answers))
    assert [entry["path"] for entry in found] == [answer.path for answer in answers]
    sound = [answer.path for answer in answers if isinstance(answer, Prediction)]
    text = io.StringIO(listed("csv", answers=answers), newline="")
    assert [csv_text(row["path"]) for row in csv.DictReader(text)] == sound
