"""Class weights: the study's numbers, and what is refused. The laws are in test_weighting.py."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from attrs import frozen

import tlkit
from tlkit.parts.class_weights import (
    Balanced,
    EffectiveNumber,
    Fixed,
    MedianFrequency,
    Power,
    Unweighted,
)
from tlkit.system.errors import FieldError

COUNTS = {"normal": 50, "pneumonia": 100, "covid-19": 25}


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        (Unweighted(), {"normal": 1, "pneumonia": 1, "covid-19": 1}),
        (Balanced(), {"normal": 175 / 150, "pneumonia": 175 / 300, "covid-19": 175 / 75}),
        (
            Fixed(weights={"covid-19": 12, "normal": 1, "pneumonia": 1}),  # experiments 1 and 2
            {"normal": 1, "pneumonia": 1, "covid-19": 12},
        ),
        (MedianFrequency(), {"normal": 1, "pneumonia": 0.5, "covid-19": 2}),
    ],
)
def test_weights_by_class_name(weighting: tlkit.ClassWeights, weights: dict[str, float]) -> None:
    found = weighting.for_counts(COUNTS)
    assert list(found.items()) == list(weights.items())
    assert {type(weight) for weight in found.values()} == {float}


@pytest.mark.parametrize("weighting", [Power(), EffectiveNumber()], ids=str)
def test_of_two_classes_the_defaults_weigh_as_by_hand(weighting: tlkit.ClassWeights) -> None:
    raw = {
        "power": (1 / 30, 1 / 10),
        "effective_number": (0.001 / (1 - 0.999**900), 0.001 / (1 - 0.999**100)),
    }[tlkit.registries.class_weights.name_of(type(weighting))]
    mean = 0.9 * raw[0] + 0.1 * raw[1]
    found = weighting.for_counts({"many": 900, "few": 100})
    assert found == pytest.approx({"many": raw[0] / mean, "few": raw[1] / mean})


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (Power, {"alpha": 1.1}, r"^alpha: must be from 0 to 1, got 1\.1$"),
        (Power, {"alpha": -0.1}, r"^alpha: must be from 0 to 1, got -0\.1$"),
        (EffectiveNumber, {"beta": 1.0}, r"^beta: must be at least 0 and below 1, got 1\.0$"),
    ],
)
def test_settings_out_of_range_are_refused(part: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        part(**keys)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_written_weight_that_is_not_finite_and_above_0_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"must be finite and above 0, got 'b' = {weight}$"):
        Fixed(weights={"a": 1.0, "b": weight})


def test_a_misspelt_class_gets_the_nearest_and_the_whole_list() -> None:
    message = (
        r"^weights: no class named 'covid19'; did you mean 'covid-19'\? "
        r"(known|classes): normal, pneumonia, covid-19$"
    )
    with pytest.raises(FieldError, match=message):
        Fixed(weights={"normal": 1, "pneumonia": 1, "covid19": 12}).for_counts(COUNTS)


@frozen(kw_only=True)
class Given(tlkit.ClassWeights):
    """Gives what it was given."""

    found: Any

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        return self.found  # type: ignore[no-any-return]  # somebody's mistake


@pytest.mark.parametrize(
    "found", [None, [1, 1], {}, {"a": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 0},
              {"a": 1, "b": math.inf}, {"a": 1, "b": math.nan}, {"a": 1, "b": "2"}]
)  # fmt: skip
def test_what_is_no_weight_for_each_class_is_refused(found: Any) -> None:
    message = "^its `for_counts` must return a finite weight above 0 for each of a, b, got "
    with pytest.raises(ValueError, match=message + re.escape(repr(found))):
        Given(found=found).planned({"a": 1, "b": 2})


def test_planned_weights_are_plain_numbers_in_the_order_of_the_classes() -> None:
    found = Given(found={"b": np.float32(0.5), "a": 2}).planned({"a": 1, "b": 2})
    assert list(found.items()) == [("a", 2.0), ("b", 0.5)]
    assert {type(weight) for weight in found.values()} == {float}


class TestFromLabels:
    def test_a_weighting_goes_by_its_name_or_itself(self) -> None:
        assert tlkit.class_weights(COUNTS, "none") == Unweighted().for_counts(COUNTS)
        fixed = Fixed(weights={"a": 2, "b": 3})
        assert tlkit.class_weights(["b", "a", "b"], fixed) == {"a": 2, "b": 3}

    @pytest.mark.parametrize(
        ("labels", "weighting", "message"),
        [
            ([], "balanced", "^labels: there are none$"),
            ({}, "balanced", "^labels: there are none$"),
            ({"a": 3, "b": 0}, "balanced", "^class 'b' has no training images"),
            (["a", "b"], Fixed(weights={"a": 1}), "^weights: no weight for class 'b'"),
        ],
    )
    def test_what_cannot_be_weighed_is_refused(
        self, labels: Any, weighting: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            tlkit.class_weights(labels, weighting)

    def test_an_unknown_weighting_is_named(self) -> None:
        with pytest.raises(tlkit.UnknownPart, match=r"^no class weighting named 'balance'; did"):
            tlkit.class_weights(COUNTS, "balance")

    def test_class_numbers_as_text_are_no_class_numbers(self) -> None:
        numbered: dict[Any, float] = {0: 1.0, 1: 2.0}
        with pytest.raises(ValueError, match=r"^labels: '0' has no weight, known: \[0, 1\]$"):
            tlkit.sample_weights(["0"], numbered)

    def test_no_labels_have_no_weights(self) -> None:
        assert tlkit.sample_weights([], {0: 1.0}).shape == (0,)

    @pytest.mark.parametrize("shape", [(4,), (4, 1)])
    def test_labels_may_be_an_array_or_a_tensor(self, shape: tuple[int, ...]) -> None:
        labels = np.array([0, 0, 0, 1]).reshape(shape)
        for given in (labels, keras.ops.convert_to_tensor(labels)):
            weights = tlkit.class_weights(given)
            assert weights == {0: 2 / 3, 1: 2.0}
            assert tlkit.sample_weights(given, weights).argmax() == 3

    def test_one_hot_labels_are_an_error_with_the_way_out(self) -> None:
        with pytest.raises(
            ValueError, match=r"^labels: must be one per image, got shape \(3, 3\);"
        ):
            tlkit.class_weights(np.eye(3))  # type: ignore[type-var]  # wrong on purpose

    def test_numpy_labels_find_python_weights(self) -> None:
        labels = np.array([1, 0, 1], np.uint8)
        assert tlkit.sample_weights(labels, {0: 0.5, 1: 2.0}).tolist() == [2.0, 0.5, 2.0]
