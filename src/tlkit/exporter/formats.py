"""The formats of exported models, and `predict.py` next to a model: the run's rules."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.data.images import to_pixels
from tlkit.metrics.calibration import decide
from tlkit.system.errors import PartError
from tlkit.system.keras import keras
from tlkit.system.source import standalone
from tlkit.system.text import printable

FACTS, SCRIPT = "model.json", "predict.py"
GELU = keras.activations.gelu
HEAD = '''\
"""Classify image files with the model in this folder: python predict.py IMAGE...

Prints each file with its class and the probabilities. Files are read, resized and decided by the
same rules as in tlkit {version}, whose source is below. Reading DICOM needs pydicom.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
{imports}

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
CLASSES = FACTS["classes"]
'''
MAIN = '''\
def read_pixels(path):
    """Return an image file as (size, size, 3) uint8, RGB, at the model's size."""
    content = Path(path).read_bytes()
    return to_pixels(content, FACTS["image_size"], FACTS["resize"], FACTS["mask_center"])


def classify(path):
    """Return the class and the probabilities of an image file, as the run predicts them."""
    rows = probabilities(read_pixels(path)[None].astype(np.float32))
    return predicted(rows)[0], rows[0]


def predicted(rows):
    """Return the class of each row of probabilities."""
    rule = FACTS["threshold"]
    favored = (CLASSES.index(rule["class"]), rule["p"]) if rule else (None, 0.0)
    return [CLASSES[number] for number in decide(rows, *favored)]


