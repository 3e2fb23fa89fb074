"""Heads: the layers that their tables promise, and what these compute."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import tlkit
from tlkit.parts.heads import FlattenDense, Pooled

SHAPE, CLASSES = (2, 3, 5), 4
X = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)


def attached(head: tlkit.Head) -> Any:
    features = keras.layers.Input(SHAPE)
    return keras.Model(features, head.attach(features, CLASSES))


@pytest.mark.parametrize(
    ("head", "names", "params"),
    [
        (FlattenDense(), "flatten dense_1 dense_2 scores",
         [0, 31 * 1024, 1025 * 1024, 1025 * 4]),
        (FlattenDense(units=()), "flatten scores", [0, 31 * 4]),
        (FlattenDense(units=(7,)), "flatten dense_1 scores", [0, 31 * 7, 8 * 4]),
        (Pooled(), "pool scores", [0, 6 * 4]),
        (Pooled(pooling="max", units=(7, 2)), "pool dense_1 dense_2 scores",
         [0, 6 * 7, 8 * 2, 3 * 4]),
        (Pooled(dropout=0.5), "pool dropout_1 scores", [0, 0, 6 * 4]),
        (Pooled(units=(7,), dropout=0.1), "pool dropout_1 dense_1 dropout_2 scores",
         [0, 0, 6 * 7, 0, 8 * 4]),
    ],
    ids=str,
)  # fmt: skip
def test_the_table_is_what_is_built(head: tlkit.Head, names: str, params: list[int]) -> None:
    table, built = head.layers(SHAPE, CLASSES), tlkit.layer_table(attached(head))
    assert [layer.name for _, layer in table] == names.split()
    assert [layer.params for _, layer in table] == params
    assert {layer.block for _, layer in table} == {"head"}
    assert table == built.in_block("head")


@pytest.mark.parametrize("head", [FlattenDense(units=(7,)), Pooled(units=(7,), dropout=0.5)])
def test_the_scores_are_probabilities(head: tlkit.Head) -> None:
    found = attached(head)(X).numpy()
    assert found.shape == (6, CLASSES)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("pooling", "pool"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_over_height_and_width(pooling: Any, pool: Any) -> None:
    model = attached(Pooled(pooling=pooling))
    pooled = keras.Model(model.input, model.get_layer("pool").output)(X).numpy()
    np.testing.assert_allclose(pooled, pool(X, axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_dropout_works_while_training_only() -> None:
    model = attached(Pooled(dropout=0.5))
    assert model.get_layer("dropout_1").rate == 0.5
    asked, trained = model(X, training=False).numpy(), model(X, training=True).numpy()
    np.testing.assert_array_equal(model(X, training=False).numpy(), asked)
    assert not np.array_equal(trained, asked)


def test_hidden_layers_are_rectified() -> None:
    model = attached(FlattenDense(units=(50,)))
    hidden = keras.Model(model.input, model.get_layer("dense_1").output)(X).numpy()
    assert hidden.min() == 0 < hidden.max()


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (FlattenDense, {"units": (8, 0)}, r"^units: must be at least 1, got 0$"),
        (Pooled, {"units": (-1,)}, r"^units: must be at least 1, got -1$"),
        (Pooled, {"dropout": 1.0}, r"^dropout: must be at least 0 and below 1, got 1\.0$"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)
