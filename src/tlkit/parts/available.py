"""Which pretrained weights are on this machine; nothing is downloaded, and nothing heavy starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.parts.backbones.keras_hub import CONFIG, preset_folder
from tlkit.parts.backbones.keras_hub_presets import PRESETS
from tlkit.parts.kinds import Backbone, registries
from tlkit.weights.files import SOURCES
from tlkit.weights.shelf import cards
from tlkit.weights.sources import PackageFile, RemoteFile

SHELF = "TLKIT_SHELF"  # a folder of folders that `tlkit weights pack` has written
TWINS = {"keras_cv_vgg16"}  # the network of another backbone, built by another library


@frozen
class Available:
    """A backbone with weights that are on this machine.

    Attributes:
        name: The backbone's registered name.
        source: The source, such as `imagenet`, or the path of a folder.
        backbone: The backbone with that source and otherwise default keys.
    """

    name: str
    source: str
    backbone: Backbone


def published_files(part: type) -> dict[str, RemoteFile | PackageFile]:
    """Return the files of the named sources of a backbone's class."""
    files = {name: getattr(part, name, None) for name in SOURCES}
    return {name: file for name, file in files.items() if file is not None}


def available_backbones() -> tuple[Available, ...]:
    """Return tlkit's backbones whose pretrained weights are on this machine.

    These are Keras's files in Keras's own folder, files of installed packages, KerasHub's presets
    in the folder of `kagglehub`, and packed folders in the folder that TLKIT_SHELF names.
    """
    return tuple(_published()) + tuple(_presets()) + tuple(_packed())


def _published() -> Iterator[Available]:
    for name in registries.backbones.names():
        if name in TWINS or registries.backbones.find(name).source != "tlkit":
            continue
        part: Any = registries.backbones.get(name)
        for source, file in published_files(part).items():
            if file.local() is not None:
                yield Available(name, source, part(weights=source))


def _presets() -> Iterator[Available]:
    part: Any = registries.backbones.get("keras_hub")
    for preset in PRESETS:
        if (preset_folder(preset) / CONFIG).is_file():
            yield Available("keras_hub", preset, part(preset=preset))


def _packed() -> Iterator[Available]:
    shelf = os.environ.get(SHELF)
    for folder, card in cards(Path(shelf)) if shelf else ():
        if card.backbone in registries.backbones.names():
            part: Any = registries.backbones.get(card.backbone)
            backbone = part(weights=folder, image_size=card.image_size, **card.keys)
            yield Available(card.backbone, str(folder), backbone)