def main():
    """Classify the files named on the command line; return 1 if one could not be read."""
    failed = 0
    for path in sys.argv[1:]:
        try:
            name, row = classify(path)
            print(path, name, *(format(p, ".6f") for p in row))
        except (OSError, ImageError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"{printable(path)}: {reason}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
'''


def predict_py(probabilities: str) -> str:
    """Return the text of `predict.py`."""
    imports, rules = standalone(to_pixels, decide, printable)
    rules = rules.replace("'tlkit[dicom]'", "pydicom").replace("'tlkit[heic]'", "pillow-heif")
    head = HEAD.format(version=version("tlkit"), imports=imports)
    return "\n\n".join([head, probabilities.rstrip(), "", rules, "", MAIN])


@frozen(kw_only=True)
class Format:
    """A file format.

    Attributes:
        file: The file's name in the folder.
        write: Writes a model.
        reader: The module that reads the file.
        tolerance: The largest allowed difference of a probability from the run's.
        script: The lines of `predict.py` that define `probabilities`.
        needs: Modules that writing needs and tlkit itself does not.
        extra: The extra of tlkit that installs them.
        keras_only: The format can only hold Keras's own layers.
        float32_only: The format can only hold float32 arithmetic.
    """

    file: str
    write: Callable[[keras.Model, Path], None]
    reader: str
    script: str
    tolerance: float
    needs: tuple[str, ...] = ()
    extra: str = ""
    keras_only: bool = False
    float32_only: bool = False

    def predict_py(self) -> str:
        """Return the text of `predict.py`."""
        return predict_py(self.script)

    def require(self) -> None:
        """Raise `PartError` if a package is missing."""
        missing = [name for name in self.needs if not installed(name)]
        if missing:
            raise PartError(
                f"{self.file}: needs {', '.join(missing)}; pip install 'tlkit[{self.extra}]'"
            )

    def check(self, model: keras.Model, mixed_precision: str | None) -> None:
        """Raise `PartError` if the format cannot hold the model."""
        if self.float32_only and mixed_precision:
            raise PartError(f"{self.file}: holds float32 only, not mixed precision; use savedmodel")
        foreign = _foreign_layers(model) if self.keras_only else []
        if foreign:
            raise PartError(
                f"{self.file}: could not be read without code outside Keras, for "
                f"{', '.join(foreign)}; export to savedmodel or onnx"
            )


def installed(module: str) -> bool:
    """Tell whether a module is installed, without importing it."""
    return find_spec(module) is not None


def _foreign_layers(model: keras.Model) -> list[str]:
    """Return the layers that Keras alone cannot read."""
    layers = {id(x): x for x in model._flatten_layers()}.values()
    return sorted(
        f"{layer.name} ({type(layer).__name__})"
        for layer in layers
        if type(layer).__module__.partition(".")[0] != "keras"
        or isinstance(layer, keras.layers.Lambda)
    )


def _write_savedmodel(model: keras.Model, path: Path) -> None:
    model.export(path, format="tf_saved_model", verbose=False)


def _write_keras(model: keras.Model, path: Path) -> None:
    model.save(path)


@contextmanager
def _onnx_operators(model: keras.Model) -> Iterator[None]:
    """Compute GELU and grouped convolutions, as in ConvNeXt, by operators that tf2onnx supports."""
    activations, convolutions = [], []
    for layer in model._flatten_layers():
        # Most layers have it as `activation`, KerasHub's Swin as `act_layer`.
        activations += [(layer, key) for key in vars(layer) if vars(layer)[key] is GELU]
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            convolutions.append(layer)
    for layer, key in activations:
        setattr(layer, key, _gelu)
    for layer in convolutions:
        layer.convolution_op = partial(_grouped_convolution, layer)
    try:
        yield
    finally:
        for layer, key in activations:
            setattr(layer, key, GELU)
        for layer in convolutions:
            vars(layer).pop("convolution_op", None)


def _gelu(x: Any) -> Any:
    """Return x · Φ(x) by the error function; TensorFlow uses the complementary one."""
    return 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2)))


def _grouped_convolution(layer: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    """Convolve each group of channels separately; Keras would compile with XLA."""
    settings = {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }
    if layer.groups == layer.filters == inputs.shape[-1]:
        transposed = keras.ops.transpose(kernel, (0, 1, 3, 2))
        return keras.ops.depthwise_conv(inputs, transposed, **settings)
    parts = zip(
        keras.ops.split(inputs, layer.groups, axis=-1),
        keras.ops.split(kernel, layer.groups, axis=-1),
        strict=True,
    )
    return keras.ops.concatenate([keras.ops.conv(x, k, **settings) for x, k in parts], axis=-1)


def _write_onnx(model: keras.Model, path: Path) -> None:
    pixels = keras.InputSpec(shape=model.input.shape, dtype="float32", name="pixels")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the file is read back and checked
    with warnings.catch_warnings():
        # To patch tf2onnx, Keras 3.15.1 looks for an attribute that NumPy 2 warns about.
        warnings.filterwarnings("ignore", r"In the future `np\.\w+` will be defined")
        constant = _with_constants(model)
        constant.export(path, format="onnx", input_signature=[pixels], verbose=False)
    _name_onnx(path)


def _with_constants(model: keras.Model) -> keras.Model:
    """Return the model as one function in which weights and other tensors are constants.

    A tensor that is not a variable, such as a transformer's positions or a preset's offsets, is
    captured by the traced function, and tf2onnx would make it an input of the ONNX model.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced = tf.function(lambda pixels: model(pixels, training=False))
    with _onnx_operators(model):
        concrete = traced.get_concrete_function(tf.TensorSpec(model.input.shape, tf.float32))
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    function = keras.layers.Lambda(lambda pixels: frozen(pixels)[0], model.output.shape[1:])
    return keras.Sequential([keras.Input(model.input.shape[1:]), function])


def _name_onnx(path: Path) -> None:
    """Give the output and the number of images names that tell what they are."""
    import onnx

    model = onnx.load(path)
    (pixels,), (output,) = model.graph.input, model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["probabilities" if name == output.name else name for name in names]
    output.name = "probabilities"
    for value in (pixels, output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format(
        file="savedmodel",
        tolerance=1e-5,
        write=_write_savedmodel,
        reader="tensorflow",
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
        reader="keras",
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
        tolerance=1e-4,  # ONNX Runtime reorders and fuses operations
        write=_write_onnx,
        reader="onnxruntime",
        needs=("tf2onnx", "onnx"),
        extra="onnx",
        float32_only=True,
        script="""\
import onnxruntime

session = onnxruntime.InferenceSession(str(HERE / "model.onnx"))
(name,) = [entry.name for entry in session.get_inputs()]


def probabilities(pixels):
    return session.run(None, {name: pixels})[0]
""",
    ),
}
