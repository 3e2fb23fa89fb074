"""One reader, one patient, one picture: every command that reads images goes by the same rules."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.pictures import manifest_rows, picture, png, write
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.data.checks import check_images
from tlkit.data.sources import Rejected, image_files, read_evaluation_images
from tlkit.inspect.split import split_data
from tlkit.inspect.verify import verify_manifest
from tlkit.metrics.bootstrap import unit_numbers
from tlkit.parts.datasets import Folder, Manifest, load_splits

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

IMAGES = {
    "train": ("a/1.png", "a/2.PNG", "a/deep/3.JPEG", "a/linked.png", "b/=1.png", "b/5.bmp"),
    "val": ("a/6.png", "b/7.png"),
    "test": ("a/8.png", "b/9.Tiff"),
}
PATHS = {f"{split}/{name}" for split, names in IMAGES.items() for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders, among everything that is not an image of the data set."""
    top = tmp_path_factory.mktemp("odd")
    data, outside = top / "data", write(top / "outside", {"1.png": png(picture(90))})
    for number, path in enumerate(sorted(PATHS - {"train/a/linked.png"})):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(data / path)
    folder = data / "train" / "a"
    (folder / "linked.png").symlink_to(outside / "1.png")
    (folder / "far").symlink_to(outside)
    (folder / "broken.png").symlink_to("none.png")
    os.mkfifo(folder / "pipe.png")
    junk = ("a/._1.png", "a/.DS_Store", "a/.git/1.png", ".cache/1.png", "a/notes.txt", "stray.png")
    write(data / "train", {name: png(picture(80)) for name in junk})
    write(data, {".hidden/a/1.png": png(picture(81)), "runs/1/1.png": png(picture(82))})
    return data


@pytest.fixture(scope="module")
def manifest(data: Path) -> Path:
    """The same images in a CSV file, as odd as it may be."""
    lines = ["\ufeffpath,label,split,patient,sha256,comment"]
    for number, path in enumerate(sorted(PATHS - {"train/a/linked.png"})):
        split, label, *_ = path.split("/")
        sha256 = hashlib.sha256((data / path).read_bytes()).hexdigest()
        odd = path.replace("/", "//", 1) if number % 2 else f"./{path}"
        lines += [f"{odd},{label},{split},P{number:03d},{sha256.upper()},", ""]
    file = data.parent / "data" / "odd.csv"
    file.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    return file


def told(*arguments: object) -> Any:
    """Return what a data command prints as JSON."""
    return json.loads(CliRunner().invoke(app, ["data", *map(str, arguments), "--json"]).stdout)


def paths_in(table: Path) -> set[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return {row["path"].removeprefix("'") for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_every_command_has_the_same_images(
    kind: str, data: Path, manifest: Path, tmp_path: Path
) -> None:
    source = data if kind == "folder" else manifest
    expected = PATHS if kind == "folder" else PATHS - {"train/a/linked.png"}
    study = {
        "data": {"name": kind, "path": str(source)},
        "backbone": {"weights": "none", "image_size": 32},
        "head": {"name": "pooled"},
        "fit": {"epochs": 1, "xla": False},
    }
    run = tlkit.run(study, tmp_path / "run").folder
    assert paths_in(run / "manifest.csv") == expected
    checked = {split: sum(of.values()) for split, of in tlkit.check(study).counts.items()}
    inspected = told("inspect", source)
    assert inspected["problems"] == []
    counts = {split: sum(of.values()) for split, of in inspected["counts"].items()}
    assert checked == counts == {s: sum(p.startswith(s) for p in expected) for s in counts}
    assert told("verify", source)["rows"] == len(expected)
    classifier = tlkit.load(run)
    for split in IMAGES:
        own = {path for path in expected if path.startswith(split)}
        labeled = read_evaluation_images(source, classifier.classes, split)
        evaluated = {example.path for example in labeled.examples}
        found = classifier.evaluate(source, split)
        assert getattr(found, "scores", found).images == len(own)
        assert {path if path.startswith(split) else f"{split}/{path}" for path in evaluated} == own
    named = [str(source)] if kind == "manifest" else [str(data / split) for split in IMAGES]
    files = [file for file in image_files(named) if "stray" not in str(file)]
    assert {str(Path(str(file)).relative_to(data)) for file in files} == expected


def test_a_split_has_the_images_that_a_run_has(data: Path, manifest: Path) -> None:
    for source, expected in ((data, PATHS), (manifest, PATHS - {"train/a/linked.png"})):
        out = data.parent / f"{source.stem}_split.csv"
        split_data(source, out, val=0.4, test=0)
        assert {row["path"] for row in manifest_rows(out)} == {f"data/{path}" for path in expected}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("train/./a//1.png,a,train", "path: 'train/a/1.png' is in row 2 already"),
        ("train/a/linked.png,a,train", "path: 'train/a/linked.png' is a link that leads out of "),
        ("train/a/far/1.png,a,train", "path: 'train/a/far/1.png' is a link that leads out of "),
        ("train/a/pipe.png,a,train", "path: 'train/a/pipe.png' is not a regular file"),
        ("train/a/broken.png,a,train", "path: there is no file 'train/a/broken.png'"),
        ("../outside/1.png,a,train", "path: must stay below the images' folder"),
        (",a,train", "path: is empty or not a path"),
        ("train/a/2.PNG,a,train,more", "expected 3 values, got 4"),
    ],
)
def test_every_command_refuses_the_same_rows(row: str, problem: str, data: Path) -> None:
    file = data / "wrong.csv"
    lines = ["path,label,split", *(f"{p},{p.split('/')[1]},{p.split('/')[0]}" for p in sorted(PATHS)
             if "linked" not in p and "2.PNG" not in p)]  # fmt: skip
    file.write_text("\n".join([*lines, row]), encoding="utf-8")
    number = len(lines) + 1
    if "is in row" in problem:
        problem = problem.replace("row 2", f"row {lines.index('train/a/1.png,a,train') + 1}")
    inspected, verified = told("inspect", file), told("verify", file)
    (rejected,) = (entry for entry in image_files([str(file)]) if isinstance(entry, Rejected))
    assert rejected.path == f"{file}: row {number}"
    assert rejected.reason.startswith(problem)
    for problems in (inspected["problems"], verified["problems"]):
        assert [text.startswith(f"row {number}: {problem}") for text in problems] == [True]
    for use in (
        lambda: load_splits(Manifest(path=file)),
        lambda: read_evaluation_images(file, ("a", "b")),
        lambda: split_data(file, data / "never.csv"),
    ):
        with pytest.raises(tlkit.DataError, match=f"row {number}: ") as raised:
            use()
        assert problem in str(raised.value)


