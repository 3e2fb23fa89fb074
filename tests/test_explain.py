"""Heatmaps: they light up what a class is told by, and nothing else."""

from __future__ import annotations

from typing import Any, get_args

import keras
import numpy as np
import numpy.typing as npt
import pytest
from attrs import frozen

import tlkit
from tlkit.explain import Explainer, Method, feature_layer, heatmaps
from tlkit.model.graph import layer_table
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.heads import Linear
from tlkit.parts.probe import Probe
from tlkit.train.assemble import assemble
from tlkit.train.plan import model_layers

SIZE = 32
METHODS: tuple[Method, ...] = get_args(Method)


@frozen(kw_only=True)
class Plain:
    """What stands for a backbone: pixels become shares of 255."""

    image_size: int = SIZE

    def preprocess_images(self, images: Any) -> Any:
        return images / 255.0


PLAIN: Any = Plain()


def red_detector(scale: float = 8.0, softmax: bool = True) -> keras.Model:
    """Two maps, red and blue less the other colours, averaged, a class each."""
    inputs = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(2, 4, 4, activation="relu", name="colours")(inputs)
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    scores = keras.layers.Dense(2, "softmax" if softmax else "sigmoid", name="scores")(vector)
    model = keras.Model(inputs, scores)
    kernel = np.zeros((4, 4, 3, 2), np.float32)
    kernel[..., 0, 0], kernel[..., 2, 0] = 1 / 16, -1 / 16
    kernel[..., 2, 1], kernel[..., 0, 1] = 1 / 16, -1 / 16
    model.get_layer("colours").set_weights([kernel, np.zeros(2)])
    model.get_layer("scores").set_weights([scale * np.eye(2), np.zeros(2)])
    return model


def two_patches() -> npt.NDArray[np.uint8]:
    """A grey picture with a red square above on the left and a blue one below on the right."""
    pixels = np.full((1, SIZE, SIZE, 3), 128, np.uint8)
    pixels[:, 4:12, 4:12] = [255, 0, 0]
    pixels[:, 20:28, 20:28] = [0, 0, 255]
    return pixels


RED, BLUE = (slice(4, 12), slice(4, 12)), (slice(20, 28), slice(20, 28))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_class_lights_up_its_own_patch_and_not_the_other(method: Method, number: int) -> None:
    heat = heatmaps(red_detector(), PLAIN, two_patches(), [number], method=method)
    own, other = (RED, BLUE)[:: 1 - 2 * number]
    assert heat.shape == (1, SIZE, SIZE)
    assert heat.dtype == np.float32
    assert heat.max() == 1
    assert heat.min() >= 0
    assert heat[0][own].mean() > 0.5
    assert heat[0][other].max() < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_quite_sure_is_explained_too(method: Method) -> None:
    """Its probability is 1 to the last bit and has no slope; the score before it has."""
    model = red_detector(scale=1e4)
    pixels = two_patches()
    pixels[0][BLUE] = 128
    assert model(pixels / 255.0).numpy()[0].tolist() == [1, 0]
    for number, lit in ((0, True), (1, False)):
        heat = heatmaps(model, PLAIN, pixels, [number], method=method)
        assert np.isfinite(heat).all()
        assert bool(heat[0][RED].mean() > 0.5) == lit


def test_a_head_without_softmax_is_explained_by_its_logarithm() -> None:
    heat = heatmaps(red_detector(softmax=False), PLAIN, two_patches(), [0])
    assert heat[0][RED].mean() > 0.5
    assert heat[0][BLUE].max() < 0.01


def test_nothing_speaks_for_the_class_gives_no_heat() -> None:
    pixels = np.full((2, SIZE, SIZE, 3), 128, np.uint8)
    assert not heatmaps(red_detector(), PLAIN, pixels, [0, 1]).any()


def test_a_heatmap_does_not_depend_on_the_images_beside_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)
    numbers = np.arange(11) % 2
    explainer = Explainer(red_detector(), PLAIN)
    together = explainer(pixels, numbers)
    alone = [explainer(pixels[i : i + 1], numbers[i : i + 1])[0] for i in range(11)]
    np.testing.assert_array_equal(together, alone)
    assert explainer(pixels[:0], []).shape == (0, SIZE, SIZE)


def test_hires_cam_is_true_to_a_head_that_flattens() -> None:
    """Each place has weights of its own, which Grad-CAM averages away."""
    inputs = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.AveragePooling2D(8, name="cells")(inputs)
    maps = keras.layers.Activation("linear", name="maps")(maps)
    scores = keras.layers.Dense(2, "softmax", name="scores")(keras.layers.Flatten()(maps))
    model = keras.Model(inputs, scores)
    kernel = np.zeros((4, 4, 3, 2), np.float32)
    kernel[0, 3, :, 0], kernel[3, 3, :, 0] = 1, -1  # above on the right for it, below against it
    model.get_layer("scores").set_weights([kernel.reshape(-1, 2), np.zeros(2)])
    pixels = np.full((1, SIZE, SIZE, 3), 200, np.uint8)
    found = heatmaps(model, PLAIN, pixels, [0], method="hires_cam")[0]
    assert found[2, 29] == 1
    assert not found[16:].any()
    assert not found[:, :16].any()


