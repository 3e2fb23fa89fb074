"""Writing files: whole or not at all, and with the permissions that the user wants."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tlkit.system.files import atomic_write, new_folder, write_bytes, write_text


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask that the test asks for, and put the old one back."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_overwritten_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"a long first content")
    write_bytes(path, b"short")
    assert path.read_bytes() == b"short"
    assert names_in(tmp_path) == ["a.txt"]


def test_text_is_utf_8_with_the_line_ends_it_has(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\r\n×\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n×\n".encode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failure_leaves_what_was_there_and_nothing_beside_it(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_bytes(before)

    def break_off() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half of the ne")
            raise error("broken off")

    with pytest.raises(error, match=r"^broken off$"):
        break_off()
    assert names_in(tmp_path) == (["a.txt"] if before else [])
    assert (path.read_bytes() if before else None) == before


def test_until_the_body_ends_the_old_content_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with atomic_write(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert partial.name.startswith(".")  # no reader takes it for a result
    assert path.read_bytes() == b"new"


def test_content_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    synced: list[tuple[str, bool]] = []

    def fsync(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((kind, path.exists()))

    monkeypatch.setattr("os.fsync", fsync)
    write_bytes(path, b"new")
    assert synced == [("file", False), ("folder", True)]


def test_a_folder_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "os.fsync", lambda handle: synced.append((os.fstat(handle).st_ino, path.exists()))
    )
    with new_folder(path):
        pass
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@pytest.mark.parametrize(("number", "fine"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_folders_will_do_and_a_broken_one_will_not(
    number: int, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fsync)
    with nullcontext() if fine else pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "content")
    assert (tmp_path / "a.txt").exists() == fine


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], indirect=True)
def test_a_new_file_has_the_permissions_of_any_other_new_file(tmp_path: Path, umask: int) -> None:
    write_bytes(tmp_path / "a.txt", b"")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.umask(umask) == umask  # reading it has not changed it


def test_a_folder_that_is_not_there_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        write_bytes(tmp_path / "none" / "a.txt", b"")
