"""Rules for the values of keys, as attrs validators whose messages have the house's shape."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from tlkit.system.errors import FieldError

Rule = Callable[[Any, Any, Any], None]

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60


def shown(value: object) -> str:
    """Return a value for a message: one line, and short whatever it is.

    >>> shown("abc"), shown(12), len(shown("x" * 1000))
    ("'abc'", '12', 60)
    """
    return _brief.repr(value)


def _rule(holds: Callable[[Any], bool], text: str, **schema: float) -> Rule:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        try:
            obeyed = holds(value)
        except OverflowError:  # an integer beyond all floats
            obeyed = False
        if not obeyed:
            raise FieldError(attribute.name, f"must be {text}, got {shown(value)}")

    return _says(check, schema)


def _says(rule: Rule, schema: Mapping[str, Any]) -> Rule:
    """Note on a rule what it is in a JSON schema."""
    rule.schema = schema  # type: ignore[attr-defined]  # functions have attributes
    return rule


def schema_of(rule: object) -> Mapping[str, Any]:
    """Return what a validator is in a JSON schema; nothing if that cannot be said.

    >>> schema_of(at_least(1)), schema_of(print)
    ({'minimum': 1}, {})
    """
    return getattr(rule, "schema", {})


def at_least(low: float) -> Rule:
    """Return a validator for numbers from `low` up."""
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

    return _says(check, {"minItems": least, "items": schema_of(rule)})


def unless_none(rule: Rule) -> Rule:
    """Return a validator that applies `rule` to values other than None."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value is not None:
            rule(instance, attribute, value)

    return _says(check, schema_of(rule))
