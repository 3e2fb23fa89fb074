"""A finished run as a classifier: predict, evaluate, explain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.config.experiment import Experiment
from tlkit.errors import DataError
from tlkit.escapes import printable
from tlkit.evaluation import Evaluation, evaluation, labelled
from tlkit.named_images import Rejected, read_regular

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from tlkit.results.calibration import Calibrator
    from tlkit.results.explain import Explainer, Method
    from tlkit.results.metrics import Scores
    from tlkit.train.features import Extractor
    from tlkit.train.images import Pixels, Reader

    Images = Sequence[str | Path] | npt.NDArray[Any]


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
        from tlkit.train.images import in_parallel

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
        from tlkit.train.embedding import with_features
        from tlkit.train.features import Extractor

        whole, settings = with_features(self.model, layer), self.experiment
        return Extractor(whole, settings.backbone, settings.augmentation, self.extractor.batch)

    def explainer(self, layer: str | None = None, method: Method = "grad_cam") -> Explainer:
        """Return what draws heatmaps: `explainer(pixels, class_numbers)`.

        Args:
            layer: See `tlkit.results.explain.heatmaps`.
            method: See there.

        Raises:
            ConfigError: If there is no such layer or it has no feature maps.
        """
        from tlkit.results.explain import Explainer

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
        from tlkit.train.images import Reader

        data, size = self.experiment.data, self.experiment.backbone.image_size
        return Reader(read, size, data.resize, data.occlude_centre)


def _no_calibrator() -> Calibrator:
    from tlkit.results.calibration import Calibrator

    return Calibrator()


def _joined(extractor: Extractor, batches: Iterable[Any]) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.concatenate([np.empty((0, *extractor.shape), np.float32), *batches])
