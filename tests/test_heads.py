"""Heads: the layers that their tables promise, and what these compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from attrs import evolve

import tlkit
from tlkit.parts.backbones.vgg import VGG19
from tlkit.parts.freezes import HeadOnly
from tlkit.parts.heads import Cosine, FlattenDense, Linear, Pooled, cosine_scores
from tlkit.parts.losses import cross_entropy
from tlkit.parts.shapes import Shapes
from tlkit.testing import check_head
from tlkit.train.step import TrainStep

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

Floats = npt.NDArray[Any]
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
        (Pooled(pooling="concat"), "pool_avg pool_max pool scores", [0, 0, 0, 11 * 4]),
        (Pooled(pooling="concat", units=(7,), dropout=0.1),
         "pool_avg pool_max pool dropout_1 dense_1 dropout_2 scores",
         [0, 0, 0, 0, 11 * 7, 0, 8 * 4]),
        (Pooled(units=(7, 2), batch_norm=True),
         "pool dense_1 batch_norm_1 relu_1 dense_2 batch_norm_2 relu_2 scores",
         [0, 5 * 7, 2 * 7, 0, 7 * 2, 2 * 2, 0, 3 * 4]),
        (Pooled(units=(7,), batch_norm=True, dropout=0.1),
         "pool dropout_1 dense_1 batch_norm_1 relu_1 dropout_2 scores",
         [0, 0, 5 * 7, 2 * 7, 0, 0, 8 * 4]),
        (Linear(), "pool scores", [0, 6 * 4]),
        (Cosine(), "pool scores", [0, 5 * 4 + 1]),
        (Cosine(learn_scale=False), "pool scores", [0, 5 * 4]),
    ],
    ids=str,
)  # fmt: skip
def test_the_table_is_what_is_built(head: tlkit.Head, names: str, params: list[int]) -> None:
    table, built = head.layers(SHAPE, CLASSES), tlkit.layer_table(attached(head))
    assert [layer.name for _, layer in table] == names.split()
    assert [layer.params for _, layer in table] == params
    assert {layer.block for _, layer in table} == {"head"}
    # What a built model does not show: pooling belongs to the frozen prefix.
    assert [layer.fixed for _, layer in table] == ["pool" in layer.name for _, layer in table]
    assert [evolve(layer, fixed=False) for _, layer in table] == [*built.in_block("head").layers]


@pytest.mark.parametrize(
    "head",
    [
        FlattenDense(units=(7,)),
        Pooled(units=(7,), dropout=0.5),
        Pooled(pooling="concat", units=(7,), batch_norm=True),
        Linear(),
        Cosine(),
    ],
)
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


def outputs(model: Any, name: str, training: bool = False) -> Floats:
    inner = keras.Model(model.input, model.get_layer(name).output)
    return np.asarray(inner(X, training=training))


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_concat_is_both_poolings_the_averages_first() -> None:
    found = outputs(attached(Pooled(pooling="concat")), "pool")
    both = np.concatenate([X.mean(axis=(1, 2)), X.max(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(found, both, rtol=1e-5, atol=1e-6)


class TestBatchNorm:
    def model(self) -> Any:
        model = attached(Pooled(units=(7,), batch_norm=True))
        random = np.random.default_rng(1)
        model.get_layer("batch_norm_1").set_weights(random.uniform(0.5, 2, (4, 7)))
        return model

    def test_is_between_a_dense_layer_without_bias_and_its_relu(self) -> None:
        model = self.model()
        (kernel,) = model.get_layer("dense_1").get_weights()
        gamma, beta, mean, variance = model.get_layer("batch_norm_1").get_weights()
        dense = X.mean(axis=(1, 2)) @ kernel
        asked = np.maximum(gamma * (dense - mean) / np.sqrt(variance + 1e-3) + beta, 0)
        np.testing.assert_allclose(outputs(model, "relu_1"), asked, rtol=1e-4, atol=1e-5)
        batch = (dense - dense.mean(axis=0)) / np.sqrt(dense.var(axis=0) + 1e-3)
        trained = np.maximum(gamma * batch + beta, 0)
        np.testing.assert_allclose(outputs(model, "relu_1", True), trained, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("xla", [False, True])
    def test_its_statistics_are_nearly_the_datas_after_fifty_steps(self, xla: bool) -> None:
        """Keras's own momentum would keep 60 % of the initial ones."""
        model = self.model()
        stepper = TrainStep(model, keras.optimizers.SGD(1e-30), xla)
        for _ in range(50):
            stepper.train(X, np.arange(6, dtype=np.int32) % 4, np.ones(6, np.float32))
        dense = X.mean(axis=(1, 2)) @ model.get_layer("dense_1").get_weights()[0]
        mean, variance = model.get_layer("batch_norm_1").get_weights()[2:]
        np.testing.assert_allclose(mean, dense.mean(axis=0), atol=0.02)
        np.testing.assert_allclose(variance, dense.var(axis=0), atol=0.02)

    def test_without_a_dense_layer_it_is_refused(self) -> None:
        with pytest.raises(tlkit.FieldError, match=r"^batch_norm: has no dense layer"):
            Pooled(batch_norm=True).layers(SHAPE, CLASSES)


def test_linear_is_logistic_regression_on_the_averages() -> None:
    model = attached(Linear())
    kernel, bias = model.get_layer("scores").get_weights()
    np.testing.assert_allclose(model(X), softmax(X.mean(axis=(1, 2)) @ kernel + bias), rtol=1e-4)


