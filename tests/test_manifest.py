"""CSV manifests: every wrong row is named, nothing is guessed, nothing is stripped."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.data.manifest import refuse_rows
from tlkit.data.sources import read_manifest
from tlkit.data.splits import SPLITS, Example
from tlkit.system.errors import DataError

CLASSES = ("normal", "covid-19")
HEADER = "path,label,split"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that rows may name."""
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png", "a/1.png", "with, comma.png"):
        (tmp_path / name).touch()
    (tmp_path.parent / "outside.png").touch()
    return tmp_path


def by_split(
    path: Path, classes: tuple[str, ...] | None = CLASSES
) -> dict[str, tuple[Example, ...]]:
    """Read a manifest as a run does."""
    found = read_manifest(path, classes, required=("path", "label", "split"))
    refuse_rows(path, found.problems)
    return {split: found.examples(split) for split in SPLITS}


def read(
    folder: Path, *lines: str, classes: tuple[str, ...] | None = CLASSES
) -> dict[str, tuple[Example, ...]]:
    path = folder / "data.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return by_split(path, classes)


def test_rows_are_read_in_their_order(folder: Path) -> None:
    found = read(
        folder,
        "label,path,split,patient,view,source",
        "covid-19,a/1.png,train,p7,PA,Bath",
        'normal,"with, comma.png",test,,,',
        "normal,1.png,train,,,",
    )
    assert found == {
        "train": (
            Example("a/1.png", "covid-19", "p7", source="Bath", view="PA"),
            Example("1.png", "normal"),
        ),
        "val": (),
        "test": (Example("with, comma.png", "normal"),),
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted(
    folder: Path, mark: bytes, end: str
) -> None:
    path = folder / "data.csv"
    path.write_bytes(mark + end.join([HEADER, "", "1.png,normal,train", "", ""]).encode())
    assert by_split(path)["train"] == (Example("1.png", "normal"),)


def test_other_columns_are_left_alone(folder: Path) -> None:
    found = read(folder, f"{HEADER},age,finding", "1.png,normal,val,61,none")
    assert found["val"] == (Example("1.png", "normal"),)


def test_labels_are_text_and_are_kept_as_they_are(folder: Path) -> None:
    rows = ["1.png,none,train", "2.png,007,train", "a/1.png,normal ,train"]
    labels = [example.label for example in read(folder, HEADER, *rows, classes=None)["train"]]
    assert labels == ["none", "007", "normal "]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1.png,covid,train", "label: 'covid' is none of the classes normal, covid-19; did you"),
        ("1.png,normal ,train", "label: 'normal ' is none of the classes"),
        ("1.png,Normal,train", "label: 'Normal' is none of the classes"),
        ("1.png,,train", "label: is empty$"),
        ("1.png,normal,", "split: must be one of train, val, test, got ''$"),
        ("1.png,normal,Train", "split: must be one of train, val, test, got 'Train'$"),
        ("1.png,normal,valid", "split: must be one of train, val, test, got 'valid'$"),
        ("3.png,normal,train", "path: there is no file '3.png'$"),
        ("a,normal,train", "path: 'a' is not a regular file$"),
        (",normal,train", "path: is empty or not a path$"),
        ("1\0.png,normal,train", "path: is empty or not a path$"),
        ("../outside.png,normal,train", "path: must stay below the images' folder, "),
        ("a/../../outside.png,normal,train", "path: must stay below the images' folder, "),
        ("/etc/hosts,normal,train", "path: must stay below the images' folder, "),
        ("C:/scan.png,normal,train", "path: must stay below the images' folder, "),
        ("file://1.png,normal,train", "path: must stay below the images' folder, "),
        ("2.png,normal,val", "path: '2.png' is in row 2 already$"),
        ("./2.png,normal,val", r"path: '2\.png' is in row 2 already$"),
        (".//2.png,normal,val", r"path: '2\.png' is in row 2 already$"),
        ("a//1.png,normal,val", r"path: 'a/1\.png' is in row 3 already$"),
    ],
)
def test_a_wrong_row_is_named_with_its_number_and_reason(
    folder: Path, row: str, problem: str
) -> None:
    with pytest.raises(DataError, match=rf"^{folder}/data\.csv: row 4: {problem}"):
        read(folder, HEADER, "2.png,normal,train", "a/1.png,normal,train", row)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "is empty; the first row names the columns$"),
        (["path,label"], "there is no column 'split', got path, label$"),
        (["Path,label,split"], "there is no column 'path', got Path, label, split; ren"),
        (
            ["FileName;PatientID;label"],
            "there is no column 'path', got FileName, PatientID, label; rename 'FileName' to 'pa",
        ),
        (["path,finding,split"], "there is no column 'label', got path, finding, split$"),
        (
            ["path,Diagnosis,split"],
            "there is no column 'label', got path, Diagnosis, split; rename 'Diagnosis'",
        ),
        (["path, label,split"], "there is no column 'label', got path,  label, split; ren"),
        (["path,label,split,label"], "a column appears twice, got path, label, split, label$"),
        ([f"{HEADER},pateint"], r"unknown column 'pateint'; did you mean 'patient'\?$"),
        ([f"{HEADER},Patient"], r"unknown column 'Patient'; did you mean 'patient'\?$"),
        ([HEADER, "1.png,normal"], "row 2: expected 3 values, got 2$"),
        ([HEADER, "1.png,normal,train,x"], "row 2: expected 3 values, got 4$"),
        ([HEADER, '"1.png,normal,train'], "not valid CSV: unexpected end of data$"),
        ([HEADER, "x" * 200_000], "not valid CSV: field larger than field limit"),
    ],
)
def test_a_table_of_another_form_is_refused(folder: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=rf"^{folder}/data\.csv: {problem}"):
        read(folder, *lines)


