"""Models: built as their tables say, seeded, numbered, frozen and cut in two."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve, frozen
from keras.src.random.seed_generator import make_default_seed

import tlkit
from tlkit.data.images import Reader
from tlkit.model.layers import LayerRange
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import HeadThen, TrainRange
from tlkit.parts.heads import Cosine, FlattenDense, Linear, Pooled
from tlkit.parts.shapes import Shapes
from tlkit.train.assemble import assemble, seeded, split_at
from tlkit.train.plan import model_layers

SMALLEST = VGG16(weights="none", image_size=32)
X = np.random.default_rng(5).normal(size=(4, 8, 8, 3)).astype(np.float32)


def convolutions() -> list[Any]:
    return [
        keras.layers.Conv2D(4, 3, name="block1_conv"),
        keras.layers.BatchNormalization(name="block1_norm"),
        keras.layers.Conv2D(2, 3, activation="relu", name="block2_conv"),
    ]


def classifier() -> list[Any]:
    return [keras.layers.Flatten(name="flatten"), keras.layers.Dense(3, "softmax", name="scores")]


def flat() -> Any:
    return keras.Sequential([keras.layers.Input((8, 8, 3)), *convolutions(), *classifier()])


def functional() -> Any:
    inputs = keras.layers.Input((8, 8, 3))
    outputs = inputs
    for layer in [*convolutions(), *classifier()]:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def nested() -> Any:
    base = keras.Sequential([keras.layers.Input((8, 8, 3)), *convolutions()], name="base")
    return keras.Sequential([keras.layers.Input((8, 8, 3)), base, *classifier()])


def rates(found: Any) -> dict[str, float]:
    return {layer.name: rate for rate, (_, layer) in zip(found.rates, found.layers, strict=True)}


def weights_of(model: Any) -> list[bytes]:
    return [variable.numpy().tobytes() for variable in model.weights]


def test_a_built_model_has_the_rows_of_the_parts_tables() -> None:
    model, loaded = assemble(SMALLEST, FlattenDense(units=(8,)), classes=3, seed=0)
    facts = [
        [(layer.name, layer.kind, layer.output_shape, layer.params) for _, layer in table]
        for table in (tlkit.layer_table(model), model_layers(SMALLEST, FlattenDense(units=(8,)), 3))
    ]
    assert facts[0] == facts[1]
    assert model.count_params() == 14_714_688 + (512 + 1) * 8 + (8 + 1) * 3
    assert loaded == {"source": "none"}


@pytest.mark.parametrize(
    "head",
    [
        FlattenDense(units=(8,)),
        Pooled(pooling="concat", units=(4, 3), batch_norm=True, dropout=0.5),
        Linear(),
        Cosine(),
    ],
    ids=str,
)
def test_backbone_and_head_together_have_every_row_of_their_tables(head: tlkit.Head) -> None:
    """Rows, places to cut and blocks too; only the head knows which of its layers never change."""
    model, _ = assemble(SMALLEST, head, classes=3, seed=0)
    stated = [evolve(layer, fixed=False) for _, layer in model_layers(SMALLEST, head, 3)]
    assert [layer for _, layer in tlkit.layer_table(model)] == stated


@pytest.mark.parametrize(
    ("first_trained", "cut"), [("pool_avg", 21), ("pool_max", 21), ("pool", 21), ("scores", 21)]
)
def test_there_is_no_cut_between_two_poolings(first_trained: str, cut: int) -> None:
    head = Pooled(pooling="concat")
    model, _ = assemble(SMALLEST, head, classes=3, seed=0)
    table = model_layers(SMALLEST, head, 3)
    (first,) = table.named(first_trained)
    assert table.frozen_prefix(table.rates(frozenset(range(first, len(table) + 1)))) == cut
    prefix, tail = split_at(model, table, cut)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    assert prefix is not None
    np.testing.assert_array_equal(tail(prefix(x)), model(x))


@frozen(kw_only=True)
class Lying(Pooled):
    """A head whose table has fewer parameters than it builds."""

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        return super().layers(features, classes - 1)


def test_a_part_that_builds_something_else_than_its_table_is_refused() -> None:
    with pytest.raises(tlkit.PartError, match=r"differs from the built model.*'scores'"):
        assemble(SMALLEST, Lying(), classes=3, seed=0)


@frozen(kw_only=True)
class Forgetful(Pooled):
    """A head whose table does not say which layers are BatchNorm, so that the plan trains them."""

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        rows = super().layers(features, classes).layers
        return tlkit.LayerTable(tuple(evolve(row, batch_norm=False) for row in rows))


def test_a_table_that_hides_batch_norm_is_refused() -> None:
    head = Forgetful(units=(4,), batch_norm=True)  # type: ignore[call-arg]  # a part's keys
    with pytest.raises(tlkit.PartError, match=r"differs from the built.*'batch_norm_1'.* True\)"):
        assemble(SMALLEST, head, classes=3, seed=0)


def test_the_seed_decides_every_random_weight() -> None:
    """And the head's are drawn apart: another head leaves the backbone's as they are."""
    before = random.getstate()
    head = Pooled(dropout=0.5)
    first, again, other = (
        tlkit.build_model(SMALLEST, head, classes=3, seed=seed) for seed in (0, 0, 1)
    )
    assert random.getstate() == before
    seeds = [model.get_layer("dropout_1").seed_generator.state for model in (first, again, other)]
    assert weights_of(first) == weights_of(again)
    assert np.array_equal(seeds[0], seeds[1])
    assert not np.array_equal(seeds[0], seeds[2])
    kernels = [model.get_layer("block3_conv1").kernel.numpy() for model in (first, other)]
    assert not np.array_equal(*kernels)
    wider = tlkit.build_model(SMALLEST, Pooled(units=(7,)), classes=2, seed=0)
    assert np.array_equal(wider.get_layer("block3_conv1").kernel, kernels[0])


def test_keras_draws_from_pythons_own_generator_again_after_an_error_too() -> None:
    before = random.getstate()
    with pytest.raises(KeyError, match="broken"), seeded(1):
        raise KeyError(f"broken after drawing {make_default_seed()}")
    assert random.getstate() == before
    make_default_seed()
    assert random.getstate() != before


@pytest.mark.parametrize("build", [flat, functional])
def test_layers_are_numbered_in_forward_order_without_the_input(build: Any) -> None:
    table = tlkit.layer_table(build())
    assert [(number, layer.name, layer.block) for number, layer in table] == [
        (1, "block1_conv", "block1"),
        (2, "block1_norm", "block1"),
        (3, "block2_conv", "block2"),
        (4, "flatten", "head"),
        (5, "scores", "head"),
    ]
    assert table[2].batch_norm
    assert (table[2].params, table[2].other_params) == (8, 8)
    assert table[3].output_shape == (4, 4, 2)
    assert table.params == build().count_params()


def test_a_nested_model_has_the_numbers_of_the_flat_one() -> None:
    one, other = tlkit.layer_table(nested()), tlkit.layer_table(flat())
    assert [layer.name for _, layer in one] == [
        "base/block1_conv", "base/block1_norm", "base/block2_conv", "flatten", "scores",
    ]  # fmt: skip
    assert one.named("base") == {1, 2, 3}
    assert [(x.kind, x.params, x.other_params) for _, x in one] == [
        (x.kind, x.params, x.other_params) for _, x in other
    ]


class Composite(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """One layer made of two, one of them a BatchNorm."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = keras.layers.Dense(4)
        self.norm = keras.layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.norm.build((*shape[:-1], 4))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.norm(self.inner(inputs), training=training)


