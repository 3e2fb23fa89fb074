"""The same experiment ends with the same bytes whatever is in the feature cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import Listener

import tlkit
from tlkit.config.structure import structure
from tlkit.runfolder.folder import METRICS, WEIGHTS
from tlkit.system.cache import FeatureCache

pytestmark = pytest.mark.usefixtures("slim_vgg")

FILES = (WEIGHTS, METRICS, "history.csv", "predictions.csv", "manifest.csv")

SLOW = pytest.mark.slow


def experiment(**changed: Any) -> tlkit.Experiment:
    table = {
        "data": {"name": "shapes", "train": 9, "val": 3, "test": 3, "image_px": 32},
        "backbone": {"weights": "none", "image_size": 32},
        "head": {"name": "pooled", "units": [4], "dropout": 0.5},
        "augmentation": {"name": "affine", "views": 2},
        "fit": {"epochs": 3, "batch_size": 4, "xla": False},  # compiling would take half the time
    }
    return structure(tlkit.Experiment, table | changed)


def files(folder: Path, **changed: Any) -> dict[str, bytes]:
    tlkit.run(experiment(**changed), folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def cold(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)


def warm(cache: Path) -> None:
    """All is there: the run before was the same."""


def partly_filled(cache: Path) -> None:
    cold(cache)
    tlkit.run(experiment(fit={"epochs": 1}, optimizer={"name": "sgd"}), cache.parent / "other")


def partly_damaged(cache: Path) -> None:
    for number, path in enumerate(sorted(cache.glob("*/data.npy"))):
        if number % 2:
            path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "state", [partly_damaged, *(pytest.param(s, marks=SLOW) for s in (cold, warm, partly_filled))]
)
def test_a_cold_warm_or_partly_filled_cache_changes_no_byte(
    state: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TLKIT_CACHE", str(cache))
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 4, "winograd": True}
    if state is partly_damaged:  # compiling would take most of the time of `make test`'s example
        fit |= {"xla": False, "winograd": False}
    first = files(tmp_path / "first", fit=fit)
    state(cache)
    assert files(tmp_path / "second", fit=fit) == first


@pytest.mark.parametrize("winograd", [True, pytest.param(False, marks=SLOW)])
def test_without_a_cache_and_with_one_too_small_the_bytes_are_the_same(
    winograd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    fit = {"epochs": 3, "batch_size": 4, "xla": False, "winograd": winograd}
    first = files(tmp_path / "first", fit=fit)
    without = files(tmp_path / "without", fit=fit | {"cache": False})
    monkeypatch.setattr(FeatureCache, "limit", lambda _: 100)
    callback = Listener()
    tlkit.run(experiment(fit=fit), tmp_path / "small", callback=callback)
    small = {name: (tmp_path / "small" / name).read_bytes() for name in FILES}
    assert first == without == small
    assert [note.partition(" need")[0] for note in callback.notes] == ["the features"]


@pytest.mark.slow
def test_what_changes_only_above_the_cut_computes_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    callback = Listener()
    tlkit.run(experiment(), tmp_path / "first", callback=callback)
    assert callback.computed == [
        "train",
        "val",
        "train",
        "test",
    ]  # two views of the training images
    above: list[dict[str, Any]] = [
        {"head": {"name": "pooled", "units": [8]}},
        {"optimizer": {"name": "adam", "learning_rate": 1e-4}},
        {"class_weights": {"name": "balanced"}},
        {"fit": {"epochs": 5, "batch_size": 2, "xla": False}},
    ]
    for number, changed in enumerate(above):
        tlkit.run(experiment(**changed), tmp_path / str(number), callback=callback)
    assert len(callback.computed) == 4
    below: list[dict[str, Any]] = [
        {"seed": 1},  # other random weights, other views
        {"backbone": {"weights": "none", "image_size": 32, "preprocess": "unit"}},
        {"freeze": {"name": "layer_range", "train": "17-"}},
    ]
    for number, changed in enumerate(below):
        tlkit.run(experiment(**changed), tmp_path / f"below{number}", callback=callback)
        assert len(callback.computed) == 4 * (number + 2)


@pytest.mark.slow
def test_views_are_seen_in_turn(tmp_path: Path) -> None:
    """With one view the second epoch sees what the first saw; with none set, something new."""
    still = {"optimizer": {"name": "sgd", "learning_rate": 1e-30}, "head": {"name": "pooled"}}
    losses = {}
    for views in (1, 2, None):
        augmentation = {"name": "affine"} | ({} if views is None else {"views": views})
        done = tlkit.run(experiment(augmentation=augmentation, **still), tmp_path / str(views))
        losses[views] = [round(epoch.loss, 5) for epoch in done.history]
    assert [len(set(losses[views])) for views in (1, 2, None)] == [1, 2, 3]
    assert losses[2][0] == losses[2][2] == losses[None][0]
