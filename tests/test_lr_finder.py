"""The learning-rate finder: where a loss falls fastest, when to stop, and what is left behind."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fakes import Listener, OneConvolution

import tlkit
from tlkit.lr_finder import FALLS, smoothed, steepest
from tlkit.parts.augmentations import Affine
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.heads import FlattenDense, Pooled
from tlkit.parts.optimizers import SGD
from tlkit.parts.shapes import Shapes
from tlkit.train.step import TrainStep
from tlkit.train.totals import StepTotals

pytestmark = pytest.mark.usefixtures("slim_vgg")

losses_drawn = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


def rising(count: int) -> list[float]:
    return [1e-6 * 1.5**step for step in range(count)]


@given(losses_drawn)
@example([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 10.0, 5.0, 0.5, 2.0])
def test_a_suggestion_is_one_of_the_rates_before_the_least_smoothed_loss(
    losses: list[float],
) -> None:
    rates, curve = rising(len(losses)), smoothed(losses)
    found = steepest(rates, losses)
    if found is not None:
        assert rates.index(found) < curve.argmin()
        assert curve.min() <= FALLS * curve[: curve.argmin()].max()


@given(losses_drawn, st.integers(-8, 8))
def test_the_unit_of_the_losses_does_not_matter(losses: list[float], power: int) -> None:
    """Powers of two, so that nothing is rounded otherwise."""
    scaled = [loss * 2.0**power for loss in losses]
    assert steepest(rising(len(losses)), scaled) == steepest(rising(len(losses)), losses)


@given(losses_drawn.map(sorted))
def test_a_loss_that_never_falls_gives_no_suggestion(losses: list[float]) -> None:
    assert steepest(rising(len(losses)), losses) is None


@given(losses_drawn)
def test_smoothing_shifts_nothing_and_stays_between_least_and_greatest(losses: list[float]) -> None:
    found = smoothed(losses)
    np.testing.assert_allclose(found, smoothed(losses[::-1])[::-1], rtol=1e-12)
    assert min(losses) * (1 - 1e-12) <= found.min() <= found.max() <= max(losses) * (1 + 1e-12)


@pytest.mark.parametrize("middle", [20, 40, 60])
def test_of_a_curve_that_falls_once_the_middle_of_the_fall_is_suggested(middle: int) -> None:
    losses = [1.5 - math.tanh((step - middle) / 6) for step in range(80)]
    diverging = [*losses, 1, 2, 4, 8, 16]
    rates = rising(len(diverging))
    found = steepest(rates, diverging)
    assert found is not None
    assert abs(rates.index(found) - middle) <= 1


TINY = tlkit.Experiment(
    data=Shapes(train=6, val=3, test=0, image_px=16),
    backbone=OneConvolution(),
    head=Pooled(),
    fit=tlkit.Fit(epochs=1, batch_size=4, cache=False, xla=False),
)


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[float]:
    """Make the training steps give these losses; return the rates they were taken at."""
    rates: list[float] = []

    def train(step: TrainStep, x: Any, labels: Any, weights: Any) -> StepTotals:
        loss = losses[len(rates)]
        rates.append(float(step.optimizer.learning_rate))
        return StepTotals(loss * len(labels), 0.0, 0.0, len(labels))

    monkeypatch.setattr(TrainStep, "train", train)
    return rates


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([1.0] * 20, 20),
        ([1.0] * 10 + [100.0] * 10, 11),
        ([1.0] * 10 + [10.0] + [1.0] * 9, 20),  # one batch of five is no explosion
        ([8.0] * 5 + [1.0] * 5 + [6.0] * 10, 14),  # measured against the least, not the first
        ([100.0] + [1.0] * 19, 20),
        ([1.0] * 6 + [math.nan] * 14, 6),
        ([1.0] * 6 + [math.inf] * 14, 6),
    ],
    ids=["even", "grown", "one peak", "grown from the least", "falling", "nan", "inf"],
)
def test_it_stops_when_the_loss_has_grown_or_is_no_number(
    losses: list[float], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = scripted(monkeypatch, losses)
    curve = tlkit.lr_find(TINY, tmp_path / "out", steps=20, lowest=1e-6, highest=1e-2)
    assert list(curve.losses) == losses[:kept]
    assert len(curve.rates) == kept
    assert taken[:kept] == pytest.approx(np.geomspace(1e-6, 1e-2, 20)[:kept], rel=1e-6)
    assert curve.rates == pytest.approx(taken[:kept], rel=1e-6)


def test_a_first_loss_that_is_no_number_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [math.nan])
    with pytest.raises(tlkit.NumericalError, match=r"loss.* nan"):
        tlkit.lr_find(TINY, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_real_loss_that_explodes_ends_it_early(tmp_path: Path) -> None:
    """Two layers that both take giant steps."""
    exploding = evolve(TINY, head=FlattenDense(units=(8,)), optimizer=SGD())
    curve = tlkit.lr_find(exploding, tmp_path / "out", steps=40, highest=1e20)
    assert 5 <= len(curve.losses) < 40
    assert all(math.isfinite(loss) for loss in curve.losses)


@pytest.mark.parametrize(
    "bounds",
    [
        {"lowest": 0.0},
        {"lowest": -1e-3},
        {"lowest": 1.0, "highest": 1.0},
        {"lowest": 1.0, "highest": 0.1},
        {"highest": math.inf},
        {"highest": math.nan},
        {"lowest": math.nan},
        {"steps": 9},
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(bounds: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        tlkit.ConfigError, match=r"^lr-find: needs 0 < lowest < highest and at least 10 steps, got "
    ):
        tlkit.lr_find(TINY, tmp_path / "out", **bounds)
    assert not (tmp_path / "out").exists()


CACHED = tlkit.Experiment(
    data=Shapes(train=6, val=3, test=3, image_px=32),
    backbone=VGG16(weights="none", image_size=32),
    head=Pooled(),
    augmentation=Affine(),
    fit=tlkit.Fit(epochs=2, batch_size=4, xla=False),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A feature cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="module")
def computed() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def curve(
    cache: None, tmp_path_factory: pytest.TempPathFactory, computed: Listener
) -> tlkit.RateCurve:
    """A curve of twelve steps, which are six times all images."""
    return tlkit.lr_find(CACHED, tmp_path_factory.mktemp("lr") / "out", steps=12, callback=computed)


def test_the_curve_and_its_picture_are_written(curve: tlkit.RateCurve) -> None:
    assert {path.name for path in curve.folder.iterdir()} == {"lr-find.csv", "lr-find.svg"}
    with (curve.folder / "lr-find.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == list(curve.rates)
    assert [float(row["loss"]) for row in rows] == list(curve.losses)
    assert [float(row["smoothed"]) for row in rows] == curve.smoothed.tolist()
    picture = ET.parse(curve.folder / "lr-find.svg").getroot()
    dots = [node for node in picture if node.tag == "{http://www.w3.org/2000/svg}circle"]
    assert len(dots) == len(curve.losses)


def test_a_folder_that_exists_is_refused_before_any_work(curve: tlkit.RateCurve) -> None:
    listener = Listener()
    with pytest.raises(tlkit.RunFolderError, match=r"the run folder exists") as caught:
        tlkit.lr_find(CACHED, curve.folder, callback=listener)
    assert caught.value.exit_code == 7
    assert not listener.planned


def test_the_run_that_follows_computes_no_training_features(
    curve: tlkit.RateCurve, computed: Listener, tmp_path: Path
) -> None:
    assert computed.computed == ["train"]
    following = Listener()
    experiment = evolve(CACHED, augmentation=Affine(views=1))
    tlkit.run(experiment, tmp_path / "run", callback=following)
    assert following.computed == ["val", "test"]


def test_a_file_is_read_with_overrides_and_names_the_folder(
    cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(
        '[data]\nname = "shapes"\ntrain = 3\nval = 3\ntest = 0\nimage_px = 32\n'
        '[backbone]\nweights = "none"\nimage_size = 32\n[head]\nname = "pooled"\n',
        encoding="utf-8",
    )
    curve = tlkit.lr_find("tiny.toml", steps=10, overrides=["fit.xla=false"])
    assert curve.folder == Path("runs/tiny-lr-find-1")
    assert len(curve.losses) == 10
