"""The augmentation `compose`: Keras's layers and other augmentations, one after the other.

Keras's random layers draw from a seed generator, one batch after the other. Here each layer sees
one image at a time, and its generator is replaced by one that draws from the image's key.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.parts.kinds import Augmentation, part, registries
from tlkit.parts.validators import shown
from tlkit.system.errors import ConfigError, FieldError, Problem
from tlkit.system.keras import start_keras
from tlkit.system.text import nearest

if TYPE_CHECKING:
    import tensorflow as tf

# Those of Keras 3.15.1 that keep an image's size; a test holds that each follows the key alone.
LAYERS = (
    "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization",
    "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast",
    "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur",
    "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
    "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation",
    "RandomZoom", "Solarization",
)  # fmt: skip
REFUSED = {
    "RandAugment": 'chooses its operations by Python\'s generator; use "randaugment"',
    "AugMix": 'chooses its operations by Python\'s generator; use "augmix"',
    "MixUp": "mixes the images of a batch, so the result would depend on the batch",
    "CutMix": "mixes the images of a batch, so the result would depend on the batch",
    **dict.fromkeys(
        ("RandomCrop", "CenterCrop", "Resizing"),
        'changes the size of the image; use "natural" with crop_frac',
    ),
}
# Keras does nothing, and says nothing, if this is misspelled.
FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
FACTORS = dict.fromkeys(
    (
        "RandomBrightness", "RandomColorDegeneration", "RandomContrast", "RandomHue",
        "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness",
    ),
    ("factor",),
)  # fmt: skip
REQUIRED = {  # arguments without a default
    **FACTORS,
    "RandomTranslation": ("height_factor", "width_factor"),
    "RandomZoom": ("height_factor",),
}
OURS = {"seed", "dtype", "data_format", "bounding_box_format"}  # not the user's to set


@frozen(kw_only=True)
class KerasLayer(Augmentation):
    """One of Keras's layers that change images, as an operation of `compose`.

    Attributes:
        name: The layer's class in `keras.layers`.
        arguments: Its arguments.
    """

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the layers that can be used."""
        return LAYERS

    @classmethod
    def knows(cls, name: str) -> bool:
        """Tell whether `from_table` is to judge a name."""
        return name in LAYERS or name in REFUSED

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> KerasLayer:
        """Return the layer that a table names."""
        name = str(table["name"])
        if name in REFUSED:
            raise FieldError("name", f"{name} {REFUSED[name]}")
        for key, value in table.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if key in OURS:
                raise FieldError(key, "cannot be set; the run's seed decides the draws")
            if not all(isinstance(one, bool | int | float | str) for one in numbers):
                raise FieldError(
                    key, f"expected a number, a string or a list of numbers, got {shown(value)}"
                )
        if name == "RandomFlip" and (mode := table.get("mode", FLIPS[-1])) not in FLIPS:
            raise FieldError("mode", f"must be one of {', '.join(FLIPS)}, got {shown(mode)}")
        if missing := [key for key in REQUIRED.get(name, ()) if key not in table]:
            raise FieldError("", f"{name} needs {' and '.join(missing)}")
        return cls(name=name, arguments={k: v for k, v in table.items() if k != "name"})

    def record(self) -> dict[str, Any]:
        """Return its table."""
        return {"name": self.name, **self.arguments}

    def require(self) -> None:
        """Make the layer, which checks the arguments.

        Raises:
            FieldError: If one is wrong.
        """
        _layer(self.name, self.arguments)

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images changed by the layer, one at a time."""
        arguments = json.dumps(dict(self.arguments), sort_keys=True)
        return _program(self.name, arguments, tuple(images.shape[1:]))(images, keys)


@part("compose")
class Compose(Augmentation):
    """Operations by name, one after the other: Keras's layers and other augmentations.

    Each image's draws depend only on its key and the operation's place in the list.

    Attributes:
        operations: Tables with the `name` of an augmentation, or of a Keras layer that keeps the
            image's size, such as `RandomRotation`, and its arguments.
    """

    operations: tuple[Augmentation, ...] = field(
        metadata={
            "registry": registries.augmentations,
            "default": None,
            "many": True,
            "otherwise": KerasLayer,
        }
    )

    def __attrs_post_init__(self) -> None:
        if not self.operations:
            raise FieldError("operations", "needs at least 1, got 0")
        for number, operation in enumerate(self.operations):
            if operation.views is not None:
                message = "must be unset; set augmentation.views"
                raise FieldError(f"operations[{number}].views", message)

    @property
    def changes(self) -> bool:
        """Tell whether any operation changes images."""
        return any(operation.changes for operation in self.operations)

    def require(self) -> None:
        """Raise if an operation lacks its package, or a layer has a wrong argument."""
        problems = []
        for number, operation in enumerate(self.operations):
            try:
                operation.require()
            except FieldError as error:
                path = ".".join(filter(None, (f"operations[{number}]", error.field)))
                problems.append(Problem(f"augmentation.{path}", error.message))
        if problems:
            raise ConfigError(problems)

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images after all operations."""
        import tensorflow as tf

        for number, operation in enumerate(self.operations):
            if operation.changes:
                folded = functools.partial(_folded, number=number)  # equal operations differ
                images = operation.augment(images, tf.map_fn(folded, tf.convert_to_tensor(keys)))
        return images


def _folded(key: tf.Tensor, number: int) -> tf.Tensor:
    """Return a new key from a key and a number."""
    import tensorflow as tf

    return tf.random.experimental.stateless_fold_in(key, number, alg="philox")


def _layer(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return a new Keras layer."""
    start_keras()
    import keras

    cls = getattr(keras.layers, name)
    known = [n for n in inspect.signature(cls).parameters if n not in {*OURS, "kwargs"}]
    for key in arguments:
        if key not in known:
            message = f"unknown key{nearest(key, known)}; known: {', '.join(known)}"
            raise FieldError(key, message)
    try:
        return cls(**arguments, dtype="float32")
    except (TypeError, ValueError) as error:
        raise FieldError("", " ".join(str(error).split())) from None


@functools.lru_cache(maxsize=32)  # tracing takes a second; an eager caller calls repeatedly
def _program(name: str, arguments: str, shape: tuple[int, ...]) -> Any:
    """Return the compiled function of images and keys, for images of one shape."""
    start_keras()
    import tensorflow as tf

    seeds = _keyed_seeds()()
    with tf.init_scope():  # a layer creates variables, which a caller's graph would refuse
        layer = _layer(name, json.loads(arguments))
    for inner in layer._flatten_layers():
        object.__setattr__(inner, "generator", seeds)

    def change(image_and_key: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, key = image_and_key
        seeds.begin(key)
        changed = layer(image[None], training=True)[0]
        return tf.clip_by_value(tf.ensure_shape(changed, shape), 0.0, 255.0)

    def program(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(change, (images, keys), fn_output_signature=tf.float32)

    types = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((None, 2), tf.int32)]
    return tf.function(program, input_signature=types)


@functools.cache
def _keyed_seeds() -> Any:
    """Return a replacement of Keras's seed generators: draw n depends only on the key and n.

    Draws are counted while a graph is traced, so draw n is always the same operation.
    """
    import keras

    class KeyedSeeds(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras has no types
        def __init__(self) -> None:
            self.key: Any = None
            self.count = 0

        def begin(self, key: tf.Tensor) -> None:
            self.key, self.count = key, 0

        def next(self, ordered: bool = True) -> tf.Tensor:
            self.count += 1
            return _folded(self.key, self.count)

    return KeyedSeeds
