"""Backbones on real chest X-rays: what `tlkit layers` calls frozen stays as it was, bit by bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tlkit
from tlkit.config.structure import structure
from tlkit.train.assemble import assemble
from tlkit.train.plan import model_layers
from tlkit.weights.tensors import numbered_weights

XRAYS = Path(__file__).parent.parent.parent / "shared" / "data" / "cxr"
SIZES = {
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "inception_v3": 75,
    "keras_cv_resnet": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "resnet50": 32,
    "vgg16": 32,
    "xception": 71,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not XRAYS.is_dir(), reason=f"{XRAYS} is not there"),
]


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation images of each class."""
    folder = tmp_path_factory.mktemp("xrays")
    for split, count in (("train", 8), ("val", 4)):
        for label in sorted((XRAYS / split).iterdir()):
            (folder / split / label.name).mkdir(parents=True)
            for path in sorted(label.iterdir())[:count]:
                shutil.copy(path, folder / split / label.name)
    return folder


@pytest.mark.parametrize("batch_norm", ["inference", "train"])
@pytest.mark.parametrize("name", SIZES)
def test_frozen_layers_stay_and_the_others_learn(
    name: str, batch_norm: str, some: Path, tmp_path: Path
) -> None:
    backbone = {"name": name, "weights": "none", "image_size": SIZES[name]}
    built = structure(tlkit.Experiment, {"backbone": backbone, "data": {"name": "shapes"}})
    table = built.backbone.layers()
    last = table.blocks[-1]
    # The same layers by the block's name, or by their numbers as `tlkit layers` shows them.
    freeze = {"name": "layer_names", "train": [last, "head"]}
    if batch_norm == "train":
        first = min(number for number, row in table if row.block == last)
        freeze = {"name": "layer_range", "train": f"{first}-"}
    experiment = structure(
        tlkit.Experiment,
        {
            "data": {"name": "folder", "path": str(some)},
            "backbone": backbone,
            "head": {"name": "pooled"},
            "freeze": {**freeze, "batch_norm": batch_norm},
            "fit": {"epochs": 1, "batch_size": 8, "xla": False},
        },
    )
    begun, _ = assemble(experiment.backbone, experiment.head, 3, experiment.seed)
    layers = model_layers(experiment.backbone, experiment.head, 3)
    before = {k: v.numpy().tobytes() for k, v in numbered_weights(begun, layers).items()}
    done = tlkit.run(experiment, tmp_path / "run")
    after = {k: v.numpy().tobytes() for k, v in numbered_weights(done.model, layers).items()}

    rates = done.plan.stages[0].stage.lr_multipliers
    frozen = {f"{number:03d}." for number, rate in enumerate(rates, start=1) if rate == 0}
    changed = {key for key in before if before[key] != after[key]}
    assert not [key for key in changed if key[:4] in frozen]
    # A learning layer behind dead ReLUs may stand still; most do not.
    learning = {key for key in before if key[:4] not in frozen}
    assert len(changed) > len(learning) / 2
    trained_blocks = {row.block for (_, row), rate in zip(layers, rates, strict=True) if rate}
    assert trained_blocks <= {last, "head"}
    statistics = {key for key in changed if "/moving_" in key}
    assert bool(statistics) == (batch_norm == "train" and any(
        row.batch_norm and row.block == last for _, row in layers
    ))  # fmt: skip