def test_every_command_takes_two_spellings_for_one_patient(tmp_path: Path) -> None:
    """P007 in one split and p7 in another are refused by all, and kept together by all."""
    names = [f"{label}/{n}.png" for label in "ab" for n in range(12)]
    write(tmp_path, {name: png(picture(n)) for n, name in enumerate(names)})
    lines = ["path,label,split,patient"]
    for n, name in enumerate(names):
        split = ("train", "train", "val", "test")[n % 4]
        lines.append(f"{name},{name[0]},{split},{('P007', '', 'p7 ', '')[n % 4]}")
    file = tmp_path / "patients.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    message = "patient 'P007' = 'p7 ' "
    with pytest.raises(tlkit.DataError, match=message + "in train and val"):
        load_splits(Manifest(path=file))
    assert [leak.startswith(message) for leak in told("verify", file)["leaks"]] == [True]
    assert told("inspect", file)["patients"] == 1
    split_data(file, tmp_path / "split.csv", val=0.3, test=0)
    assert verify_manifest(tmp_path / "split.csv").leaks == ()
    folded = load_splits(Manifest(path=file, folds=3, fold=1))
    assert [bool(any(e.patient for e in some)) for _, some in folded.items()].count(True) == 1
    whose = ["P007", "p7", " p007", "p8", ""]
    assert unit_numbers(5, whose).tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("form", ["gray as color", pytest.param("BMP", marks=pytest.mark.slow)])
def test_every_command_takes_two_files_for_one_picture(form: str, tmp_path: Path) -> None:
    """The same pixels in another file, in another split or with another label."""
    names = [f"{split}/{label}/{n}.png" for split in ("train", "val") for label in "ab"
             for n in range(4)]  # fmt: skip
    files = {name: png(picture(n)) for n, name in enumerate(names)}
    write(tmp_path, files)
    image = Image.open(tmp_path / names[0])
    if form == "BMP":
        image.save(tmp_path / "val/a/copy.bmp")
    else:
        image.convert("RGB").save(tmp_path / "val/a/copy.png")
    with pytest.raises(tlkit.DataError, match="the same picture in train and val"):
        check_images(load_splits(Folder(path=tmp_path)))
    (leak,) = told("verify", tmp_path)["leaks"]
    assert leak.startswith("the same picture: train/a/0.png in train, val/a/copy.")
    (pair,) = told("inspect", tmp_path)["duplicates"]
    assert (pair["kind"], pair["splits"]) == ("pixels", ["train", "val"])
    split_data(tmp_path, tmp_path / "split.csv", val=0.3, test=0)
    rows = {row["path"]: row["split"] for row in manifest_rows(tmp_path / "split.csv")}
    copies = {rows[path] for path in rows if path == names[0] or "copy" in path}
    assert len(copies) == 1
