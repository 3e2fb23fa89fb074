"""Rules for the values of keys: their limits and their words."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tlkit.parts.validators import (
    Rule,
    above,
    at_least,
    between,
    each,
    fraction,
    open_interval,
    unless_none,
)
from tlkit.system.errors import FieldError


def apply(rule: Callable[..., None], value: Any) -> None:
    rule(None, SimpleNamespace(name="key"), value)


@pytest.mark.parametrize(
    ("rule", "kept_by", "broken_by", "words"),
    [
        (at_least(2), [2, 2.5, 10**30], [1, 1.999, -1, math.nan, math.inf], "at least 2"),
        (above(0), [5e-324, 1, 1e308], [0, -0.0, -1, math.nan, math.inf], "above 0"),
        (between(-1, 5), [-1, 0.5, 5], [-1.001, 5.001, math.nan, math.inf], "from -1 to 5"),
        (open_interval(0, 1), [5e-324, 0.5, 1 - 2**-53], [0, 1, math.nan], "above 0 and below 1"),
        (fraction(below=1), [0, 0.5, 1 - 2**-53], [-1e-9, 1, math.nan], "at least 0 and below 1"),
    ],
)
def test_a_rule_holds_up_to_its_limits(
    rule: Rule, kept_by: list[float], broken_by: list[float], words: str
) -> None:
    for value in kept_by:
        apply(rule, value)
    for value in broken_by:
        with pytest.raises(FieldError, match=f"^key: must be {words}, got {value!r}$"):
            apply(rule, value)


@pytest.mark.parametrize(
    "rule", [at_least(1), above(0), between(0, 9), open_interval(0, 1), fraction(1)]
)
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["positive", "negative"])
def test_an_integer_beyond_all_floats_breaks_every_rule(rule: Rule, value: int) -> None:
    with pytest.raises(FieldError, match=r"^key: must be "):
        apply(rule, value)


def test_each_applies_a_rule_to_every_value() -> None:
    apply(each(at_least(1)), ())
    apply(each(at_least(1)), (1, 2))
    with pytest.raises(FieldError, match=r"^key: must be at least 1, got 0$"):
        apply(each(at_least(1)), (1, 0, 2))


def test_each_demands_as_many_values_as_it_is_told() -> None:
    apply(each(at_least(1), least=2), (1, 1))
    with pytest.raises(FieldError, match=r"^key: needs at least 2, got 1$"):
        apply(each(at_least(1), least=2), (1,))


def test_unless_none_lets_none_pass_and_nothing_else() -> None:
    rule: Callable[..., None] = unless_none(at_least(1))
    apply(rule, None)
    with pytest.raises(FieldError, match=r"^key: must be at least 1, got 0$"):
        apply(rule, 0)
