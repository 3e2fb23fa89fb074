"""A finished run of an earlier release can be used in every way."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from tests.fakes import rewrite

import tlkit
from tlkit.config.structure import unstructure
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import read_run

OLD = Path(__file__).parent / "data" / "old_run"  # keys and parts of before this release
COVIDX = {"name": "covidx", "rotation_deg": 10.0, "shift_frac": 0.1}  # which it does not have


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run, with parts that are no longer in the library."""
    folder = Path(shutil.copytree(OLD, tmp_path / "runs" / "old"))
    table = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    table["augmentation"] = COVIDX
    table["fit"]["best_by"] = "val_loss"
    (folder / "experiment.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


def backbone() -> tlkit.FromModel:
    """The backbone that the run was made with."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="block1_conv")(inputs)
    x = keras.layers.BatchNormalization(name="block1_bn")(x)
    x = keras.layers.Conv2D(4, 3, name="block2_conv")(x)
    return tlkit.FromModel(model=keras.Model(inputs, x), preprocess="unit")


def images(folder: Path) -> list[Path]:
    """The validation images, as files."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 40, 3), np.uint8)[1::2]
    paths = []
    for number, (label, image) in enumerate(zip("xxxxyyyyzzzz", pixels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        paths.append(folder / label / f"{number:06d}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def test_it_loads_and_predicts_what_it_did(run: Path, tmp_path: Path) -> None:
    classifier = tlkit.load(run, backbone=backbone())
    assert unstructure(classifier.experiment.augmentation) == COVIDX
    with pytest.raises(tlkit.PartError, match="the augmentation 'covidx', which is not available"):
        classifier.experiment.augmentation.augment(None, None)
    with (OLD / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [[float(row[f"p_{name}"]) for name in "xyz"] for row in rows]
    found = classifier.predict_proba(images(tmp_path / "images"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_evaluated_and_exported(run: Path, tmp_path: Path) -> None:
    images(tmp_path / "images")
    given = backbone()
    scores = tlkit.load(run, backbone=given).evaluate(tmp_path / "images").scores
    assert scores.accuracy == read_run(RunFolder(run)).scores.accuracy
    done = tlkit.export(run, tmp_path / "out", to="keras", backbone=given)
    assert done.difference is not None


def test_it_is_compared_and_reported_without_its_backbone(run: Path, tmp_path: Path) -> None:
    from tlkit.reports.compare import paired, read_run

    runs = [read_run(run), read_run(OLD)]
    found = paired(*runs)
    assert found is not None
    assert found.images == 12
    assert runs[0].settings["data.mask_center"] == "0.0"
    report = tlkit.report(run)
    assert report.note
    text = report.path.read_text(encoding="utf-8")
    assert "covidx" in text
    assert "occlude" not in text


@pytest.mark.parametrize(
    "data",
    [
        {"name": "phantom", "image_px": 32, "occlude_centre": 0.5},
        {"name": "folder", "path": "nowhere", "stand_in": "phantom", "occlude_centre": 0.5},
    ],
    ids=["dataset", "stand-in"],
)
def test_it_loads_without_its_data(data: dict[str, Any], run: Path) -> None:
    rewrite("experiment.json", lambda table: table.update(data=data))(run)
    dataset = tlkit.load(run, backbone=backbone()).experiment.data
    assert dataset.mask_center == 0.5
    with pytest.raises(tlkit.DataError, match=r"phantom', which is not available|is not there"):
        dataset.load()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table["head"].update(name="covidx_head"),
        lambda table: table["head"].update(covidx=1),
    ],
    ids=["name", "key"],
)
def test_its_head_must_be_there(change: Callable[[Any], object], run: Path) -> None:
    rewrite("experiment.json", change)(run)
    with pytest.raises(tlkit.ConfigError, match=r"experiment\.json: head\.(name|covidx): "):
        tlkit.load(run, backbone=backbone())


def test_training_it_needs_all_parts(run: Path) -> None:
    from tlkit.runfolder.experiment import read_experiment

    with pytest.raises(tlkit.ConfigError, match=r"no augmentation named 'covidx'"):
        read_experiment(RunFolder(run), backbone=backbone(), to_train=True)
