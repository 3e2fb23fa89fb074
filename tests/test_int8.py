"""Frozen layers in int8: near the float32 ones, and the same for every batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.fakes import FakeBackbone, OneConvolution, small

import tlkit
from tlkit.data.images import Reader
from tlkit.parts.augmentations import NoAugmentation
from tlkit.parts.datasets import load_splits
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import ConfigError, PartError
from tlkit.train.features import Extractor
from tlkit.train.int8 import ACTIVATIONS, Quantized, check_int8, photographs
from tlkit.train.lean import lean

LAYERS = keras.layers
SIDE = FakeBackbone().image_size
PIXELS = photographs(SIDE).astype(np.uint8)


def network() -> Any:
    """Return convolutions of both kinds with BatchNorm, and a small and a large output, packed."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = LAYERS.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = LAYERS.ReLU()(LAYERS.BatchNormalization()(x))
    small = LAYERS.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    large = LAYERS.Conv2D(8, 1)(1000.0 * small)
    vectors = [LAYERS.GlobalAveragePooling2D()(small), LAYERS.Flatten()(large)]
    return keras.Model(inputs, LAYERS.Concatenate(name="packed")(vectors))


def features(model: Any, batch: int = 4, frozen_dtype: str = "float32") -> Any:
    made = Extractor(model, FakeBackbone(), NoAugmentation(), batch, "float32", False, frozen_dtype)
    return np.concatenate([made(PIXELS[start : start + batch]) for start in range(0, 8, batch)])


@pytest.mark.slow
def test_features_in_int8_are_near_those_in_float32_and_the_weights_stay() -> None:
    model = network()
    before = [np.array(weight) for weight in model.get_weights()]
    expected, found = features(model), features(model, frozen_dtype="int8")
    for part in slice(0, 8), slice(8, None):  # small numbers next to large ones
        wanted = expected[:, part]
        error = np.sqrt(np.mean((found[:, part] - wanted) ** 2) / np.mean(wanted**2))
        assert 1e-5 < error < 0.03
    for weight, same in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)


@pytest.mark.slow
def test_features_in_int8_depend_neither_on_the_batch_nor_on_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    expected = features(model, frozen_dtype="int8")
    np.testing.assert_array_equal(features(model, frozen_dtype="int8"), expected)
    np.testing.assert_array_equal(features(model, 3, "int8")[:6], expected[:6])
    one = {"intra_op": 1, "inter_op": 1, "processors": 1}
    monkeypatch.setattr("tlkit.train.int8.threads", lambda: one)
    np.testing.assert_array_equal(features(model, frozen_dtype="int8"), expected)


@pytest.mark.slow
def test_a_run_in_int8_is_the_same_without_the_cache_and_its_model_predicts_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.train.plan.has_int8", lambda: True)
    network = {"backbone.name": "efficientnet_lite0", "backbone.image_size": 32}
    settings = {"fit.epochs": 2, "fit.xla": False, "fit.frozen_dtype": "int8"} | network
    file = tmp_path / "experiment.toml"
    file.write_text(small(), encoding="utf-8")
    weights: list[bytes] = []
    said: list[Any] = []
    predicted: list[Any] = []
    for changed in ({}, {"fit.cache": False}, {"fit.frozen_dtype": "float32"}):
        folder = tmp_path / str(len(weights))
        chosen = settings | changed
        keys = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
        done = tlkit.run(file, folder, overrides=keys)
        weights.append((folder / "weights.safetensors").read_bytes())
        splits = load_splits(done.experiment.data)
        rows = done.to_pandas("predictions").query("split == 'test'")
        said.append(rows[[f"p_{name}" for name in splits.classes]].to_numpy())
        reader = Reader(splits.read, 32)
        pixels = np.stack([reader(example.path) for example in splits.test])
        predicted.append(tlkit.load(folder).predict_proba(pixels))
    assert weights[0] == weights[1] != weights[2]
    np.testing.assert_allclose(predicted, said, atol=1e-5)
    plan = json.loads((tmp_path / "0" / "plan.json").read_text(encoding="utf-8"))
    assert plan["frozen_dtype"] == "int8"
    with pytest.raises(PartError, match="0: its frozen layers compute in int8, which an export"):
        tlkit.export(tmp_path / "0", tmp_path / "exported")


def unknown(x: Any) -> Any:
    """Return an operation that TensorFlow Lite does not have."""
    return tf.raw_ops.Betainc(a=x, b=x, x=x)


@pytest.mark.slow
def test_networks_without_a_common_layer_are_converted_apart_and_keep_their_order() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE, SIDE, 3))
    shared = LAYERS.Conv2D(4, 3, activation="relu")(inputs)
    starts = (inputs, shared, inputs, shared, shared)
    vectors = [
        LAYERS.GlobalAveragePooling2D()(LAYERS.Conv2D(filters, 3)(start))
        for filters, start in enumerate(starts, start=5)
    ]
    model = keras.Model(inputs, LAYERS.Concatenate()(vectors))
    quantized = Quantized(lean(model, False), FakeBackbone(), 4)
    assert [len(network.outputs) for network in quantized.networks] == [1, 1, 3]
    np.testing.assert_allclose(
        features(model, frozen_dtype="int8"), features(model), rtol=0.1, atol=0.02
    )


class Odd(OneConvolution):
    """A network whose layer's kind is known, but not its activation."""

    def build(self) -> Any:
        inputs = LAYERS.Input((8, 8, 3))
        return keras.Model(inputs, LAYERS.Conv2D(2, 3, activation=unknown, name="conv")(inputs))


def test_what_cannot_be_computed_in_int8_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.train.plan.has_int8", lambda: True)
    experiment = tlkit.Experiment(
        data=Shapes(train=6, val=3, test=0, image_px=16),
        backbone=Odd(),
        head=Pooled(),
        fit=tlkit.Fit(epochs=1, cache=False, frozen_dtype="int8"),
    )
    rule = r'fit\.frozen_dtype: .*Odd.* computed in int8: .*; set fit\.frozen_dtype = "float32"'
    with pytest.raises(ConfigError, match=rule):
        tlkit.run(experiment, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_only_unusual_networks_are_converted_on_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(Quantized, "convert", lambda self: tried.append(self))
    inputs = keras.Input((SIDE, SIDE, 3))
    for activation in ("relu", "silu", "sigmoid", None):
        check_int8(
            keras.Model(inputs, LAYERS.Conv2D(2, 3, activation=activation)(inputs)), FakeBackbone()
        )
    assert not tried
    check_int8(keras.Model(inputs, LAYERS.Conv2D(2, 3, activation="mish")(inputs)), FakeBackbone())
    assert len(tried) == 1


@pytest.mark.slow
def test_the_activations_that_need_no_trial_convert() -> None:
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for activation in ACTIVATIONS:
        x = LAYERS.Activation(activation)(x)
    Quantized(keras.Model(inputs, x), FakeBackbone(), 1).convert()


def test_photographs_are_two_pictures_and_six_parts_of_them() -> None:
    assert PIXELS.shape == (8, SIDE, SIDE, 3)
    assert len({picture.tobytes() for picture in PIXELS}) == 8
    assert photographs(4).min() >= 0
