"""Export of a finished run as a model file for programs without tlkit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import evolve, frozen

from tlkit.classifier import Classifier, load
from tlkit.exporter.check import check_script
from tlkit.exporter.formats import FACTS, FORMATS, SCRIPT
from tlkit.metrics.calibration import TINY
from tlkit.model.graph import flip_average
from tlkit.parts.heads import standardize_layer
from tlkit.parts.kernel import kernel_layer
from tlkit.parts.kinds import Backbone
from tlkit.system.errors import PartError, ResourceError, RunFolderError
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
