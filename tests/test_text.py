"""Names from strangers, harmless on a terminal and in a table."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.system.text import (
    FORMULA,
    NUMBER,
    csv_cell,
    csv_text,
    json_text,
    printable,
    printable_lines,
)

any_text = st.text(st.characters(exclude_categories=()))
beginnings = st.sampled_from(["=", "+", "-", "@", "\t", "\r", "＝", "'=", "''-", "-1", "'+1"])
formulas = st.builds(str.__add__, beginnings, any_text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("scan 1.png", "scan 1.png"),
        ("Übersicht – Röntgen 胸.png", "Übersicht – Röntgen 胸.png"),
        ("a\nb", r"a\nb"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp.\u202egnp", r"gnp.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),
        ("a\0b\x7f", r"a\x00b\x7f"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        (r"C:\scan", r"C:\scan"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(any_text)
def test_a_printable_text_is_one_line_that_can_be_encoded(text: str) -> None:
    found = printable(text)
    assert found.isprintable()
    assert found.encode().decode() == printable(found)
    assert printable_lines(text).replace("\n", "").isprintable()
    assert printable_lines(text).count("\n") == text.count("\n")


@given(any_text | formulas)
def test_a_cell_is_read_back_as_the_text_it_was(text: str) -> None:
    assert csv_text(csv_cell(text)) == text


@given(any_text | formulas)
def test_no_cell_begins_a_formula(text: str) -> None:
    cell = csv_cell(text)
    assert NUMBER.fullmatch(cell) or not cell or cell[0] not in "=+-@\t\r\n＝＋－＠"
    assert not FORMULA.match(text) or cell in (text, "'" + text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | formulas, min_size=1))
def test_a_row_survives_the_file(row: list[str]) -> None:
    safe = [text for text in row if not any(0xD800 <= ord(one) < 0xE000 for one in text)]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow([csv_cell(text) for text in [*safe, "end"]])
    (cells,) = csv.reader(io.StringIO(buffer.getvalue(), newline=""))
    assert [csv_text(cell) for cell in cells[:-1]] == safe


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_stay_numbers(value: float) -> None:
    assert csv_cell(repr(value)) == repr(value)
    assert csv_text(repr(value)) == repr(value)


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_the_same_json_and_printable(value: dict[str, str]) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()
