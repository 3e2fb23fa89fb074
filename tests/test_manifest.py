"""CSV manifests: every wrong row is named, nothing is guessed, nothing is stripped."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    rows = ["1.png,NA,train", "2.png,007,train", "a/1.png,normal ,train"]
    labels = [example.label for example in read(folder, HEADER, *rows, classes=None)["train"]]
    assert labels == ["NA", "007", "normal "]


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
        ("../outside.png,normal,train", "path: must stay below the images' folder, got "),
        ("a/../../outside.png,normal,train", "path: must stay below the images' folder, got "),
        ("/etc/hosts,normal,train", "path: must stay below the images' folder, got "),
        ("C:/scan.png,normal,train", "path: must stay below the images' folder, got "),
        ("file://1.png,normal,train", "path: must stay below the images' folder, got "),
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
        (["Path,label,split"], "there is no column 'path', got Path, label, split$"),
        (["path;label;split"], "there is no column 'path', got path;label;split$"),
        (["path, label,split"], "there is no column 'label', got path,  label, split$"),
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
    assert lines[10:] == ([f"… and {more} more rows"] if more else [])
