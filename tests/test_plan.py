"""The plan: golden numbers of the study, and problems with the path of the table they are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import evolve, frozen
from tests.fakes import FakeBackbone

import tlkit.train.plan
from tlkit.config.experiment import Experiment, Fit, Origin, Phase, PublishedResult
from tlkit.data.splits import Example, Splits
from tlkit.model.layers import Layer, LayerRange, LayerTable
from tlkit.parts.class_weights import Balanced, Fixed
from tlkit.parts.freezes import Gradual, HeadOnly, HeadThen, TrainAll, TrainNames, TrainRange
from tlkit.parts.heads import Pooled
from tlkit.parts.kinds import FreezePolicy, Stage
from tlkit.parts.losses import Focal, LogitAdjusted
from tlkit.parts.schedules import Constant, Cosine, OneCycle
from tlkit.parts.shapes import Shapes
from tlkit.reports.console import plan_text
from tlkit.runfolder.inputs import PlanRecord
from tlkit.system.errors import ConfigError, PartError
from tlkit.train.cost import estimated_seconds
from tlkit.train.plan import HEAD_BATCH, PREFIX_BATCH, make_plan, prefix_batch, seed_for

CLASSES = ("normal", "pneumonia", "covid-19")
EXPERIMENT = Experiment(data=Shapes(), fit=Fit(epochs=12, batch_size=8))


def splits(**images: tuple[int, int, int]) -> Splits:
    """A study with so many images of each class in each split."""
    wanted = {"train": (20, 40, 10), "val": (5, 5, 5), "test": (4, 4, 4), **images}
    examples = {
        split: tuple(
            Example(f"{split}/{label}/{number}.png", label)
            for label, count in zip(CLASSES, counts, strict=True)
            for number in range(count)
        )
        for split, counts in wanted.items()
    }
    train, val, test = (examples[split] for split in ("train", "val", "test"))
    return Splits(classes=CLASSES, train=train, val=val, test=test, read=str.encode)


@pytest.mark.parametrize(
    ("side", "channels", "images", "batch"),
    [
        (224, 64, 48_000, 8),  # VGG-16: 13 MB an image
        (112, 64, 48_000, 8),
        (64, 64, 48_000, 32),
        (16, 96, 48_000, 256),
        (16, 96, 600, 64),  # few images: little padding
        (16, 96, 40, 8),
        (8, 8, 48_000, 256),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_the_prefixs_batch_follows_from_its_layers_and_the_number_of_images(
    side: int, channels: int, images: int, batch: int, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlkit.train.plan, "has_gpu", lambda: gpu)
    rows = [Layer("conv", "Conv2D", "1", (side, side, channels)), Layer("x", "Conv2D", "2", (999,))]
    chosen = prefix_batch(LayerTable(tuple(rows)), 1, side, images)
    assert chosen == batch or (gpu and batch < chosen <= 8 * batch)
    assert prefix_batch(LayerTable(tuple(rows)), 0, 1, None) == (2048 if gpu else 256)


@pytest.mark.parametrize(
    ("freeze", "cut", "params"),
    [
        (TrainRange(train=LayerRange(19, 22)), 18, 26_743_811),
        (TrainRange(train=LayerRange(20)), 19, 26_743_811),
        (TrainRange(train=LayerRange(1, 22)), 0, 41_458_499),
        (TrainAll(), 0, 41_458_499),
        (TrainNames(train=("block5_*", "head")), 14, 7_079_424 + 26_743_811),
        (TrainNames(train=("scores",)), 21, 3_075),
        (TrainRange(train=LayerRange(1, 1)), 0, 1_792),
    ],
)
def test_the_studys_layers_have_their_published_numbers(freeze: Any, cut: int, params: int) -> None:
    plan = make_plan(evolve(EXPERIMENT, freeze=freeze), splits())
    (stage,) = plan.stages
    assert plan.layers.params == 41_458_499
    assert (stage.cut, stage.trainable_params, stage.stage.epochs) == (cut, params, 12)


def test_counts_classes_and_weights_are_those_of_the_data() -> None:
    plan = make_plan(evolve(EXPERIMENT, class_weights=Balanced()), splits())
    assert plan.classes == CLASSES
    assert plan.counts["train"] == {"normal": 20, "pneumonia": 40, "covid-19": 10}
    assert plan.class_weights == pytest.approx(
        {"normal": 70 / 60, "pneumonia": 70 / 120, "covid-19": 70 / 30}
    )


def test_the_loss_is_in_the_plan_with_its_keys() -> None:
    plan = make_plan(evolve(EXPERIMENT, loss=Focal(gamma=1.5)), splits())
    assert plan.as_json()["loss"] == {"name": "focal", "gamma": 1.5}


NORMALISED = evolve(EXPERIMENT, head=Pooled(units=(4,), batch_norm=True))


@pytest.mark.parametrize(
    "freeze",
    [
        HeadOnly(),
        HeadThen(train=("block5",), head_epochs=2),
        TrainNames(train=("scores",), batch_norm="train"),
    ],
    ids=str,
)
def test_a_new_batch_norm_layer_is_not_left_at_its_initial_statistics(freeze: Any) -> None:
    message = r"\Afreeze\.batch_norm: the head's BatchNorm layer 21 \(batch_norm_1\) is new"
    with pytest.raises(ConfigError, match=message):
        make_plan(evolve(NORMALISED, freeze=freeze), splits())


def test_what_a_head_refuses_is_told_with_the_other_problems() -> None:
    experiment = evolve(EXPERIMENT, head=Pooled(batch_norm=True), class_weights=Fixed(weights={}))
    with pytest.raises(ConfigError, match=r"head\.batch_norm: has no dense layer") as raised:
        make_plan(experiment, splits())
    paths = [problem.path for problem in raised.value.problems]
    assert paths == ["class_weights.weights", "head.batch_norm"]


@pytest.mark.parametrize("batch_norm", ["head", "train"])
def test_a_new_batch_norm_layer_that_may_learn_does(batch_norm: Any) -> None:
    (stage,) = make_plan(
        evolve(NORMALISED, freeze=HeadOnly(batch_norm=batch_norm)), splits()
    ).stages
    assert stage.stage.lr_multipliers[20] == 1
    assert stage.trainable_params == 512 * 4 + 2 * 4 + 5 * 3


BALANCED_SAMPLER = Shapes(sampler="balanced")


def test_the_sampler_is_in_the_plan() -> None:
    assert make_plan(EXPERIMENT, splits()).as_json()["sampler"] == "shuffle"
    plan = make_plan(evolve(EXPERIMENT, data=BALANCED_SAMPLER, loss=Focal()), splits())
    assert plan.sampler == plan.as_json()["sampler"] == "balanced"


@pytest.mark.parametrize(
    ("second", "table"),
    [
        ({"class_weights": Balanced()}, "class_weights"),
        ({"class_weights": Balanced(), "loss": LogitAdjusted()}, "class_weights"),
        ({"loss": LogitAdjusted()}, "loss"),
    ],
)
def test_imbalance_is_made_up_for_twice_only_if_a_key_says_so(
    second: dict[str, Any], table: str
) -> None:
    twice = evolve(EXPERIMENT, data=BALANCED_SAMPLER, **second)
    with pytest.raises(ConfigError, match=rf"\Adata\.sampler: 'balanced' and \[{table}\] would"):
        make_plan(twice, splits())
    for allowed in (evolve(BALANCED_SAMPLER, allow_double_balancing=True), Shapes()):
        assert make_plan(evolve(twice, data=allowed), splits()).sampler == allowed.sampler


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 70), (8, 9), (69, 2), (70, 1), (71, 1)])
def test_the_last_short_batch_is_a_step(batch_size: int, steps: int) -> None:
    plan = make_plan(evolve(EXPERIMENT, fit=Fit(batch_size=batch_size)), splits())
    assert plan.steps_per_epoch == steps


def test_results_are_those_on_test_or_else_on_val() -> None:
    assert make_plan(EXPERIMENT, splits()).evaluated_on == "test"
    without = make_plan(EXPERIMENT, splits(test=(0, 0, 0)))
    assert without.evaluated_on == "val"
    assert list(without.counts) == ["train", "val"]


def test_xla_is_left_out_where_few_parameters_are_trained() -> None:
    few = evolve(EXPERIMENT, head=Pooled())
    assert not make_plan(few, splits()).stages[0].xla


def test_xla_is_used_where_no_convolution_is_trained_unless_it_is_settled() -> None:
    head_only, whole = EXPERIMENT, evolve(EXPERIMENT, freeze=TrainAll())
    assert make_plan(head_only, splits()).stages[0].xla
    assert not make_plan(whole, splits()).stages[0].xla
    # The same holds for how many images are evaluated at a time: a convolution's take much memory.
    batches = [make_plan(one, splits()).stages[0].eval_batch for one in (head_only, whole)]
    assert batches == [HEAD_BATCH, PREFIX_BATCH] == [64, 8]
    for experiment in (head_only, whole):
        for settled in (True, False):
            fit = evolve(experiment.fit, xla=settled)
            assert make_plan(evolve(experiment, fit=fit), splits()).stages[0].xla is settled


@pytest.mark.parametrize(
    ("train", "image_size", "settled", "used"),
    [
        (10, 224, None, False),
        (11, 224, None, True),
        (58, 112, None, False),
        (59, 112, None, True),
        (1, 224, True, True),
        (1000, 224, False, False),
    ],
)
def test_tiles_are_used_where_compiling_pays_unless_it_is_settled(
    train: int, image_size: int, settled: bool | None, used: bool
) -> None:
    backbone = evolve(EXPERIMENT.backbone, image_size=image_size)
    fit = evolve(EXPERIMENT.fit, winograd=settled)
    images = splits(train=(train, 1, 1), val=(1, 1, 1), test=(0, 0, 0))
    assert make_plan(evolve(EXPERIMENT, backbone=backbone, fit=fit), images).winograd is used


@pytest.mark.parametrize(
    ("freeze", "fit", "used"),
    [
        (TrainAll(), {}, True),
        (TrainAll(), {"winograd": False}, False),
        (TrainAll(), {"mixed_precision": "bfloat16"}, False),
        (TrainAll(), {"xla": True}, False),
        (HeadOnly(), {}, False),  # there are none above the frozen prefix
    ],
)
def test_trained_convolutions_use_tiles_where_frozen_ones_would(
    freeze: FreezePolicy, fit: dict[str, Any], used: bool
) -> None:
    """Which is recorded, so that a run that began otherwise is not resumed."""
    images = splits(train=(1000, 1, 1))
    chosen = evolve(EXPERIMENT, freeze=freeze, fit=evolve(EXPERIMENT.fit, **fit))
    plan = make_plan(chosen, images)
    (stage,) = plan.as_json()["stages"]
    assert (plan.stages[0].winograd, stage.get("winograd", False)) == (used, used)
    assert json.dumps(PlanRecord.of(plan).as_json()) == json.dumps(plan.as_json())
    direct = make_plan(evolve(chosen, fit=evolve(chosen.fit, winograd=False)), images)
    ratio = estimated_seconds(plan, 1) / estimated_seconds(direct, 1)
    assert 0.6 < ratio < 0.8 if used else ratio <= 1


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_cheaper_numbers_are_planned_where_the_processor_has_them_and_else_noted(
    dtype: Literal["bfloat16", "int8"], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has in ("bfloat16", "int8"):
        monkeypatch.setattr(
            tlkit.train.plan, f"has_{has}", lambda here=known & (has == dtype): here
        )
    images = splits(train=(1000, 1, 1))
    plain = make_plan(EXPERIMENT, images)
    fit = evolve(EXPERIMENT.fit, frozen_dtype=dtype)
    plan = make_plan(evolve(EXPERIMENT, fit=fit), images)
    if known:
        assert plan.as_json()["frozen_dtype"] == plan.frozen_dtype == dtype
        assert (plan.winograd, plan.notes) == (False, plain.notes)
        assert estimated_seconds(plan, 1) < estimated_seconds(plain, 1)
        assert json.dumps(PlanRecord.of(plan).as_json()) == json.dumps(plan.as_json())
    else:
        assert plan.as_json() == plain.as_json()
        assert "compute in float32" in plan.notes[-1]
        assert f"instructions for {dtype}" in plan.notes[-1]
    assert "frozen_dtype" not in plain.as_json()


@pytest.mark.parametrize(
    ("key", "fit"),
    [
        ("mixed_precision", Fit(frozen_dtype="bfloat16", mixed_precision="bfloat16")),
        ("winograd", Fit(frozen_dtype="int8", winograd=True)),
    ],
)
def test_what_would_have_no_effect_next_to_cheaper_numbers_is_refused(key: str, fit: Fit) -> None:
    rule = rf"frozen_dtype: with {fit.frozen_dtype}, fit.{key} would"
    with pytest.raises(ConfigError, match=rule):
        make_plan(evolve(EXPERIMENT, fit=fit), splits())


@pytest.mark.parametrize(("freeze", "used"), [(TrainAll(), 2), (HeadOnly(), 1)])
def test_devices_share_the_steps_of_stages_that_train_the_backbone(
    freeze: FreezePolicy, used: int
) -> None:
    plain = make_plan(evolve(EXPERIMENT, freeze=freeze), splits())
    fit = evolve(EXPERIMENT.fit, devices=2)
    plan = make_plan(evolve(EXPERIMENT, freeze=freeze, fit=fit), splits())
    (stage,) = plan.stages
    assert (stage.devices, plan.as_json()["stages"][0].get("devices", 1)) == (used, used)
    assert any("one device does all" in note for note in plan.notes) is (used == 1)
    assert json.dumps(PlanRecord.of(plan).as_json()) == json.dumps(plan.as_json())
    for text in (plan_text(plan), plan._repr_html_()):
        assert ("2 devices" in text) is (used == 2)
    if used == 1:
        assert plan.as_json() == plain.as_json()
    else:
        assert not stage.xla


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ({"devices": 2, "xla": True}, "do not share a step that is compiled with XLA"),
        ({"devices": 9, "batch_size": 8}, "must be at most fit.batch_size, 8, got 9"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(fit: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"fit.devices: .*{message}"):
        make_plan(evolve(EXPERIMENT, fit=evolve(EXPERIMENT.fit, **fit)), splits())


@frozen(kw_only=True)
class WithLayerNorm(FakeBackbone):
    """A backbone of a convolution and a layer that int8 does not know."""

    def layers(self) -> LayerTable:
        norm = Layer("norm", "LayerNormalization", "conv", (6, 6, 2), 4)
        return LayerTable((Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56), norm))


def test_frozen_layers_that_int8_does_not_know_are_refused() -> None:
    wanted = evolve(EXPERIMENT, backbone=WithLayerNorm(), fit=Fit(frozen_dtype="int8"))
    rule = r'int8 knows no LayerNormalization, such as layer 2 \(norm\); use "bfloat16"'
    with pytest.raises(ConfigError, match=rule):
        make_plan(wanted, splits())
    make_plan(evolve(wanted, freeze=TrainAll()), splits())  # nothing is frozen


def test_a_stand_in_is_in_the_plan() -> None:
    plan = make_plan(EXPERIMENT, evolve(splits(), stand_in="shapes"))
    assert plan.stand_in == plan.as_json()["stand_in"] == "shapes"
    assert make_plan(EXPERIMENT, splits()).as_json()["stand_in"] is None


def test_the_plan_is_written_as_plain_json_with_every_layer_and_rate() -> None:
    plan = make_plan(EXPERIMENT, splits())
    table = json.loads(json.dumps(plan.as_json()))
    assert table == plan.as_json()
    assert table["params"] == 41_458_499
    assert [row["number"] for row in table["layers"]] == list(range(1, 23))
    assert table["layers"][19]["name"] == "dense_1"
    assert table["layers"][19]["output_shape"] == [1024]
    assert table["stages"][0]["rates"] == [0.0] * 18 + [1.0] * 4
    assert list(table["class_weights"]) == table["classes"] == list(CLASSES)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"freeze": TrainRange(train=LayerRange(19, 23))},
            r"freeze\.train: layers 19-23 reach past the last one, 22 \(scores\)\nno\.  layer",
        ),
        (
            {"freeze": TrainNames(train=("head", "block6_*"))},
            r"freeze\.train: no layer or block matches 'block6_\*'; did you mean 'block\d'",
        ),
        (
            {"freeze": TrainRange(train=LayerRange(18, 19))},
            r"freeze: nothing would be trained\nno\.  layer",
        ),
        (
            {"class_weights": Fixed(weights={"normal": 1, "pneumonia": 1, "covid": 12})},
            r"class_weights\.weights: no class named 'covid'; did you mean 'covid-19'\?",
        ),
        (
            {"class_weights": Fixed(weights={"normal": 1, "pneumonia": 1})},
            r"class_weights\.weights: no weight for class 'covid-19'; every class needs one$",
        ),
        (
            {
                "reference": (
                    PublishedResult(source="x"),
                    PublishedResult(source="y", confusion=((1,),)),
                )
            },
            r"reference\[1\]\.confusion: must have one row per class, 3 in all",
        ),
        (
            {"reference": (PublishedResult(source="x", recall={"covid": 0.9}),)},
            r"reference\[0\]\.recall\.covid: must be one of the classes normal, pneum",
        ),
        (
            {"reference": (PublishedResult(source="x", precision={"normal": 1, "flu": 0.9}),)},
            r"reference\[0\]\.precision\.flu: must be one of the classes",
        ),
    ],
)
def test_a_problem_has_the_path_of_its_key(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"\A{problem}"):
        make_plan(evolve(EXPERIMENT, **changes), splits())


def test_every_problem_is_told_at_once_with_the_file() -> None:
    experiment = evolve(
        EXPERIMENT,
        freeze=TrainRange(train=LayerRange(30)),
        class_weights=Fixed(weights={}),
        reference=(
            PublishedResult(source="x", confusion=((1,),), recall={"a": 1}, precision={"b": 1}),
        ),
        origin=Origin(Path("exp.toml"), ""),
    )
    with pytest.raises(ConfigError, match=r"\Aexp\.toml: class_weights") as raised:
        make_plan(experiment, splits())
    assert [problem.path for problem in raised.value.problems] == [
        "class_weights.weights",
        "freeze.train",
        "reference[0].confusion",
        "reference[0].precision.b",
        "reference[0].recall.a",
    ]


def test_stages_are_planned_one_by_one() -> None:
    class TwoPhases(TrainAll):
        """The head first, then everything."""

        def stages(self, layers: Any, epochs: int) -> tuple[Stage, ...]:
            head = layers.rates(layers.named("head"))
            return (Stage(1, head), Stage(epochs - 1, tuple(0.1 for _ in head)))

    plan = make_plan(evolve(EXPERIMENT, freeze=TwoPhases()), splits())
    found = [(s.stage.epochs, s.cut, s.trainable_params, s.xla) for s in plan.stages]
    assert found == [(1, 18, 26_743_811, True), (11, 0, 41_458_499, False)]


@pytest.mark.parametrize("found", [None, [(12, (1.0,) * 22)], 3])
def test_what_a_policy_gives_must_be_stages(found: Any) -> None:
    class Wrong(TrainAll):
        """Gives something else."""

        def stages(self, layers: Any, epochs: int) -> tuple[Stage, ...]:
            return found  # type: ignore[no-any-return]  # somebody's mistake

    with pytest.raises(
        ConfigError, match=r"freeze: its `stages` must return a tuple of Stage, got"
    ):
        make_plan(evolve(EXPERIMENT, freeze=Wrong()), splits())


@pytest.mark.parametrize("found", [None, [], LayerTable(())])
def test_what_backbone_and_head_give_must_be_layers(found: Any) -> None:
    class NoTable(Pooled):
        """Gives something else."""

        def layers(self, features: Any, classes: int) -> LayerTable:
            return found  # type: ignore[no-any-return]  # somebody's mistake

    with pytest.raises(PartError, match=r"^NoTable: its `layers` must return a LayerTable with"):
        make_plan(evolve(EXPERIMENT, head=NoTable()), splits())


def test_the_stages_epochs_are_numbered_through() -> None:
    plan = make_plan(evolve(EXPERIMENT, freeze=Gradual(every=2, blocks=3)), splits())
    assert [(s.first_epoch, s.stage.epochs) for s in plan.stages] == [
        (1, 2),
        (3, 2),
        (5, 2),
        (7, 6),
    ]
    assert [row["first_epoch"] for row in plan.as_json()["stages"]] == [1, 3, 5, 7]
    assert make_plan(EXPERIMENT, splits()).stages[0].first_epoch == 1


class TestSeeds:
    def test_a_seed_is_the_same_on_every_machine(self) -> None:
        assert seed_for(10, "order", 3) == 1_545_510_532

    def test_every_purpose_has_its_own_seed_below_2_to_the_31(self) -> None:
        seeds = [
            seed_for(seed, purpose, number)
            for seed in range(5)
            for purpose in ("order", "head", "backbone")
            for number in range(50)
        ]
        assert len({*seeds}) == len(seeds)
        assert 0 <= min(seeds) < max(seeds) < 2**31


@frozen(kw_only=True)
class WithBatchNorm(FakeBackbone):
    """A backbone of a convolution and a BatchNorm layer."""

    def layers(self) -> LayerTable:
        norm = Layer("norm", "BatchNormalization", "conv", (6, 6, 2), 4, 4, batch_norm=True)
        return LayerTable((Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56), norm))


@pytest.mark.parametrize(
    ("freeze", "weights", "noted"),
    [
        (TrainAll(), "none", True),
        (TrainAll(batch_norm="train"), "none", False),
        (TrainAll(), "imagenet", False),
        (
            HeadOnly(),
            "none",
            False,
        ),  # random features, but none that is held back while others learn
        (HeadThen(train=("conv",)), "none", True),
    ],
)
def test_batch_norm_that_stands_still_in_a_random_backbone_is_noted(
    freeze: Any, weights: Any, noted: bool
) -> None:
    backbone = WithBatchNorm(weights=weights)
    plan = make_plan(evolve(EXPERIMENT, backbone=backbone, head=Pooled(), freeze=freeze), splits())
    assert [
        note.startswith("the backbone's weights are random, and 1 ") for note in plan.notes
    ] == ([True] if noted else [])


@pytest.mark.parametrize(
    ("schedule", "noted"),
    [
        (Cosine(warmup_epochs=2), True),
        (Cosine(warmup_epochs=5), True),
        (Cosine(warmup_epochs=1), False),
        (Cosine(), False),
        (Constant(warmup_epochs=3), True),
        (Constant(), False),
        (OneCycle(), False),
    ],
)
def test_a_warm_up_that_takes_all_epochs_is_noted(schedule: Any, noted: bool) -> None:
    experiment = evolve(EXPERIMENT, schedule=schedule, fit=Fit(epochs=2), freeze=HeadOnly())
    notes = make_plan(experiment, splits()).notes
    assert len(notes) == noted
    for note in notes:
        assert note.startswith(
            f"schedule.warmup_epochs = {schedule.warmup_epochs}, and a stage has 2"
        )


def test_a_phases_warm_up_is_noted_with_its_number() -> None:
    phases = (Phase(epochs=2), Phase(epochs=1, schedule=Cosine(warmup_epochs=1)))
    experiment = evolve(EXPERIMENT, phase=phases, fit=Fit())
    (note,) = make_plan(experiment, splits()).notes
    assert note.startswith("phase 2: schedule.warmup_epochs = 1, and a stage has 1 epoch: the")


def test_a_plan_has_the_notes_on_its_data_but_the_record_has_not() -> None:
    plan = make_plan(EXPERIMENT, evolve(splits(), notes=("3 left out: hidden, such as /home/x",)))
    assert plan.notes == ("3 left out: hidden, such as /home/x",)
    assert "/home/x" not in json.dumps(plan.as_json())
