"""Export of a finished run as a model file for programs without tlkit."""

from __future__ import annotations

import json
import logging
import math
import runpy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from attrs import evolve, frozen
from PIL import Image

from tlkit.classifier import Classifier, Prediction, load
from tlkit.data.images import to_pixels
from tlkit.data.sources import Rejected
from tlkit.metrics.calibration import TINY, decide
from tlkit.parts.heads import standardize_layer
from tlkit.parts.kinds import Backbone
from tlkit.system.errors import PartError, ResourceError, RunFolderError, WeightsError
from tlkit.system.files import new_folder, write_text
from tlkit.system.keras import keras
from tlkit.system.source import standalone
from tlkit.system.text import choose_another, printable


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
        """Return the text of `predict.py`: tlkit's own rules, from a file's bytes to a class."""
        imports, rules = standalone(to_pixels, decide, printable)
        rules = rules.replace("'tlkit[dicom]'", "pydicom").replace("'tlkit[heic]'", "pillow-heif")
        head = HEAD.format(version=version("tlkit"), imports=imports)
        return "\n\n".join([head, self.script.rstrip(), "", rules, "", MAIN])

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


def _write_keras(model: keras.Model, path: Path) -> None:
    model.save(path)


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


Target = Literal["savedmodel", "keras", "onnx"]
FACTS, SCRIPT = "model.json", "predict.py"
# An export is compared with the run on files of random colored patches. These differ more from each
# other than images of noise, and so do their probabilities.
PATCHES, CHECK_ROWS = 7, 1000


@frozen(kw_only=True)
class Exported:
    """An exported model.

    Attributes:
        folder: The folder.
        file: The model's file in it.
        classes: Class names in the order of the model's outputs.
        image_size: Height and width of the input, in pixels.
        difference: The largest difference of a probability from the run's on eight drawn image
            files; None if not checked because ONNX Runtime is not installed.
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
    `predict.py`, which classifies files by the run's rules for pixels and decisions. The script is
    compared with the run on image files of several kinds.

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
        WeightsError: If the exported script's answers differ from the run's.
    """
    run = Path(run)
    out = Path("exports") / f"{run.resolve().name}-{to}" if out is None else Path(out)
    if out.exists():
        raise RunFolderError(f"{out}: exists; {choose_another()}")
    if to not in FORMATS:
        raise ValueError(f"to: must be one of {', '.join(get_args(Target))}, got {to!r}")
    form = FORMATS[to]
    form.require()
    classifier = load(run, plugins=plugins, backbone=backbone)
    if form.keras_only:
        classifier = evolve(classifier, model=_with_keras_layers(classifier.model))
    model = with_preprocessing(classifier)
    form.check(model, classifier.experiment.fit.mixed_precision)
    try:
        with new_folder(out) as folder:
            form.write(model, folder / form.file)
            write_text(folder / SCRIPT, form.predict_py())
            _write_facts(folder, _facts(classifier, run, to, None))
            difference = _check(classifier, folder, form, out)
            _write_facts(folder, _facts(classifier, run, to, difference))
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror or error}") from None
    return Exported(
        folder=out,
        file=out / form.file,
        classes=classifier.classes,
        image_size=classifier.experiment.backbone.image_size,
        difference=difference,
    )


def _with_keras_layers(model: keras.Model) -> keras.Model:
    """Return a model with shared weights and Keras's `Normalization` for `Standardize` layers."""

    def plain(layer: keras.Layer) -> keras.Layer:
        if not isinstance(layer, standardize_layer()):
            return layer
        mean, deviation = (weight.numpy() for weight in layer.weights)
        return keras.layers.Normalization(
            mean=mean, variance=deviation**2, name=layer.name, dtype="float32"
        )

    return keras.models.clone_model(model, clone_function=plain)


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


