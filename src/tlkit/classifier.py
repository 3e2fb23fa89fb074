"""A finished run as a classifier: load it, predict, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.config.experiment import Experiment
from tlkit.errors import DataError, RunFolderError
from tlkit.parts.datasets import SUFFIXES
from tlkit.parts.kinds import Backbone
from tlkit.parts.manifest import read_manifest
from tlkit.parts.splits import Example
from tlkit.plan.plan import PREFIX_BATCH

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from tlkit.results.metrics import Scores
    from tlkit.train.features import Extractor


@frozen(kw_only=True)
class Classifier:
    """A trained model with what it needs to look at an image.

    Attributes:
        model: The Keras model, from prepared images to probabilities.
        classes: Class names in the order of its outputs.
        experiment: How it was trained.
        extractor: What runs images through the whole model, in batches of the run's fixed size.
        stand_in: What it was trained on in place of real data; empty for real data.
    """

    model: keras.Model
    classes: tuple[str, ...]
    experiment: Experiment
    extractor: Extractor = field(repr=False)
    stand_in: str = ""

    def predict(self, images: Sequence[str | Path] | npt.NDArray[Any]) -> list[str]:
        """Return the class name of each image; takes what `probabilities` takes."""
        return [self.classes[number] for number in self.probabilities(images).argmax(axis=1)]

    def probabilities(
        self, images: Sequence[str | Path] | npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class for each image.

        Args:
            images: Paths of image files, or pixels `(images, height, width, 3)` uint8, RGB, of
                the model's size.

        Returns:
            `(images, classes)` float32; each row adds up to 1.

        Raises:
            DataError: If a file is not a sound image, or pixels have another size or dtype.
        """
        import numpy as np

        if not isinstance(images, np.ndarray):
            return self._of_files([str(path) for path in images], lambda p: Path(p).read_bytes())
        size = self.experiment.backbone.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise DataError(
                f"images: must be (count, {size}, {size}, 3) uint8 from 0 to 255, "
                f"got {images.shape} {images.dtype}"
            )
        batch = self.extractor.batch
        batches = [
            self.extractor(images[start : start + batch]) for start in range(0, len(images), batch)
        ]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *batches])

    def evaluate(self, data: str | Path, split: str | None = None) -> Scores:
        """Score the classifier on labelled images.

        Args:
            data: A folder with one folder a class, or one with such folders for `train`, `val`
                and `test`, or a CSV manifest.
            split: Which split of these to use; unset: `test` if there is one, else `val`.

        Raises:
            DataError: If there are no such images or one is not sound.
        """
        from tlkit.results.metrics import score

        examples, read = labelled(Path(data), self.classes, split)
        found = self._of_files([example.path for example in examples], read)
        return score([self.classes.index(e.label) for e in examples], found, self.classes)

    def _of_files(
        self, paths: Sequence[str], read: Callable[[str], bytes]
    ) -> npt.NDArray[np.float32]:
        import numpy as np

        from tlkit.train.images import Reader

        reader = Reader(read, self.experiment.backbone.image_size, self.experiment.data.resize)
        batches = self.extractor.stream(reader, paths)
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *batches])


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
    from tlkit.graph import layer_table
    from tlkit.results.folder import METRICS, PLAN, WEIGHTS, RunFolder, read_weights
    from tlkit.results.recorded import read_experiment
    from tlkit.train.features import Extractor
    from tlkit.train.model import assemble

    folder = RunFolder(Path(run))
    folder.read_json(METRICS)  # written last: without it the run is not finished
    experiment = read_experiment(folder, plugins, backbone)
    plan = folder.read_json(PLAN)
    try:
        classes, stand_in = tuple(plan["classes"]), plan["stand_in"] or ""
    except (KeyError, TypeError):
        raise RunFolderError(f"{folder.path / PLAN}: is not a plan written by tlkit") from None
    model, _ = assemble(
        experiment.backbone,
        experiment.head,
        len(classes),
        experiment.seed,
        experiment.fit.mixed_precision,
        load_weights=False,
    )
    read_weights(folder.path / WEIGHTS, model, layer_table(model))
    extractor = Extractor(model, experiment.backbone, experiment.augmentation, PREFIX_BATCH)
    return Classifier(
        model=model,
        classes=classes,
        experiment=experiment,
        extractor=extractor,
        stand_in=stand_in,
    )


def sound_files(files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return the files that are sound images, and a message for each that is not."""
    from tlkit.train.images import ImageError, decode

    sound, rejected = [], []
    for path in files:
        try:
            decode(path.read_bytes())
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            rejected.append(f"{path}: {reason}")
        else:
            sound.append(str(path))
    return sound, rejected


def labelled(
    data: Path, classes: Sequence[str], split: str | None = None
) -> tuple[list[Example], Callable[[str], bytes]]:
    """Return labelled images and what reads them; see `Classifier.evaluate`."""
    if data.is_file():
        rows = read_manifest(data, classes)
        chosen = split or ("test" if rows["test"] else "val")
        examples = rows.get(chosen, [])
        top = data.parent
    else:
        top = data
        if split is not None or not any((data / name).is_dir() for name in classes):
            top = data / (split or ("test" if (data / "test").is_dir() else "val"))
        examples = [
            Example(path.relative_to(top).as_posix(), label)
            for label in classes
            for path in sorted((top / label).rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
    if not examples:
        raise DataError(f"{top}: has no images of the classes {', '.join(classes)}")
    return examples, lambda path: (top / path).read_bytes()