def with_composite() -> Any:
    return keras.Sequential(
        [keras.layers.Input((4,)), Composite(name="composite"), keras.layers.Dense(2, name="out")]
    )


def test_a_composite_layer_is_one_row_with_all_that_is_in_it() -> None:
    row = tlkit.layer_table(with_composite())[1]
    assert (row.name, row.params, row.other_params) == ("composite", 20 + 8, 8)


def test_batch_norm_inside_a_composite_layer_is_held_too() -> None:
    model = with_composite()
    found = tlkit.freeze(model, train="1-2")
    composite = model.get_layer("composite")
    assert not composite.norm.trainable_variables
    assert len(composite.inner.trainable_variables) == 2
    assert found.variable_rates == (1, 1, 1, 1)


def called_twice() -> Any:
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(shared(shared(inputs))))


def in_both_models() -> Any:
    shared = keras.layers.Dense(4, name="shared")
    inner_inputs = keras.layers.Input((4,))
    inner = keras.Model(inner_inputs, shared(inner_inputs), name="inner")
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(shared(inner(inputs))))


@pytest.mark.parametrize("build", [called_twice, in_both_models])
def test_a_shared_layer_is_counted_once(build: Any) -> None:
    model = build()
    assert len(tlkit.layer_table(model)) == 2
    assert tlkit.layer_table(model).params == model.count_params()


