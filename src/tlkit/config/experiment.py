"""The experiment: everything one run needs, as one typed object."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

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
from tlkit.parts.validators import at_least, between, unless_none
from tlkit.system.errors import FieldError

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Fit:
    """How long and in what portions the network trains, and which epoch's weights are kept.

    Attributes:
        epochs: How often every training image is seen.
        batch_size: How many images one step of the optimizer sees.
        keep: Which weights are the run's: those after the `last` epoch or those of the `best` one,
            across stages. Both are scored.
        monitor: What makes an epoch the best: the least `val_loss` or the highest `val_accuracy`,
            both unweighted; the first of equals.
        early_stop_patience: End a stage when `monitor` has not got better for this many of its
            epochs; unset: never. The next stage then begins, with counts of its own.
        xla: Compile the training step with XLA; unset: in stages that train or pass no
            convolution. There it halves a step's time on a CPU, elsewhere it only costs its own.
        winograd: Compute the frozen layers' 3 × 3 convolutions by Winograd's algorithm, which needs
            a quarter of the multiplications and rounds about as much; unset: if the splits have as
            many pixels as 128 images of 224 × 224, for compiling takes seconds. Layers that are
            trained never use it.
        cache: Keep the frozen layers' features on disk, for later epochs and later runs; changes
            no result.
        feature_dtype: How the frozen layers' features are handed on: `float16` takes half the disk
            and rounds them to 11 bits; a loaded run computes in float32 throughout.
        mixed_precision: Compute in `bfloat16`, keep weights, loss and probabilities in float32;
            unset: all in float32.
        checkpoint_every_s: How often a checkpoint is written, in seconds, so that a killed run can
            go on from it; 0: after every epoch, as always where one takes more than 268 MB. Ends
            of stages and interruptions always write one.
        keep_checkpoints: Keep the last checkpoints when the run is finished.
    """

    epochs: int = field(default=10, validator=at_least(1))
    batch_size: int = field(default=32, validator=at_least(1))
    keep: Literal["last", "best"] = "last"
    monitor: Literal["val_loss", "val_accuracy"] = field(
        default="val_loss", metadata={"formerly": "best_by"}
    )
    early_stop_patience: int | None = field(default=None, validator=unless_none(at_least(1)))
    xla: bool | None = None
    winograd: bool | None = None
    cache: bool = True
    feature_dtype: Literal["float32", "float16"] = "float32"
    mixed_precision: Literal["bfloat16"] | None = None
    checkpoint_every_s: float = field(default=60, validator=at_least(0))
    keep_checkpoints: bool = False


def _check_min_recall(instance: Any, attribute: Any, value: dict[str, float]) -> None:
    if len(value) > 1:
        raise FieldError("min_recall", f"must name one class, got {list(value)}")
    for name, share in value.items():
        if not 0 < share <= 1:
            raise FieldError(f"min_recall.{name}", f"must be above 0 and at most 1, got {share}")


@frozen(kw_only=True)
class Calibration:
    """What is learnt from the validation split after training, and applied to every answer.

    The run's metrics and `predictions.csv` are those of the calibrated answers, and so are those
    of the loaded run.

    Attributes:
        temperature: Divide the logarithms of the probabilities by the number that makes the log
            loss on the validation split least, so that of the images with 80 % about 80 % are
            right. Changes no predicted class (Guo et al. 2017).
        min_recall: One class and the least share of its validation images that are to be called
            so, such as `{ "malignant" = 0.95 }`: an image is called this class if its probability
            reaches the highest threshold that does it, otherwise by the highest of the others.
    """

    temperature: bool = False
    min_recall: dict[str, float] = field(factory=dict, validator=_check_min_recall)

    @property
    def wanted(self) -> bool:
        """Tell whether anything is to be learnt."""
        return self.temperature or bool(self.min_recall)


@frozen(kw_only=True)
class Track:
    """Where a run's figures go besides its folder, as they come. A failure there is only noted.

    Attributes:
        tensorboard: Write them for TensorBoard, into `tensorboard` in the run folder.
        mlflow: Send them to MLflow, with the settings and in the end the run folder; needs
            `tlkit[mlflow]`. Where to is MLflow's own setting, `MLFLOW_TRACKING_URI`.
        experiment: MLflow's experiment; unset: called like the experiment's file.
    """

    tensorboard: bool = False
    mlflow: bool = False
    experiment: str | None = None


@frozen(kw_only=True)
class PublishedResult:
    """Somebody's published result, shown beside ours.

    Attributes:
        source: Where it was published.
        confusion: The confusion matrix in counts, rows are the truth, in the order of the classes.
        accuracy: The accuracy, from 0 to 1; unset: taken from the confusion matrix.
        precision: Precision by class name; unset: taken from the confusion matrix.
        recall: Recall by class name; unset: taken from the confusion matrix.
        same_test: Whether it was obtained on the same test images as this experiment's.
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
        named = [("accuracy", self.accuracy)] if self.accuracy is not None else []
        shares = [
            *named,
            *((f"precision.{name}", share) for name, share in self.precision.items()),
            *((f"recall.{name}", share) for name, share in self.recall.items()),
        ]
        for key, share in shares:
            if not (math.isfinite(share) and 0 <= share <= 1):
                raise FieldError(key, f"must be from 0 to 1, got {share!r}")


@frozen(kw_only=True)
class ModelCard:
    """What nobody can read from a run's figures; it goes into its `MODEL_CARD.md` and report.

    Attributes:
        intended_use: What the model is for, and for whom.
        not_for: What it must not be used for; shown above all results.
        limits: What is known to go wrong, and what was not looked at.
        data: Where the images come from, and whom they show.
        labels: How the true classes were found.
        licence: What the weights may be used for.
        contact: Whom to ask.
    """

    intended_use: str = ""
    not_for: str = ""
    limits: str = ""
    data: str = ""
    labels: str = ""
    licence: str = ""
    contact: str = ""


@frozen
class Origin:
    """Where an experiment was read from.

    Attributes:
        path: The TOML file.
        text: What it said when it was read.
        overrides: The ``--set`` expressions applied to it.
    """

    path: Path
    text: str
    overrides: tuple[str, ...] = ()


@frozen(kw_only=True)
class Experiment:
    """Everything one run needs; nothing is read from anywhere else.

    Attributes:
        schema: The version of this file's layout.
        seed: What every random draw of the run depends on.
        data: Where images and labels come from.
        backbone: The pretrained network.
        head: The classifier on top of it.
        freeze: Which layers are trained.
        class_weights: How much each class counts.
        augmentation: Random changes of the training images.
        loss: What training makes small.
        optimizer: The rule of the steps.
        schedule: How the learning rate changes.
        fit: Epochs and batches.
        calibration: What is learnt from the validation split afterwards.
        track: Where figures go besides the run folder.
        reference: Published results to show beside ours.
        card: What its model is for and what not.
        plugins: Files with the study's own parts.
        origin: Where it was read from; not a key.
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
    calibration: Calibration = field(factory=Calibration)
    track: Track = field(factory=Track)
    reference: tuple[PublishedResult, ...] = ()
    card: ModelCard = field(factory=ModelCard)
    plugins: Plugins = field(factory=Plugins)
    origin: Origin | None = field(default=None, eq=False, repr=False, metadata={"key": False})

    @property
    def name(self) -> str:
        """Return the name of its file without the suffix, or ``experiment``."""
        return self.origin.path.stem if self.origin else "experiment"

    @property
    def base(self) -> Path:
        """Return the folder that its relative paths are relative to."""
        return self.origin.path.parent if self.origin else Path()
