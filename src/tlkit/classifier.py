"""A finished run as a classifier: load it, predict, evaluate."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from attrs import evolve, field, frozen

from tlkit.config.experiment import Experiment
from tlkit.data.checks import bad_images, skipped_note
from tlkit.data.file_work import decoding_threads
from tlkit.data.images import Pixels, Reader
from tlkit.data.pictures import DecodedImageIndex, Looks, looks_dark
from tlkit.data.root import LOOKED_AT, ImageRoot, mean_file_bytes, read_file
from tlkit.data.sources import Rejected, read_evaluation_images
from tlkit.data.splits import Example
from tlkit.evaluation import Evaluation, Probabilities, evaluation_of
from tlkit.explain import Explainer, Method
from tlkit.metrics.calibration import Calibrator
from tlkit.metrics.scores import Scores
from tlkit.model.graph import layer_table
from tlkit.model.layers import LayerTable
from tlkit.model.outputs import outputs_of, with_features
from tlkit.parts.kinds import Backbone
from tlkit.reports.caveats import score_caveats, threshold_caveats
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import CALIBRATION, METRICS, PLAN, WEIGHTS, RunFolder
from tlkit.runfolder.inputs import PlanRecord
from tlkit.runfolder.kept_outputs import KeptOutputs, named_by
from tlkit.runfolder.learned_from import LearnedFrom
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import CalibrationRecord, MetricsRecord, Threshold
from tlkit.system.cache import default_folder
from tlkit.system.errors import DataError, ResourceError, WeightsError
from tlkit.system.keras import keras
from tlkit.system.notebook import face, few_names, html_table
from tlkit.system.parallel import in_parallel
from tlkit.system.renames import renamed_method
from tlkit.system.text import printable
from tlkit.train.assemble import model_of
from tlkit.train.features import Extractor
from tlkit.train.frozen_dtype import as_trained
from tlkit.train.plan import FLOAT32, model_layers, prefix_batch
from tlkit.weights.tensors import read_weights

IN_FLOAT32 = (
    f"{FLOAT32.format('bfloat16')}; in training they computed in bfloat16, so a few predictions "
    "may differ"
)
Images = Sequence[str | Path] | npt.NDArray[Any]


@frozen(eq=False)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: The image.
        predicted: The predicted class.
        probabilities: `(classes,)` float32.
        features: The image's features, `(channels,)` float32, if requested.
        dark: Whether the image is nearly black, so that the prediction means little.
    """

    path: str
    predicted: str
    probabilities: Probabilities
    features: npt.NDArray[np.float32] | None = None
    dark: bool = False


