"""Laws of class weights, with exact fractions and scikit-learn as oracles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

import tlkit
from tlkit.config.experiment import Experiment
from tlkit.data.splits import Example, Splits
from tlkit.parts.class_weights import (
    Balanced,
    EffectiveNumber,
    Fixed,
    MedianFrequency,
    Power,
    Unweighted,
)
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import ConfigError, FieldError
from tlkit.testing import class_counts
from tlkit.train.plan import make_plan

small_counts = class_counts().map(lambda counts: {name: n % 9 + 1 for name, n in counts.items()})
weights_above_0 = st.floats(1e-6, 1e6)


def balanced(counts: Mapping[str, int]) -> dict[str, float]:
    return Balanced().for_counts(counts)


def exact(counts: Mapping[str, int]) -> dict[str, Fraction]:
    """Balanced weights without rounding: N / (K · n_k)."""
    total = sum(counts.values())
    return {name: Fraction(total, len(counts) * count) for name, count in counts.items()}


def labels_of(counts: Mapping[str, int]) -> list[str]:
    return [name for name, count in counts.items() for _ in range(count)]


def near(value: float, exactly: Fraction) -> bool:
    """Tell whether a float is within two units in the last place of an exact number."""
    return abs(Fraction(value) - exactly) <= 2 * Fraction(math.ulp(value))


class TestBalanced:
    @given(class_counts(min_classes=1))
    def test_is_the_exact_formula_but_for_rounding(self, counts: dict[str, int]) -> None:
        weights = balanced(counts)
        assert list(weights) == list(counts)
        assert all(near(weights[name], weight) for name, weight in exact(counts).items())

    @given(small_counts)
    def test_is_scikit_learns(self, counts: dict[str, int]) -> None:
        labels = labels_of(counts)
        theirs = compute_class_weight("balanced", classes=np.array([*counts]), y=labels)
        assert list(balanced(counts).values()) == pytest.approx(theirs, rel=1e-15)

    @given(class_counts())
    def test_gives_every_class_the_same_say_and_an_image_one_on_average(
        self, counts: dict[str, int]
    ) -> None:
        weights, total = balanced(counts), sum(counts.values())
        says = [weights[name] * count for name, count in counts.items()]
        assert says == pytest.approx([total / len(counts)] * len(counts))
        assert sum(1 / weight for weight in weights.values()) == pytest.approx(len(counts))

    @given(class_counts())
    def test_stays_within_its_bounds(self, counts: dict[str, int]) -> None:
        weights = balanced(counts).values()
        assert min(weights) > 1 / len(counts)
        assert max(weights) <= sum(counts.values()) / len(counts)
        assert min(weights) <= 1 <= max(weights)

    @given(class_counts(), st.integers(1, 10**6))
    def test_equal_counts_give_exactly_one(self, counts: dict[str, int], same: int) -> None:
        assert balanced(dict.fromkeys(counts, same)) == dict.fromkeys(counts, 1.0)

    @given(class_counts(), st.integers(1, 1000))
    def test_only_the_proportions_matter(self, counts: dict[str, int], times: int) -> None:
        assert balanced({name: n * times for name, n in counts.items()}) == balanced(counts)

    @given(class_counts(), st.data())
    def test_the_order_of_the_classes_changes_no_weight(
        self, counts: dict[str, int], data: st.DataObject
    ) -> None:
        shuffled = dict(data.draw(st.permutations([*counts.items()])))
        assert balanced(shuffled) == balanced(counts)
        assert list(balanced(shuffled)) == list(shuffled)

    @given(class_counts(), st.data())
    def test_the_weights_follow_the_counts_when_classes_swap_names(
        self, counts: dict[str, int], data: st.DataObject
    ) -> None:
        names = data.draw(st.permutations([*counts]))
        renamed = dict(zip(names, counts.values(), strict=True))
        assert list(balanced(renamed).values()) == list(balanced(counts).values())

    @given(class_counts(), st.integers(1, 1000), st.data())
    def test_more_images_of_one_class_lower_its_weight_and_raise_the_others(
        self, counts: dict[str, int], more: int, data: st.DataObject
    ) -> None:
        grown = data.draw(st.sampled_from([*counts]))
        before, after = balanced(counts), balanced({**counts, grown: counts[grown] + more})
        assert after[grown] < before[grown]
        assert all(after[name] > before[name] for name in counts if name != grown)

    @given(class_counts(), st.integers(1, 10**6))
    def test_a_further_class_scales_every_weight_alike(
        self, counts: dict[str, int], images: int
    ) -> None:
        k, total = len(counts), sum(counts.values())
        factor = Fraction(k, k + 1) * Fraction(total + images, total)
        after = balanced({**counts, "one more": images})
        assert all(near(after[name], w * factor) for name, w in exact(counts).items())

    @given(class_counts(min_classes=3))
    def test_merging_two_classes_weighs_their_sum(self, counts: dict[str, int]) -> None:
        first, second, *rest = counts
        merged = {"both": counts[first] + counts[second], **{name: counts[name] for name in rest}}
        weight = Fraction(sum(counts.values()), (len(counts) - 1) * merged["both"])
        assert near(balanced(merged)["both"], weight)

    @given(class_counts(), st.data())
    def test_a_class_without_images_is_named(
        self, counts: dict[str, int], data: st.DataObject
    ) -> None:
        empty = data.draw(st.sampled_from([*counts]))
        with pytest.raises(ValueError, match=f"^class '{empty}' has no training images"):
            balanced({**counts, empty: 0})


class TestFixed:
    @given(class_counts(), st.data())
    def test_gives_what_is_written_by_name_in_the_order_of_the_classes(
        self, counts: dict[str, int], data: st.DataObject
    ) -> None:
        written = {name: data.draw(weights_above_0) for name in counts}
        found = Fixed(weights=dict(reversed(written.items()))).for_counts(counts)
        assert found == written
        assert list(found) == list(counts)

    @given(class_counts(), st.data())
    def test_demands_exactly_the_classes(self, counts: dict[str, int], data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([*counts]))
        every = dict.fromkeys(counts, 1.0)
        with pytest.raises(FieldError, match=r"^weights: no class named 'one more'"):
            Fixed(weights={**every, "one more": 1.0}).for_counts(counts)
        del every[one]
        with pytest.raises(FieldError, match=f"^weights: no weight for class '{one}'"):
            Fixed(weights=every).for_counts(counts)


alphas = st.floats(0, 1)
betas = st.floats(0, 1, exclude_max=True)
scaled_weightings = (
    alphas.map(lambda alpha: Power(alpha=alpha))
    | betas.map(lambda beta: EffectiveNumber(beta=beta))
    | st.just(Balanced())
)


class TestComputed:
    @given(class_counts(min_classes=1), scaled_weightings)
    def test_the_mean_weight_of_an_image_is_1(
        self, counts: dict[str, int], weighting: tlkit.ClassWeights
    ) -> None:
        weights = weighting.for_counts(counts)
        total = math.fsum(weights[name] * count for name, count in counts.items())
        assert total == pytest.approx(sum(counts.values()), rel=1e-12)

    @given(class_counts(), scaled_weightings | st.just(MedianFrequency()))
    def test_the_fewer_images_the_heavier_each_and_the_class_never_the_heavier(
        self, counts: dict[str, int], weighting: tlkit.ClassWeights
    ) -> None:
        weights = weighting.for_counts(counts)
        assert list(weights) == list(counts)
        by_size = sorted(counts, key=lambda name: counts[name])
        heavy = [weights[name] for name in by_size]
        assert heavy == pytest.approx(sorted(heavy, reverse=True), rel=1e-12)
        says = [weights[name] * counts[name] for name in by_size]
        assert says == pytest.approx(sorted(says), rel=1e-9)

    @given(class_counts(), st.integers(1, 10**6), scaled_weightings | st.just(MedianFrequency()))
    def test_equal_counts_give_one(
        self, counts: dict[str, int], same: int, weighting: tlkit.ClassWeights
    ) -> None:
        found = weighting.for_counts(dict.fromkeys(counts, same))
        assert found == pytest.approx(dict.fromkeys(counts, 1.0), rel=1e-12)

    @given(class_counts(), scaled_weightings | st.just(MedianFrequency()), st.data())
    def test_a_class_without_images_is_named(
        self, counts: dict[str, int], weighting: tlkit.ClassWeights, data: st.DataObject
    ) -> None:
        empty = data.draw(st.sampled_from([*counts]))
        with pytest.raises(ValueError, match=f"^class '{empty}' has no training images"):
            weighting.for_counts({**counts, empty: 0})


class TestPower:
    @given(class_counts(), alphas, st.data())
    def test_two_classes_weigh_as_their_counts_to_the_power(
        self, counts: dict[str, int], alpha: float, data: st.DataObject
    ) -> None:
        one, other = (data.draw(st.sampled_from([*counts])) for _ in range(2))
        weights = Power(alpha=alpha).for_counts(counts)
        expected = (counts[other] / counts[one]) ** alpha
        assert weights[one] / weights[other] == pytest.approx(expected, rel=1e-12)

    @given(class_counts())
    def test_it_goes_from_none_to_balanced(self, counts: dict[str, int]) -> None:
        assert Power(alpha=0).for_counts(counts) == Unweighted().for_counts(counts)
        found = Power(alpha=1).for_counts(counts)
        assert found == pytest.approx(balanced(counts), rel=1e-12)


class TestEffectiveNumber:
    @given(small_counts, betas | st.floats(1e-15, 1e-3).map(lambda rest: 1 - rest))
    def test_two_classes_weigh_by_the_published_formula(
        self, counts: dict[str, int], beta: float
    ) -> None:
        """Close to 1 too, where 1 - beta to the power of n has hardly a digit left."""
        weights = EffectiveNumber(beta=beta).for_counts(counts)
        effective = {name: 1 - Fraction(beta) ** n for name, n in counts.items()}
        first = next(iter(counts))
        for name in counts:
            ratio = float(effective[first] / effective[name])
            assert weights[name] / weights[first] == pytest.approx(ratio, rel=1e-12)

    @given(class_counts())
    def test_it_goes_from_none_to_balanced(self, counts: dict[str, int]) -> None:
        assert EffectiveNumber(beta=0).for_counts(counts) == Unweighted().for_counts(counts)
        almost_0 = EffectiveNumber(beta=5e-324).for_counts(counts)
        assert almost_0 == pytest.approx(Unweighted().for_counts(counts), rel=1e-12)
        almost_1 = EffectiveNumber(beta=1 - 2**-53).for_counts(counts)
        assert almost_1 == pytest.approx(balanced(counts), rel=1e-9)


class TestMedianFrequency:
    @given(class_counts())
    def test_is_balanced_but_for_its_scale(self, counts: dict[str, int]) -> None:
        weights = MedianFrequency().for_counts(counts)
        ratios = [weights[name] / weight for name, weight in balanced(counts).items()]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-12)

    @given(class_counts(), st.integers(1, 100_000))
    def test_a_class_of_median_size_has_weight_1(self, counts: dict[str, int], median: int) -> None:
        others = {name: median + (1 if i % 2 else -1) * i for i, name in enumerate(counts, 1)}
        assume(min(others.values()) > 0)
        assume(len(others) % 2 == 0)
        weights = MedianFrequency().for_counts({**others, "the median": median})
        assert weights["the median"] == 1


@given(class_counts())
def test_unweighted_counts_every_image_once(counts: dict[str, int]) -> None:
    assert Unweighted().for_counts(counts) == dict.fromkeys(counts, 1.0)


class TestFromLabels:
    @given(small_counts, st.data())
    def test_labels_in_any_order_weigh_as_their_counts(
        self, counts: dict[str, int], data: st.DataObject
    ) -> None:
        labels = data.draw(st.permutations(labels_of(counts)))
        assert tlkit.class_weights(labels) == tlkit.class_weights(counts) == balanced(counts)

    @given(small_counts)
    def test_numpy_labels_weigh_as_python_ones(self, counts: dict[str, int]) -> None:
        numbers = np.repeat(range(len(counts)), [*counts.values()])
        weights = tlkit.class_weights(numbers)
        assert weights == dict(enumerate(balanced(counts).values()))
        assert {type(label) for label in weights} == {int}

    @given(small_counts)
    def test_sample_weights_are_each_labels_weight(self, counts: dict[str, int]) -> None:
        labels = labels_of(counts)
        found = tlkit.sample_weights(labels, balanced(counts))
        assert found.dtype == np.float32
        assert found.tolist() == [np.float32(balanced(counts)[label]) for label in labels]
        assert found == pytest.approx(compute_sample_weight("balanced", labels))

    @given(small_counts, st.sampled_from(["unseen", -1, 0.5]))
    def test_a_label_without_a_weight_is_named(self, counts: dict[str, int], label: object) -> None:
        numbered: dict[object, float] = dict(enumerate(balanced(counts).values()))
        with pytest.raises(ValueError, match=f"^labels: '{label}' has no weight"):
            tlkit.sample_weights([0, label], numbered)


@st.composite
def random_splits(draw: st.DrawFn) -> tuple[Splits, dict[str, int]]:
    """Splits of the same classes, and how many training images each has."""
    train = draw(small_counts)

    def split(name: str, counts: Mapping[str, int]) -> tuple[Example, ...]:
        labels = draw(st.permutations(labels_of(counts)))
        return tuple(Example(f"{name}/{n}.png", label) for n, label in enumerate(labels))

    def others(name: str) -> tuple[Example, ...]:
        return split(name, {label: draw(st.integers(1, 9)) for label in train})

    splits = Splits(
        classes=tuple(train),
        train=split("train", train),
        val=others("val"),
        test=others("test"),
        read=lambda path: b"",
    )
    return splits, train


@given(random_splits())
def test_a_plan_weighs_by_the_training_split_alone(case: tuple[Splits, dict[str, int]]) -> None:
    splits, train = case
    experiment = Experiment(data=Shapes(), class_weights=Balanced())
    plan = make_plan(experiment, splits)
    assert plan.class_weights == balanced(train)
    assert list(plan.class_weights) == list(splits.classes)
    assert make_plan(experiment, splits) == plan


@given(random_splits(), st.data())
def test_a_plan_refuses_fixed_weights_of_other_classes(
    case: tuple[Splits, dict[str, int]], data: st.DataObject
) -> None:
    splits, train = case
    names = data.draw(st.sets(st.sampled_from([*train, "one more", "another"])))
    assume(names != {*train})
    weights = Fixed(weights=dict.fromkeys(names, 1.0))
    with pytest.raises(ConfigError, match=r"^class_weights\.weights: no (class|weight)"):
        make_plan(Experiment(data=Shapes(), class_weights=weights), splits)
