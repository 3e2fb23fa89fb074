"""Packed weights: written, read as a source, checked, and found on the shelf."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tlkit
from tlkit.parts.available import available_backbones, published_files
from tlkit.parts.packing import pack, verify
from tlkit.weights.shelf import ARRAYS, CARD, Card, cards


def backbone(name: str = "vgg16", **keys: Any) -> Any:
    part: Any = tlkit.registries.backbones.get(name)
    return part(**{"image_size": 32, **keys})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of VGG-16."""
    path = tmp_path_factory.mktemp("file") / "vgg16.weights.h5"
    keras.utils.set_random_seed(0)
    backbone(weights="none").build().save_weights(path)
    return path


@pytest.fixture(scope="module")
def packed(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, packed. Tests that change it make a copy."""
    folder = tmp_path_factory.mktemp("shelf") / "vgg16"
    pack(backbone(weights=file), folder, "CC BY 4.0")
    return folder


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_packed_folder_is_a_source(packed: Path, file: Path) -> None:
    weights = []
    for source in (file, packed):
        part = backbone(weights=source)
        model = part.build()
        record = part.load_weights(model)
        weights.append([variable.numpy() for variable in model.weights])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    card = Card.read(packed)
    assert record == {
        "source": "path",
        "file": ARRAYS,
        "sha256": card.sha256,
        "packed_from": f"vgg16 path {card.file_sha256}",
    }


def test_its_card_says_what_it_is(packed: Path) -> None:
    table = json.loads((packed / CARD).read_text())
    features = table.pop("features")
    assert len(features) == 16
    hashes = [table.pop("sha256"), table.pop("file_sha256")]
    assert [len(text) for text in hashes] == [64, 64]
    assert table == {
        "format": "tlkit weights 1",
        "backbone": "vgg16",
        "keys": {},
        "image_size": 32,
        "source": "path",
        "file": "vgg16.weights.h5",
        "license": "CC BY 4.0",
        "preprocessing": "Reorder the channels to BGR and subtract ImageNet's mean.",
    }
    assert verify(packed) == Card.read(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.update(sha256="0" * 64), r"has SHA-256 \w+, expected 0{64}"),
        (lambda table: table.update(features=[1.0] * 16), "gives other features than"),
        (lambda table: table.update(features=[1.0]), "gives other features than"),
        (lambda table: table.update(backbone="vgg19"), "does not fit"),
        (lambda table: table.update(format="tlkit weights 2"), "of another version"),
        (lambda table: table.update(license=None), "texts are missing"),
        (lambda table: table.update(image_size="32"), "numbers are missing"),
        (lambda table: table.update(features=["1"]), "numbers are missing"),
        (lambda table: table.pop("source"), "is not as tlkit writes it"),
        (lambda table: table.update(more=1), "is not as tlkit writes it"),
    ],
)
def test_what_differs_from_the_card_is_refused(
    packed: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    folder = copied(packed, tmp_path / "copy")
    table = json.loads((folder / CARD).read_text())
    change(table)
    (folder / CARD).write_text(json.dumps(table))
    with pytest.raises(tlkit.WeightsError, match=message):
        verify(folder)


def test_a_folder_without_a_card_and_random_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match=r"weights\.json: cannot be read: .*weights pack"):
        verify(tmp_path)
    with pytest.raises(tlkit.WeightsError, match=r"none: has no weights to pack$"):
        pack(backbone(weights="none"), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_keys_that_make_the_network_are_on_the_card(tmp_path: Path) -> None:
    pytest.importorskip("keras_cv")
    keys = {"blocks": (1, 1), "block_type": "block"}
    part = backbone("keras_cv_resnet", weights="none", **keys)
    part.build().save_weights(tmp_path / "resnet.weights.h5")
    part = backbone("keras_cv_resnet", weights=tmp_path / "resnet.weights.h5", **keys)
    card = pack(part, tmp_path / "out", "")
    assert dict(card.keys) == keys
    assert verify(tmp_path / "out") == card


def test_what_is_on_this_machine_is_found(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    before = {(one.name, one.source) for one in available_backbones()}
    assert {name for name, _ in before} <= {"vgg16"} | {f"efficientnet_lite{n}" for n in range(3)}
    place = published_files(tlkit.registries.backbones.get("mobilenet"))["imagenet"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / place.path.name).write_bytes(b"arrays")  # type: ignore[union-attr]  # it is remote
    monkeypatch.setenv("TLKIT_SHELF", str(packed.parent))
    after = {(one.name, one.source): one.backbone for one in available_backbones()}
    assert after.keys() - before == {("mobilenet", "imagenet"), ("vgg16", str(packed))}
    assert after["vgg16", str(packed)].weights == packed
    assert after["vgg16", str(packed)].image_size == 32
    assert after["mobilenet", "imagenet"].sources == ("imagenet",)


def test_a_broken_card_on_the_shelf_is_left_out(packed: Path, tmp_path: Path) -> None:
    copied(packed, tmp_path / "good")
    (copied(packed, tmp_path / "broken") / CARD).write_text("{")
    assert [path.name for path, _ in cards(tmp_path)] == ["good"]
