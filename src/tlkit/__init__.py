"""Compose, run and ship transfer-learning image classifiers from registered parts.

Nothing here imports TensorFlow: that happens in the first call that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tlkit.classifier import Classifier, load
from tlkit.config.experiment import Card, Experiment, Fit, Reference
from tlkit.config.loading import load_experiment
from tlkit.errors import (
    ConfigError,
    DataError,
    DuplicatePart,
    FieldError,
    NumericalError,
    PartError,
    ResourceError,
    RunFolderError,
    TlkitError,
    UnknownPart,
    WeightsError,
)
from tlkit.export import Exported, export
from tlkit.from_python import FromImages, FromModel
from tlkit.interruption import Interrupted
from tlkit.layers import Layer, LayerError, LayerRange, LayerTable
from tlkit.lr_finder import RateCurve, lr_find
from tlkit.parts.kinds import (
    Augmentation,
    Backbone,
    ClassWeights,
    Dataset,
    Freeze,
    Head,
    Loss,
    Optimizer,
    Schedule,
    Stage,
    registries,
)
from tlkit.parts.splits import Example, Splits
from tlkit.plain_keras import (
    build_model,
    class_weights,
    freeze,
    layer_table,
    sample_weights,
)
from tlkit.plan.plan import Plan
from tlkit.progress import Epoch, Watcher
from tlkit.reports import report
from tlkit.resume import resume
from tlkit.run import Run, check, run
from tlkit.sweeps.sweep import Sweep, SweepWatcher, resume_sweep, sweep
from tlkit.sweeps.trials import Trials, plan_trials

if TYPE_CHECKING:
    from tlkit.estimator import TransferClassifier
    from tlkit.terminal import Terminal

__all__ = [  # noqa: RUF022  # by what they are for, as on the API page
    # Run an experiment
    "run",
    "resume",
    "check",
    "lr_find",
    "Run",
    "Plan",
    "RateCurve",
    "Interrupted",
    # Watch it
    "Terminal",
    "Watcher",
    "Epoch",
    # Run many
    "sweep",
    "resume_sweep",
    "plan_trials",
    "Sweep",
    "Trials",
    "SweepWatcher",
    # An experiment as an object
    "load_experiment",
    "Experiment",
    "Fit",
    "Reference",
    "Card",
    # What Python has already, in place of registered parts
    "FromImages",
    "FromModel",
    # A finished run
    "load",
    "Classifier",
    "report",
    "export",
    "Exported",
    # scikit-learn
    "TransferClassifier",
    # Your own Keras code
    "freeze",
    "layer_table",
    "class_weights",
    "sample_weights",
    "build_model",
    # Layers and their numbers
    "LayerTable",
    "Layer",
    "LayerRange",
    # Write a part: the registries, the kinds, and what their methods return
    "registries",
    "Dataset",
    "Backbone",
    "Head",
    "Freeze",
    "ClassWeights",
    "Augmentation",
    "Loss",
    "Optimizer",
    "Schedule",
    "Splits",
    "Example",
    "Stage",
    # Errors: each kind has an exit code; a part raises the last two
    "TlkitError",
    "ConfigError",
    "DataError",
    "WeightsError",
    "PartError",
    "UnknownPart",
    "DuplicatePart",
    "RunFolderError",
    "ResourceError",
    "NumericalError",
    "FieldError",
    "LayerError",
]
__version__ = "0.1.0"

# What needs a package that takes long to import, with its module; imported when first asked for.
LATE = {"Terminal": "tlkit.terminal", "TransferClassifier": "tlkit.estimator"}


def __getattr__(name: str) -> Any:
    if name in LATE:
        return getattr(import_module(LATE[name]), name)
    raise AttributeError(f"module 'tlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
