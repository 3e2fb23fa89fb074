"""The plan: what a run will do, from the experiment and the image counts alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import unstructure
from tlkit.data.splits import Splits
from tlkit.model.layers import HEAD, Layer, LayerTable
from tlkit.parts.backbones.joined import Joined
from tlkit.parts.kinds import Backbone, Head, Stage, checked_table, registries
from tlkit.parts.optimizers import LBFGS
from tlkit.system.errors import ConfigError, FieldError, Problem
from tlkit.system.keras import has_bfloat16, has_gpu, has_int8
from tlkit.system.notebook import face, few_names, folded, html_table
from tlkit.train.refusals import setting_problems, stage_problems

# Images per pass through frozen layers; the last batch is padded. At least, and at most:
PREFIX_BATCH, LARGEST_BATCH = 8, 256
# A batch fills this much memory with the largest output of a layer. On two cores, MobileNetV2 takes
# 0.42 ms per image of 32 px with 256 images (1.9 with 8), 1.4 ms at 64 px with 64 (3.0 with 8) and
# 17 ms at 224 px with 8 and with 64; VGG-16 takes the same at 224 px with 8, 16 and 32, but 1.0,
# 1.3 and 1.8 GB.
OUTPUT_BYTES = 2**25
GPU_TIMES = 8  # as many images on a GPU, which has never been measured
PADDED = 8  # the images are at least this many batches, so that the padding is a small part
# Images per batch where nothing convolves. A head reads all its weights for each batch, and a
# batch of features takes little memory.
HEAD_BATCH = 64
# Compiling a step with XLA takes 0.7 s. With so many parameters that pays after 100 to 200 steps;
# a linear head of 4,000 gains nothing.
XLA_PARAMS = 100_000
# Which convolutions take less by Winograd's algorithm: measured on two cores, in processor time.
# VGG-16's frozen layers take 155 ms per image of 224 px directly and 109 by tiles, the same if one
# with 64 × 128 channels is among them. At 64 px they take 15.9 ms directly and 11.1 by tiles; 11.7
# without maps below 7 × 7, 14.6 without those below 12 × 12. Forward and backward, a layer of 512 ×
# 512 channels takes 0.43 to 0.55 of the time by tiles (0.65 with maps of 4 × 4), of 256 × 256 0.51
# to 0.57, of 128 × 128 0.75, of 64 × 128 0.86 and of 64 × 64 1.3.
MIN_CHANNELS = 128 * 128  # input times output channels
MIN_SIDE = 4
# For VGG-16's frozen convolutions the graph takes 0.65 s more to build; each image takes 46 ms less
# at 224 px, 17 at 128, 10 at 96 and 4 at 64 (processor time).
WINOGRAD_PIXELS = 16 * 224**2
FLOAT32 = (
    "fit.frozen_dtype: the frozen layers compute in float32, for this machine's processor is not "
    "known to have instructions for {}, or a GPU does the work"
)
ONE_DEVICE = "fit.devices: one device does all, for no stage trains layers of the backbone"
MOST_CLASSES = 12  # with a column of their own in a notebook
LAYER_FACTS = ("name", "kind", "block", "output_shape", "params", "other_params")


@frozen
class PlannedStage:
    """A stage and what follows from it.

    Attributes:
        stage: Its epochs and learning-rate multipliers.
        first_epoch: The number of its first epoch in the run. If early stopping ends a stage, the
            numbers it did not reach stay unused, so a number means the same in every run.
        cut: The number of the last layer of the frozen prefix; 0 if there is none.
        trainable_params: The number of parameters that are trained.
        xla: Whether the training step is compiled with XLA.
        eval_batch: Images per evaluation batch.
        views: The augmented views of the training images that its epochs see.
        phase: The number of its phase, from 1.
        l2: With the solver, the strength of L2 regularization in each of its epochs.
        refit: Whether, if one of its epochs is kept, it is fitted again with the validation images.
        devices: The number of devices that share each training step.
        winograd: Whether 3 × 3 convolutions of the step use Winograd's algorithm.
    """

    stage: Stage
    first_epoch: int
    cut: int
    trainable_params: int
    xla: bool
    eval_batch: int
    views: tuple[int, ...]
    phase: int = 1
    l2: tuple[float, ...] = ()
    refit: bool = False
    devices: int = 1
    winograd: bool = False


@frozen(kw_only=True)
class Plan:
    """What a run will do.

    Attributes:
        classes: Class names in the order of the model's outputs.
        counts: Images per class, for each split.
        layers: The layers of the whole model.
        stages: The stages, in order.
        class_weights: The weight of each class in the training loss.
        loss: The training loss: its name and keys.
        sampler: How an epoch draws its images.
        evaluated_on: The split that the run is judged by: `test`, or `val` if there is no test.
        stand_in: The dataset used instead of missing data; empty for real data.
        data: Facts about the images for readers of the results; see `Splits.facts`.
        steps_per_epoch: Optimizer steps per epoch.
        cache: Whether features are kept on disk.
        winograd: Whether 3 × 3 convolutions use Winograd's algorithm, if they are frozen.
        prefix_batch: Images per pass through the frozen prefix.
        frozen_dtype: What the frozen prefix computes in.
        tta: Whether mirror images are evaluated too; not part of the record.
        file_bytes: The mean size of an image file, if it is known; not part of the record.
        notes: What the user should know about the data and the model; not part of the record.
    """

    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    layers: LayerTable
    stages: tuple[PlannedStage, ...]
    class_weights: Mapping[str, float]
    loss: Mapping[str, Any]
    sampler: str
    evaluated_on: str
    stand_in: str
    steps_per_epoch: int
    cache: bool
    winograd: bool = False
    prefix_batch: int = PREFIX_BATCH
    frozen_dtype: str = "float32"
    data: Mapping[str, Any] = field(factory=dict)
    tta: bool = False
    file_bytes: float | None = field(default=None, eq=False)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        images = " + ".join(f"{sum(c.values())} {split}" for split, c in self.counts.items())
        many = f"{len(self.stages)} stages, " if len(self.stages) > 1 else ""
        return (
            f"Plan({images} images of {few_names(self.classes)}; {len(self.layers)} layers, "
            f"{many}{self.epochs} epochs{'; STAND-IN DATA' if self.stand_in else ''})"
        )

    def _repr_html_(self) -> str:
        counts = [
            [split, *(counts[name] for name in self.classes[:MOST_CLASSES]), sum(counts.values())]
            for split, counts in self.counts.items()
        ]
        blocks = [html_table(["images", *self.classes[:MOST_CLASSES], "all"], counts)]
        for number, planned in enumerate(self.stages, start=1):
            frozen = f"layers 1-{planned.cut} run once" if planned.cut else "no frozen prefix"
            what = "strengths of L2 regularization" if planned.l2 else "epochs"
            blocks.append(
                f"<p>stage {number}: {planned.stage.epochs} {what}, "
                f"{planned.trainable_params:,} trainable parameters; {frozen}"
                f"{f'; on {planned.devices} devices' if planned.devices > 1 else ''}</p>"
            )
        rates = [planned.stage.lr_multipliers for planned in self.stages]
        summary = f"{len(self.layers)} layers, {self.layers.params:,} parameters"
        blocks.append(folded(summary, self.layers.html(*rates)))
        blocks += [html_table(["note"], [[note]]) for note in self.notes]
        return face((self.stand_in and f"STAND-IN DATA: {self.stand_in}") or "Plan", *blocks)

    @property
    def epochs(self) -> int:
        """Return the number of epochs in all stages."""
        return sum(planned.stage.epochs for planned in self.stages)

    @property
    def phases(self) -> int:
        """Return the number of phases."""
        return self.stages[-1].phase

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `plan.json`."""
        return {
            "classes": list(self.classes),
            "counts": {split: dict(counts) for split, counts in self.counts.items()},
            "class_weights": dict(self.class_weights),
            "loss": dict(self.loss),
            "sampler": self.sampler,
            "evaluated_on": self.evaluated_on,
            "stand_in": self.stand_in or None,
            "data": dict(self.data),
            "steps_per_epoch": self.steps_per_epoch,
            "cache": self.cache,
            "winograd": self.winograd,
            "prefix_batch": self.prefix_batch,
            **({"frozen_dtype": self.frozen_dtype} if self.frozen_dtype != "float32" else {}),
            "params": self.layers.params,
            "stages": [
                {
                    "epochs": planned.stage.epochs,
                    "first_epoch": planned.first_epoch,
                    "cut": planned.cut,
                    "trainable_params": planned.trainable_params,
                    "xla": planned.xla,
                    "eval_batch": planned.eval_batch,
                    "views": list(planned.views),
                    "rates": list(planned.stage.lr_multipliers),
                    **({"phase": planned.phase} if self.phases > 1 else {}),
                    **({"l2": list(planned.l2)} if planned.l2 else {}),
                    **({"devices": planned.devices} if planned.devices > 1 else {}),
                    **({"winograd": True} if planned.winograd else {}),
                }
                for planned in self.stages
            ],
            "layers": [
                {"number": number, **{name: getattr(layer, name) for name in LAYER_FACTS}}
                | {"output_shape": list(layer.output_shape)}
                for number, layer in self.layers
            ],
        }


