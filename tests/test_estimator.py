"""`TransferClassifier`: scikit-learn's conventions, on images."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator

import tlkit
from tlkit import TransferClassifier, TransferFeatures
from tlkit.estimator import PARTS, _check_column, _images, _pictures, _split, default_backbone
from tlkit.parts.heads import Pooled
from tlkit.parts.optimizers import Adam
from tlkit.runfolder.folder import WEIGHTS

pytestmark = pytest.mark.usefixtures("slim_vgg")

SMALL = {"name": "vgg16", "weights": "none", "image_size": 32}
FAST = {"name": "adam", "learning_rate": 0.01}
PLAIN: dict[str, Any] = {
    "backbone": SMALL,
    "optimizer": FAST,
    "epochs": 2,
    "settings": {"fit": {"xla": False}},  # compiling would take half the time
}


def small(**settings: Any) -> TransferClassifier:
    return TransferClassifier(**PLAIN | settings)


def bright_and_dark(count: int, side: int = 24) -> tuple[npt.NDArray[np.uint8], list[str]]:
    draws = np.random.default_rng(0)
    labels = ["bright", "dark"] * (count // 2)
    low = [160 if label == "bright" else 0 for label in labels]
    images = [draws.integers(start, start + 90, (side, side, 3)) for start in low]
    return np.array(images, np.uint8), labels


@pytest.fixture(scope="module")
def fitted() -> TransferClassifier:
    return small().fit(*bright_and_dark(20))


def test_it_learns_what_is_easy_and_knows_its_classes(fitted: TransferClassifier) -> None:
    images, labels = bright_and_dark(20)
    assert list(fitted.classes_) == ["bright", "dark"]
    found = fitted.predict_proba(images)
    assert found.shape == (20, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(images), fitted.classes_[found.argmax(axis=1)])
    assert 0 <= fitted.score(images, labels) <= 1
    assert len(fitted.history_) == 2


def test_files_are_as_good_as_pixels(fitted: TransferClassifier, tmp_path: Path) -> None:
    from PIL import Image

    images, labels = bright_and_dark(20)
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(fitted.predict_proba(paths), fitted.predict_proba(images))
    from_files = small().fit([str(path) for path in paths], np.array(labels))
    np.testing.assert_array_equal(from_files.predict_proba(paths), fitted.predict_proba(paths))


def test_labels_may_be_numbers_and_come_back_as_such() -> None:
    images, labels = bright_and_dark(8)
    numbers = [7 if label == "dark" else 3 for label in labels]
    found = small(epochs=1).fit(images, numbers)
    assert found.classes_.tolist() == [3, 7]
    assert set(found.predict(images)) <= {3, 7}


def test_a_pickled_one_answers_the_same_and_holds_no_code(fitted: TransferClassifier) -> None:
    images, _ = bright_and_dark(6)
    packages = set()

    class Watched(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            packages.add(module.partition(".")[0])
            return super().find_class(module, name)

    again = Watched(io.BytesIO(pickle.dumps(fitted))).load()
    assert packages <= {"tlkit", "numpy", "pathlib", "builtins", "copyreg"}
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    assert again.run_folder_ != fitted.run_folder_
    assert not (fitted.run_folder_ / "report.html").exists()  # nobody would see it
    assert tlkit.verify(fitted.run_folder_).problems == ()


def test_each_fit_adds_a_run_folder(tmp_path: Path) -> None:
    images, labels = bright_and_dark(8)
    classifier = small(epochs=1, folder=tmp_path)
    assert [classifier.fit(images, labels).run_folder_.name for _ in range(2)] == ["fit-1", "fit-2"]
    assert (classifier.run_folder_ / "report.html").is_file()
    assert (tmp_path / "fit-2" / "metrics.json").is_file()
    tlkit.load(tmp_path / "fit-1")


def test_parts_are_given_by_name_as_tables_or_as_objects() -> None:
    named = small(head="linear")._experiment(
        tlkit.FromImages(train=(), val=(), classes=("a", "b")), 5
    )
    data = tlkit.FromImages(train=(), val=(), classes=("a", "b"))
    named = small(head="linear")._experiment(data, 5)
    assert type(named.head).__name__ == "Linear"
    assert (named.seed, named.fit.epochs, named.backbone.image_size) == (5, 2, 32)
    given = Pooled(units=(3,))
    assert small(head=given)._experiment(data, 0).head is given
    with pytest.raises(tlkit.ConfigError, match=r"head\.units"):
        small(head={"name": "pooled", "units": [0]})._experiment(data, 0)


def test_its_parts_are_those_of_an_experiment_and_all_count() -> None:
    experiment = tlkit.Experiment(data=tlkit.FromImages(train=(), val=(), classes=("a", "b")))
    kinds = {"freeze": "freezes", "loss": "losses", "class_weights": "class_weights"}
    for name in PARTS:
        registry = getattr(tlkit.registries, kinds.get(name, f"{name}s"))
        own = registry.name_of(type(getattr(experiment, name)))
        # The study's own head has 27 million weights: no good beginning for a few images.
        own = {"head": "pooled", "backbone": None}.get(name, own)
        assert TransferClassifier().get_params()[name] == own


def test_the_split_has_each_class_on_both_sides() -> None:
    numbers, names = np.repeat([0, 1, 2], [30, 2, 8]), ["a", "b", "c"]
    pictures = [str(number) for number in range(40)]
    train, val = _split(numbers, pictures, names, 0.1, 0)
    assert sorted([*train, *val]) == list(range(40))
    assert set(numbers[train]) == set(numbers[val]) == {0, 1, 2}
    assert _split(numbers, pictures, names, 0.1, 0) == (train, val)
    assert _split(numbers, pictures, names, 0.1, 1) != (train, val)


def test_copies_of_a_picture_stay_together() -> None:
    numbers = np.repeat([0, 1], [20, 20])
    pictures = [str(number // 4) for number in range(40)]
    for seed in range(5):
        train, val = _split(numbers, pictures, ["a", "b"], 0.3, seed)
        assert not {pictures[n] for n in train} & {pictures[n] for n in val}
    with pytest.raises(ValueError, match="two different images or more, got one of b"):
        _split(numbers, [*pictures[:20], *["same"] * 20], ["a", "b"], 0.3, 0)


def test_copies_are_the_same_picture_whatever_their_file_or_channels(tmp_path: Path) -> None:
    """As in a run: what is compared are the decoded pixels."""
    gray = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    for name in ("a.png", "a.bmp"):
        Image.fromarray(gray).save(tmp_path / name)
    one, three = gray[None, ..., None], np.repeat(gray[None, ..., None], 3, axis=-1)
    hashes = [
        *_pictures([str(tmp_path / "a.png"), str(tmp_path / "a.bmp")]),
        *_pictures(one), *_pictures(three),
    ]  # fmt: skip
    assert len(set(hashes)) == 1
    assert _pictures(one + 1) != _pictures(one)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 8, 8, 3)), [0, 1, 0, 1], "uint8 from 0 to 255"),
        (np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], "uint8 from 0 to 255"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0], "got 4 images and 3 labels"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 0, 0, 0], "two classes or more, got 1 class"),
        (bright_and_dark(4)[0], [0, 0, 0, 1], "two different images or more, got one of 1"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0.5, 1.5, 0.1, 2.2], "continuous"),
        ("photo.jpg", ["a"], "must be a list of paths"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], ["a", "b"], "X: arrays must have one size"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().fit(images, labels)


@pytest.mark.parametrize("fraction", [0, 1, 2.5])
def test_a_share_to_watch_by_is_a_share(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"^validation_fraction: must be above 0 and below 1, got"):
        small(validation_fraction=fraction).fit(*bright_and_dark(8))


def test_an_unfitted_one_says_so() -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        small().predict(bright_and_dark(2)[0])


def test_a_clone_has_the_parameters_and_nothing_learnt(fitted: TransferClassifier) -> None:
    copy = clone(fitted.set_params(verbose=False))
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "classifier_")


def test_single_keys_of_a_part_are_parameters() -> None:
    given = {"optimizer__learning_rate": 0.5, "head__units": [3], "epochs": 7}
    found = small(optimizer="adam").set_params(**given)
    assert found.optimizer == {"name": "adam", "learning_rate": 0.5}
    assert found.head == {"name": "pooled", "units": [3]}
    assert found.epochs == 7
    assert {**found.get_params(), **given} == found.get_params()
    assert clone(found).get_params() == found.get_params()
    as_object = small(optimizer=Adam(learning_rate=0.1)).set_params(optimizer__learning_rate=0.2)
    assert as_object.optimizer == Adam(learning_rate=0.2)
    assert FAST == {"name": "adam", "learning_rate": 0.01}  # what was given is unchanged


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optimizer__lr", r"optimizer__lr: unknown key; .*learning_rate"),
        ("optimiser__learning_rate", r"no part is named 'optimiser'; did you mean 'optimizer'"),
        ("epoch", r"Invalid parameter 'epoch'"),
    ],
)
def test_a_parameter_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().set_params(**{name: 1})


def test_other_settings_reach_the_experiment() -> None:
    data = tlkit.FromImages(train=(), val=(), classes=("a", "b"))
    found = small(
        early_stop_patience=2,
        settings={"fit": {"mixed_precision": "bfloat16"}, "calibration": {"temperature": True}},
    )._experiment(data, 0)
    assert (found.fit.keep, found.fit.early_stop_patience) == ("best", 2)
    assert (found.fit.mixed_precision, found.calibration.temperature) == ("bfloat16", True)


def test_by_default_each_published_file_of_the_backbone_is_tried() -> None:
    data = tlkit.FromImages(train=(), val=(), classes=("a", "b"))
    named = TransferClassifier("vgg16")._experiment(data, 0)
    assert named.backbone.weights == ("imagenet", "bsds500")
    named = TransferClassifier("efficientnet_lite0")._experiment(data, 0)
    assert named.backbone.weights == "imagenet"


def test_without_a_backbone_it_is_one_whose_weights_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here: dict[str, Any] = {}

    class File:
        def __init__(self, name: str) -> None:
            self.name = name

        def local(self) -> Any:
            return here.get(self.name)

    monkeypatch.setattr(
        "tlkit.estimator.published_files", lambda part: {"imagenet": File(part.__name__)}
    )
    assert default_backbone() == "vgg16"  # to be downloaded
    here["VGG16"] = "a.h5"
    assert default_backbone() == "vgg16"
    here["EfficientNetLite0"] = "b.pth"
    assert default_backbone() == "efficientnet_lite0"


def test_images_weigh_what_they_are_given() -> None:
    """All weights times two is another loss; weights of 0 take a class out of the loss."""
    images, labels = bright_and_dark(12)
    plain = small(epochs=1).fit(images, labels)
    ones = small(epochs=1).fit(images, labels, sample_weight=np.ones(12))
    assert ones.history_ == plain.history_
    halves = small(epochs=1).fit(images, labels, sample_weight=np.full(12, 0.5))
    assert halves.history_[0].loss == pytest.approx(halves.history_[0].loss_unweighted / 2)
    for wrong in (np.ones(11), np.full(12, -1.0), np.full(12, np.nan)):
        with pytest.raises(ValueError, match=r"sample_weight: must be 12 finite numbers from 0 on"):
            small().fit(images, labels, sample_weight=wrong)


def test_a_table_of_one_column_is_a_list_of_paths(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": ["a.png", "b.png"]})
    assert _images(table) == ["a.png", "b.png"]
    features = TransferFeatures(SMALL).fit(table)
    assert (features.n_features_in_, list(features.feature_names_in_)) == (1, ["path"])
    with pytest.raises(ValueError, match="X: the column must be 'path', as in fit, got 'file'"):
        _check_column(features, table.rename(columns={"path": "file"}))


def test_keys_of_parts_are_reached_through_a_pipeline() -> None:
    from sklearn.pipeline import Pipeline

    steps = Pipeline([("clf", small(optimizer="adam"))])
    steps.set_params(clf__optimizer__learning_rate=0.5, clf__epochs=7)
    assert steps.named_steps["clf"].optimizer == {"name": "adam", "learning_rate": 0.5}
    assert clone(steps).get_params()["clf__optimizer__learning_rate"] == 0.5


def test_features_come_as_a_table_if_pandas_is_asked_for() -> None:
    pandas = pytest.importorskip("pandas")
    features = TransferFeatures(SMALL).set_output(transform="pandas")
    found = features.transform(bright_and_dark(3)[0])
    assert isinstance(found, pandas.DataFrame)
    assert list(found.columns[:2]) == ["feature0", "feature1"]


def test_features_are_a_transformer_that_needs_no_fit(fitted: TransferClassifier) -> None:
    images, _ = bright_and_dark(6)
    features = TransferFeatures(SMALL)
    found = features.transform(images)
    assert found.shape == (6, 16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(features.fit_transform(images[:3]), found[:3])
    assert TransferFeatures(SMALL, layer="block1_pool").transform(images).shape == (6, 16)
    assert list(features.get_feature_names_out()[:2]) == ["feature0", "feature1"]
    assert len(pickle.dumps(features)) < 1000
    assert clone(features).get_params() == features.get_params()
    with pytest.raises(tlkit.ConfigError, match=r"layer: no layer or block matches"):
        TransferFeatures(SMALL, layer="nosuch").transform(images)


@pytest.mark.slow
def test_features_go_into_a_pipeline(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    images, labels = bright_and_dark(20)
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    backbone = {"name": "efficientnet_lite0", "weights": "imagenet", "image_size": 32}
    pipeline = make_pipeline(TransferFeatures(backbone), LogisticRegression(max_iter=1000))
    assert pipeline.fit(paths, labels).score(images, labels) == 1.0


@pytest.mark.slow
def test_a_pickle_holds_what_was_trained_and_takes_the_rest_from_the_published_file() -> None:
    images, labels = bright_and_dark(12)
    backbone = {"name": "efficientnet_lite0", "weights": "imagenet", "image_size": 32}
    found = small(backbone=backbone, epochs=1).fit(images, labels)
    packed = pickle.dumps(found)
    whole = (found.run_folder_ / WEIGHTS).stat().st_size
    assert len(packed) < whole / 10
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.predict_proba(images), found.predict_proba(images))
    weights = (again.run_folder_ / WEIGHTS).read_bytes()
    assert sorted(load(weights)) == sorted(load((found.run_folder_ / WEIGHTS).read_bytes()))


class OfTables(TransferClassifier):
    """Takes scikit-learn's tables: a row's numbers become the columns of a grey picture."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> OfTables:  # noqa: N803
        from sklearn.utils.validation import validate_data

        X, y = validate_data(self, X, y, dtype=np.float64)
        self.low_, self.high_ = X.min(), X.max()
        super().fit(self._pictures(X), y, sample_weight)
        return self

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self, "classifier_")
        return super().predict_proba(
            self._pictures(validate_data(self, X, dtype=np.float64, reset=False))
        )

    def _pictures(self, X: Any) -> npt.NDArray[np.uint8]:  # noqa: N803
        grey = np.clip((X - self.low_) / (self.high_ - self.low_ + 1e-9), 0, 1) * 255
        return np.repeat(grey.astype(np.uint8)[:, None, :, None], 16, axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.slow
def test_scikit_learns_own_checks_of_estimators_pass_through_tables() -> None:
    """The checks of the interface; the others ask how well numbers in tables are learnt."""
    estimator = OfTables(backbone=SMALL, optimizer=FAST, epochs=1, head="linear")
    failed = {}
    for one, check in estimator_checks_generator(estimator, legacy=False):
        try:
            check(one)
        except SkipTest:
            continue
        except Exception as error:  # a check may raise anything
            failed[check.func.__name__] = f"{type(error).__name__}: {error}"
    assert failed == {}


@pytest.mark.slow
def test_a_fit_may_start_from_an_earlier_one(fitted: TransferClassifier) -> None:
    backbone = {**SMALL, "weights": fitted.run_folder_}
    again = small(backbone=backbone, epochs=1).fit(*bright_and_dark(20))
    first, second = (load((run.run_folder_ / WEIGHTS).read_bytes()) for run in (fitted, again))
    frozen = [name for name in first if "block1" in name]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.slow
def test_a_grid_is_searched() -> None:
    images, labels = bright_and_dark(16)
    grid = {"head": ["pooled", "linear"], "optimizer__learning_rate": [1e-3, 1e-2]}
    search = GridSearchCV(small(), grid, cv=2).fit(images, np.array(labels))
    assert set(search.best_params_) == {"head", "optimizer__learning_rate"}
    assert search.best_estimator_.predict(images).shape == (16,)
