"""Fakes that several tests share: small experiments and backbones, a callback that takes notes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

import tlkit
from tlkit.parts.plugins import PluginFile, active
from tlkit.parts.registry import PLUGIN
from tlkit.system.seal import MACHINE_SEAL, SEAL

RESULTS = (  # of a run: the same bytes wherever and however often it is made
    "experiment.json",
    "history.csv",
    "looks.csv",
    "manifest.csv",
    "metrics.json",
    "plan.json",
    "predictions.csv",
    "seal.json",
    "weights.safetensors",
)
STUDY = Path(__file__).parent.parent / "examples" / "covidx"

SMALL_NETWORK = """
[backbone]
weights = "none"
image_size = 32

[head]
name = "pooled"
"""
ON_FOLDER = f"""
[data]
name = "folder"
path = "images"
{SMALL_NETWORK}"""


def small(train: int = 6, val: int = 3) -> str:
    """Return an experiment file on drawn images, so many of each class, to add `[fit]` to."""
    return f"""
[data]
name = "shapes"
train = {train}
val = {val}
test = 3
image_px = 32
{SMALL_NETWORK}"""


@frozen(kw_only=True)
class FakeBackbone(tlkit.Backbone):
    """A backbone without weights files; by itself it only preprocesses."""

    image_size: int = field(default=8)

    def layers(self) -> tlkit.LayerTable:
        raise NotImplementedError

    def build(self) -> Any:
        raise NotImplementedError

    def preprocess_native(self, images: Any) -> Any:
        return images / 255

    def load_weights(self, model: Any) -> Mapping[str, str]:
        return {"source": "none"}


@frozen(kw_only=True)
class OneConvolution(FakeBackbone):
    """The smallest backbone there is; unregistered, so it needs runs without a cache."""

    def layers(self) -> tlkit.LayerTable:
        return tlkit.LayerTable((tlkit.Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56),))

    def build(self) -> Any:
        import keras

        inputs = keras.layers.Input((8, 8, 3))
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))


class Listener(tlkit.Callback):
    """Keeps the notes, and the splits whose features were computed.

    Attributes:
        notes: The notes.
        computed: The splits, in order.
        planned: Whether a plan was made.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.computed: list[str] = []
        self.planned = False

    def on_plan(self, plan: tlkit.Plan, splits: tlkit.Splits) -> None:
        self.planned = True

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        if done == count:
            self.computed.append(split)


def study_parts() -> Any:
    """Return the module with the COVIDx study's own parts; nothing of it stays registered."""
    file = PluginFile.read(STUDY / "parts.py")
    with active((file,)):
        return sys.modules[f"{PLUGIN}{file.sha256}"]


def contents(folder: Path, names: Iterable[str] = RESULTS) -> dict[str, bytes]:
    """Return the bytes of a run's files."""
    return {name: (folder / name).read_bytes() for name in names}


def unseal(folder: Path) -> None:
    """Remove a folder's seals, as of a run of an earlier version."""
    for name in (SEAL, MACHINE_SEAL):
        (folder / name).unlink(missing_ok=True)


def rewrite(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    """Return what changes one of a folder's JSON files and removes its seals."""

    def spoil(folder: Path) -> None:
        unseal(folder)
        table = json.loads((folder / name).read_text(encoding="utf-8"))
        change(table)
        (folder / name).write_text(json.dumps(table), encoding="utf-8")

    return spoil