def model_layers(backbone: Backbone, head: Head, classes: int) -> LayerTable:
    """Return the layer table of a backbone with a head."""
    below = checked_table(backbone, backbone.layers())
    return checked_table(head, head.layers_on(below, classes))


def make_plan(experiment: Experiment, splits: Splits) -> Plan:
    """Plan a run."""
    for phase in experiment.phases:
        phase.augmentation.require()
    problems: list[Problem] = []
    layers = LayerTable(())
    try:
        layers = model_layers(experiment.backbone, experiment.head, len(splits.classes))
    except FieldError as error:
        problems.append(_problem("head", error))
    stages, of_stages = _stages(experiment, layers) if len(layers) else ((), [])
    problems += of_stages
    all_stages = [stage for phase in stages for stage in phase]
    problems += stage_problems(experiment, layers, stages)
    counts = {split: splits.counts(split) for split, _ in splits.items()}
    wanted = experiment.fit.frozen_dtype
    weights: dict[str, float] = {}
    try:
        weights = experiment.class_weights.planned(counts["train"])
    except ValueError as error:
        problems.append(_problem("class_weights", error))
    problems += setting_problems(experiment, splits.classes)
    if problems:
        raise ConfigError(problems, str(experiment.origin.path) if experiment.origin else "")
    winograd = _uses_winograd(experiment, splits)
    planned = _planned_stages(experiment, layers, stages, winograd)
    shared = any(stage.devices > 1 for stage in planned)
    return Plan(
        classes=splits.classes,
        counts=counts,
        layers=layers,
        stages=planned,
        class_weights=weights,
        sampler=experiment.data.sampler,
        loss=unstructure(experiment.loss, registry=registries.losses),
        evaluated_on="test" if splits.test else "val",
        stand_in=splits.stand_in,
        data=splits.facts(),
        steps_per_epoch=-(-len(splits.train) // experiment.fit.batch_size),
        cache=experiment.fit.cache,
        winograd=winograd,
        tta=experiment.calibration.tta is not None,
        file_bytes=splits.file_bytes(),
        prefix_batch=prefix_batch(
            layers,
            max((layers.frozen_prefix(stage.lr_multipliers) for stage in all_stages), default=0),
            experiment.backbone.image_size,
            sum(len(examples) for _, examples in splits.items()),
        ),
        frozen_dtype=_frozen_dtype(experiment),
        notes=(
            *splits.notes,
            *_held_batch_norm(experiment.backbone, layers, all_stages),
            *_long_warm_ups(experiment, stages),
            *([FLOAT32.format(wanted)] if wanted != _frozen_dtype(experiment) else []),
            *([ONE_DEVICE] if experiment.fit.devices > 1 and not shared else []),
        ),
    )


def _held_batch_norm(
    backbone: Backbone, layers: LayerTable, stages: Sequence[Stage]
) -> tuple[str, ...]:
    """Note that a backbone with random weights is to train while its BatchNorm stands still."""
    random = _random_layers(backbone)
    rates = [max(stage.lr_multipliers[n - 1] for stage in stages) for n, _ in layers]
    own = [(layer, rate) for (_, layer), rate in zip(layers, rates, strict=True)
           if layer.block != HEAD and layer.name.startswith(random)]  # fmt: skip
    held = sum(layer.batch_norm and not rate for layer, rate in own)
    if not held or not any(rate for _, rate in own):
        return ()
    trap = f"the backbone's weights are random, and {held} of its BatchNorm layers keep their "
    return (f'{trap}initial statistics, so it hardly learns; set freeze.batch_norm = "train"',)


def _random_layers(backbone: Backbone) -> tuple[str, ...]:
    """Return how the names of layers begin whose weights are random; nothing if none are."""
    if isinstance(backbone, Joined):
        return tuple(f"{name}." for name, part in backbone.named() if part.weights == "none")
    own = hasattr(backbone, "record")  # it is made from a model, which has weights
    return ("",) if backbone.weights == "none" and not own else ()


def _long_warm_ups(experiment: Experiment, stages: Sequence[Sequence[Stage]]) -> Iterator[str]:
    """Note where the learning rate rises until the end, so that it is never the full one."""
    phases = zip(experiment.phases, stages, strict=True)
    for number, (phase, of_phase) in enumerate(phases, start=1):
        warmup = getattr(phase.schedule, "warmup_epochs", None) or 0
        epochs = min((stage.epochs for stage in of_phase), default=0)
        if epochs <= warmup:
            where = f"phase {number}: " if len(stages) > 1 else ""
            yield (
                f"{where}schedule.warmup_epochs = {warmup:g}, and a stage has "
                f"{epochs} epoch{'s' * (epochs != 1)}: the learning rate is never the full one"
            )


def prefix_batch(layers: LayerTable, cut: int, image_size: int, images: int | None = None) -> int:
    """Return how many images pass through the layers up to `cut` together, a power of two.

    Few images make it small, so that little of the work is padding.
    """
    shapes = [(image_size, image_size, 3), *(x.output_shape for n, x in layers if n <= cut)]
    gpu = GPU_TIMES if has_gpu() else 1
    batch = gpu * OUTPUT_BYTES // (4 * max(map(math.prod, shapes)))
    if images is not None:
        batch = min(batch, images // PADDED)
    return max(PREFIX_BATCH, min(gpu * LARGEST_BATCH, 1 << batch.bit_length() >> 1))


def _frozen_dtype(experiment: Experiment) -> str:
    wanted = experiment.fit.frozen_dtype
    here = {"bfloat16": has_bfloat16, "int8": has_int8}
    return wanted if wanted in here and here[wanted]() else "float32"


def _uses_winograd(experiment: Experiment, splits: Splits) -> bool:
    if _frozen_dtype(experiment) != "float32":
        return False
    if experiment.fit.winograd is not None:
        return experiment.fit.winograd
    images = sum(len(examples) for _, examples in splits.items())
    return images * experiment.backbone.image_size**2 >= WINOGRAD_PIXELS


def tileable(layer: Layer) -> bool:
    """Tell whether a layer is a convolution that takes less by Winograd's algorithm."""
    return (
        layer.kernel_size == 3
        and layer.params >= 3 * 3 * MIN_CHANNELS
        and min(layer.output_shape[:2]) >= MIN_SIDE
    )


def _stages(
    experiment: Experiment, layers: LayerTable
) -> tuple[tuple[tuple[Stage, ...], ...], list[Problem]]:
    """Return the stages of each phase, and what is wrong with them."""
    stages, problems = [], []
    for number, phase in enumerate(experiment.phases):
        own = experiment.phase and experiment.phase[number].freeze is not None
        try:
            stages.append(phase.freeze.planned(layers, phase.fit.epochs))
        except ValueError as error:
            problems.append(_problem(f"phase[{number}].freeze" if own else "freeze", error))
    return tuple(stages), problems


def _planned_stages(
    experiment: Experiment,
    layers: LayerTable,
    stages: Sequence[Sequence[Stage]],
    winograd: bool,
) -> tuple[PlannedStage, ...]:
    planned, first = [], 1
    of_phases = zip(experiment.phases, stages, strict=True)
    numbered = [(n, each, s) for n, (each, own) in enumerate(of_phases, start=1) for s in own]
    for number, phase, stage in numbered:
        cut = layers.frozen_prefix(stage.lr_multipliers)
        # Measured on two cores: a step of VGG-16's two dense layers takes 46 ms with XLA and 99 ms
        # without. A step of the whole VGG-16 takes the same either way, but compiles twice as long.
        above = [layer for number, layer in layers if number > cut]
        convolves = any("Conv" in layer.kind for layer in above)
        devices = _devices(experiment, layers, stage)
        params = layers.trainable_params(stage.lr_multipliers)
        xla = experiment.fit.xla
        if xla is None:
            xla = not convolves and params >= XLA_PARAMS
        views = [phase.augmentation.view(first + number) for number in range(stage.epochs)]
        l2: tuple[float, ...] = ()
        if isinstance(phase.optimizer, LBFGS):  # each of its epochs sees all versions
            views = [*range((phase.augmentation.changes and phase.augmentation.views) or 1)]
            l2 = phase.optimizer.strengths(stage.epochs)
        planned.append(
            PlannedStage(
                stage,
                first,
                cut,
                params,
                xla and devices == 1,
                PREFIX_BATCH if convolves else HEAD_BATCH,
                tuple(dict.fromkeys(views)),
                number,
                l2,
                phase.fit.refit or (isinstance(phase.optimizer, LBFGS) and phase.optimizer.refit),
                devices,
                # Tiles are float32, and XLA has convolutions of its own.
                winograd
                and not (experiment.fit.mixed_precision or xla)
                and any(map(tileable, above)),
            )
        )
        first += stage.epochs
    return tuple(planned)


def _devices(experiment: Experiment, layers: LayerTable, stage: Stage) -> int:
    """Return how many devices share a stage's steps: a head alone is not worth the exchange."""
    trained = (x for n, x in layers if x.params and stage.lr_multipliers[n - 1])
    return experiment.fit.devices if any(x.block != HEAD for x in trained) else 1


def _problem(table: str, error: ValueError) -> Problem:
    if isinstance(error, FieldError):
        return Problem(f"{table}.{error.field}", error.message)
    return Problem(table, str(error))


def seed_for(seed: int, *purpose: object) -> int:
    """Return a seed below 2³¹ for one purpose within a run, the same on every machine.

    >>> seed_for(10, "order", 3) == seed_for(10, "order", 3) != seed_for(10, "order", 4)
    True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
