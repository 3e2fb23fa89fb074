"""Lean models: the same variables and the same outputs but for rounding, in fewer operations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlkit.train.lean import (
    FEW_PIXELS,
    _above_trained,
    computing_in,
    folded_norms,
    lean,
    products_of,
)
from tlkit.train.winograd import tiled

LAYERS = keras.layers


def drawn(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def branched() -> Any:
    """Return a model with a skip connection, BatchNorm and an operation that is no layer."""
    inputs = keras.layers.Input((12, 12, 128), name="in")
    x = keras.layers.Conv2D(128, 3, padding="same", activation="relu", name="first")(inputs)
    y = keras.layers.Conv2D(128, 3, padding="same", use_bias=False, name="second")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.Conv2D(8, 3, strides=2, name="third")(keras.layers.ReLU()(x + y))
    return keras.Model(inputs, y)


def test_the_tiled_model_shares_all_variables_and_says_the_same() -> None:
    model = branched()
    names = [layer.name for layer in model.layers]
    outputs = [layer.output for layer in model.layers]
    leaner = lean(model, winograd=True)
    kinds = [type(layer).__name__ for layer in leaner.layers]
    assert [kinds.count(kind) for kind in ("_Convolution", "_Nothing", "Conv2D")] == [2, 1, 1]
    assert {id(v) for v in leaner.weights} == {id(v) for v in model.weights}
    x = drawn((3, 12, 12, 128), 0)
    for _ in range(2):
        expected = model(x, training=False).numpy()
        np.testing.assert_allclose(
            leaner(x, training=False).numpy(), expected, rtol=1e-4, atol=1e-4
        )
        for variable in model.weights:  # it computes with what the variables hold at the time
            variable.assign(variable * 1.5 + 0.01)
    assert [layer.name for layer in model.layers] == names
    assert [layer.output is output for layer, output in zip(model.layers, outputs, strict=True)]


def test_a_tiled_model_that_is_trained_keeps_its_batch_norm_and_has_the_same_gradients() -> None:
    model = branched()
    for sums in (model.get_layer("first").bias, model.get_layer("norm").beta):
        sums.assign(sums + 10)  # far from where ReLU bends: there, rounding decides on a gradient
    leaner = lean(model, winograd=True, trained=True)
    kinds = [type(layer).__name__ for layer in leaner.layers]
    assert [kinds.count(kind) for kind in ("_Convolution", "_Nothing", "Conv2D")] == [2, 0, 1]
    variables = model.trainable_variables
    assert [id(v) for v in leaner.trainable_variables] == [id(v) for v in variables]
    x, found = drawn((3, 12, 12, 128), 0), []
    for each in (model, leaner):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(each(x, training=True) ** 2)
        found.append(tape.gradient(loss, variables))
    for expected, gradient in zip(*found, strict=True):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * largest + 1e-3)


NEEDED = [  # by both layers: the gradient of the input, and that of the kernel
    ("neither", [(False, True), (True, True)]),
    ("first", [(False, False), (False, True)]),
    ("second", [(False, True), (True, False)]),
]


@pytest.mark.parametrize(("frozen", "needed"), NEEDED)
def test_gradients_that_nobody_needs_are_not_computed(
    frozen: str, needed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = branched(), []
    for layer in model.layers:
        layer.trainable = layer.name != frozen

    def asking(x: Any, kernel: Any, bias: Any, pad: bool, relu: bool, *of: bool) -> Any:
        asked.append(of)
        return tiled(x, kernel, bias, pad, relu)

    monkeypatch.setattr("tlkit.train.lean.tiled_with_gradient", asking)
    lean(model, winograd=True, trained=True)(drawn((1, 12, 12, 128), 0))
    assert asked == needed


def test_a_gpu_has_convolutions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"a {kind}"])
    tiles = [
        layer.tiles for layer in lean(branched(), winograd=True).layers if hasattr(layer, "tiles")
    ]
    assert tiles == [False]  # the one with BatchNorm


def test_what_stands_above_a_trained_layer_needs_the_gradient_of_its_input() -> None:
    x = inputs = LAYERS.Input((8, 8, 4))
    for name in ("frozen", "trained", "above"):
        x = LAYERS.MaxPooling2D(name=f"pool_below_{name}")(x)
        x = LAYERS.Conv2D(4, 3, padding="same", name=name)(x)
    model = keras.Model(inputs, x)
    for name in ("frozen", "above"):
        model.get_layer(name).trainable = False
    assert _above_trained(model) == {"pool_below_above", "above"}


def normed(below: Any, shape: tuple[int, ...] = (7, 7, 4), **settings: Any) -> Any:
    """Return a model of a layer and BatchNorm with statistics that matter."""
    inputs = keras.layers.Input(shape)
    norm = keras.layers.BatchNormalization(**settings)
    model = keras.Model(inputs, norm(below(inputs)))
    for number, variable in enumerate(model.weights):
        variable.assign(np.random.default_rng(number).uniform(0.5, 1.5, variable.shape))
    return model


@pytest.mark.parametrize("constant", [False, True])
def test_a_graph_reads_the_weights_for_every_batch_unless_they_are_constant(constant: bool) -> None:
    model = normed(keras.layers.Conv2D(6, 3))
    leaner, x = lean(model, False, constant), drawn((2, 7, 7, 4), 0)
    traced = tf.function(lambda x: leaner(x, training=False))
    first = traced(x).numpy()
    np.testing.assert_allclose(first, model(x, training=False).numpy(), rtol=1e-5, atol=1e-5)
    for variable in model.weights:
        variable.assign(variable * 1.5 + 0.01)
    expected = first if constant else model(x, training=False).numpy()
    np.testing.assert_allclose(traced(x).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("below", "settings", "folds"),
    [
        (lambda: LAYERS.Conv2D(6, 3, padding="same", use_bias=False), {}, True),
        (lambda: LAYERS.Conv2D(6, (1, 3), strides=2), {"scale": False, "epsilon": 0.1}, True),
        (lambda: LAYERS.Conv2D(6, 3, groups=2), {"center": False}, True),
        (lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2), {}, True),
        (lambda: LAYERS.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False), {}, True),
        (lambda: LAYERS.Conv2D(6, 3, activation="relu"), {}, False),
        (lambda: LAYERS.Conv2D(6, 3, dilation_rate=2), {}, False),
        (lambda: LAYERS.Conv2D(6, 3, dtype="mixed_bfloat16"), {}, False),
        (lambda: LAYERS.Conv2D(7, 3, padding="same"), {"axis": 1}, False),
        (lambda: LAYERS.SeparableConv2D(6, 3), {}, False),
        (lambda: LAYERS.Dense(6), {}, False),
    ],
)
def test_batch_norm_is_folded_into_the_convolution_before_it(
    below: Any, settings: dict[str, Any], folds: bool
) -> None:
    model, x = normed(below(), **settings), drawn((3, 7, 7, 4), 0)
    leaner = lean(model, winograd=False)
    assert len(folded_norms(model)) == folds == (leaner is not model)
    assert {id(v) for v in leaner.weights} == {id(v) for v in model.weights}
    assert not any(type(layer) is LAYERS.BatchNormalization for layer in leaner.layers) or not folds
    expected = model(x, training=False).numpy()
    np.testing.assert_allclose(leaner(x, training=False).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["linear", "swish"])
@pytest.mark.parametrize("norm", [False, True])
def test_a_convolution_of_few_pixels_is_a_matrix_product(norm: bool, activation: str) -> None:
    inputs = LAYERS.Input((2, 3, 8))
    y = LAYERS.Conv2D(6, 1, activation=activation)(inputs)
    model = keras.Model(inputs, LAYERS.BatchNormalization()(y) if norm else y)
    model.layers[1].bias.assign(drawn((6,), 1))
    few = FEW_PIXELS // 6
    products = [products_of(model, batch) for batch in (None, few, few + 1)]
    assert products == [[], [model.layers[1]], []]
    x = drawn((5, 2, 3, 8), 0)
    traced = tf.function(lambda x: lean(model, False, batch=few)(x, training=False))
    kinds = {node.op for node in traced.get_concrete_function(x).graph.as_graph_def().node}
    assert "MatMul" in kinds
    assert "Conv2D" not in kinds
    expected = model(x, training=False).numpy()
    np.testing.assert_allclose(traced(x).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [{"strides": 2}, {"groups": 2}, {"kernel_size": 3}, {"dtype": "mixed_bfloat16"}],
)
def test_any_other_convolution_is_no_matrix_product(other: dict[str, Any]) -> None:
    layer = LAYERS.Conv2D(**{"filters": 6, "kernel_size": 1, **other})
    inputs = LAYERS.Input((4, 4, 8))
    assert not products_of(keras.Model(inputs, layer(inputs)), 1)


def test_a_convolution_that_others_need_stays() -> None:
    inputs = LAYERS.Input((7, 7, 4))
    x = LAYERS.Conv2D(4, 3, padding="same")(inputs)
    y = LAYERS.BatchNormalization()(x)
    assert folded_norms(keras.Model(inputs, y))
    assert not folded_norms(keras.Model(inputs, x + y))
    assert not folded_norms(keras.Model(inputs, [x, y]))
    assert not folded_norms(keras.Model(inputs, x))


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
def test_in_bfloat16_the_features_are_those_of_rounded_numbers_and_the_model_stays(
    kind: str,
) -> None:
    def made() -> Any:
        return getattr(LAYERS, kind)(**({"filters": 6} if kind == "Conv2D" else {}), kernel_size=3)

    model, x = normed(made()), drawn((3, 7, 7, 4), 0)
    leaner, before = lean(model, winograd=False), model(x, training=False).numpy()

    def forward(images: Any) -> Any:
        with computing_in(leaner, "bfloat16"):
            return leaner(images, training=False)

    found = tf.function(forward)(x)
    assert found.dtype == "bfloat16"
    errors = tf.cast(found, "float32").numpy() - before
    assert 0 < np.abs(errors).max() < 0.02 * np.abs(before).max()
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    np.testing.assert_array_equal(model(x, training=False).numpy(), before)
