"""Averaging with the mirror image: tried on validation, kept if it gains, applied everywhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve, frozen
from tests.fakes import FakeBackbone

import tlkit
from tlkit.exporter.export import with_preprocessing
from tlkit.metrics.scoring import point_figures
from tlkit.parts.kinds import registries
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import CalibrationRecord, calibration_text
from tlkit.system.signals import Interrupted
from tlkit.train.callback import FlipGain
from tlkit.train.stage import StageTrainer

# A quick run with two stages, whose probabilities are far too sure of themselves.
TABLE: dict[str, Any] = {
    "data": {"name": "shapes", "train": 6, "val": 9, "test": 6, "image_px": 32},
    "backbone": {"name": "two_blocks"},
    "head": {"name": "linear"},
    "freeze": {"name": "head_then", "head_epochs": 2, "train": ["block2"]},
    "optimizer": {"name": "sgd", "learning_rate": 0.5},
    "fit": {"epochs": 4, "keep": "best", "xla": False},
}


@frozen(kw_only=True)
class TwoBlocks(FakeBackbone):
    """Two convolutions that do not see an image and its mirror image alike."""

    def layers(self) -> tlkit.LayerTable:
        rows = (
            tlkit.Layer("first", "Conv2D", "block1", (6, 6, 4), params=112),
            tlkit.Layer("second", "Conv2D", "block2", (4, 4, 4), params=148),
        )
        return tlkit.LayerTable(rows)

    def build(self) -> Any:
        inputs = keras.layers.Input((8, 8, 3))
        outputs = keras.layers.Conv2D(4, 3, activation="tanh", name="first")(inputs)
        outputs = keras.layers.Conv2D(4, 3, activation="tanh", name="second")(outputs)
        return keras.Model(inputs, outputs)


@pytest.fixture(scope="module", autouse=True)
def _small_backbone_without_pages() -> Iterator[None]:
    registries.backbones.register("two_blocks")(TwoBlocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.runner.pages.write_pages", lambda *_: None)
        yield
    registries.backbones.unregister("two_blocks")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tlkit.run(TABLE, tmp_path_factory.mktemp("plain") / "run").folder


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = TABLE | {"calibration": {"tta": "flip"}}
    return tlkit.run(table, tmp_path_factory.mktemp("averaged") / "run").folder


def predictions(folder: Path, split: str) -> npt.NDArray[np.float32]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    names = [name for name in rows[0] if name.startswith("p_")]
    return np.array([[float(row[name]) for name in names] for row in rows], np.float32)


def gain(folder: Path) -> FlipGain:
    record = read_record(RunFolder(folder), "calibration.json", CalibrationRecord.from_json)
    assert record.tta is not None
    return record.tta


def pixels_of(folder: Path, split: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a split in the order of the predictions."""
    splits = tlkit.load_experiment(TABLE).data.load()
    reader = tlkit.load(folder)._reader(splits.read)
    return np.stack([reader(example.path) for example in dict(splits.items())[split]])


def test_a_run_keeps_the_average_and_applies_it_everywhere(
    plain: Path, averaged: Path, tmp_path: Path
) -> None:
    for name in ("weights.safetensors", "history.csv"):
        assert (averaged / name).read_bytes() == (plain / name).read_bytes()
    alone = tlkit.load(plain)
    together = tlkit.load(averaged)
    for split in ("val", "test"):
        pixels = pixels_of(plain, split)
        flipped = alone.predict_proba(pixels[:, :, ::-1])
        expected = (alone.predict_proba(pixels) + flipped) / 2
        found = predictions(averaged, split)
        assert np.abs(flipped - predictions(plain, split)).max() > 0.01  # it makes a difference
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(together.predict_proba(pixels), found, atol=1e-6)
    splits = tlkit.load_experiment(TABLE).data.load()
    labels, classes = splits.labels(splits.val), splits.classes
    tta = gain(averaged)
    assert tta.kept
    for value, folder in ((tta.log_loss, plain), (tta.averaged_log_loss, averaged)):
        figures = point_figures(labels, predictions(folder, "val"), classes)
        assert value == pytest.approx(figures["log_loss"], rel=1e-4)
    pixels = pixels_of(plain, "val")
    np.testing.assert_array_equal(together.features(pixels), alone.features(pixels))
    file = tmp_path / "image.png"
    file.write_bytes(splits.read(splits.val[0].path))
    for features in (False, True):
        (answer,) = together.iter_predict([str(file)], features)
        assert isinstance(answer, tlkit.Prediction)
        np.testing.assert_allclose(answer.probabilities, predictions(averaged, "val")[0], atol=1e-6)


def test_temperature_and_threshold_are_fitted_on_the_average(
    averaged: Path, tmp_path: Path
) -> None:
    settings = {"tta": "flip", "temperature": True, "min_recall": {"square": 1.0}}
    run = tlkit.run(TABLE | {"calibration": settings}, tmp_path / "run")
    table = json.loads((run.folder / "calibration.json").read_text(encoding="utf-8"))
    splits = tlkit.load_experiment(TABLE).data.load()
    raw = predictions(averaged, "val")
    figures = point_figures(splits.labels(splits.val), raw, splits.classes)
    assert table["raw"]["val"]["log_loss"] == pytest.approx(figures["log_loss"])
    calibrator = tlkit.load(run.folder).calibrator
    assert calibrator.temperature != 1
    np.testing.assert_allclose(
        predictions(run.folder, "val"), calibrator.probabilities(raw), atol=1e-6
    )


