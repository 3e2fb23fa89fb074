"""The augmentation `compose`: Keras's layers follow each image's key, and mistakes are named."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.fakes import small

import tlkit
from tlkit.config.schema import json_schema
from tlkit.config.structure import structure, unstructure
from tlkit.parts.compose import LAYERS, REFUSED, REQUIRED, Compose
from tlkit.parts.kinds import registries
from tlkit.train.feature_key import augmentation_keys

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.float32)
KEYS = augmentation_keys(0, 0, 5)
# Arguments that a layer needs, or without which it changes nothing.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "RandomBrightness": {"factor": 0.3},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {
        "brightness_factor": 0.2, "contrast_factor": 0.2, "saturation_factor": 0.2,
        "hue_factor": 0.2,
    },
    "RandomContrast": {"factor": 0.3},
    "RandomHue": {"factor": 0.3},
    "RandomPosterization": {"factor": 3},
    "RandomRotation": {"factor": 0.1},
    "RandomSaturation": {"factor": 0.3},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.2, "y_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
}  # fmt: skip
FAST = {"RandomFlip", "RandomRotation", "RandomColorJitter"}


def compose(*operations: dict[str, Any]) -> Compose:
    return structure(Compose, {"operations": list(operations)})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in LAYERS],
)
def test_a_layer_follows_the_key_alone(name: str) -> None:
    part = compose({"name": name, **ARGUMENTS.get(name, {})})
    together = np.asarray(part.augment(IMAGES, KEYS))
    assert together.shape == IMAGES.shape
    assert together.min() >= 0
    assert together.max() <= 255
    keras.utils.set_random_seed(1)
    order = [3, 0, 4]
    np.testing.assert_array_equal(part.augment(IMAGES[order], KEYS[order]), together[order])
    if name.startswith("Random"):
        one = np.repeat(IMAGES[:1], 16, axis=0)
        versions = np.asarray(part.augment(one, augmentation_keys(0, 1, 16)))
        assert len({version.tobytes() for version in versions}) > 1


@pytest.mark.slow
def test_every_layer_that_keras_has_is_known() -> None:
    base = keras.layers.RandomFlip.__mro__[1]
    there = {n for n in dir(keras.layers) if issubclass(type(c := getattr(keras.layers, n)), type)
             and issubclass(c, base) and c is not base}  # fmt: skip
    assert there - {"MaxNumBoundingBoxes"} <= {*LAYERS, *REFUSED}
    assert set(LAYERS) <= there


def test_arguments_without_a_default_are_known() -> None:
    for name in LAYERS:
        parameters = inspect.signature(getattr(keras.layers, name)).parameters.values()
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        assert REQUIRED.get(name, ()) == tuple(p.name for p in named if p.default is p.empty)


def test_equal_operations_draw_differently() -> None:
    flip = {"name": "RandomFlip", "mode": "horizontal"}
    keys = augmentation_keys(0, 0, 40)
    images = np.repeat(IMAGES[:1], 40, axis=0)
    twice = np.asarray(compose(flip, flip).augment(images, keys))
    assert len({image.tobytes() for image in twice}) == 2


def test_augmentations_are_operations_too() -> None:
    affine = {"name": "affine", "rotation_deg": 10}
    part = compose(affine, {"name": "none"}, {"name": "RandomFlip", "mode": "horizontal"})
    assert isinstance(part.operations[0], registries.augmentations.get("affine"))
    changed = np.asarray(part.augment(IMAGES, KEYS))
    np.testing.assert_array_equal(part.augment(IMAGES[1:2], KEYS[1:2]), changed[1:2])
    assert not compose({"name": "none"}).changes
    assert part.changes


def test_the_table_comes_back() -> None:
    table: list[dict[str, Any]] = [
        {"name": "RandomRotation", "factor": [-0.1, 0.1]},
        {"name": "xray_safe"},
    ]
    part = compose(*table)
    back = unstructure(part, registry=registries.augmentations)
    assert back["name"] == "compose"
    assert back["operations"][0] == table[0]
    assert structure(Compose, {"operations": back["operations"]}) == part


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([], r"operations: needs at least 1, got 0"),
        ([{"name": "RandomFlipp"}], r"operations\[0\].name: no augm.*; did you mean 'RandomFlip'"),
        ([{"name": "MixUp"}], r"operations\[0\].name: MixUp mixes the images of a batch"),
        ([{"name": "RandomCrop", "height": 8}], r"RandomCrop changes the size of the image"),
        ([{"name": "RandomFlip", "seed": 1}], r"operations\[0\].seed: cannot be set; the run's"),
        ([{"name": "RandomFlip", "mode": {}}], r"operations\[0\].mode: expected a number, a str"),
        ([{"name": "RandomFlip", "mode": "x"}], r"operations\[0\].mode: must be one of horiz"),
        ([{"name": "affine", "rotation": 1}], r"operations\[0\].rotation: unknown key; did you"),
        ([{"name": "affine", "views": 1}], r"operations\[0\].views: must be unset; set augm"),
        ([{}], r"operations\[0\].name: missing"),
        ([{"name": "RandomRotation"}], r"operations\[0\]: RandomRotation needs factor$"),
        ([{"name": "RandomTranslation"}], r"needs height_factor and width_factor$"),
    ],
)  # fmt: skip
def test_mistakes_are_named(operations: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        structure(Compose, {"operations": operations})


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"name": "RandomFlip", "mod": "x"}, r"operations\[0\].mod: unknown key; did you mean 'mo"),
        ({"name": "RandomRotation", "factor": "x"}, r"augmentation.operations\[0\]: .*factor"),
    ],
)
def test_a_layers_arguments_are_checked_before_a_run(
    operation: dict[str, Any], message: str
) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        compose(operation).require()


def test_the_schema_knows_the_layers() -> None:
    text = str(json_schema())
    assert "'RandomRotation'" in text


@pytest.mark.slow
def test_a_run_trains_with_it_and_loads(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    operations = '[{name = "RandomFlip", mode = "horizontal"}, {name = "affine"}]'
    table = f'[augmentation]\nname = "compose"\nviews = 2\noperations = {operations}\n'
    file.write_text(small() + table, "utf-8")
    run = tlkit.run(file, tmp_path / "run", overrides=["fit.epochs=2"])
    assert isinstance(run.experiment.augmentation, Compose)
    assert tlkit.load(run.folder).classes == run.plan.classes
