"""The head `probe`: its place in the graph, its features, and their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import small

import tlkit
from tlkit.data.images import to_pixels
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import TrainAll, TrainNames
from tlkit.parts.heads import Linear, Pooled, standardize_layer
from tlkit.parts.kinds import registries
from tlkit.parts.probe import Probe
from tlkit.testing import check_head
from tlkit.train.assemble import split_at
from tlkit.train.plan import make_plan, model_layers

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

Floats = npt.NDArray[Any]
X = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)


def backbone() -> Any:
    """Return a network with a skip connection, padding, and pooling at the end."""
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="a_conv")(x)
    x = keras.layers.MaxPooling2D(name="a_pool")(x)
    inner = keras.layers.Conv2D(4, 3, padding="same", name="b_conv")(x)
    x = keras.layers.Add(name="b_add")([x, inner])
    x = keras.layers.ZeroPadding2D(name="c_pad")(x)
    x = keras.layers.Conv2D(5, 3, strides=2, name="c_conv")(x)
    return keras.Model(inputs, keras.layers.MaxPooling2D(name="c_pool")(x))


ALL = "a_conv a_pool b_conv b_add c_pad c_conv c_pool"
POOLS = "pool_1_avg pool_1_max pool_2_avg pool_2_max"


@pytest.mark.parametrize(
    ("head", "names", "cuts"),
    [
        (Probe(depths=2, pooling="concat"), f"{ALL} {POOLS} pool standardize scores",
         "a_conv a_pool b_add pool standardize scores"),
        (Probe(),
         f"{ALL} pool_1_avg pool_2_avg pool_3_avg pool standardize scores",
         "a_conv a_pool pool standardize scores"),
        (Probe(depths=1, pooling="max", standardize=False), f"{ALL} pool scores",
         "a_conv a_pool b_add c_pad c_conv c_pool pool scores"),
        (Probe(depths=1, pooling="concat"), f"{ALL} pool_1_avg pool_1_max pool standardize scores",
         "a_conv a_pool b_add c_pad c_conv c_pool pool standardize scores"),
        (Probe(layer_names=("b_*", "c_pool")),
         f"{ALL} pool_1_avg pool_2_avg pool_3_avg pool standardize scores",
         "a_conv a_pool pool standardize scores"),
        (Probe(layer_names=("b_add", "1")),
         "a_conv a_pool b_conv b_add pool_1_avg pool_2_avg pool standardize scores",
         "a_conv pool standardize scores"),
    ],
    ids=str,
)  # fmt: skip
def test_the_table_is_what_is_built(head: Probe, names: str, cuts: str) -> None:
    base = backbone()
    below = tlkit.layer_table(base)
    table = head.layers_on(below, 3)
    built = tlkit.layer_table(keras.Model(base.input, head.connect(base, below, 3)))
    assert [layer.name for _, layer in table] == names.split()
    assert [layer.name for _, layer in table if layer.is_cut_point] == cuts.split()
    for (_, stated), (_, actual) in zip(table, built, strict=True):
        own = {name: getattr(stated, name) for name in ("block", "fixed", "is_cut_beside_pools")}
        assert stated == evolve(actual, **own)


@pytest.mark.parametrize("pooling", ["avg", "concat"])
def test_between_the_depths_the_model_is_cut_beside_the_pools(pooling: Any) -> None:
    head = Probe(layer_names=("1", "a_pool", "c_pool"), pooling=pooling)
    base = backbone()
    model = keras.Model(base.input, head.connect(base, tlkit.layer_table(base), 3))
    table = head.layers_on(tlkit.layer_table(base), 3)
    cuts = [number for number, layer in table if layer.is_cut_beside_pools]
    assert [table[cut].name for cut in cuts] == ["a_pool", "b_add", "c_pad", "c_conv", "c_pool"]
    pooled = 4 * (2 if pooling == "concat" else 1)
    for cut, below in zip(cuts, (1, 2, 2, 2, 2), strict=True):
        rates = table.rates(frozenset(range(cut + 1, len(table) + 1)))
        assert table.frozen_prefix(rates) >= cut
        prefix, tail = split_at(model, table, cut)
        assert prefix is not None
        assert prefix.output.shape[1] == np.prod(table[cut].output_shape) + below * pooled
        np.testing.assert_array_equal(tail(prefix(X)), model(X))
        places = [[id(v) for v in model.variables].index(id(v)) for v in tail.trainable_variables]
        assert places == sorted(places)


@pytest.mark.parametrize(
    "name",
    ["vgg16", *(pytest.param(name, marks=pytest.mark.slow) for name in (
        "mobilenet", "mobilenet_v2", "resnet50", "densenet121", "efficientnet_b0"))],
)  # fmt: skip
def test_it_fits_the_backbones(name: str) -> None:
    part = registries.backbones.get(name)(weights="none", image_size=64)
    model = tlkit.build_model(part, Probe(), classes=3)
    assert model.output.shape == (None, 3)


def test_vgg_gives_the_pools_of_its_blocks() -> None:
    table = VGG16(weights="none").layers()
    chosen = [table[number].name for number in Probe()._chosen(table)]
    assert chosen == [f"block{number}_pool" for number in range(1, 6)]
    assert Probe(depths=2)._chosen(table) == Probe()._chosen(table)[-2:]
    assert Probe(depths=9)._chosen(table) == Probe()._chosen(table)


def test_of_tokens_the_last_blocks_count() -> None:
    rows = [Layer(f"b{n}_{end}", "Block", f"b{n}", (5, 8)) for n in range(4) for end in "ab"]
    table = LayerTable(tuple(rows))
    assert [table[number].name for number in Probe(depths=3)._chosen(table)] == [
        "b1_b",
        "b2_b",
        "b3_b",
    ]
    above = Probe(depths=1, pooling="concat").layers_on(table, 3).layers[len(rows) :]
    assert [layer.kind for layer in above][:2] == ["GlobalAveragePooling1D", "GlobalMaxPooling1D"]


@pytest.mark.parametrize("shape", [(8,), (5, 8)], ids=["vector", "tokens"])
@pytest.mark.parametrize(
    "head", [Probe(pooling="concat"), Pooled(pooling="concat"), Linear(standardize=True)]
)
def test_vectors_and_tokens_have_heads_too(shape: tuple[int, ...], head: tlkit.Head) -> None:
    check_head(head, shape)


def test_the_features_are_averages_and_maxima_of_each_depth() -> None:
    base = backbone()
    model = keras.Model(
        base.input, Probe(depths=2, pooling="concat").connect(base, tlkit.layer_table(base), 3)
    )
    inner = [model.get_layer(name).output for name in ("b_add", "c_pool", "pool")]
    *maps, found = keras.Model(model.input, inner)(X)
    expected = [f(maps[n], axis=(1, 2)) for n in (0, 1) for f in (np.mean, np.max)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [("b_ad", r"^layer_names: no layer or block matches 'b_ad'.*'b_add'"),
     ("b_conv", r"^layer_names: 'b_conv' is inside a branch, .*; take 'b_add' as the last$")],
)  # fmt: skip
def test_a_name_that_does_not_fit_is_refused(name: str, message: str) -> None:
    with pytest.raises(tlkit.FieldError, match=message):
        Probe(layer_names=(name,)).layers_on(tlkit.layer_table(backbone()), 3)


class TestStatistics:
    @given(
        data=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
                      min_size=1, max_size=20),
        size=st.integers(1, 7),
    )  # fmt: skip
    def test_do_not_depend_on_the_batches(self, data: list[list[float]], size: int) -> None:
        x = np.array(data, np.float32)
        layer = standardize_layer()()
        layer.build((None, 3))
        layer.adapt(x[start : start + size] for start in range(0, len(x), size))
        mean, deviation = layer.get_weights()
        exact = x.astype(np.float64)
        np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-5, atol=1e-6)
        varies = exact.std(axis=0) > 1e-6 * np.abs(exact.mean(axis=0))
        np.testing.assert_allclose(deviation[varies], exact.std(axis=0)[varies], rtol=1e-4)
        assert (deviation[~varies] == 1).all()

    def test_of_a_constant_feature_do_no_harm(self) -> None:
        layer = standardize_layer()()
        constant = np.full((90, 1), 0.1, np.float32) * np.ones((1, 3), np.float32)
        layer.build((None, 3))
        layer.adapt([constant[:40], constant[40:]])
        assert layer.get_weights()[1].tolist() == [1, 1, 1]

    @pytest.mark.parametrize(
        "freeze", ["head_only", pytest.param("all_layers", marks=pytest.mark.slow)]
    )
    def test_are_those_of_the_training_images(self, freeze: str, tmp_path: Path) -> None:
        """Whether the features come from the cache or through layers that are trained."""
        overrides = [f'freeze.name="{freeze}"', 'head={name="probe", depths=2}', "fit.epochs=1"]
        (tmp_path / "x.toml").write_text(small(), encoding="utf-8")
        overrides += ["optimizer.learning_rate=1e-12", "data.image_px=40"]
        run = tlkit.run(tmp_path / "x.toml", tmp_path / "run", overrides=overrides)
        pooled = keras.Model(run.model.input, run.model.get_layer("pool").output)
        experiment = tlkit.load_experiment(tmp_path / "x.toml", overrides)
        splits = experiment.data.load()
        pixels = [to_pixels(splits.read(e.path), 32, "stretch", 0.0)
                  for e in splits.train]  # fmt: skip
        features = pooled(experiment.backbone.preprocess_images(np.array(pixels, np.float32)))
        mean, deviation = run.model.get_layer("standardize").get_weights()
        np.testing.assert_allclose(mean, np.mean(features, axis=0), rtol=1e-3, atol=1e-6)
        exact = np.std(features, axis=0)
        np.testing.assert_allclose(deviation, np.where(exact > 0, exact, 1), rtol=1e-3)
        found = tlkit.load(run.folder).predict_proba(np.array(pixels, np.uint8))
        np.testing.assert_allclose(found, run.model(experiment.backbone.preprocess_images(
            np.array(pixels, np.float32))), atol=1e-5)  # fmt: skip

    def test_must_be_there_before_the_head_learns(self) -> None:
        experiment = tlkit.load_experiment({
            "data": {"name": "shapes", "train": 6, "val": 3, "test": 0},
            "backbone": {"weights": "none", "image_size": 32},
            "head": {"name": "probe"},
            "freeze": {"name": "layer_names", "train": ["scores"]},
        })  # fmt: skip
        with pytest.raises(tlkit.ConfigError, match=r"freeze: layer 25 \(standardize\) gets its"):
            make_plan(experiment, experiment.data.load())


@pytest.mark.parametrize("head", [Probe(), Pooled(standardize=True), Linear(standardize=True)])
def test_the_frozen_prefix_ends_in_the_pooled_vector(head: tlkit.Head) -> None:
    layers = model_layers(VGG16(weights="none", image_size=32), head, 3)
    (stage,) = TrainNames(train=("head",)).planned(layers, 1)
    assert layers[layers.frozen_prefix(stage.lr_multipliers)].name == "pool"
    (stage,) = TrainAll().planned(layers, 1)
    assert layers.frozen_prefix(stage.lr_multipliers) == 0


def test_pooling_belongs_to_the_frozen_layers_without_standardization_too() -> None:
    layers = model_layers(VGG16(weights="none", image_size=32), Linear(), 3)
    (stage,) = TrainNames(train=("head",)).planned(layers, 1)
    assert layers[layers.frozen_prefix(stage.lr_multipliers)].name == "pool"


@pytest.mark.slow
def test_it_is_exported_without_tlkits_own_layer(tmp_path: Path) -> None:
    overrides = ['head={name="probe", depths=2}', "fit.epochs=1"]
    (tmp_path / "x.toml").write_text(small(), encoding="utf-8")
    run = tlkit.run(tmp_path / "x.toml", tmp_path / "run", overrides=overrides)
    for target in ("keras", "savedmodel", "onnx"):
        exported = tlkit.export(run.folder, tmp_path / target, to=target)
        assert exported.difference is None or exported.difference < 1e-4
