"""Verifying a manifest: every row holds, and splits share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.pictures import PATIENT, change, manifest_rows, picture, png, two_classes

from tlkit.inspect.split import split_data
from tlkit.inspect.verify import verify_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    two_classes(tmp_path)
    split_data(tmp_path, tmp_path / "m.csv", val=0.2, test=0.2, patient=PATIENT)
    return tmp_path / "m.csv"


def one_of(manifest: Path, split: str) -> int:
    return next(n for n, row in enumerate(manifest_rows(manifest)) if row["split"] == split)


def test_a_true_manifest_is_sound(manifest: Path) -> None:
    found = verify_manifest(manifest)
    assert found.sound
    assert (found.rows, found.notes) == (24, ())


@pytest.mark.parametrize("content", [None, b"", b"text", png(picture(7777))], ids=str)
def test_a_file_that_is_not_what_the_row_says_is_named(
    content: bytes | None, manifest: Path
) -> None:
    path = manifest_rows(manifest)[3]["path"]
    if content is None:
        (manifest.parent / path).unlink()
    else:
        (manifest.parent / path).write_bytes(content)
    (problem,) = verify_manifest(manifest).problems
    assert problem.startswith("row 5: ")
    assert path in problem


def test_a_row_without_a_split_is_named(manifest: Path) -> None:
    change(manifest, 2, split="")
    (problem, *_) = verify_manifest(manifest).problems
    assert problem.startswith("row 4: ")
    assert problem.endswith("is not in a split")


def test_a_patient_in_two_splits_is_named(manifest: Path) -> None:
    row = change(manifest, one_of(manifest, "val"), split="test")
    (leak,) = verify_manifest(manifest).leaks
    assert leak.startswith(f"patient {row['patient']!r} is in test (row ")
    assert "val (row " in leak


@pytest.mark.parametrize(
    ("copied", "told"),
    [
        (lambda image: image, "the same picture"),
        (lambda image: image.resize((60, 60)), "nearly the same ("),
        (lambda image: image.convert("RGB"), "the same picture"),
    ],
)
def test_a_copy_in_another_split_is_named(copied: Any, told: str, manifest: Path) -> None:
    train, test = one_of(manifest, "train"), one_of(manifest, "test")
    rows = manifest_rows(manifest)
    source, target = (manifest.parent / rows[n]["path"] for n in (train, test))
    Image.open(source).load()
    copied(Image.open(source)).save(target, compress_level=9)
    change(manifest, test, sha256="", label=rows[train]["label"])
    (leak,) = verify_manifest(manifest).leaks
    assert leak.startswith(told)
    assert rows[train]["path"] in leak
    assert rows[test]["path"] in leak


def test_one_picture_with_two_labels_is_named(manifest: Path) -> None:
    rows = manifest_rows(manifest)
    train = [n for n, row in enumerate(rows) if row["split"] == "train"]
    one = next(n for n in train if rows[n]["label"] == "clear")
    other = next(n for n in train if rows[n]["label"] == "dense")
    content = (manifest.parent / rows[one]["path"]).read_bytes()
    (manifest.parent / rows[other]["path"]).write_bytes(content)
    change(manifest, other, sha256="")
    (conflict,) = verify_manifest(manifest).conflicts
    assert "is clear" in conflict
    assert "is dense" in conflict