def _check(classifier: Classifier, folder: Path, form: Format, out: Path) -> float | None:
    """Return the largest difference of a probability of the script from the run's.

    Both read the same files: gray, color and palettes, 8 and 16 bits, with transparency, turned,
    wide and high. Returns None if the package that reads the model is not installed.

    Raises:
        WeightsError: If the script answers differently.
        PartError: If the model cannot be read.
    """
    if not _installed(form.reader):
        return None
    script = _script(folder, form)
    largest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(path) for path in _drawn_files(Path(scratch))]
        read = [item for chunk in classifier.read_images(files) for item in chunk]
        for item, own in zip(read, classifier.iter_predict(files), strict=True):
            assert isinstance(own, Prediction), own
            assert not isinstance(item, Rejected), item
            kind = Path(own.path).name
            if not np.array_equal(item[1], script["read_pixels"](own.path)):
                raise WeightsError(f"{out}: {SCRIPT} reads {kind} differently from the run")
            _, row = script["classify"](own.path)
            difference = float(np.abs(row - own.probabilities).max())
            if not difference <= form.tolerance:
                raise WeightsError(
                    f"{out}: the exported model is off by {difference:.2g} on {kind}, more than "
                    f"{form.tolerance:.0e}; export to another format"
                )
            largest = max(largest, difference)
    count = len(classifier.classes)
    rows = np.random.default_rng(0).dirichlet(np.ones(count), CHECK_ROWS).astype(np.float32)
    own_numbers = classifier.calibrator.predicted(rows)
    if script["predicted"](rows) != [classifier.classes[k] for k in own_numbers]:
        raise WeightsError(f"{out}: {SCRIPT} decides differently from the run")
    return largest


def _script(folder: Path, form: Format) -> dict[str, Any]:
    """Run `predict.py` as an import would; return its names."""
    try:
        return runpy.run_path(str(folder / SCRIPT), run_name="predict")
    except Exception as error:  # ONNX Runtime's own, without a public name
        if form.reader != "onnxruntime":
            raise
        raise PartError(
            f"{form.file}: tf2onnx has no operator for a layer of this network; export to "
            f"savedmodel or keras ({' '.join(str(error).split())[:200]})"
        ) from error


def _drawn_files(folder: Path) -> Iterator[Path]:
    """Write image files of different kinds, each with other patches, and yield their paths."""
    draws = np.random.default_rng(0)

    def picture(width: int, height: int, channels: int = 3, mode: str | None = None) -> Any:
        small = draws.integers(0, 256, (PATCHES, PATCHES, channels), np.uint8)
        image = Image.fromarray(small[..., 0] if channels == 1 else small)
        image = image.resize((width, height), Image.Resampling.NEAREST)
        return image.convert(mode) if mode else image

    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: by 90 degrees
    deep = np.kron(draws.integers(0, 65536, (PATCHES, PATCHES), np.uint16), np.ones((9, 7), "u2"))
    images: dict[str, tuple[Any, dict[str, Any]]] = {
        "color.png": (picture(64, 48), {}),
        "square.bmp": (picture(64, 64), {}),
        "high.tiff": (picture(40, 90), {}),
        "gray.png": (picture(64, 48, 1), {}),
        "gray 16 bit.png": (Image.fromarray(deep), {}),
        "transparent.png": (picture(48, 64, 4), {}),
        "palette.png": (picture(64, 48, mode="P"), {"transparency": 3}),
        "turned.jpg": (picture(64, 48), {"exif": turned, "quality": 95}),
    }
    for name, (image, keys) in images.items():
        image.save(folder / name, **keys)
        yield folder / name


def _write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    write_text(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def _facts(
    classifier: Classifier, run: Path, to: Target, difference: float | None
) -> dict[str, Any]:
    """Return the content of `model.json`."""
    size, data = classifier.experiment.backbone.image_size, classifier.experiment.data
    calibrator, threshold = classifier.calibrator, None
    if calibrator.favored is not None:
        name = classifier.classes[calibrator.favored]
        threshold = {"class": name, "p": calibrator.threshold}
    return {
        "classes": list(classifier.classes),
        "input": f"(batch, {size}, {size}, 3) float32, RGB, from 0 to 255",
        "output": f"(batch, {len(classifier.classes)}) float32, probabilities in this order",
        "image_size": size,
        "resize": data.resize,
        "mask_center": data.mask_center,
        "threshold": threshold,
        "stand_in": classifier.stand_in or None,
        "run": run.resolve().name,
        "format": to,
        "largest_difference": difference,
        "made_with": {name: version(name) for name in ("tlkit", "keras", "tensorflow")},
    }
