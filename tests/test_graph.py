"""The flattened form of a model, and names that are the same in every build."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tlkit.model.graph import flattened, layer_table, named_weights, renumber_names
from tlkit.train.assemble import seeded


class Scale(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer whose weights nobody has named."""

    def build(self, shape: Any) -> None:
        self.one = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.two = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x: Any) -> Any:
        return x * self.one + self.two


def nested() -> Any:
    """Rescaling, a Sequential of two layers, a skip connection that is no layer, a layer."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(2.0)(inputs)
    stem = keras.Sequential(
        [keras.layers.Conv2D(3, 1, name="stem_conv"), keras.layers.Conv2D(3, 1)], name="stem"
    )(x)
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, name="last")(stem + x))


def is_rescaling(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Rescaling)


def test_the_flat_form_computes_the_same() -> None:
    with seeded(0):
        model = nested()
    whole = flattened(model)
    assert not [layer for layer in whole.layers if isinstance(layer, keras.Model)]
    assert [w.shape for w in whole.weights] == [w.shape for w in model.weights]
    whole.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(whole(x), model(x))
    dropped = flattened(model, drop=is_rescaling)
    dropped.set_weights(model.get_weights())
    np.testing.assert_array_equal(dropped(2 * x), model(x))


def test_its_layers_are_its_own_and_have_one_output() -> None:
    model = nested()
    whole = flattened(model)
    assert not {id(v) for v in whole.weights} & {id(v) for v in model.weights}
    for layer in whole.layers[1:]:
        keras.Model(whole.input, layer.output)  # an output of another graph would be refused


def test_names_that_keras_counts_on_are_counted_again() -> None:
    names = []
    for _ in range(2):
        model = flattened(nested())
        renumber_names(model)
        names.append([layer.name for layer in model.layers[1:]])
    assert names == [["rescaling", "stem_conv", "conv2d", "last"]] * 2


@pytest.mark.parametrize(
    ("closes", "prefix", "blocks"),
    [(False, "", ["1", "1", "1", "2"]), (True, "b", ["b1", "b1", "b2", "b2"])],
)
def test_layers_without_a_match_belong_to_the_block_before_or_after(
    closes: bool, prefix: str, blocks: list[str]
) -> None:
    inputs = x = keras.Input((3,))
    for name in ("first", "at_1", "between", "at_2"):
        x = keras.layers.Dense(3, name=name)(x)
    model = keras.Model(inputs, x)
    table = layer_table(model).grouped(r"^at_(\d)$", prefix, closes)
    assert [layer.block for _, layer in table] == blocks


def test_weights_without_a_name_are_called_by_their_place() -> None:
    for _ in range(2):  # Keras counts on: variable_2 and variable_3 the second time
        layer = Scale()
        layer.build((None, 3))
        assert [name for name, _ in named_weights(layer)] == ["variable_0", "variable_1"]


def test_weights_of_one_name_are_kept_apart() -> None:
    layer = keras.layers.MultiHeadAttention(1, 2)
    layer.build((None, 4, 3), (None, 4, 3))
    names = [name for name, _ in named_weights(layer)]
    assert len(set(names)) == len(names) == 8
    assert {name.partition("_")[0] for name in names} == {"kernel", "bias"}
