"""Every model of `keras.applications`: the same network, numbers and files as Keras's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

import tlkit
from tlkit.parts.backbones.applications import FAMILIES, Family, Model
from tlkit.train.assemble import seeded

MODELS = [(family, model) for family in FAMILIES for model in family.models]
SMALLEST = {min(family.models, key=lambda model: model.params).name for family in FAMILIES}
# `make test` runs those that build fast, of every way of being different; `make test-all` all.
FAST = {"resnet50", "mobilenet", "convnext_tiny"}
every_model = pytest.mark.parametrize(
    ("family", "model"),
    [
        pytest.param(*pair, id=pair[1].name, marks=() if pair[1].name in FAST else pytest.mark.slow)
        for pair in MODELS
    ],
)
every_family = pytest.mark.parametrize(
    ("family", "model"),
    [
        pytest.param(*pair, id=pair[1].name, marks=() if pair[1].name in FAST else pytest.mark.slow)
        for pair in MODELS
        if pair[1].name in SMALLEST
    ],
)


def part(family: Family, model: Model, **changed: Any) -> Any:
    settings: dict[str, Any] = {"weights": "none", "image_size": family.min_px, **changed}
    return tlkit.registries.backbones.get(model.name)(**settings)


def published(family: Family, model: Model, **settings: Any) -> Any:
    """Keras's own model, with random weights."""
    shape = (family.min_px, family.min_px, 3)
    function = getattr(keras.applications, model.function)
    with seeded(0):
        return function(include_top=False, weights=None, input_shape=shape, **settings)


def without_preprocessing(family: Family, model: Model) -> Any:
    settings = {"include_preprocessing": False} if family.preprocesses else {}
    return published(family, model, **settings)


def pixels(family: Family) -> Any:
    shape = (2, family.min_px, family.min_px, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def test_every_function_of_keras_applications_is_a_part() -> None:
    functions = {name for name in dir(keras.applications) if name[0].isupper()}
    assert functions == {model.function for _, model in MODELS} | {"VGG16", "VGG19"}
    names = {model.name for _, model in MODELS} | {"vgg16", "vgg19"}
    assert names <= set(tlkit.registries.backbones.names())


@every_model
def test_two_builds_are_one_table_with_the_published_number_of_parameters(
    family: Family, model: Model
) -> None:
    backbone = part(family, model)
    builds = [tlkit.layer_table(backbone.build()) for _ in range(2)]
    tables = [table.grouped(family.block, family.prefix, family.closes) for table in builds]
    assert tables[0] == tables[1] == backbone.layers()
    assert tables[0].params == model.params == backbone.params
    assert len({layer.name for _, layer in tables[0]}) == len(tables[0])
    assert 4 <= len(tables[0].blocks) <= 80
    assert any(layer.is_cut_point for _, layer in tables[0])


@every_model
def test_imagenet_is_the_file_that_keras_itself_would_fetch(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def get_file(name: str, url: str, file_hash: str | None = None, **_: Any) -> str:
        asked.append((name, url, file_hash or ""))
        raise FileNotFoundError("asked")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    shape = (model.image_px, model.image_px, 3)
    with pytest.raises(FileNotFoundError, match="asked"):
        getattr(keras.applications, model.function)(include_top=False, input_shape=shape)
    remote = family.remote(model)
    assert asked == [(remote.path.name, remote.url, remote.checksum)]


@every_family
def test_a_file_in_keras_own_layout_gives_keras_own_features(
    family: Family, model: Model, tmp_path: Path
) -> None:
    theirs = without_preprocessing(family, model)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    backbone = part(family, model, weights=tmp_path / "weights.h5")
    ours = backbone.build()
    with_random = ours(pixels(family) / 255, training=False).numpy()
    record = backbone.load_weights(ours)
    assert record["file"] == "weights.h5"
    found = ours(pixels(family) / 255, training=False).numpy()
    scale = 255 if model.name.startswith("efficientnet_b") else 1  # theirs divides by 255 itself
    expected = theirs(pixels(family) / 255 * scale, training=False).numpy()
    if scale == 1:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(found, with_random)


@every_family
def test_native_input_is_what_keras_prepares(family: Family, model: Model) -> None:
    found = np.asarray(part(family, model).preprocess_images(pixels(family)))
    if family.preprocesses:
        with_it = published(family, model, include_preprocessing=True)
        first = next(
            layer for layer in with_it.layers if layer.weights and "normalization" not in layer.name
        )
        prepared = keras.Model(with_it.input, first.input)
        expected = prepared(pixels(family), training=False).numpy()
    elif model.name.startswith("efficientnet_b"):  # its published weights have mean and deviation
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        expected = (pixels(family) / 255 - mean) / deviation
    else:
        module = keras.applications.imagenet_utils
        expected = module.preprocess_input(pixels(family).copy(), mode=family.mode)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@every_family
def test_its_least_size_is_keras_own(family: Family, model: Model) -> None:
    with pytest.raises(tlkit.FieldError, match=f"^image_size: must be at least {family.min_px}"):
        part(family, model, image_size=family.min_px - 1)
    shape = (family.min_px - 1, family.min_px - 1, 3)
    with pytest.raises(ValueError, match=f"at least {family.min_px}"):
        getattr(keras.applications, model.function)(
            include_top=False, weights=None, input_shape=shape
        )


def test_bsds500_is_refused_by_all_but_vgg16() -> None:
    backbone = part(*MODELS[0], weights="bsds500")
    with pytest.raises(tlkit.WeightsError, match="bsds500 has the layers of vgg16 and of no other"):
        backbone.load_weights(backbone.build())


def test_a_file_of_another_network_is_refused_with_what_differs(tmp_path: Path) -> None:
    small, smaller = (pair for pair in MODELS if pair[1].name in {"mobilenet", "mobilenet_v2"})
    with h5py.File(tmp_path / "other.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, without_preprocessing(*smaller))
    backbone = part(*small, weights=tmp_path / "other.h5")
    with pytest.raises(tlkit.WeightsError, match=r"missing in the file: .*only in the file: "):
        backbone.load_weights(backbone.build())
