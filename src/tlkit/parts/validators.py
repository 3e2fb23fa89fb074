"""Rules for the values of keys: attrs validators with tlkit's error messages."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from tlkit.system.errors import FieldError

Validator = Callable[[Any, Any, Any], None]

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60


@frozen(eq=False)
class Rule:
    """An attrs validator that also describes itself in a JSON schema.

    Attributes:
        check: Raises `FieldError` if a value breaks the rule.
        schema: The rule in a JSON schema.
    """

    check: Validator
    schema: Mapping[str, Any] = field(factory=dict)

    def __call__(self, instance: Any, attribute: Any, value: Any) -> None:
        """Apply the rule, as attrs does."""
        self.check(instance, attribute, value)


def shown(value: object) -> str:
    """Return a value for a message: on one line, and short.

    >>> shown("abc"), shown(12), len(shown("x" * 1000))
    ("'abc'", '12', 60)
    """
    return _brief.repr(value)


def _rule(holds: Callable[[Any], bool], text: str, **schema: float) -> Rule:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        try:
            valid = holds(value)
        except OverflowError:  # an integer larger than any float
            valid = False
        if not valid:
            raise FieldError(attribute.name, f"must be {text}, got {shown(value)}")

    return Rule(check, schema)


def schema_of(validator: object) -> Mapping[str, Any]:
    """Return a validator's JSON schema; empty if it is not a `Rule`.

    >>> schema_of(at_least(1)), schema_of(print)
    ({'minimum': 1}, {})
    """
    return validator.schema if isinstance(validator, Rule) else {}


def at_least(low: float) -> Rule:
    """Return a validator for finite numbers from `low` up."""
    return _rule(
        lambda value: low <= value and math.isfinite(value), f"at least {low}", minimum=low
    )


def above(low: float) -> Rule:
    """Return a validator for finite numbers greater than `low`."""
    return _rule(
        lambda value: low < value and math.isfinite(value), f"above {low}", exclusiveMinimum=low
    )


def between(low: float, high: float) -> Rule:
    """Return a validator for numbers from `low` to `high`, both included."""
    return _rule(
        lambda value: low <= value <= high, f"from {low} to {high}", minimum=low, maximum=high
    )


def open_interval(low: float, high: float) -> Rule:
    """Return a validator for numbers between `low` and `high`, both excluded."""
    return _rule(
        lambda value: low < value < high,
        f"above {low} and below {high}",
        exclusiveMinimum=low,
        exclusiveMaximum=high,
    )


def fraction(below: float) -> Rule:
    """Return a validator for numbers from 0 up to, but not including, `below`."""
    return _rule(
        lambda value: 0 <= value < below,
        f"at least 0 and below {below}",
        minimum=0,
        exclusiveMaximum=below,
    )


def each(rule: Rule, least: int = 0) -> Rule:
    """Return a validator for tuples of at least `least` values that all obey `rule`."""

    def check(instance: Any, attribute: Any, values: Any) -> None:
        if len(values) < least:
            raise FieldError(attribute.name, f"needs at least {least}, got {len(values)}")
        for value in values:
            rule(instance, attribute, value)

    return Rule(check, {"minItems": least, "items": rule.schema})


def unless_none(rule: Validator) -> Rule:
    """Return a validator that applies `rule` to values other than None."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value is not None:
            rule(instance, attribute, value)

    return Rule(check, schema_of(rule))
