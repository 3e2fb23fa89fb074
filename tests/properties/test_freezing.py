"""Laws of freezing: set algebra, counts, BatchNorm's rule and the cut, on random layer tables.

That frozen weights stay bit-identical in training is in test_frozen_weights.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest
from attrs import evolve, frozen
from hypothesis import assume, given
from hypothesis import strategies as st

from tlkit.model.layers import Layer, LayerError, LayerRange, LayerTable
from tlkit.parts.freezes import HeadOnly, TrainAll, TrainNames, TrainRange
from tlkit.parts.kinds import BatchNorm, FreezePolicy, Stage
from tlkit.testing import layer_ranges, layer_tables

EPOCHS = 3


@frozen(kw_only=True)
class Given(FreezePolicy):
    """A policy that gives the stages it was made with, for what `planned` itself must do."""

    given: tuple[Stage, ...]

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        return self.given


def trained(layers: LayerTable, chosen: LayerRange) -> frozenset[int]:
    """The layers that learn when `chosen` is trained."""
    stage = TrainRange(train=chosen).stages(layers, EPOCHS)[0]
    return frozenset(number for number, rate in enumerate(stage.lr_multipliers, start=1) if rate)


def rates_by_name(layers: LayerTable, *names: str) -> tuple[float, ...]:
    policy = TrainNames(train=names, batch_norm="train")  # else BatchNorm must not be named
    return policy.stages(layers, EPOCHS)[0].lr_multipliers


def names_of(layers: LayerTable, numbers: Iterable[int]) -> list[str]:
    return [layers[number].name for number in sorted(numbers)]


@st.composite
def tables_and_ranges(draw: st.DrawFn) -> tuple[LayerTable, LayerRange]:
    layers = draw(layer_tables())
    return layers, draw(layer_ranges(len(layers)))


@st.composite
def tables_and_rates(draw: st.DrawFn) -> tuple[LayerTable, tuple[float, ...]]:
    """Layers, any of them frozen or learning at any rate."""
    layers = draw(layer_tables())
    rate = st.sampled_from([0.0, 0.0, 0.0, 1e-9, 0.1, 1.0, 2.0])
    return layers, tuple(draw(rate) for _ in range(len(layers)))


@st.composite
def tables_and_names(draw: st.DrawFn) -> tuple[LayerTable, list[str], list[str]]:
    """Layers and two selections by layer or block name, neither of them empty."""
    layers = draw(layer_tables())
    known = st.sampled_from([*layers.blocks, *names_of(layers, range(1, len(layers) + 1))])
    selections = st.lists(known, min_size=1, max_size=4)
    return layers, draw(selections), draw(selections)


class TestSetAlgebra:
    @given(tables_and_ranges())
    def test_a_range_reads_back_from_its_text(self, case: tuple[LayerTable, LayerRange]) -> None:
        _, chosen = case
        assert LayerRange.parse(str(chosen)) == chosen
        assert LayerRange.is_range(str(chosen))

    @given(tables_and_ranges())
    def test_a_range_and_what_is_before_and_behind_it_partition_the_layers(
        self, case: tuple[LayerTable, LayerRange]
    ) -> None:
        layers, chosen = case
        last = chosen.last or len(layers)
        parts = [
            trained(layers, part)
            for part in (
                LayerRange(1, chosen.first - 1) if chosen.first > 1 else None,
                chosen,
                LayerRange(last + 1) if last < len(layers) else None,
            )
            if part is not None
        ]
        assert sorted(number for part in parts for number in part) == [n for n, _ in layers]

    @given(layer_tables(), st.data())
    def test_adjacent_ranges_compose(self, layers: LayerTable, data: st.DataObject) -> None:
        first, middle, last = sorted(data.draw(st.integers(1, len(layers))) for _ in range(3))
        assume(middle < last)
        left, right = LayerRange(first, middle), LayerRange(middle + 1, last)
        assert trained(layers, left) | trained(layers, right) == trained(
            layers, LayerRange(first, last)
        )

    @given(layer_tables())
    def test_the_full_range_is_all_layers(self, layers: LayerTable) -> None:
        everything = TrainAll().planned(layers, EPOCHS)
        assert everything[0].epochs == EPOCHS
        for chosen in (LayerRange(1), LayerRange(1, len(layers))):
            assert TrainRange(train=chosen).planned(layers, EPOCHS) == everything

    @given(tables_and_ranges(), st.data())
    def test_a_wider_range_trains_no_fewer_parameters(
        self, case: tuple[LayerTable, LayerRange], data: st.DataObject
    ) -> None:
        layers, inner = case
        last = inner.last or len(layers)
        first, wider_last = data.draw(
            st.tuples(st.integers(1, inner.first), st.integers(last, len(layers)))
        )
        counts = [
            layers.trainable_params(layers.rates(trained(layers, chosen)))
            for chosen in (inner, LayerRange(first, wider_last))
        ]
        assert counts[0] <= counts[1]

    @given(tables_and_names())
    def test_naming_two_selections_trains_their_union_and_freezes_what_both_freeze(
        self, case: tuple[LayerTable, list[str], list[str]]
    ) -> None:
        layers, one, other = case
        a, b = rates_by_name(layers, *one), rates_by_name(layers, *other)
        both = rates_by_name(layers, *one, *other)
        assert both == tuple(map(max, a, b))
        assert both == rates_by_name(layers, *other, *one)  # the order of names means nothing

    @given(layer_tables(), st.data())
    def test_block_name_glob_and_layer_names_that_denote_the_same_give_the_same(
        self, layers: LayerTable, data: st.DataObject
    ) -> None:
        block = data.draw(st.sampled_from(layers.blocks))
        numbers = [number for number, layer in layers if layer.block == block]
        by_number = layers.rates(trained(layers, LayerRange(numbers[0], numbers[-1])))
        for names in ([block], [f"{block}_*"], names_of(layers, numbers)):
            assert rates_by_name(layers, *names) == by_number

    @given(layer_tables())
    def test_head_only_is_the_block_called_head(self, layers: LayerTable) -> None:
        by_name = TrainNames(train=("head",)).planned(layers, EPOCHS)
        assert HeadOnly().planned(layers, EPOCHS) == by_name

    @given(layer_tables(), st.text("xyz_*?", min_size=1).filter(lambda text: "*" not in text))
    def test_a_name_that_matches_nothing_is_an_error(self, layers: LayerTable, name: str) -> None:
        assume(set(name) != {"?"})  # as many question marks as a name has letters do match it
        with pytest.raises(ValueError, match="no layer or block matches"):
            TrainNames(train=("head", name)).planned(layers, EPOCHS)

    @given(layer_tables(), st.integers(1, 1000))
    def test_a_range_past_the_last_layer_is_an_error(self, layers: LayerTable, past: int) -> None:
        for chosen in (LayerRange(1, len(layers) + past), LayerRange(len(layers) + past)):
            with pytest.raises(LayerError, match=f"reach past the last one, {len(layers)} "):
                layers.in_range(chosen)


class TestCounts:
    @given(tables_and_rates())
    def test_every_parameter_is_counted_once(
        self, case: tuple[LayerTable, tuple[float, ...]]
    ) -> None:
        layers, rates = case
        frozen_rates = tuple(0.0 if rate else 1.0 for rate in rates)
        never = sum(layer.other_params for _, layer in layers)
        learning, held = layers.trainable_params(rates), layers.trainable_params(frozen_rates)
        assert learning + held + never == layers.params

    @given(tables_and_names(), st.data())
    def test_a_weightless_layer_changes_no_count_and_no_other_layer(
        self, case: tuple[LayerTable, list[str], list[str]], data: st.DataObject
    ) -> None:
        layers, names, _ = case
        place = data.draw(st.integers(0, len(layers)))
        extra = Layer("extra", "Flatten", data.draw(st.sampled_from(layers.blocks)), (7,))
        longer = LayerTable((*layers.layers[:place], extra, *layers.layers[place:]))
        before, after = rates_by_name(layers, *names), rates_by_name(longer, *names)
        assert (*after[:place], *after[place + 1 :]) == before
        assert longer.trainable_params(after) == layers.trainable_params(before)
        assert longer.params == layers.params

    @given(layer_tables(), st.data())
    def test_training_only_weightless_layers_is_an_error(
        self, layers: LayerTable, data: st.DataObject
    ) -> None:
        weightless = [number for number, layer in layers if not layer.params]
        chosen = data.draw(st.sets(st.sampled_from(weightless))) if weightless else set()
        policy = Given(given=(Stage(EPOCHS, layers.rates(frozenset(chosen))),))
        with pytest.raises(ValueError, match="nothing would be trained"):
            policy.planned(layers, EPOCHS)


class TestBatchNorm:
    @given(tables_and_rates(), st.sampled_from(["inference", "head", "train"]))
    def test_inference_holds_every_batch_norm_head_all_but_its_own_and_train_none(
        self, case: tuple[LayerTable, tuple[float, ...]], batch_norm: BatchNorm
    ) -> None:
        layers, rates = case
        held = {
            "inference": {*layers.blocks},
            "head": {*layers.blocks} - {"head"},
            "train": set[str](),
        }[batch_norm]
        learns = [
            0.0 if layer.batch_norm and layer.block in held else rate
            for rate, (_, layer) in zip(rates, layers, strict=True)
        ]
        assume(layers.trainable_params(learns) > 0)
        policy = Given(given=(Stage(EPOCHS, rates),), batch_norm=batch_norm)
        assert policy.planned(layers, EPOCHS) == (Stage(EPOCHS, tuple(learns)),)

    @given(layer_tables())
    def test_training_batch_norm_alone_is_an_error_unless_it_may_learn(
        self, layers: LayerTable
    ) -> None:
        names = tuple(layer.name for _, layer in layers if layer.batch_norm)
        assume(names)
        with pytest.raises(ValueError, match="is BatchNorm, held fixed by"):
            TrainNames(train=names).planned(layers, EPOCHS)
        assert TrainNames(train=names, batch_norm="train").planned(layers, EPOCHS)


class TestCut:
    @given(tables_and_rates())
    def test_the_cut_is_the_last_allowed_one_before_the_first_trained_layer(
        self, case: tuple[LayerTable, tuple[float, ...]]
    ) -> None:
        layers, rates = case
        cut = layers.frozen_prefix(rates)
        first_trained = next((n for n, rate in enumerate(rates, 1) if rate), len(layers) + 1)
        allowed = {0, *(number for number, layer in layers if layer.is_cut_point)}
        assert cut in allowed
        assert cut < first_trained
        assert not allowed & set(range(cut + 1, first_trained))

    @given(tables_and_rates(), st.data())
    def test_freezing_more_never_moves_the_cut_back(
        self, case: tuple[LayerTable, tuple[float, ...]], data: st.DataObject
    ) -> None:
        layers, rates = case
        fewer = tuple(rate if data.draw(st.booleans()) else 0.0 for rate in rates)
        assert layers.frozen_prefix(fewer) >= layers.frozen_prefix(rates)


THREE = LayerTable(
    tuple(Layer(name, "Dense", block, (2,), 6) for name, block in zip("abc", "xyz", strict=True))
)
ALL, NONE = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "must add up to 3"),
        ([Stage(2, ALL)], "must add up to 3"),
        ([Stage(3, ALL), Stage(0, ALL)], "epoch"),
        ([Stage(4, ALL), Stage(-1, ALL)], "epoch"),
        ([Stage(3, (1.0, 1.0))], "one rate for each of 3 layers"),
        ([Stage(3, (*ALL, 1.0))], "one rate for each of 3 layers"),
        ([Stage(3, (1.0, -0.1, 1.0))], "at least 0"),
        ([Stage(3, (1.0, math.inf, 1.0))], "finite"),
        ([Stage(3, (math.nan, 1.0, 1.0))], "finite"),
        ([Stage(2, ALL), Stage(1, NONE)], "nothing would be trained"),
    ],
)
@pytest.mark.parametrize("batch_norm", ["inference", "train"])
def test_a_policy_whose_stages_do_not_fit_is_refused(
    stages: Sequence[Stage], message: str, batch_norm: Literal["inference", "train"]
) -> None:
    policy = Given(given=tuple(stages), batch_norm=batch_norm)
    with pytest.raises(ValueError, match=message):
        policy.planned(THREE, EPOCHS)


@given(layer_tables())
def test_a_table_keeps_its_rows_when_it_is_split_and_joined(layers: LayerTable) -> None:
    middle = len(layers) // 2
    left, right = LayerTable(layers.layers[:middle]), LayerTable(layers.layers[middle:])
    assert left + right == layers
    assert [layers[number] for number, _ in layers] == list(layers.layers)
    assert right.in_block("head").layers == tuple(evolve(row, block="head") for _, row in right)
