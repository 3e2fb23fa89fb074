"""Export of a finished run as a model file for programs without tlkit."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.classifier import Classifier, load
from tlkit.metrics.calibration import TINY
from tlkit.parts.kinds import Backbone
from tlkit.system.errors import PartError, ResourceError, RunFolderError, WeightsError
from tlkit.system.files import new_folder, write_text
from tlkit.system.keras import keras, tf

# RGB pixels in [0, 255], (batch, size, size, 3) -> probabilities (batch, classes).
Predictor = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@frozen(kw_only=True)
class Format:
    """A file format.

    Attributes:
        file: The file's name in the folder.
        write: Writes a model.
        read: Loads a written model; returns None if the package for that is not installed.
        tolerance: The largest allowed difference of a probability from the run's.
        script: The lines of `predict.py` that define `probabilities`.
        needs: Modules that writing needs and tlkit itself does not.
        extra: The extra of tlkit that installs them.
        keras_only: The format can only hold Keras's own layers.
        float32_only: The format can only hold float32 arithmetic.
    """

    file: str
    write: Callable[[keras.Model, Path], None]
    read: Callable[[Path], Predictor | None]
    script: str
    tolerance: float
    needs: tuple[str, ...] = ()
    extra: str = ""
    keras_only: bool = False
    float32_only: bool = False

    def predict_py(self, resize: str) -> str:
        """Return the text of `predict.py` for a way to resize images."""
        return BEGIN + self.script + END.format(resize=RESIZE[resize])

    def require(self) -> None:
        """Raise `PartError` if a package is missing."""
        missing = [name for name in self.needs if not _installed(name)]
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


def _installed(module: str) -> bool:
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


def _read_savedmodel(path: Path) -> Predictor:
    model = tf.saved_model.load(str(path))
    return lambda pixels: model.serve(pixels).numpy()


def _write_keras(model: keras.Model, path: Path) -> None:
    model.save(path)


def _read_keras(path: Path) -> Predictor:
    model = keras.models.load_model(path)
    return lambda pixels: model.predict(pixels, verbose=0)


@contextmanager
def _onnx_operators(model: keras.Model) -> Iterator[None]:
    """Compute GELU and grouped convolutions, as in ConvNeXt, by operators that tf2onnx supports."""
    changed = []
    for layer in model._flatten_layers():
        if getattr(layer, "activation", None) is keras.activations.gelu:
            layer.activation = _gelu
            changed.append(layer)
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            layer.convolution_op = partial(_grouped_convolution, layer)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            if getattr(layer, "activation", None) is _gelu:
                layer.activation = keras.activations.gelu
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
    with _onnx_operators(model), warnings.catch_warnings():
        # To patch tf2onnx, Keras 3.15.1 looks for an attribute that NumPy 2 warns about.
        warnings.filterwarnings("ignore", r"In the future `np\.\w+` will be defined")
        model.export(path, format="onnx", input_signature=[pixels], verbose=False)


def _read_onnx(path: Path) -> Predictor | None:
    if not _installed("onnxruntime"):
        return None
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, without a public name
        raise PartError(
            f"{path.name}: tf2onnx has no operator for a layer of this network; export to "
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
        tolerance=1e-4,  # ONNX Runtime reorders and fuses operations
        write=_write_onnx,
        read=_read_onnx,
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


RESIZE = {
    "stretch": "image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)",
    "pad": "ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.BILINEAR)",
    "crop": "ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)",
}
BEGIN = '''\
"""Classify image files with the model in this folder: python predict.py IMAGE..."""

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
        row = probabilities(pixels_of(path)[None])[0]
        print(path, FACTS["classes"][row.argmax()], *(format(p, ".6f") for p in row))
'''


Target = Literal["savedmodel", "keras", "onnx"]
FACTS, SCRIPT = "model.json", "predict.py"
# An exported model is compared with the run on images of random colored patches. These differ more
# from each other than images of noise, and so do their probabilities.
CHECK_IMAGES, PATCHES = 8, 7


@frozen(kw_only=True)
class Exported:
    """An exported model.

    Attributes:
        folder: The folder.
        file: The model's file in it.
        classes: Class names in the order of the model's outputs.
        image_size: Height and width of the input, in pixels.
        difference: The largest difference of a probability from the run's on eight random images;
            None if not checked because ONNX Runtime is not installed.
    """

    folder: Path
    file: Path
    classes: tuple[str, ...]
    image_size: int
    difference: float | None


def export(
    run: str | Path,
    out: str | Path | None = None,
    *,
    to: Target = "savedmodel",
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> Exported:
    """Export a finished run's model for programs without tlkit.

    The input is RGB pixels from 0 to 255, `(batch, size, size, 3)` float32: preprocessing is part
    of the model. The folder contains the model, `model.json` with class names and other facts, and
    `predict.py`, an example of its use. The exported model is read back and compared with the run.

    Args:
        run: The run folder.
        out: The new folder; None: `exports/RUN-TO`.
        to: `savedmodel` (TensorFlow), `keras` (one `.keras` file, Keras's own layers only) or
            `onnx`.
        plugins: Files with the run's own parts, as for `tlkit.load`.
        backbone: The `FromModel` of a run that was made with one.

    Returns:
        The exported model.

    Raises:
        RunFolderError: If the run is not finished or `out` exists.
        PartError: If a package is missing, or the format cannot hold the model.
        WeightsError: If the exported model's probabilities differ from the run's.
    """
    run = Path(run)
    out = Path("exports") / f"{run.resolve().name}-{to}" if out is None else Path(out)
    if out.exists():
        raise RunFolderError(f"{out}: exists; choose another with --out, nothing is overwritten")
    if to not in FORMATS:
        raise ValueError(f"to: must be one of {', '.join(get_args(Target))}, got {to!r}")
    form = FORMATS[to]
    form.require()
    classifier = load(run, plugins=plugins, backbone=backbone)
    model = with_preprocessing(classifier)
    form.check(model, classifier.experiment.fit.mixed_precision)
    try:
        with new_folder(out) as folder:
            form.write(model, folder / form.file)
            difference = _difference(classifier, form.read(folder / form.file))
            if difference is not None and not difference <= form.tolerance:
                raise WeightsError(
                    f"{out}: the exported model is off by {difference:.2g}, more than "
                    f"{form.tolerance:.0e}; export to another format"
                )
            facts = _facts(classifier, run, to, difference)
            write_text(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
            write_text(folder / SCRIPT, form.predict_py(classifier.experiment.data.resize))
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror or error}") from None
    return Exported(
        folder=out,
        file=out / form.file,
        classes=classifier.classes,
        image_size=classifier.experiment.backbone.image_size,
        difference=difference,
    )


def with_preprocessing(classifier: Classifier) -> keras.Model:
    """Return a model from RGB pixels in [0, 255] to probabilities, with shared weights.

    Raises:
        PartError: If the preprocessing only works on TensorFlow's tensors.
    """
    backbone = classifier.experiment.backbone
    size = backbone.image_size
    pixels = keras.Input((size, size, 3), name="pixels")
    try:
        inputs = backbone.preprocess_images(pixels)
    except Exception as error:  # foreign code may raise anything
        raise PartError(
            f"backbone: its preprocessing cannot be put into a model: {type(error).__name__}; "
            "write it with arithmetic or keras.ops, not with tf"
        ) from error
    outputs, temperature = classifier.model(inputs), classifier.calibrator.temperature
    if temperature != 1:
        logarithms = keras.ops.log(keras.ops.maximum(outputs, TINY))
        outputs = keras.ops.softmax(logarithms / temperature)
    return keras.Model(pixels, outputs, name="tlkit")


def _difference(classifier: Classifier, predictor: Predictor | None) -> float | None:
    """Return the largest difference of a model's probabilities from the classifier's."""
    if predictor is None:
        return None
    size = classifier.experiment.backbone.image_size
    patches = np.random.default_rng(0).integers(
        0, 256, (CHECK_IMAGES, PATCHES, PATCHES, 3), np.uint8
    )
    index = np.arange(size) * PATCHES // size
    pixels = patches[:, index][:, :, index]
    probabilities = predictor(pixels.astype(np.float32))
    return float(np.abs(probabilities - classifier.predict_proba(pixels)).max())


def _facts(
    classifier: Classifier, run: Path, to: Target, difference: float | None
) -> dict[str, Any]:
    """Return the content of `model.json`."""
    size, resize = classifier.experiment.backbone.image_size, classifier.experiment.data.resize
    calibrator, threshold = classifier.calibrator, None
    if calibrator.favored is not None:
        name = classifier.classes[calibrator.favored]
        threshold = {"class": name, "p": calibrator.threshold}
    return {
        "classes": list(classifier.classes),
        "input": f"(batch, {size}, {size}, 3) float32, RGB, from 0 to 255",
        "output": f"(batch, {len(classifier.classes)}) float32, probabilities in this order",
        "image_size": size,
        "resize": resize,
        "threshold": threshold,
        "stand_in": classifier.stand_in or None,
        "run": run.resolve().name,
        "format": to,
        "largest_difference": difference,
        "made_with": {name: version(name) for name in ("tlkit", "keras", "tensorflow")},
    }
