"""Trackers: what they are told is there to be read, and none of them ends a run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from attrs import evolve
from tensorflow.core.util import event_pb2
from tests.fakes import Listener

import tlkit
from tlkit.config.experiment import Track
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import HeadThen
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.runner import trackers
from tlkit.runner.trackers import FIGURES, Tracker, Trackers

pytestmark = pytest.mark.usefixtures("slim_vgg")

EXPERIMENT = tlkit.Experiment(
    data=Shapes(train=6, val=3, test=3, image_px=32),
    backbone=VGG16(weights="none", image_size=32),
    head=Pooled(),
    freeze=HeadThen(train=("block5",)),
    fit=tlkit.Fit(epochs=2, cache=False, xla=False),
)


class Recorder(Tracker):
    """Writes down what it is told, and raises if it is asked to."""

    name = "Recorder"

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.told: list[Any] = []

    def epoch(self, epoch: tlkit.Epoch) -> None:
        self.told.append(epoch.epoch)
        if self.fails == "epoch":
            raise ConnectionError("no\nserver")

    def end(self, scores: Mapping[str, float], done: bool) -> None:
        self.told.append(done)
        if self.fails == "end":
            raise OSError("disk full")


EPOCH = tlkit.Epoch(
    epoch=1, stage=1, learning_rate=0.1, loss=1.0, loss_unweighted=1.0, accuracy=0.5,
    val_loss=1.0, val_accuracy=0.5,
)  # fmt: skip


def test_a_tracker_that_fails_is_noted_once_and_left_out() -> None:
    listener, bad, good = Listener(), Recorder("epoch"), Recorder()
    both = Trackers(listener)
    both.add("bad", lambda: bad)
    both.add("good", lambda: good)
    both.epoch(EPOCH)
    both.epoch(EPOCH)
    both.end({}, done=True)
    assert bad.told == [1]
    assert good.told == [1, 1, True]
    assert listener.notes == ["Recorder failed (ConnectionError: no server); continuing without it"]


def test_a_tracker_that_cannot_begin_is_noted() -> None:
    listener = Listener()
    some = Trackers(listener)

    def broken() -> Tracker:
        raise TypeError("no such setting")

    some.add("Broken", broken)
    some.epoch(EPOCH)
    assert listener.notes == ["Broken failed (TypeError: no such setting); continuing without it"]


def test_a_tracker_says_where_it_writes_to() -> None:
    listener, recorder = Listener(), Recorder()
    recorder.where = "sqlite:///mlflow.db"
    Trackers(listener).add("Recorder", lambda: recorder)
    assert listener.notes == ["Recorder writes to sqlite:///mlflow.db"]


def test_the_end_is_told_once() -> None:
    listener, recorder = Listener(), Recorder("end")
    some = Trackers(listener)
    some.add("Recorder", lambda: recorder)
    some.end({}, done=True)
    some.end({}, done=False)
    assert recorder.told == [True]
    assert listener.notes == ["Recorder failed (OSError: disk full); continuing without it"]


def test_a_run_that_fails_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = Recorder()
    monkeypatch.setattr(trackers, "TensorBoard", lambda *_: recorder)
    experiment = evolve(EXPERIMENT, track=Track(tensorboard=True))
    with pytest.raises(KeyboardInterrupt), trackers.tracked(experiment, tmp_path, Listener()):
        raise KeyboardInterrupt
    assert recorder.told == [False]


def events(folder: Path) -> list[Any]:
    """Return the summaries of the one event file."""
    (path,) = folder.glob("events.*")
    read = [
        event_pb2.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]
    return [(event.step, value) for event in read for value in event.summary.value]


def test_tensorboard_gets_every_figure_of_every_epoch_and_the_settings(tmp_path: Path) -> None:
    experiment = evolve(EXPERIMENT, track=Track(tensorboard=True))
    done = tlkit.run(experiment, tmp_path / "run")
    found = events(done.folder / "tensorboard")
    scalars = {
        (step, value.tag): float(tf.make_ndarray(value.tensor))
        for step, value in found
        if value.metadata.plugin_data.plugin_name == "scalars"
    }
    for epoch in done.history:
        for name in set(FIGURES) - {"l2"}:  # a solver's
            assert scalars[epoch.epoch, name] == pytest.approx(getattr(epoch, name))
    assert [scalars[n, "stage"] for n in (1, 2)] == [1, 2]
    assert scalars[0, "test/accuracy"] == pytest.approx(done.result.accuracy)
    (text,) = [value for _, value in found if value.metadata.plugin_data.plugin_name == "text"]
    assert b"\nfit.epochs = 2\n" in tf.make_ndarray(text.tensor).item()
    assert b'\nhead.name = "pooled"\n' in tf.make_ndarray(text.tensor).item()


@pytest.mark.slow
def test_tracking_changes_no_result(tmp_path: Path) -> None:
    tlkit.run(EXPERIMENT, tmp_path / "plain")
    tlkit.run(evolve(EXPERIMENT, track=Track(tensorboard=True)), tmp_path / "tracked")
    for name in ("weights.safetensors", "history.csv", "metrics.json", "predictions.csv"):
        assert (tmp_path / "plain" / name).read_bytes() == (
            tmp_path / "tracked" / name
        ).read_bytes()


def test_mlflow_that_is_not_installed_is_asked_for_before_the_folder_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = evolve(EXPERIMENT, track=Track(mlflow=True))
    with pytest.raises(tlkit.PartError, match=r"track\.mlflow: needs MLflow, .*tlkit\[mlflow\]$"):
        tlkit.run(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [None, "a study"])
def test_mlflow_gets_settings_figures_and_the_run_folder(
    experiment: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    track = Track(mlflow=True, experiment=experiment)
    listener = Listener()
    done = tlkit.run(evolve(EXPERIMENT, track=track), tmp_path / "run", callback=listener)
    assert listener.notes == [f"MLflow writes to sqlite:///{tmp_path / 'mlflow.db'}"]
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(experiment or "experiment")
    (run,) = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.epochs"] == "2"
    assert run.data.params["freeze.name"] == '"head_then"'
    for name in set(FIGURES) - {"l2"}:
        values = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        assert values == pytest.approx({e.epoch: getattr(e, name) for e in done.history})
    assert run.data.metrics["test/accuracy"] == pytest.approx(done.result.accuracy)
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"metrics.json", "weights.safetensors", "history.csv"} <= kept
