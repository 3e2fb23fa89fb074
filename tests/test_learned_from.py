"""An evaluation on what a run has learned from says so: the same files, and near-copies."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from attrs import evolve
from PIL import Image
from tests.pictures import picture
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.reports.caveats import threshold_caveats
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.learned_from import LearnedFrom
from tlkit.runfolder.results import CalibrationRecord, RawFigures, Threshold, calibration_text
from tlkit.system.errors import RunFolderError

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures, and folders with its own images, with copies, and with others."""
    top = tmp_path_factory.mktemp("learned")
    numbers = iter(range(100))
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for label in "ab":
            for number in [next(numbers) for _ in range(count)]:
                image = Image.fromarray(picture(number, 96))
                path = top / "data" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                if split != "test":
                    copy = top / f"copies of {split}" / label / f"{number}.jpg"
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    image.resize((64, 64)).save(copy, quality=80)
    tlkit.run(
        {
            "data": {"name": "folder", "path": str(top / "data")},
            "backbone": {"weights": "none", "image_size": 32},
            "head": {"name": "pooled"},
            "calibration": {"min_recall": {"a": 0.9}},
            "fit": {"epochs": 1, "xla": False},
        },
        top / "run",
    )
    return top


@pytest.mark.parametrize(
    ("data", "split", "text"),
    [
        ("data", "train", "The model was trained on 8 of the 8 images: the scores are too good."),
        ("data", "val", "The model was chosen or calibrated on 4 of the 4 images: the scores are"),
        ("copies of train", None, "The model was trained on near-copies of 8 of them: the scores"),
        ("copies of val", None, "The model was chosen or calibrated on near-copies of 4 of them: "),
        ("data", "test", ""),
    ],
)
def test_an_evaluation_says_what_was_learned_from(
    data: str, split: str | None, text: str, trained: Path
) -> None:
    found = tlkit.load(trained / "run").evaluate(trained / data, split).caveats
    known = [caveat for caveat in found if caveat.startswith("The model was")]
    assert [caveat.startswith(text) for caveat in known] == ([True] if text else [])
    assert any(caveat.startswith("The threshold of a was chosen on 2 val") for caveat in found)


def test_the_command_prints_it(trained: Path) -> None:
    arguments = [
        "evaluate",
        str(trained / "run"),
        "--data",
        str(trained / "data"),
        "--split",
        "train",
    ]
    text = CliRunner().invoke(app, arguments).stdout
    assert "\n! The model was trained on 8 of the 8 images" in text
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["caveats"][0].startswith("The model was trained on 8")


def test_a_run_of_an_earlier_version_knows_its_files_only(trained: Path, tmp_path: Path) -> None:
    known = LearnedFrom(RunFolder(trained / "run"))
    images = [*known.images()]
    assert len(images) == sum(bool(image.bits) for image in images) == 12
    missing = shutil.ignore_patterns("looks.csv", "seal*.json")
    shutil.copytree(trained / "run", tmp_path / "old", ignore=missing)
    old = LearnedFrom(RunFolder(tmp_path / "old"))
    assert [image.bits for image in old.images()] == [""] * 12
    val = next(image for image in images if image.split == "val")
    shown = [(val.sha256, "0" * 64), ("other", val.bits)]
    assert list(old.caveats(shown)) == [
        "The model was chosen or calibrated on 1 of the 2 images: the scores are too good."
    ]
    assert list(LearnedFrom().caveats(shown)) == []


def test_a_run_of_many_images_is_compared_in_little_memory(tmp_path: Path) -> None:
    hashes = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(10_000)]
    manifest = ["path,sha256,split"] + [f"{n}.png,{x},train" for n, x in enumerate(hashes)]
    looks = ["path,bits"] + [f"{n}.png,{x[::-1]}" for n, x in enumerate(hashes)]
    (tmp_path / "manifest.csv").write_text("\n".join(manifest))
    (tmp_path / "looks.csv").write_text("\n".join(looks))
    known = LearnedFrom(RunFolder(tmp_path))
    shown = [(hashes[7], "0" * 64), ("other", hashes[8][::-1])]
    tracemalloc.start()
    caveats = list(known.caveats(shown))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [caveat.partition(":")[0] for caveat in caveats] == [
        "The model was trained on 1 of the 2 images and on near-copies of 1 of them"
    ]
    assert peak_bytes < 400 * len(hashes)  # the two files are half of it


