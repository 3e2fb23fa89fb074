"""A finished run as one model file for programs without tlkit: pixels in, probabilities out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from attrs import frozen

from tlkit.errors import PartError, ResourceError, RunFolderError, WeightsError
from tlkit.files import new_folder, write_text
from tlkit.parts.kinds import Backbone

if TYPE_CHECKING:
    import keras

    from tlkit.classifier import Classifier
    from tlkit.results.formats import Answers

Target = Literal["savedmodel", "keras", "onnx"]
FACTS, SCRIPT = "model.json", "predict.py"
# An exported model is compared with the run on random images of coloured patches: they differ more
# from each other, and so do their probabilities, than images of noise.
TRIED, PATCHES = 8, 7


@frozen(kw_only=True)
class Exported:
    """An exported model.

    Attributes:
        folder: What holds it.
        file: The model in it.
        classes: Class names in the order of its outputs.
        image_size: Height and width of its input, in pixels.
        difference: By how much a probability differs from the run's own at most, on eight random
            images; None if it was not tried, because ONNX Runtime is not installed.
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
    """Write a finished run's model for programs without tlkit.

    Its input is RGB pixels from 0 to 255, `(batch, size, size, 3)` float32: the preprocessing is
    part of the model. The folder holds the model, `model.json` with the class names and what else
    one must know, and `predict.py`, which shows how to use it. The model is read back and compared
    with the run.

    Args:
        run: The run folder.
        out: The folder to make, which must not exist; unset: `exports/RUN-TO`.
        to: `savedmodel` (TensorFlow), `keras` (one `.keras` file, layers of Keras only) or `onnx`.
        plugins: The files with the study's own parts, as for `tlkit.load`.
        backbone: What was the backbone, if that was a `FromModel`.

    Raises:
        RunFolderError: If it is not the folder of a finished run, or `out` exists.
        PartError: If a package is missing, or the model has something that the format cannot hold.
        WeightsError: If the exported model does not answer as the run does.
    """
    from tlkit.loading import load
    from tlkit.results.formats import FORMATS

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
    """Return a model from RGB pixels in [0, 255] to probabilities; it shares the weights.

    Raises:
        PartError: If the preprocessing works on TensorFlow's tensors only.
    """
    import keras

    from tlkit.results.calibration import TINY

    backbone = classifier.experiment.backbone
    size = backbone.image_size
    pixels = keras.Input((size, size, 3), name="pixels")
    try:
        prepared = backbone.prepare(pixels)
    except Exception as error:  # a stranger's function may raise anything
        raise PartError(
            f"backbone: its preprocessing cannot be put into a model: {type(error).__name__}; "
            "write it with arithmetic or keras.ops, not with tf"
        ) from error
    found, temperature = classifier.model(prepared), classifier.calibrator.temperature
    if temperature != 1:
        logarithms = keras.ops.log(keras.ops.maximum(found, TINY))
        found = keras.ops.softmax(logarithms / temperature)
    return keras.Model(pixels, found, name="tlkit")


def _difference(classifier: Classifier, answers: Answers | None) -> float | None:
    """Return by how much a model's probabilities differ from the classifier's at most."""
    if answers is None:
        return None
    import numpy as np

    size = classifier.experiment.backbone.image_size
    patches = np.random.default_rng(0).integers(0, 256, (TRIED, PATCHES, PATCHES, 3), np.uint8)
    place = np.arange(size) * PATCHES // size
    pixels = patches[:, place][:, :, place]
    found = answers(pixels.astype(np.float32))
    return float(np.abs(found - classifier.probabilities(pixels)).max())


def _facts(
    classifier: Classifier, run: Path, to: Target, difference: float | None
) -> dict[str, Any]:
    """Return what `model.json` says."""
    from importlib.metadata import version

    size, resize = classifier.experiment.backbone.image_size, classifier.experiment.data.resize
    calibrator, threshold = classifier.calibrator, None
    if calibrator.favoured is not None:
        name = classifier.classes[calibrator.favoured]
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
