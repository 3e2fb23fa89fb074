"""A Keras model as the backbone: trained as a copy, recorded by its layers, wanted back to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve

import tlkit
from tlkit.config.experiment import load_experiment
from tlkit.parts.backbones import VGG16
from tlkit.parts.datasets import Phantom
from tlkit.parts.freezes import TrainAll
from tlkit.parts.heads import Pooled
from tlkit.testing import check_backbone
from tlkit.train.shelf import make_shelf

DATA = Phantom(train=6, val=3, test=0, image_px=16)


def network(size: int | None = 16, activation: str = "relu", seed: int = 0) -> Any:
    inputs = keras.Input((size, size, 3))
    start = keras.initializers.GlorotUniform(seed)  # how it begins, not what it is
    x = keras.layers.Conv2D(4, 3, kernel_initializer=start, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation(activation, name="act")(x)
    branch = keras.layers.Conv2D(4, 1, kernel_initializer=start, name="branch")(x)
    model = keras.Model(inputs, keras.layers.Add(name="add")([x, branch]))
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 0.5, weight.shape) for weight in model.weights])
    return model


def arrays(model: Any) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.weights]


def experiment(backbone: tlkit.Backbone) -> tlkit.Experiment:
    fit = tlkit.Fit(epochs=1, batch_size=3)
    return tlkit.Experiment(data=DATA, backbone=backbone, head=Pooled(), freeze=TrainAll(), fit=fit)


@pytest.mark.parametrize("size", [16, None])
def test_it_keeps_what_every_backbone_promises(size: int | None) -> None:
    check_backbone(tlkit.FromModel(model=network(size), image_size=16))


def test_a_sequential_model_will_do() -> None:
    layers = [keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")]
    check_backbone(tlkit.FromModel(model=keras.Sequential(layers)))


def test_it_begins_with_the_models_weights() -> None:
    model = network()
    backbone = tlkit.FromModel(model=model)
    built = backbone.build()
    assert arrays(built) != arrays(model)
    assert backbone.load_weights(built)["source"] == "the given model"
    assert arrays(built) == arrays(model)


def test_a_run_trains_a_copy_and_is_loaded_with_the_same_layers(tmp_path: Path) -> None:
    model = network()
    before = arrays(model)
    run = tlkit.run(experiment(tlkit.FromModel(model=model)), tmp_path / "run")
    assert arrays(model) == before
    assert run.model.get_layer("conv").get_weights()[0].tobytes() != before[0]
    recorded = json.loads((tmp_path / "run" / "experiment.json").read_text())["backbone"]
    assert recorded.keys() == {"name", "preprocess", "image_size", "layers_sha256"}
    other_weights = tlkit.FromModel(model=network(seed=1))  # the run's arrays replace them
    loaded = tlkit.load(tmp_path / "run", backbone=other_weights)
    assert arrays(loaded.model) == arrays(run.model)
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    assert loaded.probabilities(pixels).shape == (2, 3)

    with pytest.raises(
        tlkit.PartError, match=r"/run: was made with a Keras model, which no folder"
    ):
        tlkit.load(tmp_path / "run")
    for wrong in (
        tlkit.FromModel(model=network(activation="tanh")),
        tlkit.FromModel(model=network(), preprocess="unit"),
    ):
        with pytest.raises(tlkit.PartError, match=r"/run: was made with another backbone than"):
            tlkit.load(tmp_path / "run", backbone=wrong)
    with pytest.raises(tlkit.PartError, match=r"^backbone: must be a tlkit\.FromModel, got VGG16"):
        tlkit.load(tmp_path / "run", backbone=VGG16())


def test_a_backbone_for_a_run_that_has_one_is_refused(tmp_path: Path) -> None:
    backbone = VGG16(weights="none", image_size=32)
    own = evolve(experiment(backbone), freeze=tlkit.registries.freezes.get("head_only")())
    tlkit.run(own, tmp_path / "run")
    with pytest.raises(tlkit.PartError, match=r"was made with another backbone than .*'vgg16'"):
        tlkit.load(tmp_path / "run", backbone=tlkit.FromModel(model=network()))


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [("native", 255.0), ("unit", 1.0), (lambda pixels: pixels / 127.5 - 1, 1.0)],
)
def test_pixels_are_prepared_as_said(preprocess: Any, expected: float) -> None:
    backbone = tlkit.FromModel(model=network(), preprocess=preprocess)
    assert float(backbone.prepare(keras.ops.full((1, 16, 16, 3), 255.0))[0, 0, 0, 0]) == expected


def test_features_are_shared_unless_a_function_made_them(tmp_path: Path) -> None:
    from tlkit.cache import FeatureCache

    def key(preprocess: Any) -> str:
        model = network()
        backbone = tlkit.FromModel(model=model, preprocess=preprocess)
        return make_shelf(FeatureCache(tmp_path), model, experiment(backbone), 4).key(["a"], None)

    def halved(pixels: Any) -> Any:
        return pixels / 2

    def same_name(pixels: Any) -> Any:
        return pixels / 3

    same_name.__qualname__ = halved.__qualname__
    assert key("native") == key("native") != key("unit")
    assert key(halved) == key(halved) != key(same_name)


def nested() -> Any:
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, network()(inputs))


def with_two_outputs() -> Any:
    model = network()
    return keras.Model(model.input, [model.output, model.get_layer("conv").output])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (nested, {}, r"the model must be flat, got a model nested in it"),
        (with_two_outputs, {}, r"one input and one output"),
        (keras.Model, {}, r"one input and one output"),
        (lambda: network(None), {}, r"input must be \(size, size, 3\), got .* image_size unset"),
        (network, {"image_size": 8}, r"got \(16, 16, 3\) and image_size 8"),
        (network, {"preprocess": "caffe"}, r"preprocess must be 'native', 'unit' or a function"),
    ],
)
def test_a_model_of_another_form_is_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(tlkit.PartError, match=rf"^FromModel: .*{message}"):
        tlkit.FromModel(model=make(), **settings)


def test_it_is_no_name_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('data.name = "phantom"\nbackbone.name = "FromModel"\n')
    with pytest.raises(tlkit.ConfigError, match=r"no backbone named 'FromModel'"):
        load_experiment(path)
