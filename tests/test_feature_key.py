"""The name features are kept under changes with all they depend on, and with nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import keras
import pytest

import tlkit
from tlkit.config.structure import structure
from tlkit.parts.kinds import registries
from tlkit.train.assemble import seeded
from tlkit.train.feature_key import FeatureKey, augmentation_keys

IMAGES = ("hash of one", "hash of two")
KEYS = augmentation_keys(0, 0, len(IMAGES))


def prefix(seed: int = 0, activation: str = "relu", filters: int = 2) -> Any:
    inputs = keras.layers.Input((8, 8, 3))
    with seeded(seed):
        outputs = keras.layers.Conv2D(filters, 3, activation=activation, name="conv")(inputs)
    return keras.Model(inputs, outputs)


def key(
    model: Any = None,
    images: tuple[str, ...] = IMAGES,
    keys: Any = KEYS,
    batch: int = 4,
    winograd: bool = False,
    frozen_dtype: str = "float32",
    **tables: Any,
) -> str:
    defaults = {"data": {"name": "shapes"}, "augmentation": {"name": "affine"}}
    experiment = structure(tlkit.Experiment, defaults | tables)
    found = FeatureKey.of(model or prefix(), experiment, batch, winograd, frozen_dtype)
    return found.entry_name(images, keys)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": ("hash of one", "another hash")},
        {"images": IMAGES[::-1]},
        {"keys": None},
        {"keys": augmentation_keys(0, 1, 2)},
        {"keys": augmentation_keys(1, 0, 2)},
        {"batch": 8},
        {"winograd": True},
        {"frozen_dtype": "bfloat16"},
        {"frozen_dtype": "int8"},
        {"data": {"name": "shapes", "resize": "pad"}},
        {"data": {"name": "shapes", "mask_center": 0.5}},
        {"backbone": {"preprocess": "unit"}},
        {"backbone": {"image_size": 64}},
        {"augmentation": {"name": "affine", "rotation_deg": 20}},
        {"augmentation": {"name": "xray_safe"}},
        {"fit": {"feature_dtype": "float16"}},
    ],
    ids=str,
)
def test_what_features_depend_on_changes_their_name(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


@pytest.mark.parametrize("changed", [{"seed": 1}, {"activation": "tanh"}, {"filters": 3}], ids=str)
def test_the_frozen_layers_change_the_name(changed: dict[str, Any]) -> None:
    assert key(prefix(**changed)) != key(prefix())


def test_what_the_frozen_layers_compute_in_changes_the_name() -> None:
    mixed = prefix()
    mixed.get_layer("conv").dtype_policy = "mixed_bfloat16"
    assert key(mixed) != key(prefix())


def test_matrix_products_in_place_of_convolutions_change_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = keras.Input((2, 2, 3))
    pointwise = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    found = {key(pointwise)}
    monkeypatch.setattr("tlkit.train.lean.FEW_PIXELS", 4 * 2 * 2 - 1)
    assert key(pointwise) not in found


@pytest.mark.parametrize("name", ["processor", "processors", "threads", "version"])
def test_the_machine_and_the_packages_change_the_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    if name == "processor":
        monkeypatch.setattr("tlkit.train.feature_key.processor", lambda: "another processor")
    elif name == "processors":
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(999))
    elif name == "threads":
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    else:
        monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0.1")
    assert key() != before


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": {"weights": "none"}},  # the arrays themselves are in the name
        {"augmentation": {"name": "affine", "views": 3}},
        {"head": {"name": "pooled"}},
        {"optimizer": {"name": "sgd"}},
        {"class_weights": {"name": "balanced"}},
        {"fit": {"epochs": 3, "batch_size": 2, "keep": "best", "early_stop_patience": 1}},
        {"seed": 7},  # acts through the keys
    ],
    ids=str,
)
def test_what_they_do_not_depend_on_leaves_the_name(changed: dict[str, Any]) -> None:
    assert key(**changed) == key()


def test_unaugmented_features_are_shared_whatever_the_augmentation() -> None:
    names = {key(keys=None, augmentation={"name": name}) for name in ("none", "affine")}
    assert len(names) == 1


def test_a_second_model_in_one_process_has_the_same_name() -> None:
    """Keras numbers its inputs anew; names of inputs are left out."""
    first, second = prefix(), prefix()
    assert first.layers[0].name != second.layers[0].name
    assert key(first) == key(second)


DARKEN = """
import attrs
from tlkit.parts.kinds import Augmentation

@attrs.frozen(kw_only=True)
class Darken(Augmentation):
    def augment(self, images, keys): return images / 2
"""


def test_the_file_of_somebody_elses_part_is_in_the_name_whatever_its_packages_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        registries.augmentations, "_parts", dict(registries.augmentations.registered())
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "worked_on.py").write_text(DARKEN)
    part = importlib.import_module("worked_on").Darken
    registries.augmentations.register("darken")(part)
    before = key(augmentation={"name": "darken"})
    assert key(augmentation={"name": "darken"}) == before
    (tmp_path / "worked_on.py").write_text(DARKEN.replace("2", "3"))
    assert key(augmentation={"name": "darken"}) != before


def test_a_part_typed_at_a_prompt_shares_features_with_itself_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        registries.augmentations, "_parts", dict(registries.augmentations.registered())
    )
    names = []
    for _ in range(2):
        typed: dict[str, Any] = {"__name__": "no_file"}
        exec(DARKEN, typed)
        registries.augmentations._parts["darken"] = typed["Darken"]
        names += [key(augmentation={"name": "darken"}) for _ in range(2)]
    assert names[0] == names[1] != names[2] == names[3]


def test_mirror_images_have_a_name_of_their_own() -> None:
    experiment = structure(tlkit.Experiment, {"data": {"name": "shapes"}})
    plain = FeatureKey.of(prefix(), experiment, 4, winograd=False)
    assert plain.flipped.entry_name(IMAGES, None) != plain.entry_name(IMAGES, None)
    assert plain.flipped.about(IMAGES)["of"] != plain.about(IMAGES)["of"]  # no rows are shared


def test_each_image_and_view_has_a_key_of_its_own() -> None:
    keys = [tuple(key) for view in range(3) for key in augmentation_keys(0, view, 4)]
    assert len(set(keys)) == len(keys) == 12
    assert [tuple(key) for key in augmentation_keys(0, 0, 2)] == keys[:2]  # however many there are
