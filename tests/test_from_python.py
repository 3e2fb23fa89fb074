"""A Keras model as the backbone: trained as a copy, recorded by its layers, wanted back to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from attrs import evolve

import tlkit
from tlkit.config.toml import load_experiment
from tlkit.data.images import to_pixels
from tlkit.from_python import png
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import TrainAll
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.testing import check_backbone
from tlkit.train.feature_key import FeatureKey

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

DATA = Shapes(train=6, val=3, test=0, image_px=16)


def network(size: int | None = 16, activation: str = "relu", seed: int = 0) -> Any:
    inputs = keras.Input((size, size, 3))
    start = keras.initializers.GlorotUniform(seed)  # how it begins, not what it is
    x = keras.layers.Conv2D(4, 3, kernel_initializer=start, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation(activation, name="act")(x)
    branch = keras.layers.Conv2D(4, 1, kernel_initializer=start, name="branch")(x)
    model = keras.Model(inputs, keras.layers.Add(name="add")([x, branch]))
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 0.5, weight.shape) for weight in model.weights])
    return model


def arrays(model: Any) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.weights]


def experiment(backbone: tlkit.Backbone) -> tlkit.Experiment:
    fit = tlkit.Fit(epochs=1, batch_size=3, xla=False)
    return tlkit.Experiment(data=DATA, backbone=backbone, head=Pooled(), freeze=TrainAll(), fit=fit)


@pytest.mark.parametrize("size", [16, None])
def test_it_keeps_what_every_backbone_promises(size: int | None) -> None:
    check_backbone(tlkit.FromModel(model=network(size), image_size=16))


def test_a_sequential_model_will_do() -> None:
    layers = [keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")]
    check_backbone(tlkit.FromModel(model=keras.Sequential(layers)))


def test_it_begins_with_the_models_weights() -> None:
    model = network()
    backbone = tlkit.FromModel(model=model)
    built = backbone.build()
    assert arrays(built) != arrays(model)
    assert backbone.load_weights(built)["source"] == "the given model"
    assert arrays(built) == arrays(model)


def test_a_run_trains_a_copy_and_is_loaded_with_the_same_layers(tmp_path: Path) -> None:
    model = network()
    before = arrays(model)
    run = tlkit.run(experiment(tlkit.FromModel(model=model)), tmp_path / "run")
    assert arrays(model) == before
    assert run.model.get_layer("conv").get_weights()[0].tobytes() != before[0]
    recorded = json.loads((tmp_path / "run" / "experiment.json").read_text())["backbone"]
    assert recorded.keys() == {"name", "preprocess", "image_size", "layers_sha256"}
    other_weights = tlkit.FromModel(model=network(seed=1))  # the run's arrays replace them
    loaded = tlkit.load(tmp_path / "run", backbone=other_weights)
    assert arrays(loaded.model) == arrays(run.model)
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    assert loaded.predict_proba(pixels).shape == (2, 3)

    with pytest.raises(
        tlkit.PartError, match=r"/run: was made with a Keras model, which no folder"
    ):
        tlkit.load(tmp_path / "run")
    for wrong in (
        tlkit.FromModel(model=network(activation="tanh")),
        tlkit.FromModel(model=network(), preprocess="unit"),
    ):
        with pytest.raises(tlkit.PartError, match=r"/run: was made with another backbone than"):
            tlkit.load(tmp_path / "run", backbone=wrong)
    with pytest.raises(tlkit.PartError, match=r"^backbone: must be a tlkit\.FromModel, got VGG16"):
        tlkit.load(tmp_path / "run", backbone=VGG16())


def test_a_backbone_for_a_run_that_has_one_is_refused(tmp_path: Path) -> None:
    backbone = VGG16(weights="none", image_size=32)
    own = evolve(experiment(backbone), freeze=tlkit.registries.freezes.get("head_only")())
    tlkit.run(own, tmp_path / "run")
    with pytest.raises(tlkit.PartError, match=r"was made with another backbone than .*'vgg16'"):
        tlkit.load(tmp_path / "run", backbone=tlkit.FromModel(model=network()))


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [("native", 255.0), ("unit", 1.0), (lambda pixels: pixels / 127.5 - 1, 1.0)],
)
def test_pixels_are_prepared_as_said(preprocess: Any, expected: float) -> None:
    backbone = tlkit.FromModel(model=network(), preprocess=preprocess)
    assert (
        float(backbone.preprocess_images(keras.ops.full((1, 16, 16, 3), 255.0))[0, 0, 0, 0])
        == expected
    )


def test_features_are_shared_unless_a_function_made_them() -> None:
    def key(preprocess: Any) -> str:
        model = network()
        backbone = tlkit.FromModel(model=model, preprocess=preprocess)
        key = FeatureKey.of(model, experiment(backbone), 4, False)
        return key.entry_name(["a"], None)

    def halved(pixels: Any) -> Any:
        return pixels / 2

    def same_name(pixels: Any) -> Any:
        return pixels / 3

    same_name.__qualname__ = halved.__qualname__
    assert key("native") == key("native") != key("unit")
    assert key(halved) == key(halved) != key(same_name)


def nested() -> Any:
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, network()(inputs))


def with_two_outputs() -> Any:
    model = network()
    return keras.Model(model.input, [model.output, model.get_layer("conv").output])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (nested, {}, r"the model must be flat, got a model nested in it"),
        (with_two_outputs, {}, r"one input and one output"),
        (keras.Model, {}, r"one input and one output"),
        (lambda: network(None), {}, r"input must be \(size, size, 3\), got .* image_size unset"),
        (network, {"image_size": 8}, r"got \(16, 16, 3\) and image_size 8"),
        (network, {"preprocess": "caffe"}, r"preprocess must be 'native', 'unit' or a function"),
    ],
)
def test_a_model_of_another_form_is_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(tlkit.PartError, match=rf"^FromModel: .*{message}"):
        tlkit.FromModel(model=make(), **settings)


def test_it_is_no_name_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('data.name = "shapes"\nbackbone.name = "FromModel"\n')
    with pytest.raises(tlkit.ConfigError, match=r"no backbone named 'FromModel'"):
        load_experiment(path)


CLASSES = ("clear", "dense")


def images(count: int, channels: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Random images, half of each class, whose second class is brighter."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 128, (count, 16, 16, channels))
    return (pixels + 127 * labels[:, None, None, None]).astype(np.uint8), labels


def in_memory(**changed: Any) -> tlkit.FromImages:
    given = {"train": images(8), "val": images(4, seed=1), "classes": CLASSES}
    return tlkit.FromImages(**(given | changed))


def as_batches(pair: tuple[Any, Any]) -> Any:
    return tf.data.Dataset.from_tensor_slices(pair).batch(3)


def as_single_images(pair: tuple[Any, Any]) -> Any:
    return tf.data.Dataset.from_tensor_slices(pair)


def with_names(pair: tuple[Any, Any]) -> Any:
    return pair[0], np.array(CLASSES)[pair[1]]


@pytest.mark.parametrize("form", [as_batches, as_single_images, with_names, lambda pair: [pair]])
def test_images_come_as_arrays_or_as_a_dataset(form: Any) -> None:
    plain = in_memory().load()
    splits = in_memory(train=form(images(8)), val=form(images(4, seed=1))).load()
    assert splits == plain
    assert [splits.read(e.path) for e in splits.train] == [plain.read(e.path) for e in plain.train]


def test_what_keras_reads_from_a_directory_is_accepted(tmp_path: Path) -> None:
    """It gives float32 from 0 to 255, resized, in batches."""
    for number in range(8):
        path = tmp_path / CLASSES[number % len(CLASSES)] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(images(8)[0][number]))
    given = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(9, 9), batch_size=3, shuffle=False, verbose=False
    )
    splits = in_memory(train=given, val=images(4, seed=1)).load()
    assert len(splits.train) == 8
    first = next(iter(given))[0][0].numpy()
    np.testing.assert_array_equal(to_pixels(splits.read(splits.train[0].path), 9), first.round())


@pytest.mark.parametrize("wrong", [0.5, -1.0, 256.0, np.nan])
def test_floats_of_another_scale_are_refused(wrong: float) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.float32)
    pixels[0, 0, 0, 0] = wrong
    with pytest.raises(tlkit.DataError, match=r"uint8 from 0 to 255, got .* float32"):
        in_memory(train=(pixels, [0, 1])).load()


@pytest.mark.parametrize("form", ["list", "tuple", "array", "pairs"])
def test_paths_name_files_that_are_read_as_they_are(form: str, tmp_path: Path) -> None:
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in paths:
        path.write_bytes(path.name.encode())
    given: Any = {
        "list": (paths, ["cat", "dog"]),
        "tuple": (tuple(paths), ("cat", "dog")),
        "array": (np.array([str(path) for path in paths]), np.array(["cat", "dog"])),
        "pairs": list(zip(paths, ["cat", "dog"], strict=True)),
    }[form]
    splits = tlkit.FromImages(train=given, val=given, classes=("cat", "dog")).load()
    assert [e.path for e in splits.train] == ["train/000000-a.jpg", "train/000001-b.jpg"]
    assert [e.label for e in splits.val] == ["cat", "dog"]
    assert splits.read("val/000001-b.jpg") == b"b.jpg"


def test_a_path_without_a_label_is_refused(tmp_path: Path) -> None:
    given: Any = ([tmp_path / "a.jpg", tmp_path / "b.jpg"], ["cat"])
    with pytest.raises(tlkit.DataError, match=r"got labels \(1,\) for 2 images"):
        tlkit.FromImages(train=given, val=given, classes=("cat", "dog")).load()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pixels_read_are_the_pixels_given(channels: int) -> None:
    given = images(8, channels)
    splits = in_memory(train=given).load()
    for example, pixels, label in zip(splits.train, *given, strict=True):
        read = to_pixels(splits.read(example.path), 16)
        np.testing.assert_array_equal(read, np.broadcast_to(pixels, (16, 16, 3)))
        assert example.label == CLASSES[label]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((images(4)[0] / 255, images(4)[1]), r"^train: images must be .* uint8 .*float64"),
        ((images(4)[0][..., 0], images(4)[1]), "^train: images must be "),
        (images(4)[0], r"^train: must be images and their labels, .* such pairs, got ndarray$"),
        ((images(4)[0], images(3)[1]), "^train: there must be one label per image"),
        ((images(4)[0], np.eye(2)[images(4)[1]]), "^train: there must be one label per image"),
        ((images(4)[0], images(4)[1] + 1), "^train image 1: the label must be one of clear, dense"),
        ((images(4)[0], ["clear", "other", "clear", "dense"]), "^train image 1: .* got 'other'$"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(train: Any, message: str) -> None:
    with pytest.raises(tlkit.DataError, match=message):
        in_memory(train=train).load()


def test_a_run_on_images_from_memory_is_loaded_without_them(tmp_path: Path) -> None:
    one = evolve(experiment(VGG16(weights="none", image_size=32)), data=in_memory(resize="pad"))
    done = tlkit.run(one, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())["data"]
    assert (record["name"], record["resize"]) == ("FromImages", "pad")
    classifier = tlkit.load(tmp_path / "run")
    assert classifier.experiment.data.resize == "pad"
    assert classifier.classes == CLASSES
    assert done.result.images == 4
    with pytest.raises(tlkit.DataError, match="images from memory"):
        classifier.experiment.data.load()
