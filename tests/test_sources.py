"""The reader of images: labeled ones in folders and manifests, and those that a user names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pictures import PATIENT, two_classes, write

import tlkit
from tlkit.data.sources import Rejected, image_files, read_labeled

BELOW = "path: must stay below the images' folder, "
WAY_OUT = "set data.root or --root to a folder that holds all images"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some images and other files; none is opened."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/2.png", "a/1.JPG", "a/b/3.tif", "a/note.txt", "a/.hidden.png", "a/.git/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_is_all_images_below_it_sorted(folder: Path) -> None:
    assert list(image_files(["a"])) == ["a/1.JPG", "a/2.png", "a/b/3.tif"]


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "a" / "loop").symlink_to(folder / "a")
    assert list(image_files(["a"])) == ["a/1.JPG", "a/2.png", "a/b/3.tif"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a/*.png", ["a/2.png"]),
        ("a/**/*.tif", ["a/b/3.tif"]),
        ("a/[12].*", ["a/1.JPG", "a/2.png"]),
        ("a/*", ["a/1.JPG", "a/2.png", "a/note.txt"]),
    ],
)
def test_a_pattern_is_what_it_matches(pattern: str, found: list[str], folder: Path) -> None:
    assert list(image_files([pattern])) == found


def test_what_exists_is_no_pattern(folder: Path) -> None:
    (folder / "scan[1].png").touch()
    assert list(image_files(["scan[1].png"])) == ["scan[1].png"]


def test_a_manifest_is_its_column_path_below_its_own_folder(folder: Path) -> None:
    text = "label,path\nx,2.png\n,\ny,b/3.tif\n"
    (folder / "a" / "list.csv").write_text(text, encoding="utf-8-sig")
    found = list(image_files(["a/list.csv"]))
    assert found == [
        "a/2.png",
        Rejected("a/list.csv: row 3", "path: is empty or not a path"),
        "a/b/3.tif",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file\nx.png\n", "there is no column 'path', got file"),
        (b"", "is empty; the first row names the columns"),
        (b"path\n", "the manifest has no rows"),
        (b"path\n\xff\n", "must be UTF-8, got another byte at 5"),
        (b'path\n"x\n', "not valid CSV: unexpected end of data"),
    ],
    ids=["no column", "empty", "no rows", "no text", "no CSV"],
)
def test_a_manifest_that_cannot_be_read_is_rejected(
    content: bytes, reason: str, folder: Path
) -> None:
    (folder / "list.csv").write_bytes(content)
    (rejected,) = image_files(["list.csv"])
    assert isinstance(rejected, Rejected)
    assert str(rejected).startswith(f"list.csv: {reason}")


def test_standard_input_has_a_path_a_line(folder: Path) -> None:
    lines = iter(["a/2.png\n", "\n", " spaced name.png\r\n", "a/1.JPG"])
    found = list(image_files(["x.png", "-", "y.png"], lines))
    assert found == ["x.png", "a/2.png", " spaced name.png", "a/1.JPG", "y.png"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "no image below this folder"),
        ("*.gif", "no file matches this pattern"),
        ("-", "standard input names no image"),
    ],
)
def test_what_names_no_image_is_rejected(name: str, reason: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    (rejected,) = image_files([name])
    assert isinstance(rejected, Rejected)
    assert rejected.path == name
    assert rejected.reason.startswith(reason)


def test_a_file_is_named_whether_it_is_there_or_not(folder: Path) -> None:
    """Whoever opens it finds out; a second look beforehand would prove nothing."""
    assert list(image_files(["absent.png", "a/note.txt"])) == ["absent.png", "a/note.txt"]


def test_a_name_that_is_no_text_is_kept(folder: Path) -> None:
    os.close(os.open(b"a/\xff.png", os.O_CREAT | os.O_WRONLY))
    assert b"a/\xff.png" in [os.fsencode(str(found)) for found in image_files(["a"])]


@given(st.lists(st.sampled_from(["x.png", "none*.png", "-", "nowhere/y.jpg"]), max_size=6))
def test_whatever_is_named_yields_at_least_one_entry_in_order(names: list[str]) -> None:
    found = [item.path if isinstance(item, Rejected) else item for item in image_files(names)]
    assert found == names


# Labeled images.


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures of two classes in folders."""
    return two_classes(tmp_path_factory.mktemp("images"))


def test_folders_with_and_without_splits_and_rows_are_found(images: Path, tmp_path: Path) -> None:
    plain = read_labeled(images)
    assert plain.classes == ("clear", "dense")
    assert len(plain.images) == 24
    assert {image.split for image in plain.images} == {""}
    split = read_labeled(write(tmp_path / "split", {"train/a/1.png": b"", "val/b/2.jpg": b""}))
    assert [(i.split, i.label) for i in split.images] == [("train", "a"), ("val", "b")]
    write(tmp_path / "rows", {"1.png": b"", "x.csv": b"path,label,patient\n1.png,a,p\n"})
    rows = read_labeled(tmp_path / "rows" / "x.csv")
    assert [(i.path, i.label, i.patient, i.split) for i in rows.images] == [("1.png", "a", "p", "")]


def test_the_patient_can_be_in_the_file_name(images: Path) -> None:
    assert {image.patient for image in read_labeled(images, PATIENT).images} == {
        f"p{label}{number:02d}" for label in ("clear", "dense") for number in range(6)
    }
    assert {image.patient for image in read_labeled(images, "^(x)").images} == {""}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is not a regular expression"), ("abc", "must have one group"), ("(a)(b)", "one group")],
)
def test_a_wrong_pattern_is_refused(pattern: str, message: str, images: Path) -> None:
    with pytest.raises(tlkit.DataError, match=message):
        read_labeled(images, pattern)


@pytest.mark.parametrize("name", ["absent", "empty", "absent.csv"])
def test_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(tlkit.DataError, match=r"there is no such|has no images"):
        read_labeled(tmp_path / name)


def test_a_misspelled_split_next_to_the_others_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train/a/1.png": b"", "runs/1/2.png": b""})
    assert len(read_labeled(tmp_path).images) == 1
    write(tmp_path, {"tests/a/2.png": b""})
    with pytest.raises(tlkit.DataError, match=r"tests: has folders of classes like train, but mus"):
        read_labeled(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone.png,a,train", "path: there is no file 'gone.png'"),
        (
            "../1.png,a,train",
            f"{BELOW}TOP, got '../1.png'; {WAY_OUT}",
        ),
        ("/1.png,a,train", f"{BELOW}TOP, got '/1.png'; {WAY_OUT}"),
        ("1.png,,train", "label: is empty"),
        ("1.png,a,tset", "split: must be one of train, val, test, got 'tset'"),
        (",a,train", "path: is empty or not a path"),
        ("1.png,a", "expected 3 values, got 2"),
        ("1.png,a,train,more", "expected 3 values, got 4"),
        ("2.png,a,train", "path: '2.png' is in row 2 already"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_are_read(
    row: str, message: str, tmp_path: Path
) -> None:
    table = f"path,label,split\n2.png,a,train\n{row}\n"
    write(tmp_path, {"1.png": b"", "2.png": b"", "x.csv": table.encode()})
    found = read_labeled(tmp_path / "x.csv")
    assert found.problems == (f"row 3: {message.replace('TOP', str(tmp_path))}",)
    assert len(found.images) == 1
