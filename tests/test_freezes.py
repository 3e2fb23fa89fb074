"""FreezePolicy policies on VGG-16's own layers: what each stage trains, and how fast."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlkit
from tlkit.config.structure import structure
from tlkit.model.layers import HEAD, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import Gradual, HeadThen, LayerDecay
from tlkit.parts.heads import FlattenDense
from tlkit.system.errors import FieldError
from tlkit.testing import layer_tables
from tlkit.train.plan import model_layers

LAYERS = model_layers(VGG16(), FlattenDense(), 3)


def by_block(rates: tuple[float, ...], layers: LayerTable = LAYERS) -> dict[str, set[float]]:
    return {block: {rates[number - 1] for number in layers.named(block)} for block in layers.blocks}


def test_head_then_trains_the_head_alone_first() -> None:
    first, second = HeadThen(head_epochs=2, train=("block5", "block4_conv3")).stages(LAYERS, 7)
    assert (first.epochs, second.epochs) == (2, 5)
    assert by_block(first.lr_multipliers)[HEAD] == {1.0}
    assert sum(first.lr_multipliers) == 4
    assert by_block(second.lr_multipliers)["block5"] == {0.1}
    assert by_block(second.lr_multipliers)["block4"] == {0.0, 0.1}
    assert by_block(second.lr_multipliers)[HEAD] == {1.0}


@pytest.mark.parametrize("epochs", [1, 2])
def test_head_then_needs_epochs_for_its_second_phase(epochs: int) -> None:
    with pytest.raises(FieldError, match=rf"head_epochs: must be below fit.epochs, {epochs}"):
        HeadThen(head_epochs=2, train=("block5",)).stages(LAYERS, epochs)


def test_gradual_adds_a_block_at_a_time_from_the_top() -> None:
    stages = Gradual(every=2).stages(LAYERS, 7)
    assert [stage.epochs for stage in stages] == [2, 2, 2, 1]
    trained = [
        [block for block, rates in by_block(stage.lr_multipliers).items() if rates == {1.0}]
        for stage in stages
    ]
    assert trained == [
        [HEAD],
        ["block5", HEAD],
        ["block4", "block5", HEAD],
        ["block3", "block4", "block5", HEAD],
    ]


def test_gradual_stops_where_it_is_told_and_where_the_backbone_ends() -> None:
    assert [stage.epochs for stage in Gradual(blocks=1).stages(LAYERS, 9)] == [1, 8]
    assert [stage.epochs for stage in Gradual().stages(LAYERS, 9)] == [1, 1, 1, 1, 1, 4]
    assert len(Gradual().stages(LAYERS, 1)) == 1


def test_layer_decay_halves_the_rate_at_each_block() -> None:
    (stage,) = LayerDecay(factor=0.5).stages(LAYERS, 3)
    assert by_block(stage.lr_multipliers) == {
        "block1": {1 / 32},
        "block2": {1 / 16},
        "block3": {1 / 8},
        "block4": {1 / 4},
        "block5": {1 / 2},
        HEAD: {1.0},
    }


def test_layer_decay_by_layer_counts_those_with_parameters() -> None:
    (stage,) = LayerDecay(factor=0.5, per="layer").stages(LAYERS, 3)
    assert stage.lr_multipliers[0] == 0.5**13  # VGG-16 has 13 convolutions
    assert stage.lr_multipliers[16] == 0.5
    assert stage.lr_multipliers[17] == 1.0  # block5_pool has nothing to train and takes no step


def test_layer_decay_freezes_what_is_further_down_than_its_steps() -> None:
    (stage,) = LayerDecay(factor=0.5, steps=2).stages(LAYERS, 3)
    assert by_block(stage.lr_multipliers) == {
        "block1": {0.0},
        "block2": {0.0},
        "block3": {0.0},
        "block4": {1 / 4},
        "block5": {1 / 2},
        HEAD: {1.0},
    }
    assert LAYERS.frozen_prefix(stage.lr_multipliers) == 10  # block3_pool


policies = st.one_of(
    st.builds(Gradual, every=st.integers(1, 5), blocks=st.none() | st.integers(1, 5)),
    st.builds(LayerDecay, factor=st.floats(0.1, 0.9), per=st.sampled_from(["block", "layer"])),
    st.builds(LayerDecay, steps=st.integers(1, 5)),
    st.builds(HeadThen, head_epochs=st.integers(1, 5), train=st.just(("block*",))),
)


@given(policies, layer_tables(), st.integers(6, 30))
def test_what_is_trained_once_is_never_frozen_again(
    policy: Any, layers: LayerTable, epochs: int
) -> None:
    stages = policy.stages(layers, epochs)
    for before, after in pairwise(stages):
        assert all(b <= a for b, a in zip(before.lr_multipliers, after.lr_multipliers, strict=True))
        assert layers.frozen_prefix(after.lr_multipliers) <= layers.frozen_prefix(
            before.lr_multipliers
        )
    assert all(stage.lr_multipliers[-1] == 1 for stage in stages)


@given(st.floats(0.1, 0.9), layer_tables())
def test_layer_decay_never_rises_going_down(factor: float, layers: LayerTable) -> None:
    for per in ("block", "layer"):
        policy: Any = LayerDecay(factor=factor, per=per)
        (stage,) = policy.stages(layers, 1)
        assert list(stage.lr_multipliers) == sorted(stage.lr_multipliers)


def test_the_plan_cuts_each_stage_anew() -> None:
    data = {"name": "shapes"}
    table = {"data": data, "freeze": {"name": "gradual"}, "fit": {"epochs": 3}}
    experiment = structure(tlkit.Experiment, table)
    assert [planned.cut for planned in tlkit.check(experiment).stages] == [18, 14, 10]