def test_difference_hashes_of_other_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(f"path,sha256,split\na.png,{'ab' * 32},train\n")
    (tmp_path / "looks.csv").write_text(f"path,bits\nb.png,{'ab' * 32}\n")
    with pytest.raises(RunFolderError, match=r"looks\.csv: has other images than manifest\.csv"):
        list(LearnedFrom(RunFolder(tmp_path)).images())


def test_a_threshold_tells_its_images_and_the_recall_it_met(trained: Path) -> None:
    table = json.loads((trained / "run" / "calibration.json").read_text())
    assert table["threshold"].keys() == {"class", "p", "images", "recall"}
    record = CalibrationRecord.from_json(table)
    assert record.as_json() == table
    assert record.threshold is not None
    assert record.threshold.images == 2
    assert record.threshold.recall == 1.0
    assert "on val, where it finds 2 of 2 images of that class." in calibration_text(
        record, "test", None
    )
    old = evolve(record, threshold=Threshold(name="a", p=0.4))
    assert old.as_json()["threshold"] == {"class": "a", "p": 0.4}
    assert calibration_text(old, "test", None).endswith("a threshold chosen on val.")
    assert isinstance(record.raw["test"], RawFigures)


def test_a_recall_that_was_not_met_is_told(trained: Path) -> None:
    scores = tlkit.load(trained / "run").evaluate(trained / "data").scores
    own = evolve(scores.per_class["a"], recall=0.5)
    missed = evolve(scores, per_class={**scores.per_class, "a": own})
    threshold = Threshold(name="a", p=0.4, images=60, recall=1.0)
    assert threshold_caveats(threshold, {"a": 0.9}, missed) == [
        "The recall of a is 50.0 %, below the 90.0 % that its threshold was to meet."
    ]
    assert threshold_caveats(threshold, {"a": 0.5}, missed) == []


@pytest.fixture(scope="module")
def lineage(trained: Path) -> Path:
    """Runs that start from the run above: `b` from it, `c` from `b` with other images."""
    other = trained / "other"
    for number, (split, label) in enumerate(itertools.product(("train", "val", "test"), "ab"), 200):
        path = other / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, 96)).save(path)
    start = trained / "run"
    for name, freeze in (("b", "all_layers"), ("c", "head_only"), ("d", "head_only")):
        fit = {"epochs": 1, "head_weights": str(start)} if name == "b" else {"epochs": 1}
        tlkit.run(
            {
                "data": {"name": "folder", "path": str(other)},
                "backbone": {"weights": str(start), "image_size": 32},
                "head": {"name": "pooled"},
                "freeze": {"name": freeze},
                "fit": fit,
            },
            trained / name,
        )
        start = trained / name
    return trained


@pytest.mark.slow
def test_the_images_of_earlier_runs_count_through_the_whole_lineage(lineage: Path) -> None:
    shutil.rmtree(lineage / "run.away", ignore_errors=True)
    (lineage / "run").rename(lineage / "run.away")  # the run itself need not be there
    try:
        for name, data, split, expected in (
            ("b", "data", "train", ["started from the run run, which was trained on 8 of the 8"]),
            ("b", "data", "test", []),
            (
                "c",
                "data",
                "val",
                ["from the run run, which was chosen or calibrated on 4 of the 4"],
            ),
            ("c", "copies of train", None, ["the run run, which was trained on near-copies of 8"]),
            ("c", "other", "train", ["The model was trained on 2 of the 2 images"]),
            ("d", "data", "train", ["started from the run run, which was trained on 8 of the 8"]),
        ):
            found = tlkit.load(lineage / name).evaluate(lineage / data, split).caveats
            known = [caveat for caveat in found if caveat.startswith("The model")]
            assert len(known) == len(expected), known
            assert all(text in caveat for text, caveat in zip(expected, known, strict=True))
    finally:
        (lineage / "run.away").rename(lineage / "run")


def test_a_backbone_that_an_earlier_run_held_has_learned_nothing_from_it(trained: Path) -> None:
    known = LearnedFrom(RunFolder(trained / "run"))
    assert known.as_earlier("a", trained=False) == ()
    splits = Counter(image.split for image in known.as_earlier("a", trained=True))
    assert splits == {"train": 8, "val": 4}
    refitted = LearnedFrom(known.folder, refit=True).as_earlier("a", trained=True)
    assert {(image.run, image.split) for image in refitted} == {("a", "train")}