def test_a_layer_shared_with_a_nested_model_can_be_trained() -> None:
    model = in_both_models()
    tlkit.freeze(model, train="inner/shared")
    assert len(model.trainable_variables) == 2


def with_skip() -> Any:
    """A sum of two layers' outputs, which is an operation of the graph but no layer."""
    inputs = keras.layers.Input((4,))
    first = keras.layers.Dense(4, name="first")(inputs)
    around = keras.layers.Dense(4, name="around")(first)
    after = keras.layers.Dense(4, name="after")(first + around)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(after))


@pytest.mark.parametrize(
    ("build", "not_cut_behind"),
    [(flat, set()), (functional, set()), (called_twice, {"shared"}), (with_skip, {"around"})],
)
def test_a_model_can_be_cut_where_it_is_one_tensor(build: Any, not_cut_behind: set[str]) -> None:
    table = tlkit.layer_table(build())
    assert {layer.name for _, layer in table if not layer.is_cut_point} == not_cut_behind


def test_a_model_is_not_cut_inside_a_nested_one() -> None:
    table = tlkit.layer_table(nested())
    assert [layer.is_cut_point for _, layer in table] == [False, False, False, True, True]


@pytest.mark.parametrize("build", [functional, with_skip])
def test_prefix_and_tail_are_the_whole_to_the_bit(build: Any) -> None:
    model = build()
    table = tlkit.layer_table(model)
    x = X if build is not with_skip else X[:, 0, :4, 0]
    for cut in (number for number, layer in table if layer.is_cut_point and number < len(table)):
        prefix, tail = split_at(model, table, cut)
        assert prefix is not None
        assert tail(prefix(x)).numpy().tobytes() == model(x).numpy().tobytes()
        halves = [id(variable) for variable in [*prefix.variables, *tail.variables]]
        assert sorted(halves) == sorted(id(variable) for variable in model.variables)


