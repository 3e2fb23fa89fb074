"""The estimate of a run's time: it grows with what is computed, and with nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import tlkit
from tlkit.train.cost import BYTE_S, cost_text, estimated_seconds, multiply_adds

DATA = {"name": "shapes", "train": 600, "val": 100, "test": 100}
BACKBONE = {"name": "vgg16", "weights": "none", "image_size": 224}


def seconds(cores: int = 2, **changed: Any) -> float:
    experiment = {"data": DATA, "backbone": BACKBONE, "head": {"name": "pooled"}, **changed}
    return estimated_seconds(tlkit.check(experiment), cores)


def test_the_multiplications_of_vgg16_are_those_of_the_literature() -> None:
    table = tlkit.registries.backbones.get("vgg16")(image_size=224).layers()
    assert sum(multiply_adds(layer) for _, layer in table) == pytest.approx(15.35e9, rel=0.01)


def test_800_images_through_a_frozen_vgg16_take_about_a_minute_and_a_quarter_on_two_cores() -> None:
    """They take 55 ms per image (docs/explanation/frozen-prefix.md), 5 ms to read, and 8 s."""
    assert 50 < seconds() < 85


def test_more_work_takes_longer() -> None:
    once = seconds()
    assert seconds(cores=1) > 1.6 * once
    assert seconds(backbone={**BACKBONE, "image_size": 112}) < 0.6 * once
    assert seconds(fit={"epochs": 40}) < 1.1 * once
    assert seconds(fit={"cache": False}) > 5 * once
    assert seconds(augmentation={"name": "natural", "views": 3}) > 2 * once
    assert seconds(freeze={"name": "all_layers"}) > 15 * once
    assert seconds(calibration={"tta": "flip"}) > 1.1 * once
    two = [{"epochs": 5}, {"epochs": 5, "optimizer": {"name": "sgd"}}]
    assert seconds(phase=two) == pytest.approx(once, rel=0.1)


def test_a_refit_takes_the_steps_once_more_with_the_images_of_val() -> None:
    """There are 600 training images and 100 of `val`; reading and starting are not repeated."""
    steps: dict[str, Any] = {"freeze": {"name": "all_layers"}}
    once, twice = (seconds(**steps, fit={"epochs": 3, "refit": refit}) for refit in (False, True))
    assert twice / once == pytest.approx(1 + 7 / 6, rel=0.02)
    solver: dict[str, Any] = {"optimizer": {"name": "lbfgs"}, "head": {"name": "probe"}}
    own: dict[str, Any] = {**solver, "optimizer": {"name": "lbfgs", "refit": True}}
    assert seconds(**solver, fit={"refit": True}) == seconds(**own) > seconds(**solver)


def test_larger_files_take_longer(tmp_path: Path) -> None:
    """If their size is known; it is not that of pictures that are drawn."""
    found = []
    for size in (2_000, 2_000_000):
        for split, name in itertools.product(("train", "val"), "ab"):
            (folder := tmp_path / f"{size}" / split / name).mkdir(parents=True)
            for number in range(60):
                (folder / f"{number}.png").write_bytes(bytes(size))
        data = {"name": "folder", "path": str(tmp_path / f"{size}")}
        plan = tlkit.check({"data": data, "backbone": BACKBONE})
        assert plan.file_bytes == size
        found.append(estimated_seconds(plan, 2))
    assert found[1] - found[0] == pytest.approx(240 * 2e6 * BYTE_S / 2, rel=0.01)
    assert tlkit.check({"data": DATA, "backbone": BACKBONE}).file_bytes is None


def test_the_solver_takes_its_time_once_and_again_for_a_refit() -> None:
    """With 2,609 images of 2,528 features it took 34 s, a quarter of that for a refit."""
    small: dict[str, Any] = {"backbone": {**BACKBONE, "image_size": 32}, "head": {"name": "probe"}}
    small["data"] = {"name": "shapes", "train": 3000, "val": 600, "test": 0}
    solver, epochs = {"name": "lbfgs"}, {"epochs": 12}
    adam = seconds(**small, fit=epochs)
    solved = seconds(**small, fit=epochs, optimizer=solver)
    refitted = seconds(**small, fit=epochs, optimizer={**solver, "refit": True})
    assert 10 < solved - adam < 60
    assert 2 < refitted - solved < 0.5 * (solved - adam)


def test_it_is_said_in_words() -> None:
    text = cost_text(tlkit.check({"data": DATA, "backbone": BACKBONE}))
    assert text.startswith("takes about ")
    assert " on " in text
