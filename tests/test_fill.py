"""The feature cache, filled ahead: each shard once, by whoever is there, and used by the runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tlkit
from tlkit.config.toml import load_experiment
from tlkit.runner import fill as filling
from tlkit.runner.fill import Filled, fill
from tlkit.sweeps import worker
from tlkit.sweeps.actors import _checked
from tlkit.sweeps.features import FilledCache, _depends_on
from tlkit.system.cache import FeatureCache
from tlkit.system.errors import ResourceError
from tlkit.system.lease import Leases
from tlkit.train.callback import Callback
from tlkit.train.features import Extractor

STUDY = """
data = {name = "folder", path = "data"}
backbone = {name = "mobilenet_v2", weights = "none", image_size = 32}
head.name = "pooled"
fit = {epochs = 1, batch_size = 4, xla = false}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    for split, label in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / label / f"{number}.png")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each pass through the frozen layers."""
    passes: list[int] = []
    plain = Extractor.__call__

    def counted(self: Extractor, pixels: Any, keys: Any = None) -> Any:
        passes.append(len(pixels))
        return plain(self, pixels, keys)

    monkeypatch.setattr(Extractor, "__call__", counted)
    return passes


@pytest.mark.slow
def test_what_was_filled_is_not_computed_again_and_changes_nothing(
    file: Path, computed: list[int], tmp_path: Path
) -> None:
    plain = tlkit.run(file, tmp_path / "plain")
    shutil.rmtree(tmp_path / "cache")
    experiment = load_experiment(file)
    assert fill(experiment, Callback(), shard_images=5) == Filled(images=12, computed=12)
    assert len(FeatureCache(tmp_path / "cache").entries()) == 3
    assert fill(experiment, Callback(), shard_images=5) == Filled(images=12, computed=0)
    computed.clear()
    run = tlkit.run(file, tmp_path / "filled")
    assert not computed
    for name in ("weights.safetensors", "history.csv", "predictions.csv"):
        assert (run.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    damaged = FeatureCache(tmp_path / "cache").entries()[-1].key
    (tmp_path / "cache" / damaged / "data.npy").write_bytes(b"half")
    shutil.rmtree(tmp_path / "cache" / FeatureCache(tmp_path / "cache").entries()[0].key)
    tlkit.run(file, tmp_path / "mended")
    kept = (tmp_path / "mended" / "predictions.csv").read_bytes()
    assert kept == (plain.folder / "predictions.csv").read_bytes()


@pytest.mark.slow
def test_processes_share_the_shards_and_the_dead_ones_are_taken_over(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "POLL_S", 0.01)
    monkeypatch.setattr(Leases, "is_dead", lambda self, lease: lease.owner.process != 1)
    experiment = load_experiment(file)
    leases = tmp_path / "cache" / filling.LEASES
    claim = Leases.claim

    def slow(self: Leases, work: str, number: int) -> Any:
        if not list(leases.glob("*")) and number == 0:
            (leases / f"{work}.0.json").write_text("{")  # of a process that died as it began
            return None
        return claim(self, work, number)

    monkeypatch.setattr(Leases, "claim", slow)
    leases.mkdir(parents=True)
    assert fill(experiment, Callback(), shard_images=2) == Filled(12, 12)
    assert not list(leases.glob("*"))


@pytest.mark.slow
def test_the_command_fills_with_two_processes(file: Path) -> None:
    done = tlkit.features(file, workers=2, threads=1)
    assert isinstance(done, FilledCache)
    assert (done.images, done.computed) == (12, 12)
    again = tlkit.features(file, threads=1)
    assert (again.images, again.computed) == (12, 0)
    assert "12 images are in the cache; 0 new" in str(again)


@pytest.mark.slow
def test_features_that_are_none_or_too_large_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(tlkit.ConfigError, match="nothing to compute ahead"):
        fill(load_experiment(file, ["fit.cache=false"]), Callback())
    monkeypatch.setattr(FeatureCache, "limit", lambda self: 10)
    with pytest.raises(ResourceError, match="more than the cache may take"):
        fill(load_experiment(file), Callback())


def test_a_sweep_of_heads_seeds_and_folds_has_the_same_features(file: Path) -> None:
    some = ["data.folds=3", "optimizer.learning_rate=[1e-3,1e-4]", "head.units=[[4],[8]]"]
    trials = tlkit.plan_trials(file, some, "0-1").trials
    assert len(trials) == 24
    assert len({_depends_on(trial) for trial in trials}) == 1
    other = tlkit.plan_trials(file, ["backbone.image_size=[32,64]"]).trials
    assert len({_depends_on(trial) for trial in other}) == 2


def test_augmented_images_are_those_of_a_seed_and_a_fold(file: Path) -> None:
    some = ["data.folds=3", "augmentation={name='affine',views=2}", "head.units=[[4],[8]]"]
    trials = tlkit.plan_trials(file, some, "0-1").trials
    assert len(trials) == 12
    assert len({_depends_on(trial) for trial in trials}) == 6


@pytest.mark.slow
def test_every_augmented_version_that_a_run_will_see_is_there(
    file: Path, computed: list[int], tmp_path: Path
) -> None:
    some = ["augmentation={name='affine',rotation_deg=9,views=2}", "fit.epochs=3"]
    plain = tlkit.run(file, tmp_path / "plain", overrides=some)
    shutil.rmtree(tmp_path / "cache")
    experiment = load_experiment(file, some)
    assert fill(experiment, Callback(), shard_images=4) == Filled(images=18, computed=18)
    assert len(FeatureCache(tmp_path / "cache").entries()) == 2 + 2  # 6 images of val, 2 versions
    assert fill(experiment, Callback(), shard_images=4) == Filled(images=18, computed=0)
    computed.clear()
    run = tlkit.run(file, tmp_path / "filled", overrides=some)
    assert not computed
    for name in ("weights.safetensors", "history.csv", "predictions.csv"):
        assert (run.folder / name).read_bytes() == (plain.folder / name).read_bytes()


def test_the_worker_says_what_it_filled(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(filling, "fill", lambda *_, **__: Filled(9, 4))
    (trial,) = tlkit.plan_trials(file).trials
    job = {"fill": True, "file": str(file), "overrides": [], "sha256": trial.sha256}
    assert worker.work(job) == {"images": 9, "computed": 4}


@pytest.mark.slow
@pytest.mark.parametrize("is_augmented", [False, True], ids=["plain", "augmented"])
def test_actors_get_bytes_and_give_the_features_that_this_process_computes(
    is_augmented: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    some = ["augmentation={name='affine',rotation_deg=9,views=2}", "fit.epochs=2"] * is_augmented
    options: dict[str, Any] = {"overrides": some, "threads": 1}
    monkeypatch.setattr("tlkit.sweeps.actors.SHARD_IMAGES", 4)
    done = tlkit.features(file, workers="ray", processes=2, **options)
    assert (done.images, done.computed) == (12 + 6 * is_augmented,) * 2

    def content() -> dict[str, bytes]:
        return {
            path.parent.name: path.read_bytes() for path in (tmp_path / "cache").glob("*/data.npy")
        }

    by_actors = content()
    shutil.rmtree(tmp_path / "cache")
    tlkit.features(file, **options)
    assert content() == by_actors


def test_an_actor_on_another_kind_of_machine_is_refused() -> None:
    with pytest.raises(ResourceError, match="a node differs in machine, versions"):
        _checked(["machine", "versions"])
