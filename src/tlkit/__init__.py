"""Compose, run and ship transfer-learning image classifiers from registered parts.

Nothing here imports TensorFlow: that happens in the first call that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlkit.classifier import Classifier
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
    from tlkit.estimator import TransferClassifier
    from tlkit.exports import Exported, export
    from tlkit.from_python import FromImages, FromModel
    from tlkit.interruption import Interrupted
    from tlkit.layers import Layer, LayerError, LayerRange, LayerTable
    from tlkit.loading import load
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
    from tlkit.resumption import resume
    from tlkit.runs import Run, check, run
    from tlkit.sweeps.sweep import Sweep, resume_sweep, sweep
    from tlkit.sweeps.trials import Trials, plan_trials
    from tlkit.sweeps.watcher import SweepWatcher
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

# Where each name comes from; its module is imported when the name is first asked for.
HOMES = {
    "classifier": "Classifier",
    "config.experiment": "Card Experiment Fit Reference",
    "config.loading": "load_experiment",
    "errors": "ConfigError DataError DuplicatePart FieldError NumericalError PartError "
    "ResourceError RunFolderError TlkitError UnknownPart WeightsError",
    "estimator": "TransferClassifier",
    "exports": "Exported export",
    "from_python": "FromImages FromModel",
    "interruption": "Interrupted",
    "layers": "Layer LayerError LayerRange LayerTable",
    "loading": "load",
    "lr_finder": "RateCurve lr_find",
    "parts.kinds": "Augmentation Backbone ClassWeights Dataset Freeze Head Loss Optimizer "
    "Schedule Stage registries",
    "parts.splits": "Example Splits",
    "plain_keras": "build_model class_weights freeze layer_table sample_weights",
    "plan.plan": "Plan",
    "progress": "Epoch Watcher",
    "reports": "report",
    "resumption": "resume",
    "runs": "Run check run",
    "sweeps.sweep": "Sweep resume_sweep sweep",
    "sweeps.trials": "Trials plan_trials",
    "sweeps.watcher": "SweepWatcher",
    "terminal": "Terminal",
}
_HOME_OF = {name: module for module, names in HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlkit' has no attribute {name!r}")
    found = getattr(import_module(f"tlkit.{_HOME_OF[name]}"), name)
    globals()[name] = found  # so that this is asked once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