def test_without_a_cut_the_tail_is_the_model() -> None:
    model = functional()
    assert split_at(model, tlkit.layer_table(model), 0) == (None, model)


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ("4-5", {"scores": 1, "flatten": 1}),
        ("4–5", {"scores": 1, "flatten": 1}),
        ("5", {"scores": 1}),
        (5, {"scores": 1}),
        ([4, 5], {"flatten": 1, "scores": 1}),
        ({5: 0.5}, {"scores": 0.5}),
        (LayerRange(5), {"scores": 1}),
        ("scores", {"scores": 1}),
        ("block?_conv", {"block1_conv": 1, "block2_conv": 1}),
        ("block2", {"block2_conv": 1}),
        (["block2", "scores"], {"block2_conv": 1, "scores": 1}),
        ({"-5": 0.1, "scores": 1}, {"block1_conv": 0.1, "block2_conv": 0.1, "flatten": 0.1,
                                    "scores": 1}),
        ({"scores": 1, "1-5": 0, "block2": 2}, {"block2_conv": 2}),
        (TrainRange(train=LayerRange(1, 3)), {"block1_conv": 1, "block2_conv": 1}),
        (TrainRange(train=LayerRange(1, 3), batch_norm="train"),
         {"block1_conv": 1, "block1_norm": 1, "block2_conv": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_chosen_is_trained_and_nothing_else(train: Any, trained: dict[str, float]) -> None:
    model = flat()
    found = tlkit.freeze(model, train=train)
    assert {name: rate for name, rate in rates(found).items() if rate} == trained
    learning = {layer.name for layer in model.layers if layer.trainable_variables}
    assert learning == trained.keys() - {"flatten"}
    assert len(found.variable_rates) == len(model.trainable_variables)


def test_rates_follow_their_variables_through_a_nested_model() -> None:
    model = nested()
    found = tlkit.freeze(model, train={"base/block2_conv": 0.5, "scores": 1})
    of_variable = dict(zip(map(id, model.trainable_variables), found.variable_rates, strict=True))
    convolution = model.get_layer("base").get_layer("block2_conv")
    assert [of_variable[id(v)] for v in convolution.weights] == [0.5, 0.5]
    assert [of_variable[id(v)] for v in model.get_layer("scores").weights] == [1, 1]


def test_batch_norm_learns_only_when_asked_to() -> None:
    found = [rates(tlkit.freeze(flat(), train="1-5", batch_norm=m)) for m in ("inference", "train")]
    assert [one["block1_norm"] for one in found] == [0, 1]


def test_batch_norm_of_the_head_can_learn_alone() -> None:
    layers = [*convolutions(), *classifier()]
    norm = keras.layers.BatchNormalization(name="head_norm")
    model = keras.Sequential([keras.layers.Input((8, 8, 3)), *layers[:4], norm, layers[4]])
    found = rates(tlkit.freeze(model, train="1-6", batch_norm="head"))
    assert (found["block1_norm"], found["head_norm"]) == (0, 1)
    assert [len(model.get_layer(n).trainable_variables) for n in ("block1_norm", "head_norm")] == [
        0, 2,
    ]  # fmt: skip


@pytest.mark.parametrize("container", ["outer", "inner"])
def test_a_frozen_container_hides_nothing(container: str) -> None:
    model = nested()
    base = model.get_layer("base")
    (model if container == "outer" else base).trainable = False
    tlkit.freeze(model, train="base/block2_conv")
    assert [v.path for v in model.trainable_variables] == [
        v.path for v in base.get_layer("block2_conv").weights
    ]


def test_freezing_again_forgets_what_was_frozen_before() -> None:
    model = flat()
    tlkit.freeze(model, train="scores")
    assert rates(tlkit.freeze(model, train="block2")) == rates(tlkit.freeze(flat(), train="block2"))
    assert [layer.name for layer in model.layers if layer.trainable_variables] == ["block2_conv"]


@pytest.mark.parametrize("train", ["scores", "1-5", "block1_conv"])
def test_the_table_is_the_same_whatever_the_flags(train: str) -> None:
    model = nested()
    before = tlkit.layer_table(model)
    train = "base/block1_conv" if train == "block1_conv" else train
    assert tlkit.freeze(model, train=train).layers == before
    assert tlkit.layer_table(model) == before


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("score", r"^no layer or block matches 'score'; did you mean 'scores'\?"),
        (["scores", "block9_*"], r"^no layer or block matches 'block9_\*'"),
        (["scores", "block1_norm"], r"^'block1_norm' is BatchNorm, held fixed by batch_norm"),
        (
            {"2": 0.5, "scores": 1},
            r"^'2' is BatchNorm, .*; leave it out, or set batch_norm to",
        ),
        ("4-6", r"^layers 4-6 reach past the last one, 5 \(scores\)"),
        ({"9": 1.0}, r"^layers 9 reach past the last one"),
    ],
)
def test_a_choice_that_matches_nothing_is_an_error_with_the_nearest_layers(
    train: str | Sequence[str] | Mapping[str, float], message: str
) -> None:
    with pytest.raises(tlkit.LayerError, match=message + r"(?s:.*)no\.  layer"):
        tlkit.freeze(flat(), train=train)


