"""Images are read from below their folder and from nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tlkit.data.root import LOOKED_AT, ImageRoot, mean_file_bytes, read_file


@pytest.fixture(params=[True, False], ids=["as Linux says", "by its path"], autouse=True)
def place_is_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the system says where an open file is."""
    if not request.param:
        monkeypatch.setattr("tlkit.data.root._place", lambda file: "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files inside and outside of a folder, and links of every kind."""
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (top / "1.png", top / "a" / "2.png", tmp_path / "outside" / "secret.png"):
        path.write_bytes(path.name.encode())
    (top / "inside.png").symlink_to("a/2.png")
    (top / "out.png").symlink_to(tmp_path / "outside" / "secret.png")
    (top / "far").symlink_to(tmp_path / "outside")
    (top / "loop.png").symlink_to("loop.png")
    (top / "loops").symlink_to("loops")
    (top / "broken.png").symlink_to("none.png")
    os.mkfifo(top / "fifo.png")
    return top


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.png", b"1.png"),
        ("a/2.png", b"2.png"),
        ("inside.png", b"2.png"),
        ("./a//2.png", b"2.png"),
    ],
)
def test_a_file_below_the_folder_is_read(folder: Path, name: str, content: bytes) -> None:
    root = ImageRoot(folder)
    assert root.problem(name) == ""
    assert root.read(name) == content


@pytest.mark.parametrize("name", ["out.png", "far/secret.png", "../outside/secret.png"])
def test_what_leads_out_is_refused_unless_links_are_followed(folder: Path, name: str) -> None:
    assert "leads out of" in ImageRoot(folder).problem(name)
    with pytest.raises(OSError, match="leads out of"):
        ImageRoot(folder).read(name)
    free = ImageRoot(folder, follow_links=True)
    assert (free.problem(name), free.read(name)) == ("", b"secret.png")


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.png", "there is no file 'none.png'"),
        ("none/1.png", "there is no file 'none/1.png'"),
        ("1.png/2.png", "there is no file '1.png/2.png'"),
        ("loop.png", "there is no file 'loop.png'"),
        ("loops/1.png", "there is no file 'loops/1.png'"),
        ("broken.png", "there is no file 'broken.png'"),
        ("a", "'a' is not a regular file"),
        ("fifo.png", "'fifo.png' is not a regular file"),
        ("x\0y", r"there is no file 'x\x00y'"),
        ("x" * 300, f"there is no file '{'x' * 300}'"),
    ],
)
def test_what_is_not_a_file_is_named_and_never_blocks(
    folder: Path, name: str, problem: str, follow_links: bool
) -> None:
    root = ImageRoot(folder, follow_links)
    assert root.problem(name) == problem
    with pytest.raises((OSError, ValueError), match=r"."):
        root.read(name)


def test_a_link_put_in_a_files_place_leads_nowhere(folder: Path) -> None:
    root = ImageRoot(folder)
    assert root.problem("a/2.png") == ""
    (folder / "a" / "2.png").unlink()
    (folder / "a").rmdir()
    (folder / "a").symlink_to(folder.parent / "outside")
    (folder / "a" / "2.png").write_bytes(b"planted")
    with pytest.raises(PermissionError, match="leads out of"):
        root.read("a/2.png")


def test_a_link_that_is_there_for_a_moment_leads_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open
    path, secret = folder / "1.png", folder.parent / "outside" / "secret.png"

    def swapping(name: Path, flags: int) -> int:
        path.rename(folder / "kept")
        path.symlink_to(secret)
        handle = really(name, flags)
        path.unlink()
        (folder / "kept").rename(path)
        return handle

    monkeypatch.setattr("os.open", swapping)
    with pytest.raises(PermissionError, match="leads out of"):
        ImageRoot(folder).read("1.png")


def test_a_file_that_is_far_too_large_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_MAX_FILE_MB", "1")
    (folder / "1.png").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(OSError, match=r"has more than 1 MB \(TLKIT_MAX_FILE_MB\)"):
        ImageRoot(folder).read("1.png")


def test_a_folder_that_is_a_link_itself_is_the_folder_it_leads_to(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert ImageRoot(link).problem("a/2.png") == ""
    assert ImageRoot(link).read("a/2.png") == b"2.png"


def test_a_file_anywhere_is_read_unless_it_is_not_regular(folder: Path) -> None:
    assert read_file(folder / "out.png") == b"secret.png"
    for name, problem in (("fifo.png", "is not a regular file"), ("none.png", "No such file")):
        with pytest.raises(OSError, match=problem):
            read_file(folder / name)


def test_the_mean_size_is_that_of_a_few_files_and_unknown_without_any(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(3 * LOOKED_AT)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(10 if number % 3 else 40))
    assert mean_file_bytes(names[:3], tmp_path) == 20
    assert mean_file_bytes(names, tmp_path) == 40  # every third, no more
    assert mean_file_bytes([names[1], "gone", "a\0b"], tmp_path) == 10
    assert mean_file_bytes([str(tmp_path / "0")]) == 40
    assert mean_file_bytes(["gone"], tmp_path) is None
    assert mean_file_bytes([]) is None