@frozen(kw_only=True)
class Classifier:
    """A trained model with everything needed to classify images.

    Attributes:
        model: The Keras model, from preprocessed images to probabilities.
        classes: Class names in the order of the model's outputs.
        experiment: How it was trained.
        extractor: Runs images through the model, in batches of the run's fixed size.
        stand_in: What replaced missing data in training; empty for real data.
        calibrator: The run's calibration. It is applied to every prediction; `model` is unchanged.
        threshold: What is known about the threshold of a class, if one has a threshold.
        learned_from: The images that it was trained and chosen on, if known.
        averages_flip: Whether probabilities are averaged with those of the mirror image; `model`
            is unchanged.
        scores: The scores of its run, on the split that the run is judged on.
        serves: What the extractor runs, if that is not `model`: with frozen layers in fewer bits.
        notes: What is different on this machine, if anything; `evaluate` repeats it.
    """

    model: keras.Model = field(repr=False)
    classes: tuple[str, ...]
    experiment: Experiment = field(repr=False)
    extractor: Extractor = field(repr=False)
    stand_in: str = ""
    calibrator: Calibrator = field(factory=Calibrator)
    threshold: Threshold | None = field(default=None, repr=False)
    learned_from: LearnedFrom = field(factory=LearnedFrom, repr=False)
    averages_flip: bool = False
    scores: Scores | None = field(default=None, repr=False)
    serves: keras.Model | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        facts = [
            f"{type(self.experiment.backbone).__name__} + {type(self.experiment.head).__name__}",
            f"{len(self.classes)} classes: {few_names(self.classes)}",
            *(["calibrated"] if self.calibrator != Calibrator() else []),
            *([f"STAND-IN DATA: {self.stand_in}"] if self.stand_in else []),
        ]
        return f"Classifier({'; '.join(facts)})"

    def _repr_html_(self) -> str:
        size = self.experiment.backbone.image_size
        facts = [
            ["backbone", type(self.experiment.backbone).__name__],
            ["head", type(self.experiment.head).__name__],
            ["image", f"{size} × {size} px, {self.experiment.data.resize}"],
            ["classes", few_names(self.classes, most=20)],
            ["parameters", f"{self._layers.params:,}"],
            ["calibrated", "yes" if self.calibrator != Calibrator() else "no"],
        ]
        title = f"STAND-IN DATA: {self.stand_in}" if self.stand_in else "Classifier"
        return face(title, html_table(["", ""], facts))

    def predict(self, images: Images) -> list[str]:
        """Return the predicted class name of each image; see `predict_proba`."""
        return [self.classes[k] for k in self.calibrator.predicted(self.predict_proba(images))]

    def predict_proba(self, images: Images) -> Probabilities:
        """Return the probability of every class for each image, calibrated if the run is.

        Args:
            images: Paths of image files, or pixels `(images, height, width, 3)` uint8 RGB, of the
                model's size.

        Returns:
            `(images, classes)` float32; each row sums to 1.

        Raises:
            DataError: If a file is not a valid image, or pixels have another size or dtype.
        """
        return self.calibrator.probabilities(self._outputs(self.extractor, images))

    def features(self, images: Images, layer: str | None = None) -> npt.NDArray[np.float32]:
        """Return a layer's output for each image, averaged over positions.

        Args:
            images: See `predict_proba`.
            layer: A layer's number or name; None: the backbone's last layer.

        Returns:
            `(images, channels)` float32.

        Raises:
            DataError: See `predict_proba`.
            ConfigError: If there is no such layer.
        """
        return self._outputs(self._with_features(layer), images)[:, : -len(self.classes)]

    def iter_predict(
        self,
        files: Iterable[str | Rejected],
        features: bool = False,
        layer: str | None = None,
    ) -> Iterator[Prediction | Rejected]:
        """Yield the prediction for each image, in order, in constant memory.

        Args:
            files: Paths of image files, and entries that were rejected earlier.
            features: Include each image's features.
            layer: The layer of the features; see `features`.

        Raises:
            ConfigError: If there is no such layer.
        """
        return self._predictions(files, self._with_features(layer) if features else self.extractor)

    def evaluate(
        self,
        data: str | Path,
        split: str | None = None,
        root: str | Path | None = None,
        keep: str | Path | None = None,
    ) -> Evaluation:
        """Classify labeled images and score the predictions, on all images and by source.

        Images that cannot be decoded are skipped, with a note, if the run skipped its own.

        Args:
            data: A folder with one folder per class, or with such folders for `train`, `val` and
                `test`, or a CSV manifest.
            split: The split to use; None: `test` if there is one, else `val`.
            root: The folder that the paths in a manifest are relative to; None: the run's own
                `data.root` for its own manifest, else the manifest's folder.
            keep: A file that keeps what is done: after an interruption, the same call goes on from
                there. It is removed at the end.

        Raises:
            DataError: If there are no such images or one is not valid.
            RunFolderError: If the file `keep` is of another model or other images.
        """
        path = Path(data)
        top = ImageRoot(Path(root)) if root else own_root(self.experiment, path)
        patient = getattr(self.experiment.data, "patient", None)
        images = read_evaluation_images(path, self.classes, split, top, patient)
        examples, notes = images.examples, (*self.notes, *images.notes)
        if getattr(self.experiment.data, "on_bad_image", "") == "skip":
            bad = bad_images(examples, images.root.read, DecodedImageIndex(default_folder()))
            examples = tuple(example for example in examples if example.path not in bad)
            notes += (skipped_note(bad),) if bad else ()
            if not examples:
                raise DataError(f"{path}: none of the images can be decoded; {notes[-1]}")
        looks = Looks(DecodedImageIndex(default_folder()))
        paths = [example.path for example in examples]
        file_bytes = mean_file_bytes(paths, images.root.path)
        reader = evolve(self._reader(images.root.read, file_bytes), on_decoded=looks)
        kept = None if keep is None else self._kept(Path(keep), examples)
        rows, done = [], 0
        if kept:
            rows, done = [np.stack(kept.rows)] if kept.rows else [], len(kept.rows)
            looks.seen.update(zip(paths, kept.looks, strict=False))
        for outputs in self.extractor.stream(reader, paths[done:]):
            rows.append(outputs)
            done += len(outputs)
            if kept:
                kept.add(outputs, [looks.seen[path] for path in paths[done - len(outputs) : done]])
        raw = _joined(self.extractor, rows)
        looks.save()
        probabilities = self.calibrator.probabilities(raw)
        predicted = self.calibrator.predicted(probabilities)

        evaluation = evaluation_of(split, examples, probabilities, predicted, self.classes, notes)
        evaluation = evolve(evaluation, caveats=tuple(self._caveats(looks, evaluation.scores)))
        if kept:
            kept.remove()
        return evaluation

    def _kept(self, path: Path, examples: Sequence[Example]) -> KeptOutputs:
        """Return the outputs of this model on images, as far as a file has them."""
        reader = self._reader(read_file)
        digest = hashlib.sha256()
        for weight in self.model.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).data)
        settings = reader.size, reader.resize, reader.mask_center, self.averages_flip
        return KeptOutputs(path, named_by(examples, digest.hexdigest(), *settings))

    def _caveats(self, looks: Looks, scores: Scores) -> Iterator[str]:
        """Yield the reasons to distrust an evaluation, most serious first."""
        shown = [(sha256, picture.bits) for sha256, picture in looks.seen.values()]
        yield from self.learned_from.caveats(shown)
        if self.threshold is not None:
            wanted = self.experiment.calibration.min_recall
            yield from threshold_caveats(self.threshold, wanted, scores)
        yield from score_caveats(scores)

    def explainer(self, layer: str | None = None, method: Method = "grad_cam") -> Explainer:
        """Return an object that computes heatmaps: `explainer(pixels, class_numbers)`.

        Args:
            layer: See `tlkit.explain.heatmaps`.
            method: See there.

        Raises:
            ConfigError: If there is no such layer or it has no feature maps.
        """
        return Explainer(self.model, self.experiment.backbone, layer, method, self._layers)

    @property
    def _layers(self) -> LayerTable:
        return model_layers(self.experiment.backbone, self.experiment.head, len(self.classes))

    def read_images(
        self, files: Iterable[str | Rejected]
    ) -> Iterator[list[tuple[str, Pixels] | Rejected]]:
        """Yield image files with their pixels, one batch of the model at a time.

        Args:
            files: Paths of image files, and entries that were rejected earlier.

        Raises:
            ResourceError: If memory or handles run short, after the images before that one.
        """
        _refuse_one_path(files)
        files = iter(files)
        first = [*itertools.islice(files, LOOKED_AT)]
        names = [file for file in first if not isinstance(file, Rejected)]
        reader = self._reader(read_file, mean_file_bytes(names))

        def read(file: str | Rejected) -> tuple[str, Pixels] | Rejected | ResourceError:
            if isinstance(file, Rejected):
                return file
            try:
                return file, reader(file)
            except DataError as error:
                return Rejected(file, str(error).removeprefix(f"{printable(file)}: "))
            except ResourceError as error:
                return error

        batch = self.extractor.batch
        every = itertools.chain(first, files)
        images = in_parallel(read, every, reader.workers, ahead=4 * batch)
        while chunk := list(itertools.islice(images, batch)):
            sound = [*itertools.takewhile(lambda item: not isinstance(item, ResourceError), chunk)]
            yield cast("list[tuple[str, Pixels] | Rejected]", sound)
            if len(sound) < len(chunk):
                raise cast("ResourceError", chunk[len(sound)])

    def _predictions(
        self, files: Iterable[str | Rejected], extractor: Extractor
    ) -> Iterator[Prediction | Rejected]:
        count = len(self.classes)
        for chunk in self.read_images(files):
            pixels = [item[1] for item in chunk if not isinstance(item, Rejected)]
            rows = extractor(np.stack(pixels)) if pixels else np.empty((0, count), np.float32)
            probabilities = self.calibrator.probabilities(rows[:, -count:])
            predicted = self.calibrator.predicted(probabilities)
            images = iter(zip(rows, probabilities, predicted, strict=True))
            for item in chunk:
                if isinstance(item, Rejected):
                    yield item
                    continue
                row, of_image, number = next(images)
                features = row[:-count] if len(row) > count else None
                dark = looks_dark(item[1])
                yield Prediction(item[0], self.classes[number], of_image, features, dark)

    def in_float32(self) -> Classifier:
        """Return the classifier with all layers in float32, as an export computes them."""
        if self.serves is None:
            return self
        extractor = _extractor(self.model, self.experiment, self._layers, self.averages_flip)
        return evolve(self, extractor=extractor, serves=None)

    def _with_features(self, layer: str | None) -> Extractor:
        """Return an extractor of a layer's features and the probabilities after them."""
        settings = self.experiment
        model = with_features(
            self.model, self.serves or self.model, self._layers, layer, self.averages_flip
        )
        return Extractor(model, settings.backbone, settings.augmentation, self.extractor.batch)

    def _outputs(self, extractor: Extractor, images: Images) -> Probabilities:
        if not isinstance(images, np.ndarray):
            _refuse_one_path(images)
            paths = [str(path) for path in images]
            reader = self._reader(read_file, mean_file_bytes(paths))
            return _joined(extractor, extractor.stream(reader, paths))
        size = self.experiment.backbone.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            way_out = "; for one image, images[None]" if images.ndim == 3 else ""
            raise DataError(
                f"images: must be (count, {size}, {size}, 3) uint8 from 0 to 255, "
                f"got {images.shape} {images.dtype}{way_out}"
            )
        batch = extractor.batch
        starts = range(0, len(images), batch)
        return _joined(extractor, (extractor(images[start : start + batch]) for start in starts))

    def _reader(self, read: Callable[[str], bytes], file_bytes: float | None = None) -> Reader:
        data, size = self.experiment.data, self.experiment.backbone.image_size
        workers = decoding_threads(file_bytes)
        return Reader(read, size, data.resize, data.mask_center, workers=workers)

    probabilities = renamed_method("probabilities", "predict_proba")
    answers = renamed_method("answers", "iter_predict")
    evaluation = renamed_method("evaluation", "evaluate")
    opened = renamed_method("opened", "read_images")


