"""Packed weights: write a backbone's weights into a folder, and check such a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, fields

from tlkit.model.graph import named_weights
from tlkit.parts.kinds import Backbone, registries
from tlkit.system.errors import WeightsError
from tlkit.system.files import new_folder
from tlkit.system.seal import sha256_of
from tlkit.weights.shelf import ARRAYS, Card

if TYPE_CHECKING:
    import keras

OWN = {"weights", "preprocess", "image_size"}  # keys that are the user's, not the weights'
FEATURES = 16  # pooled features on the card


def pack(backbone: Backbone, folder: Path, license_text: str) -> Card:
    """Write the weights of a backbone's first available source into a new folder."""
    from tlkit.weights.tensors import write_tensors

    model = backbone.build()
    record = backbone.load_weights(model)
    if "file" not in record:
        raise WeightsError(f"{record['source']}: has no weights to pack")
    import tensorflow as tf

    arrays = {
        f"{layer.name}/{name}": tf.convert_to_tensor(variable.value)
        for layer in model.layers
        for name, variable in named_weights(layer)
        if "float" in str(variable.dtype)
    }
    try:
        with new_folder(folder) as partial:
            write_tensors(partial / ARRAYS, arrays)
            card = Card(
                backbone=registries.backbones.name_of(type(backbone)),
                keys=_keys(backbone),
                image_size=backbone.image_size,
                source=record["source"],
                file=record["file"],
                file_sha256=record["sha256"],
                license=license_text,
                preprocessing=_preprocessing(backbone),
                sha256=sha256_of(partial / ARRAYS),
                features=_features(backbone, model),
            )
            card.write(partial)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written: {error.strerror}") from None
    return card


def verify(folder: Path) -> Card:
    """Check a packed folder: hash, names, shapes, and the features of a drawn picture."""
    import numpy as np

    card = Card.read(folder)
    part: Any = registries.backbones.get(card.backbone)
    backbone: Backbone = part(weights=folder, image_size=card.image_size, **card.keys)
    model = backbone.build()
    backbone.load_weights(model)
    found = np.array(_features(backbone, model))
    expected = np.array(card.features)
    scale = float(np.abs(expected).max()) if len(expected) else 0.0
    if found.shape != expected.shape or not np.allclose(found, expected, 1e-2, 1e-3 * scale):
        raise WeightsError(
            f"{folder}: gives other features than on the machine that packed it, "
            f"{found[:3].tolist()} for {expected[:3].tolist()}"
        )
    return card


def _keys(backbone: Any) -> dict[str, Any]:
    """Return the keys that make the network and differ from their defaults."""
    plain = {}
    for key in fields(type(backbone)):
        value = getattr(backbone, key.name)
        if key.name in OWN or not key.init or value == key.default:
            continue
        if isinstance(key.default, Factory) and value is None:  # type: ignore[arg-type]  # attrs types it as a function
            continue
        plain[key.name] = str(value) if isinstance(value, Path) else value
    return plain


def _features(backbone: Backbone, model: keras.Model) -> tuple[float, ...]:
    """Return pooled features of a drawn picture."""
    import numpy as np

    size = backbone.image_size
    y, x, channel = np.indices((size, size, 3)) / np.array([size, size, 3]).reshape(3, 1, 1, 1)
    waves = np.sin(2 * np.pi * (3 * x + 2 * y * (1 + channel)))
    pixels = (127.5 + 127.5 * waves)[None].astype(np.float32)
    features = np.asarray(model(backbone.preprocess_native(pixels), training=False))
    pooled = features.reshape(-1, features.shape[-1]).mean(0)
    return tuple(float(value) for value in pooled[:FEATURES])


def _preprocessing(backbone: Backbone) -> str:
    """Return the first line of the docstring of a backbone's native preprocessing."""
    return (type(backbone).preprocess_native.__doc__ or "").strip().partition("\n")[0]
