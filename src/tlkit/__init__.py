"""Compose, run and ship transfer-learning image classifiers from registered parts.

Nothing here imports TensorFlow: that happens in the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.classifier import Classifier, load
from tlkit.config.experiment import Card, Experiment, Fit, Reference, load_experiment
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

__all__ = [
    "Augmentation",
    "Backbone",
    "Card",
    "ClassWeights",
    "Classifier",
    "ConfigError",
    "DataError",
    "Dataset",
    "DuplicatePart",
    "Epoch",
    "Example",
    "Experiment",
    "Exported",
    "FieldError",
    "Fit",
    "Freeze",
    "FromImages",
    "FromModel",
    "Head",
    "Interrupted",
    "Layer",
    "LayerError",
    "LayerRange",
    "LayerTable",
    "Loss",
    "NumericalError",
    "Optimizer",
    "PartError",
    "Plan",
    "RateCurve",
    "Reference",
    "ResourceError",
    "Run",
    "RunFolderError",
    "Schedule",
    "Splits",
    "Stage",
    "Sweep",
    "SweepWatcher",
    "TlkitError",
    "TransferClassifier",
    "Trials",
    "UnknownPart",
    "Watcher",
    "WeightsError",
    "build_model",
    "check",
    "class_weights",
    "export",
    "freeze",
    "layer_table",
    "load",
    "load_experiment",
    "lr_find",
    "plan_trials",
    "registries",
    "report",
    "resume",
    "resume_sweep",
    "run",
    "sample_weights",
    "sweep",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn when it is first asked for."""
    if name == "TransferClassifier":
        from tlkit.estimator import TransferClassifier

        return TransferClassifier
    raise AttributeError(f"module 'tlkit' has no attribute {name!r}")