def _refuse_one_path(images: object) -> None:
    """Raise `DataError` for a path instead of a list: its letters would be taken for paths."""
    if isinstance(images, str | Path):
        raise DataError(f"images: must be a list of paths, got one; write [{str(images)!r}]")


def own_root(experiment: Experiment, manifest: Path) -> ImageRoot | None:
    """Return the image folder of a run's own manifest; None if it has none, or for others."""
    data: Any = experiment.data
    path, root = getattr(data, "path", None), getattr(data, "root", None)
    if not (isinstance(path, Path) and isinstance(root, Path) and path.name == manifest.name):
        return None
    # The record knows where the images are as seen from the manifest, wherever both are now.
    folder = manifest.parent / os.path.relpath(root, path.parent)
    return ImageRoot(folder, data.follow_links) if folder.is_dir() else None


def _joined(extractor: Extractor, batches: Iterable[Any]) -> Probabilities:
    return np.concatenate([np.empty((0, *extractor.shape), np.float32), *batches])


def load(
    run: str | Path,
    *,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> Classifier:
    """Load a finished run.

    The model is rebuilt from registered parts and the run's arrays. The folder contains no code,
    and none is executed because a folder says so. Parts that only training needs, such as an
    augmentation, may be unavailable.

    Args:
        run: The run folder.
        plugins: Files with the run's own backbone or head, unchanged to the byte.
        backbone: The `FromModel` of a run that was made with one; its layers must be the same.

    Raises:
        RunFolderError: If the run is not finished, or a file is damaged.
        WeightsError: If the weights are missing or do not fit.
        ConfigError: If this tlkit does not know the run's backbone, head or keys.
        PartError: If a plugin file or package is missing.
    """
    folder = RunFolder(Path(run))
    read_record(folder, METRICS, MetricsRecord.from_json)  # if the run is finished
    experiment = read_experiment(folder, plugins, backbone)
    plan = read_record(folder, PLAN, PlanRecord.from_json)
    folder.check(WEIGHTS, WeightsError)
    model, _ = model_of(experiment, len(plan.classes), load_weights=False)
    read_weights(folder.path / WEIGHTS, model, layer_table(model))
    return classifier_of(folder, experiment, model)


def classifier_of(folder: RunFolder, experiment: Experiment, model: keras.Model) -> Classifier:
    """Return the classifier of a finished run whose model has the run's weights."""
    metrics = read_record(folder, METRICS, MetricsRecord.from_json)
    plan = read_record(folder, PLAN, PlanRecord.from_json)
    layers = layer_table(model)
    cut = plan.cut(metrics.kept.epoch)
    serves = as_trained(model, layers, cut, experiment.backbone, plan.frozen_dtype)
    as_before = plan.frozen_dtype == "float32" or not cut or serves is not model
    calibrator, threshold, averages_flip = Calibrator(), None, False
    if experiment.calibration.wanted:
        calibrator, threshold, averages_flip = read_record(
            folder, CALIBRATION, lambda table: _calibration(table, plan.classes)
        )
    return Classifier(
        model=model,
        classes=plan.classes,
        experiment=experiment,
        extractor=_extractor(serves, experiment, layers, averages_flip),
        stand_in=plan.stand_in or "",
        calibrator=calibrator,
        threshold=threshold,
        learned_from=LearnedFrom(folder, refit=metrics.refit_images is not None),
        averages_flip=averages_flip,
        scores=metrics.kept.scores[metrics.evaluated_on],
        serves=None if serves is model else serves,
        notes=() if as_before else (IN_FLOAT32,),
    )


def _extractor(
    model: keras.Model, experiment: Experiment, layers: LayerTable, averages_flip: bool
) -> Extractor:
    return Extractor(
        keras.Model(model.input, outputs_of(model, averages_flip=True)) if averages_flip else model,
        experiment.backbone,
        experiment.augmentation,
        prefix_batch(layers, len(layers), experiment.backbone.image_size),
    )


def _calibration(table: Any, classes: Sequence[str]) -> tuple[Calibrator, Threshold | None, bool]:
    record = CalibrationRecord.from_json(table)
    averages_flip = record.tta is not None and record.tta.kept
    return record.calibrator(classes), record.threshold, averages_flip
