"""`tlkit data inspect`, `split` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import PATIENT, change, contents, two_classes, write
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.inspect.fingerprints import NEAR_BITS
from tlkit.inspect.split import split_data


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures of two classes in folders."""
    return two_classes(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees and samples; tests/test_shortcuts.py is about what they find."""
    monkeypatch.setattr("tlkit.inspect.shortcuts.TREES", 20)
    monkeypatch.setattr("tlkit.inspect.shortcuts.RESAMPLES", 20)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    two_classes(tmp_path)
    split_data(tmp_path, tmp_path / "m.csv", val=0.2, test=0.2, patient=PATIENT)
    return tmp_path / "m.csv"


def ran(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_inspect_prints_what_it_found(images: Path) -> None:
    done = ran("inspect", images, "--patient", PATIENT)
    assert done.exit_code == 0, done.output
    for told in ("no split", "clear", "64×64", "24 PNG L", "12 known", "border", "whole picture"):
        assert told in done.stdout


def test_inspect_in_json_is_the_same_for_a_program(images: Path) -> None:
    found = json.loads(ran("inspect", images, "--json").stdout)
    assert found["counts"] == {"": {"clear": 12, "dense": 12}}
    assert {one["what"] for one in found["shortcuts"]} >= {"source", "size", "file", "border"}


def test_inspect_names_what_cannot_be_read_after_the_rest(images: Path, tmp_path: Path) -> None:
    files = contents(images)
    write(tmp_path, files | {"clear/bad\x1b.png": b"text"})
    done = ran("inspect", tmp_path)
    assert "24 PNG L" in done.stdout
    assert isinstance(done.exception, tlkit.DataError)
    assert str(done.exception) == (
        "1 cannot be read\n  clear/bad\\x1b.png: is not an image; "
        "AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP and DICOM are read"
    )


def test_split_prints_the_counts_next_to_the_target(images: Path, tmp_path: Path) -> None:
    files = contents(images)
    write(tmp_path, files)
    done = ran("split", tmp_path, "--out", tmp_path / "m.csv", "--val", "0.25", "--test", "0.25")
    assert done.exit_code == 0, done.output
    assert "3 of 3.0" in done.stdout
    assert "24 images have no patient" in done.stderr
    assert f"next: tlkit data verify {tmp_path / 'm.csv'}" in done.stdout


def test_verify_ends_with_the_rows_that_are_wrong(manifest: Path) -> None:
    done = ran("verify", manifest)
    assert done.exit_code == 0
    assert "all 24 rows are sound" in done.stdout
    change(manifest, 1, sha256="0" * 64)
    done = ran("verify", manifest)
    assert isinstance(done.exception, tlkit.DataError)
    assert done.exception.exit_code == 4
    assert "1 rows are wrong\n  row 3: " in str(done.exception)
    assert not json.loads(ran("verify", manifest, "--json").stdout)["sound"]


def test_the_command_and_the_functions_agree_on_what_is_near() -> None:
    from tlkit.cli.data import DEFAULT_NEAR_BITS

    assert DEFAULT_NEAR_BITS == NEAR_BITS
