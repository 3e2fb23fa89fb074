"""What a plan refuses: settings that fight each other, or would do nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tlkit.config.experiment import Experiment, Fit, PublishedResult
from tlkit.model.layers import HEAD, LayerTable
from tlkit.parts.class_weights import Unweighted
from tlkit.parts.kinds import Stage, registries
from tlkit.parts.losses import CrossEntropy
from tlkit.parts.optimizers import LBFGS
from tlkit.parts.schedules import Constant
from tlkit.system.errors import Problem

# The kinds of layers whose statistics or landmarks are computed, not learned.
FITTED_KINDS = frozenset({"Standardize", "KernelFeatures"})
# The kinds of layers that were tried in int8: those of convolutional networks.
INT8_KINDS = frozenset({
    "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
    "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D",
    "GlobalMaxPooling2D", "MaxPooling2D", "Multiply", "Preprocess", "ReLU", "Reshape",
    "SeparableConv2D", "ZeroPadding2D",
})  # fmt: skip


def stage_problems(
    experiment: Experiment, layers: LayerTable, stages: Sequence[Sequence[Stage]]
) -> list[Problem]:
    """Return what is wrong with the stages of each phase on these layers."""
    all_stages = [stage for phase in stages for stage in phase]
    problems = _batch_norm_problems(layers, all_stages)
    problems += _fitted_problems(layers, all_stages)
    problems += experiment.unused_settings()
    if experiment.fit.frozen_dtype == "int8":
        problems += _int8_problems(layers, all_stages)
    for number, (phase, own) in enumerate(zip(experiment.phases, stages, strict=False)):
        prefix = f"phase[{number}]." if experiment.phase else ""
        problems += _solver_problems(prefix, phase, layers, own)
    return problems


def setting_problems(experiment: Experiment, classes: tuple[str, ...]) -> list[Problem]:
    """Return what is wrong with settings whatever the layers are."""
    problems = _balance_problems(experiment)
    problems += _frozen_dtype_problems(experiment.fit)
    problems += _device_problems(experiment.fit)
    problems += _calibration_problems(experiment, classes)
    for number, reference in enumerate(experiment.reference):
        problems += _reference_problems(f"reference[{number}]", reference, classes)
    return problems


def _batch_norm_problems(layers: LayerTable, stages: Sequence[Stage]) -> list[Problem]:
    """Refuse a new BatchNorm layer that would stay at its initial statistics and do nothing."""
    held = [
        f"{number} ({layer.name})"
        for number, layer in layers
        if layer.batch_norm and layer.block == HEAD
        if stages and not any(stage.lr_multipliers[number - 1] for stage in stages)
    ]
    if not held:
        return []
    message = (
        f"the head's BatchNorm layer {held[0]} is new and would never be trained; "
        'train it and set "head" (BatchNorm of the backbone stays frozen) or "train"'
    )
    return [Problem("freeze.batch_norm", message)]


def _fitted_problems(layers: LayerTable, stages: Sequence[Stage]) -> list[Problem]:
    """Refuse layers that learn above one that has no statistics or landmarks yet."""
    problems = []
    for number, row in layers:
        above = [n for n, layer in layers if n >= number and layer.params]
        fitted, learns = (
            next(
                (i for i, s in enumerate(stages) if any(s.lr_multipliers[n - 1] for n in rows)), -1
            )
            for rows in ([number], above)
        )
        if row.kind in FITTED_KINDS and learns != -1 and not 0 <= fitted <= learns:
            message = (
                f"layer {number} ({row.name}) gets its statistics in the first stage that trains "
                'it, but those above it learn without them; train it too, such as with "head"'
            )
            problems.append(Problem("freeze", message))
    return problems


def _solver_problems(
    prefix: str, experiment: Experiment, layers: LayerTable, stages: Sequence[Stage]
) -> list[Problem]:
    """Refuse what the optimizer `lbfgs` cannot train, and settings that it has no use for."""
    if not isinstance(experiment.optimizer, LBFGS):
        return []
    problems = []
    scores = len(layers)
    trained = {n for s in stages for n, x in layers if x.params and s.lr_multipliers[n - 1]}
    if others := [layers[n] for n in sorted(trained) if n != scores or layers[n].kind != "Dense"]:
        what = f"{others[0].name} ({others[0].kind})"
        message = f"'lbfgs' solves one dense softmax layer and cannot train {what}"
        message += '; freeze the backbone and use a head such as "probe", or another optimizer'
        problems.append(Problem(f"{prefix}optimizer", message))
    elif any(s.lr_multipliers[scores - 1] not in {0, 1} for s in stages):
        message = "'lbfgs' has no learning rate to multiply; the scores' rate must be 1"
        problems.append(Problem(f"{prefix}freeze", message))
    noisy = [layer.name for _, layer in layers if layer.block == HEAD and "Dropout" in layer.kind]
    if noisy:
        message = f"'lbfgs' takes no random steps, so {noisy[0]} would do nothing; remove it"
        problems.append(Problem("head", message))
    if experiment.loss != CrossEntropy():
        name = registries.losses.name_of(type(experiment.loss))
        message = f"'lbfgs' minimizes plain cross-entropy, got {name!r} with its own keys"
        message = message if name != "cross_entropy" else f"{message}; set label_smoothing = 0"
        problems.append(Problem("loss", message))
    if experiment.fit.ema is not None:
        message = "'lbfgs' takes no steps to average; set it in the other phases only"
        problems.append(Problem(f"{prefix}ema" if prefix else "fit.ema", message))
    if experiment.schedule != Constant():
        name = registries.schedules.name_of(type(experiment.schedule))
        message = f"'lbfgs' has no learning rate, got {name!r}; use \"constant\" without a warm-up"
        problems.append(Problem(f"{prefix}schedule", message))
    if experiment.augmentation.changes and experiment.augmentation.views is None:
        message = "'lbfgs' trains on all versions at once; say how many, such as views = 4"
        problems.append(Problem(f"{prefix}augmentation.views", message))
    return problems


def _balance_problems(experiment: Experiment) -> list[Problem]:
    """Refuse a second correction for class imbalance next to the balanced sampler."""
    data, second = experiment.data, ""
    if not isinstance(experiment.class_weights, Unweighted):
        second = "class_weights"
    elif experiment.loss.balances:
        second = "loss"
    if data.sampler != "balanced" or data.allow_double_balancing or not second:
        return []
    message = (
        f"'balanced' and [{second}] would both correct class imbalance; "
        "remove one, or set data.allow_double_balancing = true"
    )
    return [Problem("data.sampler", message)]


def _frozen_dtype_problems(fit: Fit) -> list[Problem]:
    """Refuse settings next to bfloat16 that would have no effect."""
    others = [name for name in ("mixed_precision", "winograd") if getattr(fit, name)]
    if fit.frozen_dtype == "float32" or not others:
        return []
    message = f"with {fit.frozen_dtype}, fit.{others[0]} would have no effect; remove one of them"
    return [Problem("fit.frozen_dtype", message)]


def _device_problems(fit: Fit) -> list[Problem]:
    """Refuse what several devices cannot do together."""
    if fit.devices > 1 and fit.xla:
        message = "several devices do not share a step that is compiled with XLA; remove fit.xla"
        return [Problem("fit.devices", message)]
    if fit.devices > fit.batch_size:
        message = f"must be at most fit.batch_size, {fit.batch_size}, got {fit.devices}"
        return [Problem("fit.devices", message)]
    return []


def _int8_problems(layers: LayerTable, stages: Sequence[Stage]) -> list[Problem]:
    """Refuse frozen layers that are not known to work in int8."""
    cut = max((layers.frozen_prefix(stage.lr_multipliers) for stage in stages), default=0)
    for number, layer in layers:
        if number <= cut and layer.kind not in INT8_KINDS:
            what = f"int8 knows no {layer.kind}, such as layer {number} ({layer.name})"
            return [Problem("fit.frozen_dtype", f'{what}; use "bfloat16"')]
    return []


def _calibration_problems(experiment: Experiment, classes: Sequence[str]) -> list[Problem]:
    return [
        Problem(f"calibration.min_recall.{name}", _not_a_class(classes))
        for name in experiment.calibration.min_recall
        if name not in classes
    ]


def _reference_problems(
    path: str, reference: PublishedResult, classes: tuple[str, ...]
) -> list[Problem]:
    problems = [
        Problem(f"{path}.{key}.{name}", _not_a_class(classes))
        for key, values in (("precision", reference.precision), ("recall", reference.recall))
        for name in values
        if name not in classes
    ]
    if reference.confusion is not None and len(reference.confusion) != len(classes):
        message = f"must have one row per class, {len(classes)} in all"
        problems.append(Problem(f"{path}.confusion", message))
    return problems


def _not_a_class(classes: Sequence[str]) -> str:
    return f"must be one of the classes {', '.join(classes)}"
