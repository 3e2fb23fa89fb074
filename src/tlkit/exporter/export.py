"""Export of a finished run for programs without tlkit, checked on drawn images of many kinds."""

from __future__ import annotations

import json
import runpy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from attrs import evolve, frozen
from PIL import Image

from tlkit.classifier import Classifier, Prediction, load
from tlkit.data.sources import Rejected
from tlkit.exporter.formats import FACTS, FORMATS, SCRIPT, Format, installed
from tlkit.metrics.calibration import TINY
from tlkit.model.outputs import flip_average
from tlkit.parts.heads import standardize_layer
from tlkit.parts.kernel import kernel_layer
from tlkit.parts.kinds import Backbone
from tlkit.system.errors import PartError, ResourceError, RunFolderError, WeightsError
from tlkit.system.files import exists, new_folder, write_text
from tlkit.system.keras import keras
from tlkit.system.notebook import choose_another
from tlkit.system.seal import seal_tree

Target = Literal["savedmodel", "keras", "onnx"]


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
    if exists(out):
        raise RunFolderError(f"{out}: exists; {choose_another()}")
    if to not in FORMATS:
        raise ValueError(f"to: must be one of {', '.join(get_args(Target))}, got {to!r}")
    form = FORMATS[to]
    form.require()
    classifier = load(run, plugins=plugins, backbone=backbone)
    if classifier.serves is not None and classifier.experiment.fit.frozen_dtype == "int8":
        raise PartError(
            f"{run}: its frozen layers compute in int8, which an export does not; train it again "
            'with fit.frozen_dtype = "float32"'
        )
    classifier = classifier.in_float32()
    if form.keras_only:
        classifier = evolve(classifier, model=_with_keras_layers(classifier.model))
    model = with_preprocessing(classifier)
    form.check(model, classifier.experiment.fit.mixed_precision)
    try:
        with new_folder(out) as folder:
            form.write(model, folder / form.file)
            write_text(folder / SCRIPT, form.predict_py())
            _write_facts(folder, _facts(classifier, run, to, None))
            difference = check_script(classifier, folder, form, out)
            _write_facts(folder, _facts(classifier, run, to, difference))
            seal_tree(folder)
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
    """Return a model with shared weights and Keras's own layers for tlkit's."""

    def plain(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, kernel_layer()):
            return layer.with_keras_layers()
        if not isinstance(layer, standardize_layer()):
            return layer
        mean, deviation = (weight.numpy() for weight in layer.weights)
        return keras.layers.Normalization(
            mean=mean, variance=deviation**2, name=layer.name, dtype="float32"
        )

    return keras.models.clone_model(model, clone_function=plain)


def with_preprocessing(classifier: Classifier) -> keras.Model:
    """Return a model from RGB pixels in [0, 255] to probabilities, with shared weights."""
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
    if classifier.averages_flip:
        outputs = flip_average(classifier.model, inputs, outputs)
    if temperature != 1:
        logarithms = keras.ops.log(keras.ops.maximum(outputs, TINY))
        outputs = keras.ops.softmax(logarithms / temperature)
    return keras.Model(pixels, outputs, name="tlkit")


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


# Patches of random colors differ more from each other than noise, and so do their probabilities.
PATCHES, CHECK_ROWS = 7, 1000


def check_script(classifier: Classifier, folder: Path, form: Format, out: Path) -> float | None:
    """Return the largest difference of a probability of the script from the run's.

    Both read the same files: gray, color and palettes, 8 and 16 bits, with transparency, turned,
    wide and high. Returns None if the package that reads the model is not installed.
    """
    if not installed(form.reader):
        return None
    script = _script(folder, form)
    largest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(path) for path in drawn_files(Path(scratch))]
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
            f"savedmodel ({' '.join(str(error).split())[:200]})"
        ) from error


def drawn_files(folder: Path) -> Iterator[Path]:
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
