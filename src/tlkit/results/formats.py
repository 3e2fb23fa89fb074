"""The formats that a model is exported to: how each is written, read back and used elsewhere."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.errors import PartError

# RGB pixels in [0, 255], (batch, size, size, 3) -> probabilities (batch, classes).
Answers = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@frozen(kw_only=True)
class Format:
    """How one kind of file is written and read.

    Attributes:
        file: Its name in the folder.
        write: Writes a model.
        read: Returns what a written model answers; None if what reads it is not installed.
        tolerance: By how much a probability may differ from the run's.
        script: The lines of `predict.py` after which `probabilities` takes pixels.
        needs: Modules that writing needs and tlkit itself does not.
        extra: The extra of tlkit that brings them.
        keras_only: It holds layers of Keras itself only.
        float32_only: It holds float32 arithmetic only.
    """

    file: str
    write: Callable[[keras.Model, Path], None]
    read: Callable[[Path], Answers | None]
    script: str
    tolerance: float
    needs: tuple[str, ...] = ()
    extra: str = ""
    keras_only: bool = False
    float32_only: bool = False

    def predict_py(self, resize: str) -> str:
        """Return the text of `predict.py` for models that saw images brought to size this way."""
        return BEGIN + self.script + END.format(resize=RESIZE[resize])

    def require(self) -> None:
        """Raise `PartError` if a package is missing."""
        missing = [name for name in self.needs if not _installed(name)]
        if missing:
            raise PartError(
                f"{self.file}: needs {', '.join(missing)}; pip install 'tlkit[{self.extra}]'"
            )

    def check(self, model: keras.Model, mixed_precision: str | None) -> None:
        """Raise `PartError` if the model has something that the format cannot hold."""
        if self.float32_only and mixed_precision:
            raise PartError(f"{self.file}: holds float32 only, not mixed precision; use savedmodel")
        foreign = _foreign_layers(model) if self.keras_only else []
        if foreign:
            raise PartError(
                f"{self.file}: would need code that is not Keras's to be read, for "
                f"{', '.join(foreign)}; export to savedmodel or onnx"
            )


def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _foreign_layers(model: keras.Model) -> list[str]:
    """Return the layers that Keras reads only with somebody else's code, or not at all."""
    layers = {id(x): x for x in model._flatten_layers()}.values()
    return sorted(
        f"{layer.name} ({type(layer).__name__})"
        for layer in layers
        if type(layer).__module__.partition(".")[0] != "keras"
        or isinstance(layer, keras.layers.Lambda)
    )


def _write_savedmodel(model: keras.Model, path: Path) -> None:
    model.export(path, format="tf_saved_model", verbose=False)


def _read_savedmodel(path: Path) -> Answers:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda pixels: model.serve(pixels).numpy()


def _write_keras(model: keras.Model, path: Path) -> None:
    model.save(path)


def _read_keras(path: Path) -> Answers:
    model = keras.models.load_model(path)
    return lambda pixels: model.predict(pixels, verbose=0)


@contextmanager
def _as_onnx_knows(model: keras.Model) -> Iterator[None]:
    """Compute GELU and convolutions in groups, as in ConvNeXt, by operators that tf2onnx knows."""
    changed = []
    for layer in model._flatten_layers():
        if getattr(layer, "activation", None) is keras.activations.gelu:
            layer.activation = _gelu
            changed.append(layer)
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            layer.convolution_op = partial(_in_groups, layer)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            if getattr(layer, "activation", None) is _gelu:
                layer.activation = keras.activations.gelu
            vars(layer).pop("convolution_op", None)


def _gelu(x: Any) -> Any:
    """Return x · Φ(x) by the error function; TensorFlow's own uses its complement."""
    return 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2)))


def _in_groups(layer: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    """Return the convolution of each group of channels by itself; Keras compiles it with XLA."""
    settings = {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }
    if layer.groups == layer.filters == inputs.shape[-1]:
        turned = keras.ops.transpose(kernel, (0, 1, 3, 2))
        return keras.ops.depthwise_conv(inputs, turned, **settings)
    parts = zip(
        keras.ops.split(inputs, layer.groups, axis=-1),
        keras.ops.split(kernel, layer.groups, axis=-1),
        strict=True,
    )
    return keras.ops.concatenate([keras.ops.conv(x, k, **settings) for x, k in parts], axis=-1)


def _write_onnx(model: keras.Model, path: Path) -> None:
    pixels = keras.InputSpec(shape=model.input.shape, dtype="float32", name="pixels")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # reading the file back tells it all
    with _as_onnx_knows(model), warnings.catch_warnings():
        # Keras 3.15.1 looks for an attribute that NumPy 2 warns of, to mend tf2onnx.
        warnings.filterwarnings("ignore", r"In the future `np\.\w+` will be defined")
        model.export(path, format="onnx", input_signature=[pixels], verbose=False)


def _read_onnx(path: Path) -> Answers | None:
    if not _installed("onnxruntime"):
        return None
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, without a public name
        raise PartError(
            f"{path.name}: tf2onnx knows no operator for a layer of this network; export to "
            f"savedmodel or keras ({' '.join(str(error).split())[:200]})"
        ) from error
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format(
        file="savedmodel",
        tolerance=1e-5,
        write=_write_savedmodel,
        read=_read_savedmodel,
        script="""\
import tensorflow as tf

model = tf.saved_model.load(str(HERE / "savedmodel"))


def probabilities(pixels):
    return model.serve(pixels).numpy()
""",
    ),
    "keras": Format(
        file="model.keras",
        tolerance=1e-5,
        write=_write_keras,
        read=_read_keras,
        keras_only=True,
        script="""\
import keras

model = keras.models.load_model(HERE / "model.keras")


def probabilities(pixels):
    return model.predict(pixels, verbose=0)
""",
    ),
    "onnx": Format(
        file="model.onnx",
        tolerance=1e-4,  # ONNX Runtime orders and fuses the arithmetic its own way
        write=_write_onnx,
        read=_read_onnx,
        needs=("tf2onnx", "onnx"),
        extra="onnx",
        float32_only=True,
        script="""\
import onnxruntime

session = onnxruntime.InferenceSession(str(HERE / "model.onnx"))
(name,) = [one.name for one in session.get_inputs()]


def probabilities(pixels):
    return session.run(None, {name: pixels})[0]
""",
    ),
}


RESIZE = {
    "stretch": "image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)",
    "pad": "ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.BILINEAR)",
    "crop": "ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)",
}
BEGIN = '''\
"""Classify image files with the model beside this file: python predict.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
SIZE = FACTS["image_size"]

'''
END = '''

def pixels_of(path):
    """Return an image file as (size, size, 3) float32, RGB, from 0 to 255."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray({resize}, np.float32)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        found = probabilities(pixels_of(path)[None])[0]
        print(path, FACTS["classes"][found.argmax()], *(format(p, ".6f") for p in found))
'''