@pytest.mark.parametrize("train", ["flatten", [], {"scores": 0.0}], ids=str)
def test_training_nothing_is_an_error(train: Any) -> None:
    with pytest.raises(ValueError, match=r"^nothing would be trained"):
        tlkit.freeze(flat(), train=train)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_an_error(rate: float) -> None:
    with pytest.raises(ValueError, match=r"^rates must be finite and at least 0"):
        tlkit.freeze(flat(), train={"1-5": 1.0, "scores": rate})


@pytest.mark.parametrize(
    ("model", "asked", "error", "message"),
    [
        (flat, {"train": 1.5}, TypeError, r"^train: must be a range, .* got 1\.5$"),
        (flat, {"train": [True]}, TypeError, r"^train: must be a range, .* got \{True: 1\.0\}$"),
        (
            flat,
            {"train": {"scores": "1"}},
            TypeError,
            r"^train: the rate of 'scores' must be a num",
        ),
        (
            flat,
            {"train": "5", "batch_norm": "held"},
            ValueError,
            r"^batch_norm: must be one of inf",
        ),
        (
            lambda: "vgg16",
            {"train": "5"},
            TypeError,
            r"^model: must be a Keras model, got 'vgg16'$",
        ),
        (keras.Sequential, {"train": "5"}, ValueError, r"^model: must be functional or Sequential"),
        (keras.Model, {"train": "5"}, ValueError, r"^model: must be functional or Sequential and"),
    ],
)
def test_what_is_no_model_or_no_choice_is_an_error(
    model: Any, asked: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tlkit.freeze(model(), **asked)


def test_an_optimizer_may_be_named() -> None:
    frozen = tlkit.freeze(flat(), train={"scores": 0.1})
    assert type(frozen.optimizer("sgd")) is type(frozen.optimizer(keras.optimizers.SGD()))
    with pytest.raises(ValueError, match=r"^Could not interpret optimizer identifier: nothing$"):
        frozen.optimizer("nothing")
    with pytest.warns(tlkit.RenamedWarning, match=r"^Frozen\.scale: is now called optimizer$"):
        frozen.scale("sgd")


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = flat()
    with pytest.raises(tlkit.LayerError, match=r"^no layer or block matches"):
        tlkit.freeze(model, train="nothing")
    assert len(model.trainable_variables) == len(flat().trainable_variables)


def test_the_result_prints_as_the_table_with_rates() -> None:
    lines = str(tlkit.freeze(flat(), train={"scores": 0.1})).splitlines()
    assert lines[0].endswith("rate")
    assert [line.split()[-1] for line in lines[1:]] == ["frozen"] * 4 + ["0.1"]


@pytest.mark.parametrize("saved", [False, True])
def test_the_head_is_what_comes_after_the_last_feature_map(saved: bool, tmp_path: Path) -> None:
    model = tlkit.build_model(SMALLEST, "pooled", classes=3)
    if saved:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    frozen = tlkit.freeze(model, train="head")
    assert [n for n, rate in enumerate(frozen.rates, start=1) if rate] == [19, 20]


def test_layers_that_are_not_the_parts_own_have_the_blocks_that_are_given() -> None:
    model, layers = flat(), tlkit.layer_table(flat()).grouped(r"(block|scores)")
    assert rates(tlkit.freeze(model, train="block", layers=layers)) == {
        "block1_conv": 1, "block1_norm": 0, "block2_conv": 1, "flatten": 1, "scores": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^layers: must be the model's, which are\nno\."):
        tlkit.freeze(model, train="block", layers=tlkit.layer_table(nested()))


def test_keras_layers_get_no_attributes() -> None:
    built = tlkit.build_model(SMALLEST, "linear", classes=3)
    tlkit.freeze(built, train="head")
    copy = keras.models.clone_model(built)
    for layer, plain in zip(built.layers, copy.layers, strict=True):
        assert vars(layer).keys() == vars(plain).keys()


def test_of_a_policy_in_stages_the_first_counts() -> None:
    model = tlkit.build_model(SMALLEST, "pooled", classes=3)
    policy = HeadThen(train=("block5",), head_epochs=5)
    assert tlkit.freeze(model, train=policy).rates == tlkit.freeze(model, train="head").rates


@frozen(kw_only=True)
class Composed(Pooled):
    """A head with a composite layer before its scores."""

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        pool, scores = Pooled().layers((4,), classes).layers
        composite = tlkit.Layer(
            "composite", "Composite", "head", (4,), params=features[-1] * 4 + 4 + 8, other_params=8
        )
        return tlkit.LayerTable((evolve(pool, output_shape=features[-1:]), composite, scores))

    def attach(self, features: Any, classes: int) -> Any:
        pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
        return keras.layers.Dense(classes, "softmax", name="scores")(
            Composite(name="composite")(pooled)
        )


class TestMixedPrecision:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_all_layers_but_the_last_compute_in_it_and_weights_stay_float32(
        self, dtype: str
    ) -> None:
        head = FlattenDense(units=(8,))
        model, _ = assemble(SMALLEST, head, 3, seed=0, mixed_precision=dtype)
        computed = [
            model.get_layer(layer.name).compute_dtype for _, layer in tlkit.layer_table(model)
        ]
        assert computed == [dtype] * (len(computed) - 1) + ["float32"]
        assert {variable.dtype for variable in model.variables} == {"float32"}
        exact, _ = assemble(SMALLEST, head, 3, seed=0)
        assert weights_of(model) == weights_of(exact)

    def test_probabilities_are_finite_float32_near_those_of_float32(self) -> None:
        pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
        exact, mixed = (
            assemble(SMALLEST, Pooled(units=(4,), dropout=0.5), 3, seed=0, mixed_precision=chosen)[
                0
            ](pixels).numpy()
            for chosen in (None, "bfloat16")
        )
        assert mixed.dtype == np.float32
        np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed, exact, atol=0.01)
        assert (mixed != exact).any()

    def test_a_composite_layer_computes_in_it_with_all_that_is_in_it(self) -> None:
        model, _ = assemble(SMALLEST, Composed(), 3, seed=0, mixed_precision="bfloat16")
        composite = model.get_layer("composite")
        inner = (composite, composite.inner, composite.norm)
        assert {layer.compute_dtype for layer in inner} == {"bfloat16"}

    @pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
    def test_a_run_is_loaded_with_the_answers_it_gave(self, dtype: Any, tmp_path: Path) -> None:
        experiment = tlkit.Experiment(
            data=Shapes(train=6, val=3, test=3, image_px=32),
            backbone=SMALLEST,
            head=Pooled(),
            freeze=HeadThen(train=("block5",)),
            fit=tlkit.Fit(epochs=2, batch_size=4, mixed_precision=dtype, xla=False),
        )
        run = tlkit.run(experiment, tmp_path / "run")
        assert np.isfinite([(epoch.loss, epoch.val_loss) for epoch in run.history]).all()
        splits = experiment.data.load()
        read = Reader(splits.read, 32)
        pixels = np.stack([read(example.path) for example in splits.test])
        found = tlkit.load(run.folder).predict_proba(pixels)
        written = (run.folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[-3:]
        expected = [[np.float32(p) for p in row.split(",")[4:]] for row in written]
        np.testing.assert_array_equal(found, np.array(expected))
        assert len(np.unique(found[:, 0])) == len(found)  # they do depend on the images
