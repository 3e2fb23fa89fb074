"""Which files below a folder are images, and what is said about all others."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.odd_images import photo, saved
from tests.pictures import picture, png, write
from typer.testing import CliRunner

from tlkit.cli.app import app
from tlkit.data.sources import (
    image_files,
    read_evaluation_images,
    read_folder,
    read_labeled,
    split_folders,
)
from tlkit.data.walk import (
    HIDDEN,
    LINK,
    NO_CLASS,
    NO_FILE,
    NO_IMAGE,
    NO_SPLIT,
    LeftOut,
    image_files_below,
    left_out_notes,
)
from tlkit.inspect.inspect import inspect_data
from tlkit.inspect.split import split_data
from tlkit.inspect.verify import verify_manifest
from tlkit.parts.datasets import Folder, Manifest

# A file or folder by its name below the folder of a class, and what is to become of it: None is
# read, a reason is left out, and an empty string is not worth a word.
KINDS: dict[str, str | None] = {
    "a.png": None,
    "a.JPG": None,
    "a.jfif": None,
    "a.jpe": None,
    "a.gif": None,
    "a.avif": None,
    "a.ppm": None,
    "a.heic": None,
    "a.dcm": None,
    "plain": None,  # a picture without a suffix
    "1.2.840.10008": None,
    "deep/er/a.webp": None,
    "notes.txt": NO_IMAGE,
    "README": NO_IMAGE,
    "Thumbs.db": NO_IMAGE,
    "a.png.part": NO_IMAGE,
    "._a.png": HIDDEN,
    ".ipynb_checkpoints/a-checkpoint.png": HIDDEN,
    ".thumbnails/a.png": HIDDEN,
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": HIDDEN,
    ".DS_Store": "",
    ".git/HEAD": "",
    "pipe.png": NO_FILE,
    "broken.png": NO_FILE,
    "far": LINK,
}


def build(folder: Path, names: set[str]) -> None:
    """Write the chosen things."""
    content = png(picture(1))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "pipe.png":
            os.mkfifo(path)
        elif name == "broken.png":
            path.symlink_to("nowhere")
        elif name == "far":
            path.symlink_to(folder.parent)
        else:
            path.write_bytes(content if KINDS[name] != NO_IMAGE else b"something else")


@given(names=st.sets(st.sampled_from([*KINDS])))
def test_each_file_is_read_or_counted_with_its_reason(
    names: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.mktemp("tree")
    (top / "a").mkdir()
    build(top / "a", names)
    left_out: list[LeftOut] = []
    found = image_files_below(top / "a", left_out)
    own = sorted(top / "a" / name for name in names if KINDS[name] is None)
    assert found == [*map(str, own)]
    expected = Counter(reason for name in names if (reason := KINDS[name]))
    assert Counter(item.reason for item in left_out) == expected
    labeled = read_folder(top)
    assert [top / image.path for image in labeled.images] == own
    assert labeled.notes == left_out_notes(left_out)
    others: list[LeftOut] = []
    assert list(image_files([str(top)], left_out=others)) == found or not found
    assert others == left_out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with one of everything in the first."""
    top = tmp_path_factory.mktemp("odd")
    everything = {name for name in KINDS if name not in {"a.dcm", "a.heic"}}
    for number, label in enumerate("ab"):
        files = {f"{label}/{n}.png": png(picture(100 * number + n)) for n in range(6)}
        write(top, files)
    build(top / "a", everything)
    for number, name in enumerate(sorted(everything)):
        if KINDS[name] is None:  # pictures that differ, by their content in another format
            kind = "PNG" if number % 2 else "BMP"
            (top / "a" / name).write_bytes(saved(Image.fromarray(picture(50 + number)), kind))
    return top


REASONS = {HIDDEN: 4, LINK: 1, NO_IMAGE: 4, NO_FILE: 2}
READ = 6 + sum(reason is None for reason in KINDS.values()) - 2


def counted(notes: tuple[str, ...]) -> dict[str, int]:
    """Return the numbers that notes state, by reason."""
    found = (re.match(r"(\d+) left out: (.*), such as ", note) for note in notes)
    return {match[2]: int(match[1]) for match in found if match}


