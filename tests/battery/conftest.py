"""A small study with a run that is finished, one that is not, and a sweep of two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import field, frozen
from PIL import Image
from tests.fakes import FakeBackbone

import tlkit
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.kinds import registries

STUDY = """
[data]
name = "folder"
path = "images"

[backbone]
name = "flipped"

[head]
name = "pooled"

[calibration]
temperature = true

[fit]
epochs = 4
batch_size = 4
keep = "best"
xla = false
checkpoint_every_s = 0
"""


@frozen(kw_only=True)
class Flipped(FakeBackbone):
    """One small convolution."""

    image_size: int = field(default=8)

    def layers(self) -> LayerTable:
        return LayerTable((Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56),))

    def build(self) -> Any:
        import keras

        inputs = keras.layers.Input((8, 8, 3))
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))


@pytest.fixture(scope="module")
def flipped() -> Iterator[None]:
    """The study's backbone; and nothing is synced, for which real disks take their time."""
    registries.backbones.register("flipped")(Flipped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.system.files._sync", lambda path: None)
        yield
    registries.backbones.unregister("flipped")


@pytest.fixture(scope="module")
def top(flipped: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study `e.toml` with its images, and a finished `run`."""
    top = tmp_path_factory.mktemp("flips")
    chance = np.random.default_rng(0)
    for split, label in ((s, x) for s in ("train", "val") for x in ("dark", "light")):
        (top / "images" / split / label).mkdir(parents=True)
        for number in range(4):
            pixels = chance.integers(0, 120 if label == "dark" else 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(top / "images" / split / label / f"{number}.png")
    (top / "e.toml").write_text(STUDY, encoding="utf-8")
    tlkit.run(top / "e.toml", top / "run")
    return top


class Stop(tlkit.Callback):
    """Stops a run in an epoch."""

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def begun(top: Path) -> Path:
    """A run that was stopped after its third epoch."""
    with pytest.raises(tlkit.Interrupted):
        tlkit.run(top / "e.toml", top / "begun", callback=Stop())
    return top / "begun"


@pytest.fixture(scope="module")
def sweep(top: Path) -> Path:
    """A finished sweep of two runs."""
    tlkit.sweep(top / "e.toml", top / "s", seeds="0-1", in_process=True)
    return top / "s"
