"""The experiment: everything that one run needs, as one typed object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, fields, fields_dict, frozen

from tlkit.config.structure import part
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
    registries,
)
from tlkit.parts.plugins import Plugins
from tlkit.parts.validators import at_least, between, open_interval, unless_none
from tlkit.system.errors import FieldError, Problem

OF_FIT = ("epochs", "early_stop_patience", "ema")  # what an experiment has under [fit]


@frozen(kw_only=True)
class Phase:
    """A part of the training with settings of its own.

    Phases follow each other on the same weights; with `fit.keep = "best"` each starts from the
    best weights so far. What a phase leaves out it takes from the file's own tables.

    Attributes:
        freeze: Which layers are trained; unset: `[freeze]`.
        epochs: Number of passes over the training set; unset: `fit.epochs`.
        optimizer: The rule that turns gradients into steps; unset: `[optimizer]`.
        schedule: How the learning rate changes; unset: `[schedule]`.
        augmentation: Random changes of the training images; unset: `[augmentation]`.
        early_stop_patience: End a stage of this phase after this many epochs without improvement;
            unset: `fit.early_stop_patience`.
        ema: The decay of the weights' average; unset: `fit.ema`.
    """

    freeze: FreezePolicy | None = part(registries.freezes, optional=True)
    epochs: int | None = field(default=None, validator=unless_none(at_least(1)))
    optimizer: Optimizer | None = part(registries.optimizers, optional=True)
    schedule: Schedule | None = part(registries.schedules, optional=True)
    augmentation: Augmentation | None = part(registries.augmentations, optional=True)
    early_stop_patience: int | None = field(default=None, validator=unless_none(at_least(1)))
    ema: float | None = field(default=None, validator=unless_none(open_interval(0, 1)))

    def own(self, of_fit: bool) -> dict[str, Any]:
        """Return what it sets of `[fit]`, or of the experiment's other tables."""
        names = [key.name for key in fields(Phase) if (key.name in OF_FIT) == of_fit]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@frozen(kw_only=True)
class Fit:
    """How long training runs, and which epoch's weights are kept.

    Attributes:
        epochs: Number of passes over the training set; with the optimizer `lbfgs`, number of
            strengths of regularization.
        batch_size: Images per optimizer step.
        keep: Which weights to keep: those of the `last` epoch, or of the `best` one across all
            stages. Both are scored.
        monitor: What makes an epoch the best: the lowest `val_loss` or the highest
            `val_accuracy`, both unweighted; of equal epochs the first. `val_loss_and_accuracy`: the
            lowest loss, but of a later stage only if its accuracy is not below the best so far.
        refit: Finally train once more on the training and validation images together, as many
            epochs as led to the kept weights, and keep that. The validation figures stay those of
            the choice.
        early_stop_patience: End a stage when `monitor` has not improved for this many epochs of
            it; unset: never. The next stage starts counting again.
        ema: Keep an exponential moving average of the weights with this decay per step, such as
            0.99: the averages are what is validated and kept. Each stage starts it again. Unset:
            the weights themselves.
        xla: Compile the training step with XLA; unset: only in stages where no convolution is
            trained or passed and 100,000 parameters or more are trained. There it halves a step's
            time on a CPU; elsewhere it only adds compile time.
        winograd: Compute 3 × 3 convolutions by Winograd's algorithm, which needs a quarter of the
            multiplications with similar rounding; unset: only if the splits have at least as many
            pixels as 16 images of 224 × 224. Trained layers use it too, in both directions, unless
            they compute in other numbers or with XLA.
        cache: Keep the frozen layers' features on disk for later epochs and runs; results do not
            change.
        frozen_dtype: What the frozen layers compute in: `bfloat16` is several times faster for
            ordinary convolutions on processors with instructions for it, and rounds to 8 bits;
            `int8` is faster for all convolutions, rounds more and cannot be exported. Elsewhere
            it stays float32, with a note. A loaded run computes as it was trained, but in float32
            on a machine without bfloat16.
        feature_dtype: Type of the frozen layers' features: `float16` takes half the disk and
            rounds them to 11 bits. A loaded run always computes in float32.
        mixed_precision: Compute in `bfloat16` or `float16`; weights, loss and probabilities stay
            float32. With `float16` the loss is scaled, so that small gradients do not vanish, and a
            step whose gradients overflow is skipped. Unset: everything is float32.
        devices: GPUs that share each training step of stages that train layers of the backbone;
            each takes a part of every batch. Stages that train the head alone stay on one.
        checkpoint_every_s: Seconds between checkpoints, from which a killed run can resume; 0:
            after every epoch, which is also the rule for checkpoints above 268 MB. The end of a
            stage and an interruption always write one.
        keep_checkpoints: Keep the last checkpoints after the run has finished.
        head_weights: A finished run, whose head is the initial head; its classes must be the same.
            Unset: a new head. The run's backbone is `backbone.weights`.
    """

    epochs: int = field(default=10, validator=at_least(1))
    batch_size: int = field(default=32, validator=at_least(1))
    keep: Literal["last", "best"] = "last"
    monitor: Literal["val_loss", "val_accuracy", "val_loss_and_accuracy"] = field(
        default="val_loss", metadata={"formerly": "best_by"}
    )
    refit: bool = False
    early_stop_patience: int | None = field(default=None, validator=unless_none(at_least(1)))
    ema: float | None = field(default=None, validator=unless_none(open_interval(0, 1)))
    xla: bool | None = None
    winograd: bool | None = None
    cache: bool = True
    frozen_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    feature_dtype: Literal["float32", "float16"] = "float32"
    mixed_precision: Literal["bfloat16", "float16"] | None = None
    devices: int = field(default=1, validator=at_least(1))
    checkpoint_every_s: float = field(default=60, validator=at_least(0))
    keep_checkpoints: bool = False
    head_weights: Path | None = None


