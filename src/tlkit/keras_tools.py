"""The pieces for people who write their own Keras code: any model, any labels, no TOML."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from attrs import field, frozen

from tlkit.config.structure import keys
from tlkit.data.splits import SPLITS, Example, Splits, check_classes
from tlkit.model.graph import layer_table as table_of
from tlkit.model.layers import LayerRange, LayerTable
from tlkit.parts.kinds import (
    Backbone,
    BatchNorm,
    ClassWeights,
    Dataset,
    FreezePolicy,
    Head,
    registries,
)
from tlkit.system.errors import DataError, PartError
from tlkit.system.keras import start_keras
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    import tensorflow as tf

    from tlkit.train.assemble import Frozen


# Images and labels, or an iterable of such pairs: batches or single images, as a `tf.data.Dataset`
# gives.
Images = tuple[Any, Any] | Iterable[tuple[Any, Any]]
START = "_initializer"  # what of a layer's configuration only says how its weights began


@frozen(kw_only=True)
class FromModel(Backbone):
    """A backbone made of a Keras model without its classifier, with the weights it has.

    The run trains a copy; the model itself is left as it is. A run folder cannot hold the model:
    `tlkit.load` wants one of the same layers back, as `backbone=FromModel(model=...)`.

    Attributes:
        model: A functional or Sequential model with one input `(size, size, 3)`, one output and no
            models nested in it.
        preprocess: How pixels become its input: `native` leaves them float32 in [0, 255], `unit`
            divides by 255, or a function of a batch `(batch, height, width, 3)` of such pixels.
        image_size: Height and width of the input; unset: the model's own.
        weights: Not to be set: they are the model's.

    Raises:
        PartError: If the model is of another form.
    """

    model: keras.Model = field(metadata={"key": False})
    preprocess: Any = "native"
    image_size: int = 0
    weights: WeightsSource | tuple[WeightsSource, ...] = field(default="none", init=False)

    def __attrs_post_init__(self) -> None:
        start_keras()
        import keras

        if not (self.preprocess in {"native", "unit"} or callable(self.preprocess)):
            raise PartError(
                "FromModel: preprocess must be 'native', 'unit' or a function, "
                f"got {self.preprocess!r}"
            )
        nested = [x.name for x in getattr(self.model, "layers", []) if isinstance(x, keras.Model)]
        if nested:
            raise PartError(
                f"FromModel: the model must be flat, got a model nested in it, {nested[0]!r}"
            )
        inputs = getattr(self.model, "inputs", None)  # a subclassed model has none
        if not inputs or len(inputs) != 1 or len(self.model.outputs) != 1:
            raise PartError("FromModel: needs a functional model with one input and one output")
        _, height, width, channels = (*inputs[0].shape, *[-1] * 4)[:4]
        size = self.image_size or height
        if (height or size, width or size, channels) != (size, size, 3) or not size:
            raise PartError(
                f"FromModel: the model's input must be (size, size, 3), got {inputs[0].shape[1:]} "
                f"and image_size {self.image_size or 'unset'}"
            )
        object.__setattr__(self, "image_size", size)

    def record(self) -> dict[str, Any]:
        """Return what stands for the model in a run's record: the hash of what its layers are."""
        import keras

        from tlkit.runfolder.experiment import FROM_MODEL

        layers = [
            [
                type(layer).__name__,
                {k: v for k, v in layer.get_config().items() if not k.endswith(START)},
            ]
            for layer in self.model.layers
            if not isinstance(layer, keras.layers.InputLayer)  # named anew in every process
        ]
        text = json.dumps(layers, sort_keys=True, default=str)
        prepared = self.preprocess
        if callable(prepared):
            names = [getattr(prepared, name, "?") for name in ("__module__", "__qualname__")]
            prepared = ":".join(names)
        return {
            "name": FROM_MODEL,  # no registered name has capitals
            "preprocess": prepared,
            "image_size": self.image_size,
            "layers_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def layers(self) -> LayerTable:
        """Return the table of the model's layers."""
        from tlkit.model.graph import layer_table

        return layer_table(self.build())

    def build(self) -> keras.Model:
        """Return a copy of the model with random weights."""
        import keras

        flat = keras.Model(self.model.inputs[0], self.model.outputs[0])
        shape = (self.image_size, self.image_size, 3)
        return keras.models.clone_model(flat, input_tensors=keras.Input(shape))

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Return the pixels as they are."""
        return images

    def preprocess_images(self, images: tf.Tensor) -> tf.Tensor:
        """Turn pixels into the model's input."""
        return (
            self.preprocess(images)
            if callable(self.preprocess)
            else super().preprocess_images(images)
        )

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Copy the model's weights."""
        found = hashlib.sha256()
        for layer in model.layers:
            if layer.weights:
                arrays = self.model.get_layer(layer.name).get_weights()
                layer.set_weights(arrays)
                for array in arrays:
                    found.update(array.tobytes())
        return {"source": "the given model", "sha256": found.hexdigest()}


@frozen(kw_only=True)
class FromImages(Dataset):
    """A dataset made of images and labels that Python has already.

    Each of `train`, `val` and `test` is a pair of images and labels, or an iterable of such pairs,
    batched or not: a `tf.data.Dataset` is one. Images are `(…, height, width, 3)` or
    `(…, height, width, 1)` uint8 in [0, 255], before any preprocessing, held in memory as PNG
    files; or a list of paths of image files, which are read when they are needed. Labels are class
    names or numbers in the order of `classes`. A run folder has hashes and not the images.

    Attributes:
        train: The images learnt from.
        val: The images watched while training.
        test: The images judged by in the end; unset: those of `val`.
        classes: Class names in the order of the model's outputs.
    """

    train: Images = field(metadata={"key": False}, repr=False)
    val: Images = field(metadata={"key": False}, repr=False)
    test: Images | None = field(default=None, metadata={"key": False}, repr=False)
    classes: tuple[str, ...] = field(validator=check_classes)

    def record(self) -> dict[str, Any]:
        """Return what stands for the images in a run's record: the keys that all datasets have."""
        from tlkit.runfolder.experiment import FROM_IMAGES

        values = {key.name: getattr(self, key.name) for key in keys(type(self))}
        return {
            "name": FROM_IMAGES,  # no registered name has capitals
            **{key: value for key, value in values.items() if value is not None},
            "classes": list(self.classes),
        }

    def load(self) -> Splits:
        """Return the images: PNG files in memory, or the files that the paths name.

        Raises:
            DataError: If images or labels are not as they must be.
        """
        files: dict[str, bytes | Path] = {}
        found: dict[str, tuple[Example, ...]] = {}
        for split in SPLITS:
            examples = []
            for number, (image, label) in enumerate(_pairs(split, getattr(self, split))):
                path = f"{split}/{number:06d}"
                path += f"-{image.name}" if isinstance(image, Path) else ".png"
                files[path] = image if isinstance(image, Path) else png(image)
                examples.append(Example(path, self._class(split, number, label)))
            found[split] = tuple(examples)
        return Splits(
            classes=self.classes,
            train=found["train"],
            val=found["val"],
            test=found["test"],
            read=lambda path: _content(files[path]),
        )

    def _class(self, split: str, number: int, label: Any) -> str:
        """Return the class that a label means."""
        if isinstance(label, bytes):
            label = label.decode()
        if isinstance(label, str) and label in self.classes:
            return str(label)
        if not isinstance(label, str) and label == int(label) and 0 <= label < len(self.classes):
            return self.classes[int(label)]
        raise DataError(
            f"{split} image {number}: the label must be one of {', '.join(self.classes)}, "
            f"or a number below {len(self.classes)}, got {label!r}"
        )


def _pairs(split: str, given: Images | None) -> Iterator[tuple[npt.NDArray[np.uint8] | Path, Any]]:
    """Yield single images, paths or `(height, width, 1 or 3)`, and their labels."""
    import numpy as np

    if given is None:
        return
    for pair in [given] if _is_one_pair(given) else given:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise DataError(
                f"{split}: must be images and their labels, (images, labels), or an iterable of "
                f"such pairs, got {type(given).__name__}"
            )
        images, labels = pair
        labels = np.asarray(labels)
        paths = _paths(images)
        if paths is None:
            images = np.asarray(images)
            if images.ndim == 3:
                images, labels = images[None], labels[None]
            if images.ndim != 4 or images.shape[-1] not in {1, 3} or images.dtype != np.uint8:
                raise DataError(
                    f"{split}: images must be (count, height, width, 1 or 3) uint8 from 0 to 255, "
                    f"got {images.shape} {images.dtype}"
                )
        elif labels.ndim == 0:
            labels = labels[None]
        count = len(images if paths is None else paths)
        if labels.shape != (count,):
            raise DataError(
                f"{split}: there must be one label an image, a name or a number, "
                f"got labels {labels.shape} for {count} images"
            )
        yield from zip(images if paths is None else paths, labels.tolist(), strict=True)


def _is_one_pair(given: Any) -> bool:
    """Tell images and labels from a tuple of two such pairs."""
    if not (isinstance(given, tuple) and len(given) == 2):
        return False
    first = given[0]
    paths = isinstance(first, tuple) and all(isinstance(one, str | Path) for one in first)
    return hasattr(first, "shape") or isinstance(first, list) or paths


def _paths(images: Any) -> list[Path] | None:
    """Return a path, a list or an array of them as a list; None for what are pixels."""
    if isinstance(images, str | Path):
        return [Path(images)]
    if getattr(getattr(images, "dtype", None), "kind", "") == "U":
        images = images.tolist()
    if isinstance(images, list | tuple) and all(isinstance(one, str | Path) for one in images):
        return [Path(one) for one in images]
    return None


def _content(file: bytes | Path) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an image, `(height, width, 1 or 3)`, as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


L = TypeVar("L", bound=Hashable)
Selector = str | int | LayerRange


def build_model(
    backbone: Backbone | str = "vgg16",
    head: Head | str = "flatten_dense",
    *,
    classes: int,
    seed: int = 0,
) -> keras.Model:
    """Return a flat functional model: a backbone with its weights loaded, and a fresh head.

    Args:
        backbone: A backbone, or the name of one with its default settings.
        head: A head, or the name of one.
        classes: How many classes there are.
        seed: What the random weights depend on.

    Returns:
        A model from `(batch, image_size, image_size, 3)`, already preprocessed (see
        `Backbone.prepare`), to probabilities `(batch, classes)`.

    Raises:
        ValueError: If there are fewer than two classes.
        WeightsError: If the backbone's weights are not available or do not fit.
    """
    from tlkit.train.assemble import assemble

    if classes < 2:
        raise ValueError(f"classes: must be at least 2, got {classes}")
    if isinstance(backbone, str):
        backbone = registries.backbones.get(backbone)()
    if isinstance(head, str):
        head = registries.heads.get(head)()
    return assemble(backbone, head, classes, seed)[0]


def layer_table(model: keras.Model) -> LayerTable:
    """Return the numbered layers of any Keras model; nested models are listed layer by layer.

    The input is layer 0 and not a row. A nested model's layers are named `MODEL/LAYER`; the block
    of a layer is its nested model, or else the part of its name before the first underscore.
    """
    return table_of(model)


def freeze(
    model: keras.Model,
    *,
    train: Selector | Sequence[Selector] | Mapping[str, float] | FreezePolicy,
    batch_norm: BatchNorm = "inference",
) -> Frozen:
    """Train the chosen layers of any Keras model and freeze all others; compile it afterwards.

    Args:
        model: Any model; the layers of nested models are numbered as if it were flat.
        train: What is trained: a range (`"19-22"`), a layer's number or name, a glob or block name,
            a list of these, a mapping from these to learning-rate multipliers (later ones
            prevail), or a freeze policy, of which the first stage counts.
        batch_norm: `inference` freezes every BatchNorm layer whatever `train` says, `head` all but
            those of block `head`, `train` none; a policy's own `batch_norm` counts instead.

    Returns:
        The layer table with rates; print it. Its `scale` gives an optimizer that obeys the rates.

    Raises:
        LayerError: If a range or name matches nothing.
        TypeError: If `model` or `train` is something else.
        ValueError: If nothing would be trained, or the model is not built yet.
    """
    import keras

    from tlkit.train import assemble as models

    if not isinstance(model, keras.Model):
        raise TypeError(f"model: must be a Keras model, got {model!r}")
    if not _has_inputs(model):
        raise ValueError("model: must be functional or Sequential and begin with keras.Input")
    if batch_norm not in get_args(BatchNorm):
        known = ", ".join(get_args(BatchNorm))
        raise ValueError(f"batch_norm: must be one of {known}, got {batch_norm!r}")
    return models.freeze(
        model, train if isinstance(train, FreezePolicy) else _rates(train), batch_norm
    )


def _has_inputs(model: keras.Model) -> bool:
    """Tell whether a model is a graph; of others Keras has no inputs, or raises."""
    try:
        return bool(model.inputs)
    except (AttributeError, ValueError):
        return False


def _rates(train: Any) -> dict[str, float]:
    """Return what `freeze` was told to train as selectors with their learning-rate multipliers."""
    if isinstance(train, Selector):
        train = [train]
    if isinstance(train, Sequence):
        train = dict.fromkeys(train, 1.0)
    wrong = not isinstance(train, Mapping) or any(
        isinstance(selector, bool) or not isinstance(selector, Selector) for selector in train
    )
    if wrong:
        raise TypeError(
            "train: must be a range, a layer's number or name, a list of these, a mapping from "
            f"these to rates, or a freeze policy, got {train!r}"
        )
    for selector, rate in train.items():
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"train: the rate of {selector!r} must be a number, got {rate!r}")
    return {str(selector): float(rate) for selector, rate in train.items()}


