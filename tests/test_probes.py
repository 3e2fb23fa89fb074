"""`tlkit probe`: nothing of a held-out fold helps its own predictions, and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.pictures import picture, png, write
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.config.toml import load_experiment
from tlkit.parts.available import Available
from tlkit.parts.backbones.keras_hub import KerasHub
from tlkit.parts.kinds import registries
from tlkit.probes.crossval import Folds
from tlkit.probes.probe import _candidates
from tlkit.train.cost import START_S

pytestmark = pytest.mark.usefixtures("slim_vgg")


def small_folds(count: int = 30, seed: int = 0) -> tuple[Folds, Any]:
    """Return images of three classes, every two of one patient, and features that tell a little."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = random.normal(size=(count, 8)) + labels[:, None] * np.linspace(0, 1, 8)
    groups = [number // 6 * 3 + number % 3 for number in range(count)]
    return Folds.cut(labels.tolist(), groups, ["a", "b", "c"], 3, seed), features


class TestFolds:
    @given(st.integers(0, 20))
    @settings(max_examples=5, deadline=None)
    def test_keep_a_patient_in_one_fold(self, seed: int) -> None:
        folds, _ = small_folds(seed=seed)
        homes = [set(folds.groups[fold].tolist()) for fold in folds.held_out]
        assert sum(map(len, homes)) == len(set().union(*homes))
        assert sorted(np.concatenate(folds.held_out).tolist()) == list(range(30))

    @given(st.integers(0, 2), st.integers(0, 20))
    @settings(max_examples=1, deadline=None)
    def test_predict_without_the_labels_and_features_of_their_own(
        self, number: int, seed: int
    ) -> None:
        folds, features = small_folds(seed=seed)
        own = folds.held_out[number]
        labels = folds.labels.copy()
        labels[own] = (labels[own] + 1) % 3
        others = features.copy()
        others[own[1:]] *= 100
        before = folds.probe(features).probabilities
        np.testing.assert_array_equal(
            evolve(folds, labels=labels).probe(features).probabilities[own], before[own]
        )
        np.testing.assert_array_equal(folds.probe(others).probabilities[own[0]], before[own[0]])

    def test_are_scikit_learns_logistic_regression(self) -> None:
        folds, features = small_folds()
        found = folds.probe(features)
        for l2, own in zip(found.l2, folds.held_out, strict=True):
            train = np.setdiff1d(np.arange(30), own)
            scaler = StandardScaler().fit(features[train])
            theirs = LogisticRegression(C=1 / (l2 * len(train)), tol=1e-9, max_iter=5000)
            theirs.fit(scaler.transform(features[train]), folds.labels[train])
            expected = theirs.predict_proba(scaler.transform(features[own]))
            np.testing.assert_allclose(found.probabilities[own], expected, atol=1e-4)

    def test_regularize_noise_strongly_and_a_signal_weakly(self) -> None:
        folds, _ = small_folds(60)
        noise = np.random.default_rng(1).normal(size=(60, 40))
        signal = noise + 9 * np.eye(40)[folds.labels]
        assert min(folds.probe(noise).l2) > 0.5 > max(folds.probe(signal).l2)

    def test_need_images_of_each_class(self) -> None:
        with pytest.raises(tlkit.DataError, match=r"5 folds need 5 .* got 3 of 'a'; use fewer"):
            Folds.cut([0, 1] * 3, list(range(6)), ["a", "b"], 5, 0)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in train, val and test, and two small networks whose weights are here."""
    files = {}
    for number in range(30):
        split = ("train", "train", "train", "val", "test")[number % 5]
        files[f"{split}/dark/p{number}_.png"] = png(picture(number) // 3)
        files[f"{split}/light/p{number}_.png"] = png(255 - picture(number + 99) // 3)
    here = [
        Available(name, "none", registries.backbones.get(name)(weights="none", image_size=32))
        for name in ("vgg16", "efficientnet_lite0")
    ]
    monkeypatch.setattr("tlkit.probes.probe.available_backbones", lambda: tuple(here))
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "data", files)


class Passes(tlkit.Callback):
    """Takes note of the splits whose images pass through the frozen layers."""

    def __init__(self) -> None:
        self.splits: list[str] = []

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        self.splits.append(split)


@pytest.mark.slow
def test_what_two_processes_have_computed_ahead_is_all_that_is_computed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    callback = Passes()
    options: dict[str, Any] = {"folds": 3, "patient": "^(p[0-9]+)_", "joined": False}
    options["backbones"] = ["mobilenet_v2=none", "efficientnet_lite0=none"]  # as other processes
    found = tlkit.probe(images, tmp_path / "out", workers=2, callback=callback, **options)
    assert not callback.splits
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "empty"))
    alone = tlkit.probe(images, tmp_path / "alone", callback=callback, **options)
    assert callback.splits
    assert [one.scores for one in found.backbones] == [one.scores for one in alone.backbones]
    for name in ("predictions.csv", "best_probe.toml"):
        assert (found.folder / name).read_bytes() == (alone.folder / name).read_bytes()


@pytest.mark.slow
def test_networks_are_ranked_and_the_best_goes_on_without_passing_an_image_again(
    images: Path, tmp_path: Path
) -> None:
    callback = Passes()
    found = tlkit.probe(images, tmp_path / "out", folds=3, patient="^(p[0-9]+)_", callback=callback)
    assert set(callback.splits) == {"train", "val"}
    assert (found.images, found.groups, found.classes) == (48, 24, ("dark", "light"))
    assert len(found.backbones) == 3
    assert found.best.scores.accuracy > 0.9
    accuracies = [one.scores.accuracy for one in found.backbones]
    assert accuracies == sorted(accuracies, reverse=True)
    assert any(" + " in one.name for one in found.backbones)
    assert found.best.scores.resampling is not None
    assert found.best.scores.resampling.unit == "patient"
    facts = json.loads((tmp_path / "out" / "probe.json").read_text("utf-8"))
    assert [one["name"] for one in facts["backbones"]] == [one.name for one in found.backbones]
    assert len(facts["against_best"]) == 2
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["backbone"] == found.best.label]
    right = sum(row["label"] == row["predicted"] for row in own)
    assert right / len(own) == found.best.scores.accuracy
    page = (tmp_path / "out" / "probe.html").read_text("utf-8")
    assert "Is the difference chance?" in page
    assert "The test split of 12 images is put aside." in page
    callback = Passes()
    run = tlkit.run(found.experiment, tmp_path / "run", callback=callback)
    assert set(callback.splits) == {"test"}
    assert run.result.accuracy > 0.9


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A folder per class without splits: two pictures of each of twelve patients."""
    names = [f"{label}/{label}{n}_{view}.png" for label in "ab" for n in range(12) for view in "12"]
    files = {name: png(picture(number)) for number, name in enumerate(names)}
    return write(tmp_path / "patients", files)


def test_patients_in_file_names_are_kept_from_the_test_images_too(
    images: Path, patients: Path, tmp_path: Path
) -> None:
    pattern = "^([ab][0-9]+)_"
    options: dict[str, Any] = {"folds": 3, "patient": pattern, "backbones": ["vgg16"]}
    found = tlkit.probe(patients, tmp_path / "out", **options)
    with (found.folder / "predictions.csv").open(encoding="utf-8") as file:
        folds = [(row["path"], row["fold"]) for row in csv.DictReader(file)]
    of_patient = [(path.split("/")[1].split("_")[0], fold) for path, fold in folds]
    assert len(set(of_patient)) == len(dict(of_patient)) < 24  # others are in the test split
    data = load_experiment(found.experiment).data
    assert {example.patient for example in data.load().test}.isdisjoint(dict(of_patient))


def test_a_copy_of_a_network_is_left_out_and_not_joined_with_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = registries.backbones.get("vgg16")(weights="none", image_size=32)
    here = [Available("vgg16", source, part) for source in ("none", "shelf/copy")]
    monkeypatch.setattr("tlkit.probes.probe.available_backbones", lambda: tuple(here))
    found = tlkit.probe(images, tmp_path / "out", folds=3)
    assert [one.source for one in found.backbones] == ["none"]
    last = found.notes[-1]
    assert last == "vgg16 (shelf/copy) is left out: it predicts exactly what vgg16 (none) does"


class Notes(tlkit.Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def test_what_it_costs_is_said_before_an_image_passes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("tlkit.data.checks.first_look", stop)
    seconds: list[float] = []

    def said(value: float) -> str:
        seconds.append(value)
        return "so long"

    monkeypatch.setattr("tlkit.probes.probe.takes_text", said)
    for options in ({}, {"joined": False}, {"backbones": ["vgg16"]}):
        callback = Notes()
        with pytest.raises(InterruptedError, match=r"^$"):
            tlkit.probe(images, tmp_path / "out", callback=callback, **options)
        assert callback.notes == ["so long"]
    both, one_by_one, alone = (value - START_S for value in seconds)
    assert both == pytest.approx(2 * one_by_one)
    assert one_by_one > alone > 0


class TestSources:
    def test_of_a_preset_is_a_name_or_a_folder(self, tmp_path: Path) -> None:
        for source in (str(tmp_path / "vit"), "resnet_50_imagenet"):
            (candidate,) = _candidates([f"keras_hub={source}"])
            assert isinstance(candidate.backbone, KerasHub)
            assert str(candidate.backbone.preset) == candidate.source == source

    def test_of_a_backbone_with_other_keys_are_refused(self) -> None:
        with pytest.raises(tlkit.ConfigError, match=r"^--backbone joined=x: joined needs members;"):
            _candidates(["joined=x"])


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"folds": 1}, r"^folds: must be at least 2, got 1$"),
            ({"backbones": ["vgg61"]}, r"no backbone named 'vgg61'; did you mean 'vgg1"),
            ({"backbones": ["resnet50"]}, r"^--backbone resnet50: .* fetch them .*; here: vgg16,"),
            ({"folds": 25}, r"25 folds need 25 .* got 24 of 'dark'"),
            ({"patient": "("}, r"'\(' is not a regular expression"),
        ],
    )
    def test_are_named(self, images: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(tlkit.TlkitError, match=message):
            tlkit.probe(images, **options)

    def test_no_weights_is_an_error(self, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tlkit.probes.probe.available_backbones", tuple)
        with pytest.raises(tlkit.WeightsError, match=r"^no pretrained weights are on this machine"):
            tlkit.probe(images)

    def test_a_folder_is_not_overwritten(self, images: Path) -> None:
        with pytest.raises(tlkit.RunFolderError, match="nothing is overwritten"):
            tlkit.probe(images, images)

    def test_the_command_ends_with_the_errors_code(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["probe", str(tmp_path / "none")])
        assert isinstance(result.exception, tlkit.DataError)
