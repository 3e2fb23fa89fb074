"""A run from end to end: what it tells, what it leaves, and what stops it before it begins."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import tlkit
from tlkit.model.layers import LayerRange
from tlkit.parts.augmentations import Affine, NoAugmentation
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.datasets import Folder
from tlkit.parts.freezes import TrainRange
from tlkit.parts.heads import FlattenDense, Pooled
from tlkit.parts.optimizers import SGD
from tlkit.parts.shapes import Shapes

SMALL = tlkit.Experiment(
    data=Shapes(train=6, val=3, test=3, image_px=32),
    backbone=VGG16(weights="none", image_size=32),
    head=Pooled(),
    fit=tlkit.Fit(epochs=2, batch_size=4, xla=False),
)


class Listener(tlkit.Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.steps: list[int] = []

    def on_plan(self, plan: tlkit.Plan, splits: tlkit.Splits) -> None:
        self.heard.append("planned")

    def on_image_checked(self, done: int, count: int) -> None:
        self.heard.append(f"checked {done} of {count}")

    def on_weights_loaded(self, weights: Mapping[str, str]) -> None:
        self.heard.append(f"loaded {weights['source']}")

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        self.heard.append(f"computed {done} of {count} {split}")

    def on_stage_begin(self, number: int, planned: Any) -> None:
        self.heard.append(f"stage {number}")

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.heard.append(f"epoch {epoch} of {epochs}")

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        self.steps.append(images)

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        self.heard.append(f"epoch {epoch.epoch} done")


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[tlkit.Run]:
    """A finished run that found nothing in the feature cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("features")))
        yield tlkit.run(SMALL, tmp_path_factory.mktemp("run") / "out", callback=listener)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_history_has_a_row_an_epoch(done: tlkit.Run) -> None:
    found = rows(done.folder / "history.csv")
    assert [int(row["epoch"]) for row in found] == [1, 2]
    for row, epoch in zip(found, done.history, strict=True):
        assert float(row["loss"]) == epoch.loss
        assert float(row["val_loss"]) == epoch.val_loss
        assert float(row["learning_rate"]) == 1e-3
    assert done.history[0].loss != done.history[1].loss


def test_the_timing_has_a_row_an_epoch(done: tlkit.Run) -> None:
    found = rows(done.folder / "timing.csv")
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert all(float(row["seconds"]) > 0 for row in found)


def test_the_metrics_are_the_scores_returned(done: tlkit.Run) -> None:
    found = json.loads((done.folder / "metrics.json").read_text(encoding="utf-8"))
    assert (found["evaluated_on"], found["stand_in"]) == ("test", None)
    assert found["weights"] == {"source": "none"}
    assert found["val"] == done.scores["val"].as_json()
    assert found["test"] == done.result.as_json()
    assert done.result is done.scores["test"]


def test_the_environment_says_what_may_differ_elsewhere(done: tlkit.Run) -> None:
    found = json.loads((done.folder / "environment.json").read_text(encoding="utf-8"))
    assert found["onednn"] is True
    assert {"tlkit", "keras", "tensorflow", "numpy"} <= found["packages"].keys()


def test_the_watcher_is_told_in_order(done: tlkit.Run, listener: Listener) -> None:
    checks = [f"checked {number} of 12" for number in range(1, 13)]
    assert listener.heard == [
        "planned", *checks, "loaded none", "stage 1",
        "epoch 1 of 2", "computed 6 of 6 train", "computed 3 of 3 val", "epoch 1 done",
        "epoch 2 of 2", "epoch 2 done", "computed 3 of 3 test",
    ]  # fmt: skip
    assert listener.steps == [4, 6, 4, 6]


def test_a_study_without_test_images_is_judged_by_its_validation_split(tmp_path: Path) -> None:
    experiment = evolve(
        SMALL, data=Shapes(train=6, val=3, test=0, image_px=32), fit=tlkit.Fit(epochs=1, xla=False)
    )
    run = tlkit.run(experiment, tmp_path / "out")
    assert run.plan.evaluated_on == "val"
    assert run.result is run.scores["val"]
    assert {row["split"] for row in rows(run.folder / "predictions.csv")} == {"val"}
    assert "test" not in json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))


