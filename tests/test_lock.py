"""The lock of a run folder: held by one process, and freed however that process ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tlkit
from tlkit.system.files import partial_folder, rename_folder, write_text
from tlkit.system.lock import LOCK, holder, is_locked, locked, unlock


def test_a_locked_folder_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(
            tlkit.RunFolderError,
            match=rf": process {os.getpid()} on .+ is writing to it$",
        ) as caught,
        locked(tmp_path),
    ):
        pass
    assert caught.value.exit_code == 7
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_the_lock_stays_with_a_folder_that_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with locked(tmp_path / "before"):
        (tmp_path / "before").rename(tmp_path / "after")
        assert is_locked(tmp_path / "after")


def link_lock(folder: Path) -> None:
    (folder / LOCK).symlink_to("thesis.txt")


@pytest.mark.parametrize(
    "make",
    [link_lock, lambda folder: (folder / LOCK).mkdir(), lambda folder: os.mkfifo(folder / LOCK)],
    ids=["link", "folder", "pipe"],
)
def test_a_lock_that_is_no_file_is_refused_and_nothing_is_written(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    make(tmp_path)
    assert not is_locked(tmp_path)
    with (
        pytest.raises(tlkit.RunFolderError, match=r"\.lock: is not a regular file; remove it"),
        locked(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_nothing_is_written_to_the_folder_that_takes_the_place_of_a_locked_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with partial_folder(folder) as partial, locked(partial):
        rename_folder(partial, folder)
        write_text(folder / "a", "mine")
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        for own in (False, True):
            if own:
                (folder / LOCK).write_text("another's")
            with pytest.raises(OSError, match="another folder has taken its place"):
                write_text(folder / "a", "lost")
        folder.rename(tmp_path / "other")
        with pytest.raises(FileNotFoundError):
            write_text(folder / "a", "lost")
        (tmp_path / "moved").rename(folder)
        write_text(folder / "a", "mine again")
        folder.rename(tmp_path / "done")
    assert (tmp_path / "done" / "a").read_text(encoding="utf-8") == "mine again"
    write_text(tmp_path / "other" / "b", "not locked any more")


HOLD = """
import sys, time
from pathlib import Path
from tlkit.system.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_its_name_but_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert holder(tmp_path).startswith(f"process {process.pid} on ")
    assert is_locked(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).is_file()
    with locked(tmp_path):
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")


def test_a_folder_without_a_lock_file_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())  # looking has left nothing
    with locked(tmp_path):
        unlock(tmp_path)
    assert not list(tmp_path.iterdir())
    assert holder(tmp_path) == "another process"


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        assert not is_locked(tmp_path)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(tlkit.RunFolderError, match=r"\.lock: is not a regular file"):
        locked(tmp_path / "run").__enter__()
    assert not is_locked(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "content"


def test_a_file_with_a_second_name_is_locked_but_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).hardlink_to(tmp_path / "precious")
    with locked(tmp_path / "run"):
        assert is_locked(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "content"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(tlkit.ResourceError, match=r"/none: cannot be written to: No such file"),
        locked(tmp_path / "none"),
    ):
        pass
