"""Every registered part keeps its kind's promises; a new part is covered as soon as it exists."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import NOTHING
from PIL import Image

from tlkit.config.structure import keys
from tlkit.parts.kinds import registries
from tlkit.testing import check_part

COUNTS = {"normal": 50, "pneumonia": 30, "covid-19": 4}
LEAST_PX = 75  # the smallest image that every backbone takes
# Backbones of one class differ in what they build: `make test` looks at these of them.
FAST = {
    "keras_hub",
    "vgg16",
    "keras_cv_vgg16",
    "keras_cv_resnet",
    "mobilenet_v3_small",
}

# The keys that have no default, and what makes a part quicker. Extend this for a new key without.
REQUIRED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("backbones", "joined"): {
        "members": [{"name": "vgg16", "weights": "none"}, {"name": "mobilenet", "weights": "none"}]
    },
    ("backbones", "keras_cv_densenet"): {"weights": "none"},
    ("backbones", "keras_cv_resnet"): {"weights": "none"},
    ("backbones", "keras_hub"): {"preset": "preset", "weights": "none"},
    ("datasets", "digits"): {"count": 100},
    ("datasets", "folder"): {"path": "images"},
    ("datasets", "manifest"): {"path": "images/images.csv"},
    ("datasets", "shapes"): {"train": 30, "val": 6, "test": 6, "image_px": 32},
    ("augmentations", "compose"): {
        "operations": [{"name": "RandomRotation", "factor": 0.1}, {"name": "affine"}]
    },
    ("freezes", "layer_range"): {"train": "1-2"},
    ("freezes", "layer_names"): {"train": ["block1_*", "head"]},
    ("freezes", "head_then"): {"train": ["block1"]},
    ("class_weights", "fixed"): {"weights": dict.fromkeys(COUNTS, 1.5)},
}
HUB = importlib.util.find_spec("keras_hub") is not None
MARKS = {name: [pytest.mark.slow] for name in set(registries.backbones.names()) - FAST} | {
    "keras_hub": [pytest.mark.skipif(not HUB, reason="needs keras-hub: tlkit[hub]")],
    "randaugment": [pytest.mark.slow],  # traces for 15 s; its own tests are quicker
}
PARTS = [
    pytest.param(kind, name, marks=MARKS.get(name, ()))
    for kind, registry in registries.items()
    for name in registry.names()
]


@pytest.fixture
def images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_preset: Callable[..., Path]
) -> None:
    """A folder of tiny images in the working directory, a manifest of them, and a preset."""
    monkeypatch.chdir(tmp_path)
    if HUB:
        write_preset(Path("preset"))
    rows = ["path,label,split"]
    for split in ("train", "val"):
        for label in COUNTS:
            path = Path("images", split, label, "1.png")
            path.parent.mkdir(parents=True)
            Image.new("L", (8, 8)).save(path)
            rows.append(f"{path.relative_to('images').as_posix()},{label},{split}")
    Path("images", "images.csv").write_text("\n".join(rows))


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part_keeps_its_promises(kind: str, name: str) -> None:
    registry = dict(registries.items())[kind]
    settings = {**REQUIRED.get((kind, name), {})}
    lacking = {key.name for key in keys(registry.get(name)) if key.default is NOTHING} - {*settings}
    assert not lacking, f"give REQUIRED in {__file__} a value for {lacking} of {kind} {name!r}"
    if kind == "backbones":
        settings["image_size"] = LEAST_PX
    check_part(registry, name, **settings)
