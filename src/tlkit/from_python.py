"""`FromModel` and `FromImages`: models and images that Python already has, as parts of a run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.config.structure import keys
from tlkit.data.splits import SPLITS, Example, Splits, check_classes, is_missing
from tlkit.model import graph
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone, Dataset
from tlkit.runfolder.experiment import FROM_IMAGES, FROM_MODEL
from tlkit.system.errors import DataError, PartError
from tlkit.system.keras import start_keras
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    import tensorflow as tf

# Images and labels, or an iterable of such pairs: single images or batches, as in a
# `tf.data.Dataset`.
Images = tuple[Any, Any] | Iterable[tuple[Any, Any]]
INITIALIZER = "_initializer"  # suffix of the keys in a layer's configuration left out of its hash


@frozen(kw_only=True)
class FromModel(Backbone):
    """A backbone made from a Keras model without its classifier, with the weights that it has.

    The run trains a copy and leaves the model as it is. A run folder cannot hold the model:
    `tlkit.load` needs one with the same layers, as `backbone=FromModel(model=...)`.

    Attributes:
        model: A functional or Sequential model with one input `(size, size, 3)`, one output and no
            nested models.
        preprocess: How pixels become the model's input: `native` leaves them float32 in [0, 255],
            `unit` divides by 255, or a function of a batch `(batch, height, width, 3)` of such
            pixels.
        image_size: Height and width of the input; unset: the model's own.
        weights: Cannot be set; the weights are the model's.

    Raises:
        PartError: If the model has another form.
    """

    model: keras.Model = field(metadata={"key": False})
    preprocess: Any = "native"
    image_size: int = field()
    weights: WeightsSource | tuple[WeightsSource, ...] = field(default="none", init=False)

    @image_size.default
    def _size_of_model(self) -> int:
        inputs: Any = getattr(self.model, "inputs", None) or ()
        shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
        return shape[1] or 0 if len(shape) > 1 else 0

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
        size, shape = self.image_size, tuple(inputs[0].shape)[1:]
        free = tuple(size if side is None else side for side in shape)  # None: any size
        if free != (size, size, 3) or not size:
            raise PartError(
                f"FromModel: the model's input must be (size, size, 3), got {shape} "
                f"and image_size {size or 'unset'}"
            )

    def record(self) -> dict[str, Any]:
        """Return the entry for a run's record: a hash of the layers instead of the model."""
        import keras

        layers = [
            [
                type(layer).__name__,
                {k: v for k, v in layer.get_config().items() if not k.endswith(INITIALIZER)},
            ]
            for layer in self.model.layers
            if not isinstance(layer, keras.layers.InputLayer)  # its name differs in every process
        ]
        text = json.dumps(layers, sort_keys=True, default=str)
        preprocess = self.preprocess
        if callable(preprocess):
            names = [getattr(preprocess, name, "?") for name in ("__module__", "__qualname__")]
            preprocess = ":".join(names)
        return {
            "name": FROM_MODEL,
            "preprocess": preprocess,
            "image_size": self.image_size,
            "layers_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def layers(self) -> LayerTable:
        """Return the table of the model's layers."""
        return graph.layer_table(self.build())

    def build(self) -> keras.Model:
        """Return a copy of the model with random weights."""
        import keras

        flat = keras.Model(self.model.inputs[0], self.model.outputs[0])
        shape = (self.image_size, self.image_size, 3)
        return keras.models.clone_model(flat, input_tensors=keras.Input(shape))

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Return the pixels unchanged."""
        return images

    def preprocess_images(self, images: tf.Tensor) -> tf.Tensor:
        """Turn pixels into the model's input."""
        if callable(self.preprocess):
            return self.preprocess(images)
        return super().preprocess_images(images)

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Copy the model's weights."""
        digest = hashlib.sha256()
        for layer in model.layers:
            if layer.weights:
                arrays = self.model.get_layer(layer.name).get_weights()
                layer.set_weights(arrays)
                for array in arrays:
                    digest.update(array.tobytes())
        return {"source": "the given model", "sha256": digest.hexdigest()}


@frozen(kw_only=True)
class FromImages(Dataset):
    """A dataset made from images and labels in memory, or from a list of files.

    Each of `train`, `val` and `test` is a pair of images and labels, or an iterable of such
    pairs, batched or not: a `tf.data.Dataset` is one. Images are `(…, height, width, 3)` or
    `(…, height, width, 1)` in [0, 255], before any preprocessing, uint8 or floats as
    `keras.utils.image_dataset_from_directory` gives them, held in memory as PNG files; or paths
    of image files, read when they are needed. Labels are class names, or numbers in the order
    of `classes`. A run folder has hashes of the images, not the images.

    Attributes:
        train: The images to train on.
        val: The validation images.
        test: The images that the run is judged by; unset: those of `val`.
        classes: Class names in the order of the model's outputs.
        weights: The weight of each training image in the loss; unset: all weigh the same.
    """

    train: Images = field(metadata={"key": False}, repr=False)
    val: Images = field(metadata={"key": False}, repr=False)
    test: Images | None = field(default=None, metadata={"key": False}, repr=False)
    classes: tuple[str, ...] = field(validator=check_classes)
    weights: Sequence[float] | None = field(default=None, metadata={"key": False}, repr=False)

    def record(self) -> dict[str, Any]:
        """Return the entry for a run's record: the keys that all datasets have."""
        values = {key.name: getattr(self, key.name) for key in keys(type(self))}
        return {
            "name": FROM_IMAGES,
            **{key: value for key, value in values.items() if value is not None},
            "classes": list(self.classes),
        }

    def load(self) -> Splits:
        """Return the splits of the images."""
        files: dict[str, bytes | Path] = {}
        examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for number, (image, label) in enumerate(_pairs(split, getattr(self, split))):
                name = f"{number:06d}"
                name += f"-{image.name}" if isinstance(image, Path) else ".png"
                path = f"{split}/{name}"
                files[path] = image if isinstance(image, Path) else png(image)
                examples[split].append(Example(path, self._class(split, number, label)))
        weights = self.weights
        if weights is not None and len(weights) != len(examples["train"]):
            message = f"got {len(weights)} for {len(examples['train'])} training images"
            raise DataError(f"weights: there must be one per training image, {message}")
        return Splits(
            classes=self.classes,
            image_weights=dict(zip((e.path for e in examples["train"]), weights, strict=True))
            if weights is not None
            else {},
            train=tuple(examples["train"]),
            val=tuple(examples["val"]),
            test=tuple(examples["test"]),
            read=lambda path: _content(files[path]),
        )

    def _class(self, split: str, number: int, label: Any) -> str:
        """Return the class of a label, which is a name or a number."""
        if is_missing(label):
            raise DataError(f"{split} image {number}: the label is missing, got {label!r}")
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
    """Yield single images, as paths or `(height, width, 1 or 3)` arrays, with their labels."""
    import numpy as np

    if given is None:
        return
    for pair in [given] if _is_one_pair(given) else given:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise DataError(
                f"{split}: must be images and their labels, (images, labels), or an iterable of "
                f"such pairs, got {type(given).__name__}"
            )
        images: Any = _paths(pair[0])
        # NumPy would turn a missing label among names into the name "nan".
        labels = np.asarray(pair[1], object if isinstance(pair[1], list | tuple) else None)
        if images is None:
            images = _as_pixels(np.asarray(pair[0]))
            if images.ndim == 3:
                images, labels = images[None], labels[None]
            if images.ndim != 4 or images.shape[-1] not in {1, 3} or images.dtype != np.uint8:
                raise DataError(
                    f"{split}: images must be (count, height, width, 1 or 3) uint8 from 0 to 255, "
                    f"got {images.shape} {images.dtype}"
                )
        elif labels.ndim == 0:
            labels = labels[None]
        if labels.shape != (len(images),):
            raise DataError(
                f"{split}: there must be one label per image, a name or a number, "
                f"got labels {labels.shape} for {len(images)} images"
            )
        yield from zip(images, labels.tolist(), strict=True)


def _as_pixels(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats from 0 to 255, which Keras makes of image files, as uint8; others unchanged."""
    if images.dtype.kind != "f" or not images.size:
        return images
    low, high = images.min(), images.max()
    whole = high > 1 or not (images % 1).any()  # others are from 0 to 1
    return images.round().astype("uint8") if low >= 0 and high <= 255 and whole else images


def _is_one_pair(given: Any) -> bool:
    """Tell images with labels from a tuple of two such pairs."""
    if not (isinstance(given, tuple) and len(given) == 2):
        return False
    images = given[0]
    paths = isinstance(images, tuple) and all(isinstance(item, str | Path) for item in images)
    return hasattr(images, "shape") or isinstance(images, list) or paths


def _paths(images: Any) -> list[Path] | None:
    """Return a path, or a list or array of paths, as a list; None for pixels."""
    if isinstance(images, str | Path):
        return [Path(images)]
    if getattr(getattr(images, "dtype", None), "kind", "") == "U":
        images = images.tolist()
    if isinstance(images, list | tuple) and all(isinstance(item, str | Path) for item in images):
        return [Path(item) for item in images]
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
