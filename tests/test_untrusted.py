"""Files from strangers: regular ones only, of limited size, and JSON with one meaning."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.system.errors import RunFolderError
from tlkit.system.seal import check_content, hashes_of, seal
from tlkit.system.text import json_text
from tlkit.system.untrusted import MAX_CONTAINERS, opened, parse_json, read_bytes, read_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
def test_what_tlkit_writes_comes_back(value: object) -> None:
    assert parse_json(json_text(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("NaN", "NaN is not a number of JSON"),
        ("[-Infinity]", "-Infinity is not a number of JSON"),
        ("[1e999]", "1e999 is too large a number"),
        ("9" * 30, "is too large a number"),
        ('{"a": 1, "b": 2, "a": 1}', "the name 'a' appears twice"),
        ("[" * 65 + "]" * 65, "is nested too deeply"),
        ("[" * 100_000, "is nested too deeply"),
        (r'["\ud800"]', "surrogates not allowed"),
        ("[" + "{}," * MAX_CONTAINERS + "0]", "has more than 1,000,000 objects and arrays"),
    ],
    ids=lambda value: value[:20],
)
def test_other_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_whole_characters_and_deep_enough_values_pass() -> None:
    assert parse_json(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(__file__), "is a link, and links are not followed"),
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.write_bytes(bytes(11)), "has more than 0 MiB"),
        (lambda path: None, "No such file"),
    ],
    ids=["link", "pipe", "folder", "large", "missing"],
)
def test_what_is_no_small_regular_file_is_refused(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match=message):
        read_bytes(tmp_path / "file", 10)


def test_a_link_that_the_user_names_is_followed_but_not_to_a_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link", follow=True) == "content"
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="is not a regular file"):
        read_text(tmp_path / "zero", follow=True)


def test_a_link_put_in_a_files_place_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (tmp_path / "file").symlink_to("secret")
    sound = (tmp_path / "secret").stat()
    monkeypatch.setattr(os, "lstat", lambda path: sound)
    with pytest.raises(OSError, match="symbolic link"), opened(tmp_path / "file", 10):
        pass


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_impossible_names_are_errors_of_the_system(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File name too long|has a NUL in its name"):
        read_bytes(tmp_path / name)


def test_content_that_was_read_already_is_compared_with_the_seal(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    seal(tmp_path, hashes_of(tmp_path, ["a"]))
    check_content(tmp_path, "a", b"x")
    with pytest.raises(RunFolderError, match=r"a: has changed since it was written, by seal"):
        check_content(tmp_path, "a", b"y")