def test_an_average_that_loses_is_not_kept_and_test_is_not_computed(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tlkit.load_experiment(TABLE).data.load()
    wrong = (np.array(splits.labels(splits.val)) + 1) % 3

    def worse(_: StageTrainer, plain: Any, split: str) -> Any:
        assert split == "val"
        return np.eye(3, dtype=np.float32)[wrong]

    monkeypatch.setattr(StageTrainer, "averaged", worse)
    run = tlkit.run(TABLE | {"calibration": {"tta": "flip"}}, tmp_path / "run")
    assert not gain(run.folder).kept
    for name in ("predictions.csv", "metrics.json"):
        assert (run.folder / name).read_bytes() == (plain / name).read_bytes()
    assert not tlkit.load(run.folder).averages_flip


class StopIn(tlkit.Callback):
    """Stops in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch: int, *_: Any) -> None:
        self.now = epoch

    def on_batch_end(self, *_: Any) -> None:
        if self.now == self.epoch:
            raise Interrupted(15, "stopped")


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_run_that_goes_on_ends_with_the_same_bytes(
    epoch: int, averaged: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="stopped"):
        tlkit.run(
            TABLE | {"calibration": {"tta": "flip"}}, tmp_path / "run", callback=StopIn(epoch)
        )
    tlkit.resume(tmp_path / "run")
    for name in ("calibration.json", "metrics.json", "predictions.csv", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (averaged / name).read_bytes()


def test_the_solver_that_fits_validation_too_is_judged_before(tmp_path: Path) -> None:
    """After `refit` the validation images are training images, which would flatter the average."""
    table = TABLE | {
        "freeze": {"name": "head_only"},
        "head": {"name": "probe"},
        "fit": {"epochs": 2, "keep": "best", "xla": False},
        "calibration": {"tta": "flip"},
    }
    once, twice = (
        tlkit.run(table | {"optimizer": {"name": "lbfgs", "refit": refit}}, tmp_path / str(refit))
        for refit in (False, True)
    )
    assert gain(once.folder) == gain(twice.folder)
    np.testing.assert_array_equal(predictions(once.folder, "val"), predictions(twice.folder, "val"))
    pixels = pixels_of(twice.folder, "test")
    np.testing.assert_allclose(
        tlkit.load(twice.folder).predict_proba(pixels),
        predictions(twice.folder, "test"),
        atol=1e-5,
    )


def test_mirrored_features_come_from_the_cache(tmp_path: Path) -> None:
    """A second run with the same frozen layers computes none."""

    class Count(tlkit.Callback):
        images = 0

        def on_features_progress(self, split: str, done: int, count: int) -> None:
            self.images += done == count

    table = {name: value for name, value in TABLE.items() if name != "freeze"}
    counts = []
    for number, tta in enumerate((None, "flip", "flip")):
        callback = Count()
        calibration = {"tta": tta} if tta else {}
        tlkit.run(
            table | {"seed": 77, "calibration": calibration},
            tmp_path / str(number),
            callback=callback,
        )
        counts.append(callback.images)
    assert counts[0] == 3  # train, val and test
    assert counts[1:] == [2, 0]  # val and test, mirrored


def test_an_export_averages_too(averaged: Path, tmp_path: Path) -> None:
    classifier = tlkit.load(averaged)
    pixels = pixels_of(averaged, "val")
    found = with_preprocessing(classifier)(pixels.astype(np.float32)).numpy()
    np.testing.assert_allclose(found, classifier.predict_proba(pixels), atol=1e-6)
    alone = with_preprocessing(evolve(classifier, averages_flip=False))(pixels.astype(np.float32))
    assert np.abs(found - alone.numpy()).max() > 0.01
    done = tlkit.export(averaged, tmp_path / "keras", to="keras")
    assert done.difference is not None
    assert done.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "savedmodel"])
def test_other_formats_average_too(to: Any, averaged: Path, tmp_path: Path) -> None:
    done = tlkit.export(averaged, tmp_path / to, to=to)
    assert done.difference is not None
    assert done.difference < 1e-4


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (
            True,
            (
                "Probabilities are averaged over each image and its horizontal mirror image: on "
                "val the log loss is 0.5 with it and 0.6 without."
            ),
        ),
        (
            False,
            (
                "Averaging over each image and its mirror image was tried and not kept: on val the "
                "log loss is 0.5 with it and 0.6 without."
            ),
        ),
    ],
)
def test_a_sentence_says_what_was_decided(kept: bool, text: str) -> None:
    tta = FlipGain(kept=kept, log_loss=0.6, averaged_log_loss=0.5)
    record = CalibrationRecord(temperature=1.0, raw={}, tta=tta)
    assert calibration_text(record, "test", None) == text
    assert CalibrationRecord.from_json(json.loads(json.dumps(record.as_json()))) == record