TABLE = LayerTable(
    (
        Layer("stem", "Conv2D", "a", (8, 8, 4)),
        Layer("branch", "Conv2D", "a", (8, 8, 4), is_cut_point=False),
        Layer("conv", "Conv2D", "b", (4, 4, 8)),
        Layer("squeeze", "Conv2D", "b", (1, 1, 8)),
        Layer("late_branch", "Conv2D", "b", (4, 4, 8), is_cut_point=False),
        Layer("pool", "MaxPooling2D", "b", (2, 2, 8)),
        Layer("dense", "Dense", "head", (3,)),
    )
)


@pytest.mark.parametrize(
    ("chosen", "number"), [(None, 3), ("stem", 1), ("2", 2), ("late_branch", 5), ("6", 6)]
)
def test_the_layer_is_the_last_with_a_map_or_the_chosen_one(
    chosen: str | None, number: int
) -> None:
    assert feature_layer(TABLE, chosen) == number


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("dense", r"^explain: layer: 'dense' has no feature map, its output is 3$"),
        ("4", r"'4' has no feature map, its output is 1×1×8$"),
        ("a", r"must be one layer, got 'a', which selects 2\n"),
        ("9", r"layers 9 reach past the last one, 7"),
        ("cnov", r"no layer or block matches 'cnov'; did you mean 'conv'\?"),
    ],
)
def test_another_layer_is_refused(chosen: str, message: str) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        feature_layer(TABLE, chosen)


def test_of_a_head_that_pools_several_depths_the_deepest_counts() -> None:
    layers = model_layers(VGG16(weights="none", image_size=64), Probe(), 3)
    assert layers[feature_layer(layers)].name == "block5_conv3"
    layers = model_layers(VGG16(weights="none", image_size=64), Probe(depths=2, pooling="max"), 3)
    assert layers[feature_layer(layers)].name == "block5_conv3"


def test_a_model_without_maps_is_referred_to_occlusion() -> None:
    with pytest.raises(tlkit.ConfigError, match="no layer has a feature map; use the method"):
        feature_layer(LayerTable(TABLE.layers[-1:]))


def test_an_unknown_method_is_refused() -> None:
    method: Any = "lime"
    with pytest.raises(tlkit.ConfigError, match=r"method: must be one of grad_cam, .*got 'lime'"):
        Explainer(red_detector(), PLAIN, method=method)


# Each family with the layer that is weighted and an input size that leaves it several places.
FAMILIES = {
    "vgg16": ("block5_conv3", 96),
    "resnet50": ("conv5_block3_out", 128),
    "efficientnet_v2_b0": ("top_activation", 128),
    "mobilenet_v3_small": ("activation_17", 128),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name != "vgg16" else ()) for name in FAMILIES],
)
def test_a_planted_patch_lights_up_in_every_family(name: str) -> None:
    """A head fitted to tell a patch, on random frozen features; the patch lies anywhere."""
    layer, size = FAMILIES[name]
    backbone = tlkit.registries.backbones.get(name)(weights="none", image_size=size)
    model, _ = assemble(backbone, Linear(), 2, seed=0)
    assert layer_table(model)[feature_layer(layer_table(model))].name == layer
    random = np.random.default_rng(0)
    half = size // 2

    def images(count: int) -> tuple[Any, Any]:
        pixels = random.integers(96, 160, (count, size, size, 3), dtype=np.uint8)
        corners = random.integers(0, 2, (count, 2)) * half
        for picture, (top, left) in zip(pixels[: count // 2], corners, strict=False):
            picture[top : top + half, left : left + half] = 255
        return pixels, corners

    pixels, _ = images(64)
    pool = keras.Model(model.input, model.get_layer("pool").output)
    vectors = pool.predict(backbone.preprocess_images(pixels.astype(np.float32)), verbose=0)
    centre, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-9
    signs = np.repeat([1.0, -1.0], 32)
    slopes = np.linalg.lstsq((vectors - centre) / spread, signs, rcond=1e-3)[0] / spread
    kernel = np.stack([slopes, -slopes], axis=1)
    model.get_layer("scores").set_weights([kernel, -centre @ kernel])

    pixels, corners = images(32)
    heat = heatmaps(model, backbone, pixels[:16], [0] * 16)
    hottest = [np.unravel_index(one.argmax(), one.shape) for one in heat]
    inside = [
        top <= row < top + half and left <= column < left + half
        for (row, column), (top, left) in zip(hottest, corners, strict=False)
    ]
    assert sum(inside) >= 15  # by chance four
    patches = [
        one[top : top + half, left : left + half].mean()
        for one, (top, left) in zip(heat, corners, strict=False)
    ]
    elsewhere = (4 * heat.mean() - np.mean(patches)) / 3  # a patch is a quarter of its image
    assert np.mean(patches) > 1.3 * elsewhere
