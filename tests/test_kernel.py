"""The head `kernel`: its place in the graph, its landmarks, and the classifier it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import small

import tlkit
from tlkit.parts.kernel import Kernel, kernel_layer
from tlkit.testing import check_head

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

RNG = np.random.default_rng(0)
HEAD = 'head={name="kernel", depths=2, landmarks=%d}'
SOLVER = ["optimizer={name='lbfgs', strongest=1e-2, weakest=1e-4}", "fit.epochs=2"]


def fitted(x: np.ndarray, landmarks: int, bandwidth: float = 0.7) -> keras.Layer:
    layer = kernel_layer()(landmarks, bandwidth)
    layer.build((None, x.shape[1]))
    layer.adapt([x[:2], x[2:]])
    return layer


def gaussian(x: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the kernel between all rows, written down independently."""
    x = x.astype(np.float64)
    squares = ((x[:, None] - x) ** 2).sum(axis=-1)
    median = np.median(squares[~np.eye(len(x), dtype=bool)])
    return np.asarray(np.exp(-squares / (2 * bandwidth**2 * median)))


def test_the_table_is_what_is_built() -> None:
    x = inputs = keras.Input((8, 8, 3))
    for name in ("a", "b"):
        x = keras.layers.Conv2D(4, 3, strides=2, name=name)(x)
    base = keras.Model(inputs, x)
    below, head = tlkit.layer_table(base), Kernel(landmarks=5)
    table = head.layers_on(below, 3)
    built = tlkit.layer_table(keras.Model(base.input, head.connect(base, below, 3)))
    for (_, stated), (_, actual) in zip(table, built, strict=True):
        own = {name: getattr(stated, name) for name in ("block", "fixed", "is_cut_beside_pools")}
        assert stated == evolve(actual, **own)
    assert [layer.name for _, layer in table][-3:] == ["standardize", "kernel", "scores"]


@pytest.mark.parametrize("shape", [(8,), (5, 8), (4, 4, 8)], ids=["vector", "tokens", "maps"])
def test_it_is_a_head(shape: tuple[int, ...]) -> None:
    check_head(Kernel(landmarks=5), shape)


@given(count=st.integers(2, 12), spare=st.integers(0, 4), bandwidth=st.sampled_from([0.3, 0.7, 2]))
def test_scalar_products_are_the_kernel_if_all_are_landmarks(
    count: int, spare: int, bandwidth: float
) -> None:
    x = np.random.default_rng(count).normal(size=(count, 20)).astype(np.float32)
    features = np.asarray(fitted(x, count + spare, bandwidth)(x))
    np.testing.assert_allclose(features @ features.T, gaussian(x, bandwidth), atol=2e-4)
    assert (features[:, count:] == 0).all()


def test_landmarks_are_at_equal_distances() -> None:
    x = RNG.normal(size=(10, 4)).astype(np.float32)
    layer = fitted(x, 3)
    np.testing.assert_array_equal(layer.get_weights()[0], x[[0, 3, 6]])


def test_equal_images_and_zeros_do_no_harm() -> None:
    for x in (np.ones((5, 3), np.float32), np.zeros((5, 3), np.float32)):
        assert np.isfinite(np.asarray(fitted(x, 4)(x))).all()


def test_keras_layers_compute_the_same() -> None:
    x = RNG.normal(size=(12, 6)).astype(np.float32)
    layer = fitted(x, 8)
    plain = layer.with_keras_layers()
    np.testing.assert_allclose(np.asarray(plain(x)), np.asarray(layer(x)), atol=1e-5)


def test_a_run_learns_is_saved_and_loads(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(small(), encoding="utf-8")
    run = tlkit.run(tmp_path / "x.toml", tmp_path / "run", overrides=[HEAD % 6, *SOLVER])
    landmarks, _, scale = run.model.get_layer("kernel").get_weights()
    assert np.ptp(landmarks, axis=0).any()
    assert scale != 1
    pixels = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = tlkit.load(run.folder).predict_proba(pixels)
    inputs = run.experiment.backbone.preprocess_images(pixels.astype(np.float32))
    np.testing.assert_allclose(found, run.model(inputs), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["keras", "savedmodel", "onnx"])
def test_it_is_exported_without_tlkits_own_layer(target: Any, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(small(), encoding="utf-8")
    run = tlkit.run(tmp_path / "x.toml", tmp_path / "run", overrides=[HEAD % 6, *SOLVER])
    exported = tlkit.export(run.folder, tmp_path / target, to=target)
    assert exported.difference is None or exported.difference < 1e-4