def test_a_folder_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(tlkit.RunFolderError, match=r"the run folder exists"):
        tlkit.run(SMALL, tmp_path, callback=listener)
    assert listener.heard == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"backbone": VGG16(weights=Path("no/such.h5"), image_size=32)},
            tlkit.WeightsError,
            r"there is no file no/such\.h5",
        ),
        (
            {"freeze": TrainRange(train=LayerRange(30))},
            tlkit.ConfigError,
            r"^freeze\.train: layers 30- reach past the last",
        ),
        ({"data": Folder(path=Path("no/such"))}, tlkit.DataError, r"^no/such: the data's folder"),
    ],
    ids=["weights", "layers", "data"],
)
def test_a_mistake_leaves_no_folder(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        tlkit.run(evolve(SMALL, **change), tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_image_leaves_no_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("one", "two"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            (tmp_path / "data" / split / label / "image.png").write_bytes(b"not a picture")
    experiment = evolve(SMALL, data=Folder(path=tmp_path / "data"))
    with pytest.raises(tlkit.DataError, match=r"train/one/image\.png: is not an image"):
        tlkit.run(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Two layers that both take a giant step: their product is not finite.
EXPLODING = evolve(SMALL, head=FlattenDense(units=(8,)), optimizer=SGD(learning_rate=1e30))


@pytest.mark.parametrize("augmentation", [NoAugmentation(), Affine()], ids=["kept", "streamed"])
def test_a_loss_that_is_not_finite_names_epoch_and_files(
    augmentation: tlkit.Augmentation, tmp_path: Path
) -> None:
    with pytest.raises(
        tlkit.NumericalError,
        match=r"^epoch 1: the training loss on train/\w+/\d+\.png, train/\S+\.png is (nan|inf); "
        r"lower optimizer\.learning_rate$",
    ) as caught:
        tlkit.run(evolve(EXPLODING, augmentation=augmentation), tmp_path / "out")
    assert caught.value.exit_code == 9
    with pytest.raises(tlkit.RunFolderError, match=r"the run is not finished"):
        tlkit.load(tmp_path / "out")


def test_weights_that_explode_in_the_last_step_are_noticed_too(tmp_path: Path) -> None:
    """No training loss comes after it; the validation loss is what tells."""
    one_step = evolve(EXPLODING, fit=tlkit.Fit(epochs=1, batch_size=6, xla=False))
    with pytest.raises(tlkit.NumericalError, match=r"^epoch 1: the validation loss is "):
        tlkit.run(one_step, tmp_path / "out")


def test_an_experiment_file_is_run_with_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(
        '[data]\nname = "shapes"\ntrain = 3\nval = 3\ntest = 0\nimage_px = 32\n'
        '[backbone]\nweights = "none"\nimage_size = 32\n[head]\nname = "pooled"\n',
        encoding="utf-8",
    )
    run = tlkit.run("tiny.toml", overrides=["fit.epochs=1", "seed=4"])
    assert run.folder == Path("runs/tiny-1")
    assert (run.experiment.seed, len(run.history)) == (4, 1)
    recorded = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    assert recorded["overrides"] == ["fit.epochs=1", "seed=4"]


def counting(monkeypatch: pytest.MonkeyPatch, where: str, name: str) -> list[str]:
    """Count the calls of a function."""
    function, calls = getattr(importlib.import_module(where), name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    monkeypatch.setattr(f"{where}.{name}", counted)
    return calls


def test_a_run_plans_once_and_scores_each_epoch_s_outputs_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = counting(monkeypatch, "tlkit.runner.prepare", "make_plan")
    calibrations = counting(monkeypatch, "tlkit.metrics.calibration", "calibrate")
    done = tlkit.run(
        evolve(SMALL, fit=tlkit.Fit(epochs=1, keep="best", xla=False)), tmp_path / "out"
    )
    assert done.best == done.last
    assert len(plans) == len(calibrations) == 1