def test_a_file_that_is_not_utf_8_is_refused(folder: Path) -> None:
    path = folder / "data.csv"
    path.write_bytes(f"{HEADER}\n".encode() + b"caf\xe9.png,normal,train")
    with pytest.raises(DataError, match=r"data\.csv: must be UTF-8, got another byte at 20$"):
        by_split(path)


def test_a_row_is_counted_by_its_line_in_the_file(folder: Path) -> None:
    rows = ["", '"1.png","normal","train"', "", "2.png,normal,nowhere"]
    with pytest.raises(DataError, match=r"data\.csv: row 5: split: "):
        read(folder, HEADER, *rows)


@pytest.mark.parametrize(("wrong", "more"), [(1, None), (10, None), (11, 1), (250, 240)])
def test_ten_wrong_rows_are_shown_and_the_others_counted(
    folder: Path, wrong: int, more: int | None
) -> None:
    rows = [f"{number}.jpg,normal,train" for number in range(wrong)]
    with pytest.raises(DataError, match="row 2: path: there is no file") as raised:
        read(folder, HEADER, *rows, "1.png,normal,train")
    lines = str(raised.value).splitlines()
    assert len([line for line in lines if "there is no file" in line]) == min(wrong, 10)
    assert lines[10:] == ([f"… and {more} more rows"] if more else []) + (
        ["paths are relative to the CSV file; for another folder set data.root"] * (wrong > 1)
    )


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ("1,normal,train", "'1.png'"),
        ("1.jpg,normal,train", "'1.png'"),
        ("1.PNG,normal,train", "'1.png'"),
        ("a/1,normal,train", "'a/1.png'"),
        ("a/3,normal,train", None),
        ("nowhere/1,normal,train", None),
    ],
)
def test_a_file_of_a_similar_name_is_named(folder: Path, row: str, hint: str | None) -> None:
    name = row.partition(",")[0]
    end = f"; there is {hint}$" if hint else "$"
    with pytest.raises(DataError, match=rf"path: there is no file '{name}'{end}"):
        read(folder, HEADER, row)


def test_names_beyond_the_root_are_not_told(folder: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.png").touch()
    (folder / "far").symlink_to(outside)
    with pytest.raises(DataError, match=r"path: there is no file 'far/secret'$"):
        read(folder, HEADER, "far/secret,normal,train")


NAMES = ("1.png", "2.png", "a/1.png", "with, comma.png")


@given(
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    spelling=st.lists(
        st.sampled_from(["plain", "dot", "slashes", "backslashes", "absolute"]),
        min_size=len(NAMES),
        max_size=len(NAMES),
    ),
    columns=st.permutations(["path", "label", "split", "age"]),
)
def test_the_dialect_of_a_table_does_not_matter(
    separator: str,
    end: str,
    mark: str,
    quoting: Any,
    spelling: list[str],
    columns: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("dialect")
    (folder / "a").mkdir()
    buffer = io.StringIO()
    writer = csv.DictWriter(
        buffer, columns, delimiter=separator, lineterminator=end, quoting=quoting
    )
    writer.writeheader()
    for name, how in zip(NAMES, spelling, strict=True):
        (folder / name).touch()
        path = {
            "plain": name,
            "dot": f"./{name}",
            "slashes": name.replace("/", "//"),
            "backslashes": name.replace("/", "\\"),
            "absolute": str(folder / name),
        }[how]
        writer.writerow({"path": path, "label": "normal", "split": "train", "age": 7})
    table = folder / "data.csv"
    table.write_text(mark + buffer.getvalue(), encoding="utf-8", newline="")
    assert by_split(table)["train"] == tuple(Example(name, "normal") for name in NAMES)


@pytest.mark.parametrize(
    ("column", "known"),
    [("CaseID", "patient"), ("Subject ID", "patient"), ("Fold", "split"), ("age", None)],
)
def test_a_column_that_looks_important_and_is_not_used_is_noted(
    folder: Path, column: str, known: str | None
) -> None:
    path = folder / "data.csv"
    path.write_text(f"path,label,{column}\n1.png,normal,x\n", encoding="utf-8")
    note = f"column {column!r} is not used; if it is the {known}, rename it to {known!r}"
    assert read_manifest(path).notes == ((note,) if known else ())


@pytest.mark.parametrize(
    ("labels", "noted"),
    [(("1", "1.0"), True), (("1", "01"), True), (("1", "2"), False), (("a", "A"), False)],
)
def test_one_number_in_two_spellings_is_noted(
    folder: Path, labels: tuple[str, str], noted: bool
) -> None:
    path = folder / "data.csv"
    path.write_text(f"path,label\n1.png,{labels[0]}\n2.png,{labels[1]}\n", encoding="utf-8")
    note = f"labels {labels[0]!r} and {labels[1]!r} are two classes; write them alike if they mean "
    assert read_manifest(path).notes == ((f"{note}one",) if noted else ())


@pytest.mark.parametrize("label", ["nan", "NaN", "<NA>", "NaT", "NA", "n/a", "#N/A", "NULL"])
def test_what_tables_have_for_a_missing_label_is_no_label(folder: Path, label: str) -> None:
    with pytest.raises(DataError, match=f"row 2: label: is missing, got '{label}'; if"):
        read(folder, HEADER, f"1.png,{label},train", classes=None)
    assert read(folder, HEADER, f"1.png,{label},train", classes=(label, "b"))["train"]