def _check_min_recall(instance: Any, attribute: Any, value: dict[str, float]) -> None:
    if len(value) > 1:
        raise FieldError("min_recall", f"must name one class, got {list(value)}")
    for name, recall in value.items():
        if not 0 < recall <= 1:
            raise FieldError(f"min_recall.{name}", f"must be above 0 and at most 1, got {recall}")


@frozen(kw_only=True)
class Calibration:
    """Temperature, a class's threshold and averaging with the mirror image, chosen on validation.

    They apply to the run's metrics, to `predictions.csv` and to the loaded run.

    Attributes:
        temperature: Divide the log-probabilities by the number that minimizes the log loss on the
            validation split, so that about 80 % of the images predicted with 80 % are right. The
            predicted classes do not change (Guo et al. 2017).
        min_recall: One class and the lowest acceptable recall on its validation images, such as
            `{ "rare" = 0.95 }`. An image is assigned to this class if its probability reaches the
            highest threshold with that recall, otherwise to the most probable other class.
        tta: Test-time augmentation: `flip` averages each image's probabilities with those of its
            horizontal mirror image, if that lowers the log loss on the validation split. Predicting
            then takes twice as long. Unset: the image alone.
    """

    temperature: bool = False
    min_recall: dict[str, float] = field(factory=dict, validator=_check_min_recall)
    tta: Literal["flip"] | None = None

    @property
    def wanted(self) -> bool:
        """Tell whether anything is to be fitted or chosen."""
        return self.temperature or bool(self.min_recall) or self.tta is not None


@frozen(kw_only=True)
class Track:
    """Trackers that receive a run's metrics while it trains. If one fails, the run continues.

    Attributes:
        tensorboard: Write metrics for TensorBoard, to `tensorboard` in the run folder.
        mlflow: Send metrics, settings and finally the run folder to MLflow; needs `tlkit[mlflow]`.
            The environment variable `MLFLOW_TRACKING_URI` sets the server.
        experiment: Name of the MLflow experiment; unset: the name of the experiment file.
    """

    tensorboard: bool = False
    mlflow: bool = False
    experiment: str | None = None


@frozen(kw_only=True)
class PublishedResult:
    """A published result to compare with.

    Attributes:
        source: Where it was published.
        confusion: The confusion matrix in counts; rows are true classes, in the order of the
            classes.
        accuracy: The accuracy, from 0 to 1; unset: computed from the confusion matrix.
        precision: Precision by class name; unset: computed from the confusion matrix.
        recall: Recall by class name; unset: computed from the confusion matrix.
        same_test: Whether it was measured on the test images of this experiment.
    """

    source: str
    confusion: tuple[tuple[int, ...], ...] | None = None
    accuracy: float | None = None
    precision: dict[str, float] = field(factory=dict)
    recall: dict[str, float] = field(factory=dict)
    same_test: bool = True

    def __attrs_post_init__(self) -> None:
        rows = self.confusion or ()
        if any(len(row) != len(rows) for row in rows) or any(n < 0 for row in rows for n in row):
            raise FieldError("confusion", f"must be a square of counts, got {rows}")
        if self.confusion is not None and not any(n for row in rows for n in row):
            raise FieldError("confusion", f"must count at least one image, got {rows}")
        fractions = {
            "accuracy": 0 if self.accuracy is None else self.accuracy,
            **{f"precision.{name}": value for name, value in self.precision.items()},
            **{f"recall.{name}": value for name, value in self.recall.items()},
        }
        for key, value in fractions.items():
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise FieldError(key, f"must be from 0 to 1, got {value!r}")


