"""Compose, run and ship transfer-learning image classifiers from registered parts.

Nothing here imports TensorFlow: that happens in the first call that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlkit.classifier import Classifier, load
    from tlkit.config.experiment import Experiment, Fit, ModelCard, PublishedResult
    from tlkit.config.toml import load_experiment
    from tlkit.data.splits import Example, Splits
    from tlkit.estimator import TransferClassifier
    from tlkit.exporter import Exported, export
    from tlkit.keras_tools import (
        FromImages,
        FromModel,
        build_model,
        class_weights,
        freeze,
        layer_table,
        sample_weights,
    )
    from tlkit.lr_finder import RateCurve, lr_find
    from tlkit.model.layers import Layer, LayerError, LayerRange, LayerTable
    from tlkit.parts.kinds import (
        Augmentation,
        Backbone,
        ClassWeights,
        Dataset,
        FreezePolicy,
        Head,
        Loss,
        Optimizer,
        Schedule,
        Stage,
        registries,
    )
    from tlkit.reports.progress import Terminal
    from tlkit.runner.pages import report
    from tlkit.runner.resume import resume
    from tlkit.runner.run import Run, check, run
    from tlkit.sweeps.sweep import Sweep, SweepCallback, resume_sweep, sweep
    from tlkit.sweeps.trials import Trials, plan_trials
    from tlkit.system.errors import (
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
    from tlkit.system.signals import Interrupted
    from tlkit.train.callback import Callback, Epoch
    from tlkit.train.plan import Plan

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
    "Callback",
    "Epoch",
    # Run many
    "sweep",
    "resume_sweep",
    "plan_trials",
    "Sweep",
    "Trials",
    "SweepCallback",
    # An experiment as an object
    "load_experiment",
    "Experiment",
    "Fit",
    "PublishedResult",
    "ModelCard",
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
    "FreezePolicy",
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
# ruff: noqa: E501
HOMES = {
    "classifier": "Classifier load",
    "config.experiment": "Experiment Fit ModelCard PublishedResult",
    "config.toml": "load_experiment",
    "data.splits": "Example Splits",
    "estimator": "TransferClassifier",
    "exporter": "Exported export",
    "keras_tools": "FromImages FromModel build_model class_weights freeze layer_table sample_weights",
    "lr_finder": "RateCurve lr_find",
    "model.layers": "Layer LayerError LayerRange LayerTable",
    "parts.kinds": "Augmentation Backbone ClassWeights Dataset FreezePolicy Head Loss Optimizer Schedule Stage registries",
    "reports.progress": "Terminal",
    "runner.pages": "report",
    "runner.resume": "resume",
    "runner.run": "Run check run",
    "sweeps.sweep": "Sweep SweepCallback resume_sweep sweep",
    "sweeps.trials": "Trials plan_trials",
    "system.errors": "ConfigError DataError DuplicatePart FieldError NumericalError PartError ResourceError RunFolderError TlkitError UnknownPart WeightsError",
    "system.signals": "Interrupted",
    "train.callback": "Callback Epoch",
    "train.plan": "Plan",
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
