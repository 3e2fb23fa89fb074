"""A finished run's folder becoming a classifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.config.experiment import Experiment
from tlkit.data.sources import SUFFIXES, ImageRoot, Rejected, folders, read_manifest, read_regular
from tlkit.data.splits import Example
from tlkit.model.graph import layer_table
from tlkit.model.layers import HEAD
from tlkit.parts.kinds import Backbone
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import CALIBRATION, METRICS, PLAN, WEIGHTS, RunFolder
from tlkit.runfolder.record import CalibrationRecord, PlanRecord, read_record
from tlkit.runfolder.tables import write_predictions
from tlkit.system.errors import ConfigError, DataError, Problem
from tlkit.system.keras import start_keras
from tlkit.system.text import printable
from tlkit.train.plan import PREFIX_BATCH

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from tlkit.data.images import Pixels, Reader
    from tlkit.explain import Explainer, Method
    from tlkit.metrics.calibration import Calibrator
    from tlkit.metrics.scores import Scores
    from tlkit.train.features import Extractor

    Images = Sequence[str | Path] | npt.NDArray[Any]


def with_features(model: keras.Model, layer: str | None) -> keras.Model:
    """Return a model that gives a layer's features and the probabilities after them, in one pass.

    Args:
        model: A flat functional model that ends in probabilities.
        layer: The layer's number or name; unset: the last before the head. Its output is averaged
            over all axes but the first and the last.

    Returns:
        A model with outputs `(images, channels + classes)` float32.

    Raises:
        ConfigError: If there is no such layer.
    """
    start_keras()
    import keras

    features = model.get_layer(_name(model, layer)).output
    if len(features.shape) > 2:
        middle = tuple(range(1, len(features.shape) - 1))
        features = keras.ops.mean(keras.ops.cast(features, "float32"), axis=middle)
    both = keras.layers.Concatenate(dtype="float32")([features, model.output])
    return keras.Model(model.input, both)


def _name(model: keras.Model, chosen: str | None) -> str:
    layers = layer_table(model)
    if chosen is None:
        return next(row.name for row in reversed(layers.layers) if row.block != HEAD)
    try:
        return layers[layers.choose(chosen)].name
    except ValueError as error:
        raise ConfigError([Problem("layer", str(error))]) from None


@frozen(kw_only=True)
class Evaluation:
    """A classifier's answers on labelled images, and how good they are.

    Attributes:
        split: What these images are called: `train`, `val` or `test`, or `data`.
        examples: The images.
        probabilities: `(images, classes)` float32.
        predicted: Their class numbers, `(images,)`.
        scores: How good the answers are.
        sources: How good they are on the images of each source, by its name; empty unless there
            are several.
    """

    split: str
    examples: tuple[Example, ...] = field(repr=False)
    probabilities: npt.NDArray[np.float32] = field(repr=False, eq=False)
    predicted: npt.NDArray[np.int64] = field(repr=False, eq=False)
    scores: Scores
    sources: Mapping[str, Scores]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        return {
            "evaluated_on": self.split,
            "classes": list(self.scores.classes),
            self.split: self.scores.as_json(),
            "sources": {name: scores.as_json() for name, scores in self.sources.items()},
        }

    def write(self, folder: RunFolder) -> None:
        """Write `predictions.csv` and `metrics.json`."""
        predictions = (self.examples, self.probabilities, self.predicted)
        write_predictions(folder, self.scores.classes, {self.split: predictions})
        folder.write_json(METRICS, self.as_json())


def evaluation(
    split: str,
    examples: Sequence[Example],
    probabilities: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> Evaluation:
    """Score answers, all together and by source.

    Args:
        split: What the images are.
        examples: The images.
        probabilities: `(images, classes)`.
        predicted: Their class numbers.
        classes: Class names in the order of the columns.
    """
    import numpy as np

    from tlkit.metrics.scoring import score

    labels = np.array([classes.index(example.label) for example in examples])
    patients = [example.patient for example in examples]

    def scored(chosen: npt.NDArray[np.intp]) -> Scores:
        whose = [patients[number] for number in chosen]
        return score(labels[chosen], probabilities[chosen], classes, whose, predicted[chosen])

    source = np.array([example.source for example in examples], dtype=object)
    names = sorted(set(source))
    return Evaluation(
        split=split,
        examples=tuple(examples),
        probabilities=probabilities,
        predicted=predicted,
        scores=scored(np.arange(len(examples))),
        sources={name: scored(np.flatnonzero(source == name)) for name in names}
        if len(names) > 1
        else {},
    )


def labelled(
    data: Path, classes: Sequence[str], split: str | None = None
) -> tuple[list[Example], Callable[[str], bytes]]:
    """Return labelled images and what reads them; see `Classifier.evaluation`."""
    if data.is_file():
        top, links = data.parent, False
        rows = read_manifest(data, classes)
        chosen = split or ("test" if rows["test"] else "val")
        examples = rows.get(chosen, [])
    else:
        top, links = data, True
        if split is not None or not any((data / name).is_dir() for name in classes):
            top = data / (split or ("test" if (data / "test").is_dir() else "val"))
        others = [name for name in folders(top) if name not in classes] if top.is_dir() else []
        if others:
            raise DataError(
                f"{top}: has folders of other classes than the run's: {', '.join(others)}; "
                f"the run knows {', '.join(classes)}"
            )
        examples = [
            Example(path.relative_to(top).as_posix(), label)
            for label in classes
            for path in sorted((top / label).rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
    if not examples:
        raise DataError(f"{top}: has no images of the classes {', '.join(classes)}")
    return examples, ImageRoot(top, links).read


@frozen(eq=False)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        path: The image.
        predicted: Its class.
        probabilities: `(classes,)` float32.
        features: The image's features, `(channels,)` float32, if they were asked for.
    """

    path: str
    predicted: str
    probabilities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None = None