def class_weights(
    labels: Mapping[L, int] | Iterable[L], weighting: ClassWeights | str = "balanced"
) -> dict[L, float]:
    """Return the weight of every class, by its name or number.

    Args:
        labels: How many images each class has, or the training images' labels themselves: names or
            numbers, one an image, in a list, an array or a tensor.
        weighting: A class weighting, or the name of one.

    >>> class_weights({"normal": 50, "pneumonia": 100})
    {'normal': 1.5, 'pneumonia': 0.75}
    >>> class_weights([0, 0, 0, 1])
    {0: 0.6666666666666666, 1: 2.0}

    Raises:
        ValueError: If there are no labels, a class has no images, or the weighting does not know
            a class.
    """
    if isinstance(weighting, str):
        weighting = registries.class_weights.get(weighting)()
    counts: Mapping[Any, int] = labels if isinstance(labels, Mapping) else _counted(labels)
    if not counts:
        raise ValueError("labels: there are none")
    return weighting.planned(counts)


def _counted(labels: Iterable[L]) -> dict[L, int]:
    counts = Counter(_one_each(labels))
    return {label: counts[label] for label in sorted(counts)}


def _one_each(labels: Any) -> list[Any]:
    """Return labels as Python values, one an image.

    Raises:
        ValueError: If they are something else, such as one-hot.
    """
    if hasattr(labels, "__array__"):
        import numpy as np

        found = np.asarray(labels)
        if found.ndim == 0 or found.size != len(found):
            raise ValueError(
                f"labels: must be one an image, got shape {found.shape}; "
                "of one-hot labels take labels.argmax(axis=1)"
            )
        return found.ravel().tolist()
    return [label.item() if hasattr(label, "item") else label for label in labels]


def sample_weights(labels: Iterable[L], weights: Mapping[L, float]) -> npt.NDArray[np.float32]:
    """Return the weight of each image, for `fit(..., sample_weight=...)`.

    Keras's own `class_weight` gives classes it does not find the weight 1 without a word, so tlkit
    never uses it.

    Args:
        labels: The class of each image, as in `weights`.
        weights: What `class_weights` returned.

    Returns:
        `(images,)` float32.

    Raises:
        ValueError: If a label has no weight.
    """
    import numpy as np

    found = _one_each(labels)
    missing = sorted({str(label) for label in found if label not in weights})
    if missing:
        raise ValueError(f"labels: {missing[0]!r} has no weight, known: {list(weights)}")
    return np.array([weights[label] for label in found], np.float32)