@frozen(kw_only=True)
class ModelCard:
    """What a run's numbers cannot tell; shown in its report and `MODEL_CARD.md`.

    Attributes:
        intended_use: What the model is for, and for whom.
        not_for: What it must not be used for; shown above all results.
        limits: What is known to go wrong, and what was not tested.
        data: Where the images come from, and whom or what they show.
        labels: How the true classes were determined.
        license: What the weights may be used for.
        contact: Whom to ask.
    """

    intended_use: str = ""
    not_for: str = ""
    limits: str = ""
    data: str = ""
    labels: str = ""
    license: str = field(default="", metadata={"formerly": "licence"})
    contact: str = ""


@frozen
class Origin:
    """The file that an experiment was read from.

    Attributes:
        path: The TOML file.
        text: Its content.
        overrides: The ``--set`` expressions applied to it.
    """

    path: Path
    text: str
    overrides: tuple[str, ...] = ()


@frozen(kw_only=True)
class Experiment:
    """Everything that one run needs.

    Attributes:
        schema: The version of this file's layout.
        seed: The seed of every random draw in the run.
        data: Where images and labels come from.
        backbone: The pretrained network.
        head: The classifier on top of it.
        freeze: Which layers are trained.
        class_weights: How much each class counts.
        augmentation: Random changes of the training images.
        loss: What training minimizes.
        optimizer: The rule that turns gradients into steps.
        schedule: How the learning rate changes.
        fit: Epochs and batches.
        phase: Parts of the training with settings of their own; unset: the whole training has
            those of the other tables.
        calibration: What is fitted on the validation split after training.
        track: Trackers that receive the run's metrics.
        reference: Published results to compare with.
        card: What the model is for and what not.
        plugins: Files with your own parts.
        origin: The file it was read from; not a key.
    """

    schema: Literal[1] = 1
    seed: int = field(default=0, validator=between(0, 2**31 - 1))
    data: Dataset = part(registries.datasets)
    backbone: Backbone = part(registries.backbones, "vgg16")
    head: Head = part(registries.heads, "flatten_dense")
    freeze: FreezePolicy = part(registries.freezes, "head_only")
    class_weights: ClassWeights = part(registries.class_weights, "none")
    augmentation: Augmentation = part(registries.augmentations, "none")
    loss: Loss = part(registries.losses, "cross_entropy")
    optimizer: Optimizer = part(registries.optimizers, "adam")
    schedule: Schedule = part(registries.schedules, "constant")
    fit: Fit = field(factory=Fit)
    phase: tuple[Phase, ...] = field(default=(), metadata={"omit_empty": True})
    calibration: Calibration = field(factory=Calibration)
    track: Track = field(factory=Track)
    reference: tuple[PublishedResult, ...] = ()
    card: ModelCard = field(factory=ModelCard)
    plugins: Plugins = field(factory=Plugins)
    origin: Origin | None = field(default=None, eq=False, repr=False, metadata={"key": False})

    @property
    def phases(self) -> tuple[Experiment, ...]:
        """Return an experiment without phases for each phase; itself if it has none."""
        phases = [
            evolve(
                self,
                phase=(),
                fit=evolve(self.fit, **phase.own(of_fit=True)),
                **phase.own(of_fit=False),
            )
            for phase in self.phase
        ]
        return tuple(phases) or (self,)

    def unused_settings(self) -> Iterator[Problem]:
        """Yield a problem for every setting that each phase replaces."""
        for of_fit, table, path in ((False, self, ""), (True, self.fit, "fit.")):
            own = [set(phase.own(of_fit)) for phase in self.phase] or [set()]
            for name in sorted(set.intersection(*own)):
                default: Any = fields_dict(type(table))[name].default
                default = default.factory() if hasattr(default, "factory") else default
                if getattr(table, name) != default:
                    message = "has no effect, because every phase has its own; remove one of them"
                    yield Problem(f"{path}{name}", message)

    @property
    def name(self) -> str:
        """Return the name of its file without the suffix, or ``experiment``."""
        return self.origin.path.stem if self.origin else "experiment"

    @property
    def base(self) -> Path:
        """Return the folder that its paths are relative to."""
        return self.origin.path.parent if self.origin else Path()
