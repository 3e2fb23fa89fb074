"""`TransferClassifier`: an experiment on images in memory or in files, as a scikit-learn estimator.

The only module that imports scikit-learn when it is imported; `tlkit` itself does so on first use.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tlkit.classifier import Classifier, load
from tlkit.config.experiment import Experiment
from tlkit.config.toml import load_experiment
from tlkit.keras_tools import FromImages, FromModel, png
from tlkit.runner.run import run
from tlkit.train.callback import Callback

if TYPE_CHECKING:
    from tlkit.train.callback import Epoch

PARTS = (
    "backbone", "head", "freeze", "class_weights", "augmentation", "loss", "optimizer", "schedule",
)  # fmt: skip
# What a fitted estimator has that is made anew from its run's files when it is unpickled.
REMADE = ("classifier_", "run_folder_")


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types there
    """A transfer-learning image classifier with scikit-learn's methods.

    A part is given by its name, as a table (`{"name": "layer_names", "train": ["block5", "head"]}`,
    the keys are those of an experiment file) or as an object. Images are pixels
    `(images, height, width, 3)` or `(…, 1)` uint8 in [0, 255] of any size, or paths of image files.

    Attributes:
        backbone: The pretrained network.
        head: The classifier on top of it.
        freeze: Which layers are trained.
        class_weights: How much each class counts.
        augmentation: Random changes of the training images.
        loss: What training makes small.
        optimizer: The rule of the steps, with its learning rate.
        schedule: How the learning rate changes.
        epochs: How often every training image is seen.
        batch_size: How many images one step of the optimizer sees.
        validation_fraction: What share of each class `fit` keeps apart to watch the training by;
            copies of one picture stay together.
        random_state: What every random draw depends on.
        folder: Each `fit` adds its run folder to this one, as `fit-1` and so on; unset: to a
            temporary one, which goes with the estimator.
        verbose: Show the progress on standard error.
        classes_: The labels, sorted. Once fitted.
        classifier_: The `tlkit.Classifier` that predicts. Once fitted.
        history_: The run's epochs. Once fitted.
        run_folder_: The run folder. Once fitted.
    """

    def __init__(
        self,
        backbone: Any = "vgg16",
        *,
        head: Any = "pooled",
        freeze: Any = "head_only",
        class_weights: Any = "none",
        augmentation: Any = "none",
        loss: Any = "cross_entropy",
        optimizer: Any = "adam",
        schedule: Any = "constant",
        epochs: int = 10,
        batch_size: int = 32,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        folder: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.freeze = freeze
        self.class_weights = class_weights
        self.augmentation = augmentation
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.folder = folder
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> TransferClassifier:  # noqa: N803  # scikit-learn's name
        """Train on images and their labels.

        Args:
            X: Images.
            y: The label of each: names or numbers, of two classes or more.

        Raises:
            ValueError: If images and labels do not go together, or a class has a single image.
            TlkitError: Of the kind that says what is wrong.
        """
        images = _images(X)
        check_classification_targets(y)
        labels = column_or_1d(y, warn=True)
        if len(images) != len(labels):
            raise ValueError(f"X and y: {len(images)} images, but {len(labels)} labels")
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y: needs two classes or more, got {len(classes)} class")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction: must be above 0 and below 1, "
                f"got {self.validation_fraction!r}"
            )
        seed = self.random_state
        if not isinstance(seed, int):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        names = tuple(str(name) for name in classes)
        train, val = _split(numbers, _pictures(images), names, self.validation_fraction, seed)
        data = FromImages(
            train=_chosen(images, numbers, train),
            val=_chosen(images, numbers, val),
            classes=names,
        )
        top = Path(self.folder) if self.folder else self._temporary()
        out = next(p for n in itertools.count(1) if not (p := top / f"fit-{n}").exists())
        done = run(self._experiment(data, seed), out, callback=self._watcher())
        self.classes_ = classes
        self.history_: tuple[Epoch, ...] = done.history
        self.run_folder_ = done.folder
        self.classifier_ = self._load(done.folder)
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803
        """Return the probability of each class, `(images, classes)`, in the order of `classes_`."""
        check_is_fitted(self, "classifier_")
        images = _images(X)
        classifier: Classifier = self.classifier_
        if isinstance(images, list):
            return classifier.probabilities(images)
        from tlkit.data.images import to_pixels

        data, size = classifier.experiment.data, classifier.experiment.backbone.image_size
        pixels = np.empty((len(images), size, size, 3), np.uint8)
        for number, image in enumerate(images):
            pixels[number] = to_pixels(png(image), size, data.resize, data.mask_center)
        return classifier.probabilities(pixels)

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the label of each image."""
        check_is_fitted(self, "classifier_")
        found: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def _experiment(self, data: FromImages, seed: int) -> Experiment:
        table = {name: getattr(self, name) for name in PARTS}
        named = {name: {"name": v} if isinstance(v, str) else v for name, v in table.items()}
        fit = {"epochs": self.epochs, "batch_size": self.batch_size}
        return load_experiment({"seed": seed, "data": data, **named, "fit": fit})

    def _watcher(self) -> Callback:
        if not self.verbose:
            return Callback()
        from tlkit.reports.progress import Terminal

        return Terminal()

    def _load(self, folder: Path) -> Classifier:
        given = self.backbone if isinstance(self.backbone, FromModel) else None
        return load(folder, backbone=given)

    def _temporary(self) -> Path:
        """Return a new folder that goes with the estimator."""
        folder = Path(tempfile.mkdtemp(prefix="tlkit-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # four axes, or paths
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # The parameters and, once fitted, the run's files: no code, no Keras object.
        state = dict(super().__getstate__())
        if "classifier_" in state:
            files = sorted(path for path in self.run_folder_.iterdir() if path.is_file())
            state = {key: value for key, value in state.items() if key not in REMADE}
            state["_files"] = {path.name: path.read_bytes() for path in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            self.run_folder_ = self._temporary()
            for name, content in files.items():
                (self.run_folder_ / name).write_bytes(content)
            self.classifier_ = self._load(self.run_folder_)


def _images(X: Any) -> list[str] | npt.NDArray[np.uint8]:  # noqa: N803
    """Return images as paths or as pixels."""
    if isinstance(X, str | Path):
        raise ValueError(f"X: must be a list of paths, got the path {str(X)!r}")
    if not hasattr(X, "shape") and all(isinstance(one, str | Path) for one in X):
        return [str(path) for path in X]
    pixels = np.asarray(X)
    if pixels.dtype.kind in "UO" and pixels.ndim == 1:
        return [str(path) for path in pixels]
    if pixels.ndim != 4 or pixels.shape[-1] not in {1, 3} or pixels.dtype != np.uint8:
        raise ValueError(
            "X: must be paths, or (images, height, width, 1 or 3) uint8 from 0 to 255, "
            f"got {pixels.shape} {pixels.dtype}"
        )
    return pixels


def _split(
    numbers: npt.NDArray[np.int64],
    pictures: Sequence[str],
    names: Sequence[str],
    fraction: float,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Return the numbers of the images to train on and to watch by, some of each class in both.

    Images that are the same picture stay together, or the watching would be no test.

    Args:
        numbers: The class of each image.
        pictures: What is the same for the same picture.
        names: Class names.
        fraction: What share is watched.
        seed: What the draw depends on.
    """
    place = {content: number for number, content in enumerate(dict.fromkeys(pictures))}
    picture = np.array([place[content] for content in pictures])
    _, first = np.unique(picture, return_index=True)
    own = numbers[first]
    counts = np.bincount(own, minlength=len(names))
    single = [name for name, count in zip(names, counts, strict=True) if count < 2]
    if single:
        raise ValueError(
            f"y: each class needs two different images or more, got one of {', '.join(single)}"
        )
    draws = np.random.default_rng(seed)
    watched: list[int] = []
    for number, count in enumerate(counts):
        share = min(count - 1, max(1, round(fraction * count)))
        watched.extend(draws.permutation(np.flatnonzero(own == number))[:share])
    in_val = np.isin(picture, watched)
    return np.flatnonzero(~in_val).tolist(), np.flatnonzero(in_val).tolist()


def _pictures(images: list[str] | npt.NDArray[np.uint8]) -> list[str]:
    """Return the hash of each image: of its file, or of its pixels."""
    contents = (Path(x).read_bytes() if isinstance(x, str) else x.tobytes() for x in images)
    return [hashlib.sha256(content).hexdigest() for content in contents]


def _chosen(images: Any, numbers: npt.NDArray[np.int64], chosen: list[int]) -> tuple[Any, Any]:
    if isinstance(images, list):
        return [images[one] for one in chosen], numbers[chosen]
    return images[chosen], numbers[chosen]