@frozen(kw_only=True)
class Classifier:
    """A trained model with what it needs to look at an image.

    Attributes:
        model: The Keras model, from prepared images to probabilities.
        classes: Class names in the order of its outputs.
        experiment: How it was trained.
        extractor: What runs images through the whole model, in batches of the run's fixed size.
        stand_in: What it was trained on in place of real data; empty for real data.
        calibrator: What the run has learnt from its validation split, applied to every answer;
            the model itself is as it was.
    """

    model: keras.Model = field(repr=False)
    classes: tuple[str, ...]
    experiment: Experiment = field(repr=False)
    extractor: Extractor = field(repr=False)
    stand_in: str = ""
    calibrator: Calibrator = field(factory=lambda: _no_calibrator())

    def predict(self, images: Images) -> list[str]:
        """Return the class name of each image; takes what `probabilities` takes."""
        found = self.calibrator.predicted(self.probabilities(images))
        return [self.classes[number] for number in found]

    def probabilities(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the probability of every class for each image, calibrated if the run is.

        Args:
            images: Paths of image files, or pixels `(images, height, width, 3)` uint8, RGB, of
                the model's size.

        Returns:
            `(images, classes)` float32; each row adds up to 1.

        Raises:
            DataError: If a file is not a sound image, or pixels have another size or dtype.
        """
        return self.calibrator.probabilities(self._outputs(self.extractor, images))

    def features(self, images: Images, layer: str | None = None) -> npt.NDArray[np.float32]:
        """Return what a layer makes of each image, averaged over the picture.

        Args:
            images: See `probabilities`.
            layer: A layer's number or name; unset: the backbone's last.

        Returns:
            `(images, channels)` float32.

        Raises:
            DataError: See `probabilities`.
            ConfigError: If there is no such layer.
        """
        extractor = self._with_features(layer)
        return self._outputs(extractor, images)[:, : -len(self.classes)]

    def answers(
        self,
        files: Iterable[str | Rejected],
        features: bool = False,
        layer: str | None = None,
    ) -> Iterator[Prediction | Rejected]:
        """Yield what is said of each image, in order and as they come: memory does not grow.

        Args:
            files: Paths of image files, and what was rejected before.
            features: Give each image's features as well.
            layer: Of which layer; see `features`.

        Raises:
            ConfigError: If there is no such layer.
        """
        return self._answers(files, self._with_features(layer) if features else self.extractor)

    def opened(
        self, files: Iterable[str | Rejected]
    ) -> Iterator[list[tuple[str, Pixels] | Rejected]]:
        """Yield image files with their pixels, as many at a time as go through the model at once.

        Args:
            files: Paths of image files, and what was rejected before.
        """
        from tlkit.data.images import in_parallel

        reader = self._reader(read_regular)

        def opened(file: str | Rejected) -> tuple[str, Pixels] | Rejected:
            if isinstance(file, Rejected):
                return file
            try:
                return file, reader(file)
            except DataError as error:
                return Rejected(file, str(error).removeprefix(f"{printable(file)}: "))

        found = in_parallel(opened, files, reader.workers, ahead=4 * self.extractor.batch)
        while chunk := list(itertools.islice(found, self.extractor.batch)):
            yield chunk

    def _answers(
        self, files: Iterable[str | Rejected], extractor: Extractor
    ) -> Iterator[Prediction | Rejected]:
        import numpy as np

        count = len(self.classes)
        for chunk in self.opened(files):
            pixels = [item[1] for item in chunk if not isinstance(item, Rejected)]
            rows: Iterator[Any] = iter(extractor(np.stack(pixels)) if pixels else ())
            for item in chunk:
                if isinstance(item, Rejected):
                    yield item
                    continue
                row = next(rows)
                probabilities = self.calibrator.probabilities(row[None, -count:])
                predicted = self.classes[self.calibrator.predicted(probabilities)[0]]
                features = row[:-count] if len(row) > count else None
                yield Prediction(item[0], predicted, probabilities[0], features)

    def _with_features(self, layer: str | None) -> Extractor:
        """Return what gives a layer's features and the probabilities after them."""
        from tlkit.train.features import Extractor

        whole, settings = with_features(self.model, layer), self.experiment
        return Extractor(whole, settings.backbone, settings.augmentation, self.extractor.batch)

    def explainer(self, layer: str | None = None, method: Method = "grad_cam") -> Explainer:
        """Return what draws heatmaps: `explainer(pixels, class_numbers)`.

        Args:
            layer: See `tlkit.explain.heatmaps`.
            method: See there.

        Raises:
            ConfigError: If there is no such layer or it has no feature maps.
        """
        from tlkit.explain import Explainer

        return Explainer(self.model, self.experiment.backbone, layer, method)

    def evaluate(self, data: str | Path, split: str | None = None) -> Scores:
        """Score the classifier on labelled images; see `evaluation`."""
        return self.evaluation(data, split).scores

    def evaluation(self, data: str | Path, split: str | None = None) -> Evaluation:
        """Classify labelled images and score the answers, all together and by source.

        Args:
            data: A folder with one folder a class, or one with such folders for `train`, `val`
                and `test`, or a CSV manifest.
            split: Which split of these to use; unset: `test` if there is one, else `val`.

        Raises:
            DataError: If there are no such images or one is not sound.
        """
        examples, read = labelled(Path(data), self.classes, split)
        raw = self._of_files([example.path for example in examples], read)
        found = self.calibrator.probabilities(raw)
        predicted = self.calibrator.predicted(found)
        return evaluation(split or "data", examples, found, predicted, self.classes)

    def _outputs(self, extractor: Extractor, images: Images) -> npt.NDArray[np.float32]:
        import numpy as np

        if not isinstance(images, np.ndarray):
            return self._of_files([str(path) for path in images], read_regular, extractor)
        size = self.experiment.backbone.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise DataError(
                f"images: must be (count, {size}, {size}, 3) uint8 from 0 to 255, "
                f"got {images.shape} {images.dtype}"
            )
        batch = extractor.batch
        starts = range(0, len(images), batch)
        return _joined(extractor, (extractor(images[start : start + batch]) for start in starts))

    def _of_files(
        self,
        paths: Sequence[str],
        read: Callable[[str], bytes],
        extractor: Extractor | None = None,
    ) -> npt.NDArray[np.float32]:
        extractor = extractor or self.extractor
        return _joined(extractor, extractor.stream(self._reader(read), paths))

    def _reader(self, read: Callable[[str], bytes]) -> Reader:
        from tlkit.data.images import Reader

        data, size = self.experiment.data, self.experiment.backbone.image_size
        return Reader(read, size, data.resize, data.mask_center)


def _no_calibrator() -> Calibrator:
    from tlkit.metrics.calibration import Calibrator

    return Calibrator()


def _joined(extractor: Extractor, batches: Iterable[Any]) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.concatenate([np.empty((0, *extractor.shape), np.float32), *batches])


def load(
    run: str | Path,
    *,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> Classifier:
    """Load a finished run.

    The model is rebuilt from registered parts and the run's arrays; the folder holds no code, and
    none is run because a folder says so.

    Args:
        run: The run folder.
        plugins: The files with the study's own parts, if it was made with such; they must be the
            same to the byte.
        backbone: What was the backbone, if that was a `FromModel`; its layers must be the same.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
        WeightsError: If its weights are missing or do not fit.
        ConfigError: If it names parts or keys that this tlkit does not know.
        PartError: If it needs a file or package of somebody else's that is not there.
    """
    from tlkit.metrics.calibration import Calibrator
    from tlkit.train.assemble import assemble
    from tlkit.train.features import Extractor
    from tlkit.weights.tensors import read_weights

    folder = RunFolder(Path(run))
    folder.read_json(METRICS)  # written last: without it the run is not finished
    experiment = read_experiment(folder, plugins, backbone)
    plan = read_record(folder, PLAN, PlanRecord.from_json)
    model, _ = assemble(
        experiment.backbone,
        experiment.head,
        len(plan.classes),
        experiment.seed,
        experiment.fit.mixed_precision,
        load_weights=False,
    )
    read_weights(folder.path / WEIGHTS, model, layer_table(model))
    extractor = Extractor(model, experiment.backbone, experiment.augmentation, PREFIX_BATCH)
    calibrator = Calibrator()
    if experiment.calibration.wanted:
        calibrator = read_record(
            folder,
            CALIBRATION,
            lambda table: CalibrationRecord.from_json(table).calibrator(plan.classes),
        )
    return Classifier(
        model=model,
        classes=plan.classes,
        experiment=experiment,
        extractor=extractor,
        stand_in=plan.stand_in or "",
        calibrator=calibrator,
    )