class TestCosine:
    def test_is_the_softmax_of_scale_times_cosine(self) -> None:
        model = attached(Cosine(scale=7))
        vectors, kernel = X.mean(axis=(1, 2)), model.get_layer("scores").get_weights()[0]
        products = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
        expected = softmax(7 * (vectors @ kernel) / products)
        np.testing.assert_allclose(model(X), expected, rtol=1e-4)
        np.testing.assert_allclose(attached_with(Cosine(scale=7, learn_scale=False), model)(X),
                                   expected, rtol=1e-4)  # fmt: skip

    def test_lengths_do_not_count(self) -> None:
        model = attached(Cosine())
        before = model(X).numpy()
        np.testing.assert_allclose(model(1000 * X), before, rtol=1e-4)
        kernel, scale = model.get_layer("scores").get_weights()
        model.get_layer("scores").set_weights([kernel * [1, 10, 0.1, 5], scale])
        np.testing.assert_allclose(model(X), before, rtol=1e-4)

    @pytest.mark.parametrize("xla", [False, True])
    @pytest.mark.parametrize("learn_scale", [True, False])
    def test_learns_its_scale_or_keeps_it(self, learn_scale: bool, xla: bool) -> None:
        model = attached(Cosine(learn_scale=learn_scale))
        names = [variable.name for variable in model.trainable_variables]
        assert names == ["kernel", "scale"][: 1 + learn_scale]
        before = [np.array(value) for value in model.get_weights()]
        stepper = TrainStep(model, keras.optimizers.SGD(0.1), xla)
        stepper.train(X, np.arange(6, dtype=np.int32) % 4, np.ones(6, np.float32))
        after = model.get_weights()
        assert all((one != other).any() for one, other in zip(before, after, strict=True))

    def test_learns_at_its_layers_rate(self) -> None:
        def step(rate: float) -> Floats:
            model = attached(Cosine())
            model.get_layer("scores").set_weights([np.eye(5, 4), np.array(10.0)])
            frozen = tlkit.freeze(model, train={"scores": rate})
            stepper = TrainStep(model, frozen.optimizer(keras.optimizers.SGD(0.1)), xla=False)
            stepper.train(X, np.arange(6, dtype=np.int32) % 4, np.ones(6, np.float32))
            kernel, scale = model.get_weights()
            return np.append(kernel - np.eye(5, 4), scale - 10)

        np.testing.assert_allclose(step(0.5), step(1) / 2, rtol=1e-3, atol=1e-6)
        assert step(1).any()

    @pytest.mark.parametrize("xla", [False, True])
    def test_an_image_without_features_leaves_numbers(self, xla: bool) -> None:
        """Features behind ReLU can all be 0, where a length has no slope."""
        layer = cosine_scores()(CLASSES, 10.0, True)
        layer.build((None, 3))

        def slopes(vectors: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(vectors)
                losses = cross_entropy(tf.constant([0, 1]), layer(vectors))
            return tape.gradient(losses, [vectors, *layer.trainable_variables])

        found = tf.function(slopes, jit_compile=xla)(tf.constant([[0.0, 0, 0], [1, 2, 3]]))
        assert all(np.isfinite(slope).all() for slope in found)

    def test_a_saved_model_is_read_back_by_its_registered_name(self, tmp_path: Path) -> None:
        model = attached(Cosine(scale=3, learn_scale=False))
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(again(X), model(X))


def attached_with(head: tlkit.Head, model: Any) -> Any:
    """Return a model of `head` with the kernel of the scores of another."""
    found = attached(head)
    found.get_layer("scores").set_weights(model.get_layer("scores").get_weights()[:1])
    return found


@pytest.mark.parametrize(
    "head",
    [Cosine(), Pooled(pooling="concat", units=(4,), batch_norm=True)],
    ids=["cosine", "pooled"],
)
@pytest.mark.slow
def test_a_run_is_loaded_in_a_fresh_process(head: tlkit.Head, tmp_path: Path) -> None:
    experiment = tlkit.Experiment(
        data=Shapes(train=6, val=3, test=0, image_px=32),
        backbone=VGG19(weights="none", image_size=32),  # the same in all processes
        head=head,
        freeze=HeadOnly(batch_norm="head"),
        fit=tlkit.Fit(epochs=1, batch_size=3, xla=False),
    )
    folder = tmp_path / "run"
    tlkit.run(experiment, folder)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys, numpy as np, tlkit\n"
        "found = tlkit.load(sys.argv[1]).predict_proba(np.load(sys.argv[2]))\n"
        "np.save(sys.argv[3], found)"
    )
    files = [folder, tmp_path / "pixels.npy", tmp_path / "found.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True)
    expected = tlkit.load(folder).predict_proba(pixels)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


class CutTooEarly(Pooled):
    """Says that it can be cut between two poolings."""

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        rows = super().layers(features, classes).layers
        return tlkit.LayerTable(tuple(evolve(row, is_cut_point=True) for row in rows))


def test_a_head_that_says_cut_where_none_is_breaks_its_promise() -> None:
    with pytest.raises(AssertionError, match=r"^layers: pool_avg is not a cut point$"):
        check_head(CutTooEarly(pooling="concat"))


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
        (Cosine, {"scale": 0.0}, r"^scale: must be above 0, got 0\.0$"),
        (Pooled, {"dropout": 1.0}, r"^dropout: must be at least 0 and below 1, got 1\.0$"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        part(**keys)