@pytest.mark.slow
def test_every_command_counts_the_same(tree: Path, tmp_path: Path) -> None:
    inspected = inspect_data(tree)
    assert inspected.counts[""]["a"] == READ
    assert counted(inspected.notes) == REASONS
    result = split_data(tree, tree.parent / f"{tree.name}.csv", val=0.3, test=0)
    assert sum(of["a"] for of in result.counts.values()) == READ
    assert counted(result.notes) == REASONS
    assert counted(verify_manifest(tree).notes) == REASONS
    evaluated = read_evaluation_images(tree, ("a", "b"))
    assert sum(example.label == "a" for example in evaluated.examples) == READ
    assert counted(evaluated.notes) == REASONS


def test_check_says_what_a_run_would_leave_out(tmp_path: Path) -> None:
    write(tmp_path, {f"data/{s}/{c}/1.png": b"" for s in ("train", "val") for c in "ab"})
    write(tmp_path, {"data/train/a/._1.png": b"", "data/train/a/notes.txt": b""})
    study = tmp_path / "study.toml"
    study.write_text(
        'data = { name = "folder", path = "data" }\nbackbone = { weights = "none" }\n',
        encoding="utf-8",
    )
    done = CliRunner().invoke(app, ["check", str(study)])
    assert done.exit_code == 0, done.stderr
    assert done.stderr == (
        f"note: 1 left out: hidden, such as {tmp_path}/data/train/a/._1.png\n"
        f"note: 1 left out: not an image file, such as {tmp_path}/data/train/a/notes.txt\n"
    )


def test_what_is_next_to_the_classes_or_splits_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train/a/1.png": b"",
            "val/a/1.png": b"",
            "stray.png": b"",
            "val/stray.png": b"",
            "runs/x/1.png": b"",
            ".cache/1.png": b"",
        },
    )
    assert counted(read_labeled(tmp_path).notes) == {NO_CLASS: 2, NO_SPLIT: 1, HIDDEN: 1}


@pytest.mark.parametrize("names", [("test", "train"), ("car", "test", "val"), ("train",)])
def test_classes_may_be_called_like_splits(names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, {f"{name}/{n}.png": b"" for name in names for n in range(2)})
    assert split_folders(tmp_path) == {}
    expected = dict.fromkeys(names, 2)
    assert Counter(image.label for image in read_labeled(tmp_path).images) == expected
    evaluated = read_evaluation_images(tmp_path, names)
    assert Counter(example.label for example in evaluated.examples) == expected


def test_classes_may_be_called_like_splits_below_splits(tmp_path: Path) -> None:
    names = ("test", "train")
    write(tmp_path, {f"{s}/{name}/1.png": b"" for s in ("train", "val", "test") for name in names})
    labeled = read_labeled(tmp_path)
    assert Counter((i.split, i.label) for i in labeled.images) == Counter(
        (s, name) for s in ("train", "val", "test") for name in names
    )
    evaluated = read_evaluation_images(tmp_path, names, "val")
    assert {example.path.split("/")[0] for example in evaluated.examples} == set(names)
    assert all(example.path.startswith(example.label) for example in evaluated.examples)


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@given(
    forms=st.tuples(*[st.sampled_from([NFC, NFD])] * 3), classes=st.sampled_from([None, NFC, NFD])
)
def test_two_unicode_forms_are_one_class(
    forms: tuple[str, str, str], classes: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In folders and tables; the spelling is that of `classes`, else that of `train`."""
    top = tmp_path_factory.mktemp("forms")
    splits = ("train", "val", "test")
    files = {f"{s}/{name}/1.png": b"" for s, form in zip(splits, forms, strict=True)
             for name in (form, "tea")}  # fmt: skip
    write(top, files)
    known = None if classes is None else (classes, "tea")
    loaded = Folder(path=top, classes=known).load()
    spelling = classes or forms[0]
    assert set(loaded.classes) == {spelling, "tea"}
    assert {example.label for _, example in loaded.rows()} == {spelling, "tea"}
    rows = "\n".join(f"{path},{path.split('/')[1]},{path.split('/')[0]}" for path in files)
    (top / "x.csv").write_text(f"path,label,split\n{rows}\n", encoding="utf-8")
    table = Manifest(path=top / "x.csv", classes=known).load()
    assert {example.label for _, example in table.rows()} == {spelling, "tea"}
    assert len(read_evaluation_images(top, (NFD, "tea"), "val").examples) == 2


def test_photos_may_be_called_anything(tmp_path: Path) -> None:
    """The content decides: a GIF called .png and a PNG without a suffix are read."""
    write(tmp_path, {"a/x.png": saved(photo().convert("L"), "GIF"), "a/y": saved(photo(), "PNG")})
    assert inspect_data(tmp_path).formats == {"GIF P": 1, "PNG RGB": 1}
