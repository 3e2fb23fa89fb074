"""Winograd: the same convolution but for rounding, for the layers that it makes faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tlkit
from tlkit.model.graph import layer_table
from tlkit.train.plan import tileable
from tlkit.train.winograd import suits, tiled, tiled_with_gradient


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Shapes that are used once are not worth a graph."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def drawn(shape: tuple[int, ...], seed: int, rectified: bool = False) -> Any:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.maximum(values, 0) if rectified else values


def direct(x: Any, kernel: Any, bias: Any, pad: bool, relu: bool) -> Any:
    """Return the convolution in float64, by TensorFlow."""
    sums = tf.nn.conv2d(
        x.astype(np.float64), kernel.astype(np.float64), 1, "SAME" if pad else "VALID"
    )
    sums += bias.astype(np.float64)
    return (tf.nn.relu(sums) if relu else sums).numpy()


@given(
    batch=st.integers(1, 3),
    height=st.integers(3, 15),
    width=st.integers(3, 15),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    pad=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 9),
)
@pytest.mark.usefixtures("eagerly")
def test_it_is_the_direct_convolution_but_for_rounding(
    batch: int,
    height: int,
    width: int,
    channels: int,
    filters: int,
    pad: bool,
    relu: bool,
    seed: int,
) -> None:
    x, bias = drawn((batch, height, width, channels), seed), drawn((filters,), seed + 1)
    kernel = drawn((3, 3, channels, filters), seed + 2)
    found = tiled(tf.constant(x), kernel, bias, pad, relu).numpy()
    expected = direct(x, kernel, bias, pad, relu)
    assert found.shape == expected.shape
    # The numbers of a tile reach 100 times its largest pixel, so their rounding does too.
    largest = np.abs(x).max() * np.abs(kernel).max() * channels + np.abs(bias).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2**-23 * largest)


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_it_rounds_hardly_more_than_the_direct_one() -> None:
    """On what comes out of a ReLU, over as many channels as VGG-16 has."""
    x, kernel = drawn((2, 14, 14, 128), 0, rectified=True), drawn((3, 3, 128, 64), 1)
    bias = drawn((64,), 2)
    exact = direct(x, kernel, bias, pad=True, relu=True)
    by_tiles = tiled(tf.constant(x), kernel, bias, True, True)
    plain = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
    errors = [rms(found.numpy() - exact) / rms(exact) for found in (by_tiles, plain)]
    assert errors[0] < 5e-6
    assert errors[0] < 10 * errors[1]


def layer(side: int | None = 4, channels: int = 128, **settings: Any) -> Any:
    convolution = keras.layers.Conv2D(
        **{"filters": 128, "kernel_size": 3, "padding": "same"} | settings
    )
    convolution(keras.layers.Input((side, side, channels)))
    return convolution


@pytest.mark.parametrize(
    ("settings", "suitable"),
    [
        ({}, True),
        ({"padding": "valid", "side": 6}, True),
        ({"activation": "relu", "use_bias": False}, True),
        ({"padding": "valid", "side": 5}, False),  # 3 × 3 come out
        ({"side": 3}, False),
        ({"side": None}, False),
        ({"channels": 127}, False),
        ({"filters": 127}, False),
        ({"kernel_size": 5}, False),
        ({"kernel_size": (3, 1)}, False),
        ({"strides": 2, "side": 28}, False),
        ({"dilation_rate": 2}, False),
        ({"groups": 2}, False),
        ({"activation": "tanh"}, False),
        ({"dtype": "mixed_bfloat16"}, False),
        ({"dtype": "float64"}, False),
    ],
    ids=str,
)
def test_which_layers_are_convolved_by_tiles(settings: dict[str, Any], suitable: bool) -> None:
    assert suits(layer(**settings)) is suitable


@pytest.mark.parametrize(
    "network",
    ["vgg16", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "efficientnet_b0"))],
)
def test_the_plan_knows_them_without_the_network(network: str) -> None:
    backbone = tlkit.registries.backbones.get(network)(weights="none", image_size=64)
    model = backbone.build()
    expected = [each.name for each in model.layers if suits(each)]
    assert [row.name for _, row in backbone.layers() if tileable(row)] == expected
    assert [row.name for _, row in layer_table(model) if tileable(row)] == expected
    assert len(expected) == {"vgg16": 10, "resnet50": 10, "efficientnet_b0": 0}[network]


def test_other_layers_are_not() -> None:
    class Own(keras.layers.Conv2D):  # type: ignore[misc]  # Keras has no types
        pass

    own = Own(128, 3, padding="same")
    own(keras.layers.Input((12, 12, 128)))
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same")
    depthwise(keras.layers.Input((12, 12, 128)))
    assert not any(map(suits, (own, depthwise, keras.layers.Flatten())))


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = tf.constant(drawn((3, 20, 20, 8), 0)), drawn((3, 3, 8, 4), 1)
    bias = drawn((4,), 2)
    whole = tiled(x, kernel, bias, True, True).numpy()
    monkeypatch.setattr("tlkit.train.winograd.TILES_BYTES", 1)
    each = tiled(x, kernel, bias, True, True).numpy()
    np.testing.assert_allclose(each, whole, rtol=0, atol=1e-3)  # values of up to 100


@settings(max_examples=12)
@given(
    batch=st.integers(1, 5),
    sides=st.tuples(st.integers(3, 15), st.integers(3, 15)),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    pad=st.booleans(),
    relu=st.booleans(),
    needed=st.tuples(st.booleans(), st.booleans()),
    portion=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 9),
)
@pytest.mark.usefixtures("eagerly")
def test_its_gradients_are_those_of_the_direct_convolution_but_for_rounding(
    batch: int,
    sides: tuple[int, int],
    channels: int,
    filters: int,
    pad: bool,
    relu: bool,
    needed: tuple[bool, bool],
    portion: int,
    seed: int,
) -> None:
    shapes = (batch, *sides, channels), (3, 3, channels, filters), (filters,)
    x, kernel, bias = (tf.constant(drawn(s, seed + n)) for n, s in enumerate(shapes))
    with pytest.MonkeyPatch.context() as patch, tf.GradientTape() as tape:
        of_one = 4 * sides[0] * sides[1] * max(channels, filters) * 9 // 4
        patch.setattr("tlkit.train.winograd.TILES_BYTES", portion * of_one)
        tape.watch([x, kernel, bias])
        output = tiled_with_gradient(x, kernel, bias, pad, relu, *needed)
        np.testing.assert_array_equal(output, tiled(x, kernel, bias, pad, relu))
        above = drawn(output.shape, seed + 3)
        found = tape.gradient(output, [x, kernel, bias], above)
    above = (above * (output.numpy() > 0) if relu else above).astype(np.float64)
    with tf.GradientTape() as tape:
        exact = [tf.cast(each, tf.float64) for each in (x, kernel, bias)]
        tape.watch(exact)
        output = tf.nn.conv2d(*exact[:2], 1, "SAME" if pad else "VALID") + exact[2]
    for one, other, wanted in zip(
        found, tape.gradient(output, exact, above), (*needed, True), strict=True
    ):
        assert (one is not None) is wanted
        if wanted:
            largest = np.abs(other).max() + 1  # as before, rounding is that of a tile's largest
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * largest)


def test_the_gradient_of_many_portions_keeps_no_tiles() -> None:
    """The graph of a loop is as large for any number of images."""

    def nodes(batch: int) -> int:
        @tf.function(autograph=False)  # type: ignore[untyped-decorator,unused-ignore]  # no types
        def step(x: Any, kernel: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                output = tiled_with_gradient(x, kernel, kernel[0, 0, 0], True, True, True, True)
            return tape.gradient(output, [x, kernel])

        specs = tf.TensorSpec((batch, 64, 64, 64)), tf.TensorSpec((3, 3, 64, 64))
        functions = step.get_concrete_function(*specs).graph.as_graph_def().library.function
        kinds = [node.op for function in functions for node in function.node_def]
        assert sum("While" in kind for kind in kinds) == 2, sorted({*kinds})
        return len(kinds)

    assert nodes(8) == nodes(32)
