"""`FeatureKey`: what features depend on, and so their name in the cache."""

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
from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import unstructure
from tlkit.parts.kinds import registries
from tlkit.parts.registry import PLUGIN
from tlkit.system.cache import FeatureCache, entry_key
from tlkit.system.keras import keras, processor, threads
from tlkit.system.rows import Rows
from tlkit.train.lean import folded_norms, products_of
from tlkit.train.plan import seed_for

AugmentationKeys = npt.NDArray[np.int32]  # (images, 2)
PROCESS = secrets.token_hex()
PACKAGES = ("tlkit", "keras", "keras-cv", "keras-hub", "tensorflow", "numpy", "pillow")


@frozen
class FeatureKey:
    """What the features of a frozen prefix depend on besides the images.

    Attributes:
        depends_on: Frozen layers, preprocessing, versions and so on, as plain values.
        augmentation: The augmentation, as plain values.
    """

    depends_on: Mapping[str, Any]
    augmentation: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        prefix: keras.Model,
        experiment: Experiment,
        batch: int,
        winograd: bool,
        frozen_dtype: str = "float32",
    ) -> FeatureKey:
        """Return the key of a frozen prefix's features, computed `batch` images at a time."""
        depends_on = {
            "backbone": _table(experiment.backbone, registries.backbones, without="weights"),
            "layers": _layers_hash(prefix),
            "resize": experiment.data.resize,
            "occlude_centre": experiment.data.mask_center,  # its old name: renaming empties caches
            "batch": batch,
            "winograd": winograd and 2,  # its second form, which rounds otherwise
            **({"computed_in": frozen_dtype} if frozen_dtype != "float32" else {}),
            **({"folded": True} if folded_norms(prefix) else {}),
            **({"products": True} if products_of(prefix, batch) else {}),
            "dtype": experiment.fit.feature_dtype,
            "versions": {name: _version(name) for name in PACKAGES},
            "machine": [processor(), threads()],  # rounding follows the instructions and threads
        }
        augmentation = _table(experiment.augmentation, registries.augmentations, without="views")
        return cls(depends_on, augmentation)

    @property
    def flipped(self) -> FeatureKey:
        """Return the key of the features of the images' horizontal mirror images."""
        return evolve(self, depends_on={**self.depends_on, "flip": True})

    def entry_name(self, images: Sequence[str], keys: AugmentationKeys | None) -> str:
        """Return the name of a cache entry, from the images' hashes and augmentation keys."""
        drawn = None
        if keys is not None:
            drawn = [self.augmentation, hashlib.sha256(keys.tobytes()).hexdigest()]
        return entry_key(images=list(images), drawn=drawn, **self.depends_on)

    def about(self, images: Sequence[str]) -> dict[str, Any]:
        """Return what the cache records of an entry without augmentation; see `cached_rows`."""
        return {"rows": list(images), "of": entry_key(**self.depends_on)}

    def cached_rows(
        self, cache: FeatureCache, images: Sequence[str]
    ) -> dict[str, tuple[Rows, int]]:
        """Return where any cache entry holds features of these images, by the images' hashes.

        Folds and subsets of a study share most of their images.
        """
        wanted, of = set(images), entry_key(**self.depends_on)
        features: dict[str, tuple[Rows, int]] = {}
        for name, about in cache.about():
            rows = about.get("rows")
            if about.get("of") != of or not isinstance(rows, list) or wanted.isdisjoint(rows):
                continue
            array = cache.get(name)
            if array is None or len(array) != len(rows):
                continue
            features |= {row: (array, n) for n, row in enumerate(rows) if row in wanted}
            if len(features) == len(wanted):
                break
        return features


def augmentation_keys(seed: int, view: int, count: int) -> AugmentationKeys:
    """Return the augmentation key of each image in one view, `(count, 2)`."""
    keys = np.empty((count, 2), np.int32)
    keys[:, 0] = seed_for(seed, "augmentation", view)
    keys[:, 1] = np.arange(count)
    return keys


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # KerasCV or KerasHub may be missing
        return None


def _table(part: Any, registry: Any, without: str) -> dict[str, Any]:
    """Return a part's keys without one of them, and where its code comes from."""
    table = unstructure(part, registry=registry)
    source = [registry.source_of(type(part)), _code(type(part))]
    if callable(function := getattr(part, "preprocess", None)):  # its code cannot be compared
        source.append(f"{PROCESS} {id(function)}")
    for key in ("members", "operations"):  # parts made of parts
        if isinstance(inner := getattr(part, key, None), tuple):
            table[key] = [_table(member, registry, without) for member in inner]
    return {"source": source, **{key: table[key] for key in table.keys() - {without}}}


def _code(cls: type) -> str:
    """Return the hash of the file that defines a foreign class.

    A package under development changes without a new version. A class typed at a prompt has no
    file; its features are shared within its process only.
    """
    if cls.__module__.startswith(("tlkit.", PLUGIN)):  # their source says it already
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return f"{PROCESS} {id(cls)}"


def _layers_hash(prefix: keras.Model) -> str:
    """Return the hash of the layers' configurations and of all their weights."""
    digest = hashlib.sha256()
    for layer in prefix.layers:
        if isinstance(layer, keras.layers.InputLayer):  # its name differs from model to model
            continue
        config = json.dumps(layer.get_config(), sort_keys=True, default=str)
        digest.update(f"{type(layer).__name__} {config}".encode())
        for weight in layer.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()
