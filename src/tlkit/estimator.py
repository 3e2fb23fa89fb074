"""`TransferClassifier` and `TransferFeatures`: scikit-learn estimators on images or their files.

This is the only module that imports scikit-learn at import; `tlkit` loads it on first use.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from attrs import evolve
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tlkit.classifier import Classifier, classifier_of, load
from tlkit.config.experiment import Experiment
from tlkit.config.structure import keys, structure
from tlkit.config.toml import load_experiment
from tlkit.data.decoding import ImageError, decode
from tlkit.data.images import Reader, to_pixels
from tlkit.data.pictures import picture_of
from tlkit.data.root import read_file
from tlkit.data.splits import refuse_missing
from tlkit.exporter.compact import restore_frozen, trained_only
from tlkit.from_python import FromImages, FromModel, png
from tlkit.model.outputs import pooled_features
from tlkit.parts.augmentations import NoAugmentation
from tlkit.parts.available import published_files
from tlkit.parts.kinds import Backbone, registries
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import WEIGHTS, RunFolder, free_folder
from tlkit.runner.run import make_run
from tlkit.system.text import suggest
from tlkit.train.callback import Callback
from tlkit.train.features import Extractor
from tlkit.train.plan import PREFIX_BATCH

if TYPE_CHECKING:
    from tlkit.train.callback import Epoch

PARTS = (
    "backbone", "head", "freeze", "class_weights", "augmentation", "loss", "optimizer", "schedule",
)  # fmt: skip
# What unpickling a fitted estimator restores from the files of its run.
RESTORED = ("classifier_", "run_folder_")
DEFAULTS = ("efficientnet_lite0", "vgg16")  # backbones, in the order of preference
KINDS = {"class_weights": "class_weights", "freeze": "freezes", "loss": "losses"}


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types there
    """A transfer-learning image classifier with scikit-learn's methods.

    A part is given by its name, as a table with the keys of an experiment file
    (`{"name": "layer_names", "train": ["block5", "head"]}`), or as an object. Images are arrays of
    pixels, `(images, height, width, 3)` or `(…, 1)` uint8 in [0, 255] of any size, or paths of
    image files. Single keys of a part are parameters too: `optimizer__learning_rate`.

    Attributes:
        backbone: The pretrained network; None: `efficientnet_lite0` if its weights are on this
            machine, else `vgg16`.
        head: The classifier on top of it.
        freeze: Which layers are trained.
        class_weights: The weight of each class in the loss.
        augmentation: Random changes of the training images.
        loss: The training loss.
        optimizer: The optimizer, with its learning rate.
        schedule: How the learning rate changes.
        epochs: Number of passes over the training set.
        keep: Keep the weights of the `best` epoch by the loss on validation, or of the `last`.
        early_stop_patience: Stop after so many epochs without improvement on validation; None:
            never.
        batch_size: Images per optimizer step.
        settings: Other tables of an experiment, such as `{"fit": {"mixed_precision": "bfloat16"},
            "calibration": {"temperature": True}}`.
        validation_fraction: The share of each class that `fit` sets aside for validation; copies of
            a picture stay together.
        random_state: Seeds every random draw.
        folder: Each `fit` adds a run folder to this folder, `fit-1` and so on; default: a temporary
            folder that is deleted with the estimator.
        verbose: Show progress on standard error.
        classes_: The labels, sorted. After `fit`.
        classifier_: The `tlkit.Classifier` that predicts. After `fit`.
        history_: The run's epochs. After `fit`.
        run_folder_: The run folder. After `fit`.
        n_features_in_: 1, the image. After `fit` on a table of one column.
        feature_names_in_: The name of that column.
    """

    def __init__(
        self,
        backbone: Any = None,
        *,
        head: Any = "pooled",
        freeze: Any = "head_only",
        class_weights: Any = "none",
        augmentation: Any = "none",
        loss: Any = "cross_entropy",
        optimizer: Any = "adam",
        schedule: Any = "constant",
        epochs: int = 10,
        keep: str = "best",
        early_stop_patience: int | None = None,
        batch_size: int = 32,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        folder: str | Path | None = None,
        verbose: bool = False,
        settings: Any = None,
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
        self.keep = keep
        self.early_stop_patience = early_stop_patience
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.folder = folder
        self.verbose = verbose
        self.settings = settings

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, and the keys of parts given as tables as `optimizer__rho`."""
        values: dict[str, Any] = super().get_params(deep=False)
        tables = {name: values[name] for name in PARTS if isinstance(values[name], Mapping)}
        inner = {f"{name}__{key}": v for name, table in tables.items() for key, v in table.items()}
        return values | inner if deep else values

    def set_params(self, **params: Any) -> TransferClassifier:
        """Set parameters, also single keys of a part: `optimizer__learning_rate=1e-3`."""
        whole = {name: value for name, value in params.items() if "__" not in name}
        super().set_params(**whole)
        for name in params.keys() - whole.keys():
            part, _, key = name.partition("__")
            if part not in PARTS:
                raise ValueError(f"{name}: no part is named {part!r}{suggest(part, PARTS)}")
            setattr(self, part, self._with_key(part, key, params[name]))
        return self

    def _with_key(self, part: str, key: str, value: Any) -> Any:
        """Return a part, as it is given, with another value of a key."""
        given: Any = getattr(self, part)
        if part == "backbone" and isinstance(given or default_backbone(), str):
            given = _with_all_sources(given or default_backbone())
        table = {"name": given} if isinstance(given, str) else given
        registry = getattr(registries, KINDS.get(part, f"{part}s"))
        is_table = isinstance(table, Mapping)
        cls = registry.get(table["name"]) if is_table else type(given)
        known = ["name", *(each.name for each in keys(cls))]
        if key not in known:
            raise ValueError(f"{part}__{key}: unknown key{suggest(key, known)}")
        return {**table, key: value} if is_table else evolve(given, **{key: value})

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TransferClassifier:  # noqa: N803  # scikit-learn's name
        """Train on images and their labels.

        Args:
            X: Images.
            y: The label of each image: names or numbers, of two classes or more.
            sample_weight: The weight of each image in the training loss; None: all the same.
                Validation is not weighted.

        Raises:
            ValueError: If images, labels and weights do not match, a label is missing, or a class
                has only one picture.
            TlkitError: If something else is wrong; each kind of problem has its own subclass.
        """
        images = _images(X)
        _note_column(self, X)
        labels = _labels(y)
        if len(images) != len(labels):
            raise ValueError(
                f"X and y: must have the same length, got {len(images)} images and "
                f"{len(labels)} labels"
            )
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y: must have two classes or more, got {len(classes)} class")
        if not 0 < self.validation_fraction < 1:
            got = repr(self.validation_fraction)
            raise ValueError(f"validation_fraction: must be above 0 and below 1, got {got}")
        seed = self.random_state
        if not isinstance(seed, int):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        names = tuple(str(name) for name in classes)
        train, val = _split(numbers, _pictures(images), names, self.validation_fraction, seed)
        weights = None if sample_weight is None else _sample_weights(sample_weight, len(images))
        data = FromImages(
            train=_select(images, numbers, train),
            val=_select(images, numbers, val),
            classes=names,
            weights=None if weights is None else weights[train].tolist(),
        )
        top = Path(self.folder) if self.folder else self._temporary()
        out = free_folder(top, "fit")
        kept = self.folder is not None  # else nobody sees the pages
        done = make_run(self._experiment(data, seed), out, (), self._callback(), pages=kept)
        self.classes_ = classes
        self.history_: tuple[Epoch, ...] = done.history
        self.run_folder_ = done.folder
        folder = RunFolder(done.folder)  # its record has no images, unlike `done.experiment`
        self.classifier_ = classifier_of(
            folder, read_experiment(folder, (), self._given), done.model
        )
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803  # scikit-learn's name
        """Return the probability of each class, `(images, classes)`, in the order of `classes_`."""
        check_is_fitted(self, "classifier_")
        images = _images(X)
        _check_column(self, X)
        classifier: Classifier = self.classifier_
        if isinstance(images, list):
            return classifier.predict_proba(images)
        data, size = classifier.experiment.data, classifier.experiment.backbone.image_size
        pixels = np.empty((len(images), size, size, 3), np.uint8)
        for number, image in enumerate(images):
            pixels[number] = to_pixels(png(image), size, data.resize, data.mask_center)
        return classifier.predict_proba(pixels)

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803  # scikit-learn's name
        """Return the label of each image."""
        check_is_fitted(self, "classifier_")
        labels: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803  # scikit-learn's name
        """Return the share of images whose label is predicted; a missing label is an error."""
        return float(super().score(X, _labels(y), sample_weight))

    def _experiment(self, data: FromImages, seed: int) -> Experiment:
        parts = {name: getattr(self, name) for name in PARTS}
        parts["backbone"] = parts["backbone"] or default_backbone()
        tables = {name: {"name": v} if isinstance(v, str) else v for name, v in parts.items()}
        if isinstance(parts["backbone"], str):
            tables["backbone"] = _with_all_sources(parts["backbone"])
        fit = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "keep": self.keep,
            "early_stop_patience": self.early_stop_patience,
        }
        more = {name: dict(table) for name, table in (self.settings or {}).items()}
        fit = {name: value for name, value in fit.items() if value is not None}
        fit |= more.pop("fit", {})
        return load_experiment({"seed": seed, "data": data, **tables, "fit": fit, **more})

    def _callback(self) -> Callback:
        if not self.verbose:
            return Callback()
        from tlkit.reports.progress import Terminal

        return Terminal()

    @property
    def _given(self) -> FromModel | None:
        return self.backbone if isinstance(self.backbone, FromModel) else None

    def _temporary(self) -> Path:
        """Return a new folder that is deleted with the estimator."""
        folder = Path(tempfile.mkdtemp(prefix="tlkit-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # four axes, or paths
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # The parameters and, after `fit`, the run's files: no code and no Keras objects.
        state = dict(super().__getstate__())
        if "classifier_" in state:
            files = sorted(path for path in self.run_folder_.iterdir() if path.is_file())
            state = {key: value for key, value in state.items() if key not in RESTORED}
            state["_files"] = {path.name: path.read_bytes() for path in files}
            state["_files"][WEIGHTS] = trained_only(self.run_folder_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            self.run_folder_ = self._temporary()
            for name, content in files.items():
                (self.run_folder_ / name).write_bytes(content)
            restore_frozen(self.run_folder_)
            self.classifier_ = load(self.run_folder_, backbone=self._given)


class TransferFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # no types there
    """A pretrained network's features of images, as a transformer of scikit-learn.

    It learns nothing: `TransferFeatures().transform(paths)` works without `fit`. Images are given
    as to `TransferClassifier`.

    Attributes:
        backbone: The pretrained network: a name, a table or an object; None as in
            `TransferClassifier`.
        layer: The layer whose output is averaged over positions, a number or name; None: the last.
        resize: How images get the network's size: `stretch`, `pad` or `crop`.
    """

    def __init__(self, backbone: Any = None, *, layer: Any = None, resize: Any = "stretch") -> None:
        self.backbone = backbone
        self.layer = layer
        self.resize = resize

    def fit(self, X: Any = None, y: Any = None) -> TransferFeatures:  # noqa: N803  # scikit-learn's name
        """Learn nothing: the network is pretrained. Only a table's column is noted."""
        _note_column(self, X)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803  # scikit-learn's name
        """Return the features of each image, `(images, channels)`.

        Raises:
            TlkitError: If the weights or an image are not available.
        """
        extractor, size = self._network()
        images = _images(X)
        _check_column(self, X)
        sizes: tuple[int, Any, float] = size, self.resize, 0.0
        if isinstance(images, list):
            chunks = extractor.stream(Reader(read_file, *sizes), images)
        else:
            starts = range(0, len(images), extractor.batch)
            batches = (images[start : start + extractor.batch] for start in starts)
            chunks = (extractor(np.stack([to_pixels(png(i), *sizes) for i in b])) for b in batches)
        return np.concatenate([np.empty((0, *extractor.shape), np.float32), *chunks])

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Return a name for each feature."""
        (count,) = self._network()[0].shape
        return np.array([f"feature{number}" for number in range(count)], object)

    def _network(self) -> tuple[Extractor, int]:
        """Return what computes features, and its image size; kept, but not pickled."""
        asked = repr((self.backbone, self.layer))
        if getattr(self, "_kept", ("",))[0] != asked:
            backbone = self.backbone or default_backbone()
            if isinstance(backbone, str):
                backbone = _with_all_sources(backbone)
            if not isinstance(backbone, Backbone):
                cls = registries.backbones.get(backbone["name"])
                rest = {key: value for key, value in backbone.items() if key != "name"}
                backbone = structure(cls, rest, source="backbone")
            network = backbone.build()
            backbone.load_weights(network)
            layer = None if self.layer is None else str(self.layer)
            model = pooled_features(network, backbone.layers(), layer)
            extractor = Extractor(model, backbone, NoAugmentation(), PREFIX_BATCH, constant=True)
            self._kept = asked, extractor, backbone.image_size
        return self._kept[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {key: v for key, v in dict(super().__getstate__()).items() if key != "_kept"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


def default_backbone() -> str:
    """Return the first of the default backbones whose weights are on this machine, or the last."""
    here = (
        name
        for name in DEFAULTS
        for file in published_files(registries.backbones.get(name)).values()
        if file.local() is not None
    )
    return next(here, DEFAULTS[-1])


def _with_all_sources(backbone: str) -> dict[str, Any]:
    """Return a backbone's table with all published sources of its weights, in their order."""
    sources = list(published_files(registries.backbones.get(backbone)))
    return {"name": backbone, **({"weights": sources} if len(sources) > 1 else {})}


def _sample_weights(given: Any, count: int) -> npt.NDArray[np.float64]:
    weights = np.asarray(given, np.float64)
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"sample_weight: must be {count} finite numbers from 0 on, got {weights.shape}"
        )
    return weights


def _labels(y: Any) -> npt.NDArray[Any]:
    """Return one label per image."""
    if np.ndim(y) == 1:
        refuse_missing(y, "y")
    check_classification_targets(y)
    labels: npt.NDArray[Any] = column_or_1d(y, warn=True)
    refuse_missing(labels, "y")
    return labels


def _is_column(X: Any) -> bool:  # noqa: N803  # scikit-learn's name
    return hasattr(X, "iloc") and X.ndim == 2 and X.shape[1] == 1


def _note_column(estimator: Any, X: Any) -> None:  # noqa: N803  # scikit-learn's name
    """Keep the name of a table's column, as scikit-learn's estimators do."""
    if _is_column(X):
        estimator.n_features_in_ = 1
        estimator.feature_names_in_ = np.array(X.columns, object)


def _check_column(estimator: Any, X: Any) -> None:  # noqa: N803  # scikit-learn's name
    """Refuse a table whose column is not that of `fit`."""
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None and _is_column(X) and list(X.columns) != list(known):
        raise ValueError(f"X: the column must be {known[0]!r}, as in fit, got {X.columns[0]!r}")


def _images(X: Any) -> list[str] | npt.NDArray[np.uint8]:  # noqa: N803  # scikit-learn's name
    """Return images as paths or as pixels."""
    if isinstance(X, str | Path):
        raise ValueError(f"X: must be a list of paths, got one path, {str(X)!r}")
    if _is_column(X):
        return _images(X.iloc[:, 0])
    if not hasattr(X, "shape") and all(isinstance(image, str | Path) for image in X):
        return [str(path) for path in X]
    try:
        pixels = np.asarray(X)
    except ValueError:  # of several sizes
        raise ValueError("X: arrays must have one size; resize them, or give paths") from None
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
    """Return the numbers of the training and of the validation images; both have every class.

    Copies of a picture stay together: a picture in both would make validation meaningless.
    """
    place = {digest: number for number, digest in enumerate(dict.fromkeys(pictures))}
    picture = np.array([place[digest] for digest in pictures])
    _, first = np.unique(picture, return_index=True)
    class_of_picture = numbers[first]
    counts = np.bincount(class_of_picture, minlength=len(names))
    single = [name for name, count in zip(names, counts, strict=True) if count < 2]
    if single:
        raise ValueError(
            f"y: each class must have two different images or more, got one of {', '.join(single)}"
        )
    random = np.random.default_rng(seed)
    validation: list[int] = []
    for number, count in enumerate(counts):
        size = min(count - 1, max(1, round(fraction * count)))
        validation.extend(random.permutation(np.flatnonzero(class_of_picture == number))[:size])
    in_val = np.isin(picture, validation)
    return np.flatnonzero(~in_val).tolist(), np.flatnonzero(in_val).tolist()


def _pictures(images: list[str] | npt.NDArray[np.uint8]) -> list[str]:
    """Return the hash of each picture: of its pixels, as a run compares them."""
    if isinstance(images, list):
        return [_picture(Path(path).read_bytes()) for path in images]
    arrays = images[..., 0] if images.shape[-1] == 1 else images
    return [picture_of(Image.fromarray(array)).pixels for array in arrays]


def _picture(content: bytes) -> str:
    try:
        return picture_of(decode(content)).pixels
    except ImageError:  # the run will name the file
        return hashlib.sha256(content).hexdigest()


def _select(
    images: list[str] | npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64], selected: list[int]
) -> tuple[Any, Any]:
    if isinstance(images, list):
        return [images[number] for number in selected], numbers[selected]
    return images[selected], numbers[selected]
