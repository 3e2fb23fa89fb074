"""The images that a user names: every form, in order, and nothing lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.data.sources import Rejected, image_files


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
    assert found == ["a/2.png", Rejected("a/list.csv: row 3", "path: is empty"), "a/b/3.tif"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file\nx.png\n", "has no column 'path'"),
        (b"", "has no column 'path'"),
        (b"path\n", "the manifest has no rows"),
        (b"path\n\xff\n", "cannot be read: 'utf-8' codec"),
        (b'path\n"x\n', "cannot be read: unexpected end of data"),
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
        ("empty", "no image below this folder (.bmp, "),
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
