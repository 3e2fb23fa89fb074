"""What features depend on, and so under which name the cache keeps them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import unstructure
from tlkit.parts.kinds import registries
from tlkit.parts.registry import PLUGIN
from tlkit.system.cache import FeatureCache, entry_key
from tlkit.system.keras import keras, processor, threads

AugmentationKeys = npt.NDArray[np.int32]  # (images, 2)
PROCESS = secrets.token_hex()
PACKAGES = ("tlkit", "keras", "keras-cv", "keras-hub", "tensorflow", "numpy", "pillow")


@frozen
class Shelf:
    """Where features are kept, and all that they depend on besides the images.

    Attributes:
        cache: The cache on disk.
        depends_on: Plain values: frozen layers, preprocessing, versions and so on.
        augmentation: What the augmentation is, as plain values.
    """

    cache: FeatureCache
    depends_on: Mapping[str, Any]
    augmentation: Mapping[str, Any]

    def key(self, images: Sequence[str], keys: AugmentationKeys | None) -> str:
        """Return the entry's name for images, given by their hashes, and their augmentation."""
        drawn = None
        if keys is not None:
            drawn = [self.augmentation, hashlib.sha256(keys.tobytes()).hexdigest()]
        return entry_key(images=list(images), drawn=drawn, **self.depends_on)

    def about(self, images: Sequence[str]) -> dict[str, Any]:
        """Return what the cache is to say of an entry whose images are as they are."""
        return {"rows": list(images), "of": entry_key(**self.depends_on)}

    def rows(self, images: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return the features of those images that other entries hold, by the images' hashes.

        Folds and subsets of one study share most of their images.
        """
        wanted, of = set(images), entry_key(**self.depends_on)
        found: dict[str, npt.NDArray[Any]] = {}
        for key, said in self.cache.about():
            rows = said.get("rows")
            if said.get("of") != of or not isinstance(rows, list) or wanted.isdisjoint(rows):
                continue
            array = self.cache.get(key)
            if array is None or len(array) != len(rows):
                continue
            found |= {row: array[n] for n, row in enumerate(rows) if row in wanted}
            if len(found) == len(wanted):
                break
        return found


def make_shelf(
    cache: FeatureCache,
    prefix: keras.Model,
    experiment: Experiment,
    batch: int,
    winograd: bool,
) -> Shelf:
    """Return the shelf for the features of a frozen prefix.

    Args:
        cache: The cache on disk.
        prefix: The frozen layers, with their weights.
        experiment: The parts that bring images to the prefix.
        batch: How many images go through it at a time.
        winograd: Whether it convolves by Winograd's algorithm.
    """
    backbone = _table(experiment.backbone, registries.backbones, but={"weights"})
    augmentation = _table(experiment.augmentation, registries.augmentations, but={"views"})
    depends_on = {
        "backbone": backbone,
        "layers": _layers_hash(prefix),
        "resize": experiment.data.resize,
        "mask_center": experiment.data.mask_center,
        "batch": batch,
        "winograd": winograd,
        "dtype": experiment.fit.feature_dtype,
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": [processor(), threads()],  # rounding follows the instructions and threads
    }
    return Shelf(cache, depends_on, augmentation)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # KerasCV or KerasHub may be missing
        return None


def _table(part: Any, registry: Any, but: set[str]) -> dict[str, Any]:
    """Return a part's keys, its package's version with them, without those named."""
    table = unstructure(part, registry=registry)
    source = [registry.source_of(type(part)), _code(type(part))]
    if callable(function := getattr(part, "preprocess", None)):  # nobody can see whether it changed
        source.append(f"{PROCESS} {id(function)}")
    return {"source": source, **{key: table[key] for key in table.keys() - but}}


def _code(cls: type) -> str:
    """Return the hash of the file that defines a class of somebody else's.

    Its package's version may stand still while the package is worked on. A class without a file
    was typed at a prompt; its features are its process's own.
    """
    if cls.__module__.startswith(("tlkit.", PLUGIN)):  # told by their source already
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return f"{PROCESS} {id(cls)}"


def _layers_hash(prefix: keras.Model) -> str:
    """Return the hash of what the layers are and of every weight in them."""
    found = hashlib.sha256()
    for layer in prefix.layers:
        if isinstance(layer, keras.layers.InputLayer):  # its name differs from model to model
            continue
        config = json.dumps(layer.get_config(), sort_keys=True, default=str)
        found.update(f"{type(layer).__name__} {config}".encode())
        for weight in layer.weights:
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()
