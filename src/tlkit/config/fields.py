"""What the fields of a record or part may hold, and how their types are called in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
from attrs import Attribute

from tlkit.registry import Registry

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string",
         Path: "a path"}  # fmt: skip
MANY = 12  # choices that are not all told


def part(registry: Registry[Any], default: str | None = None) -> Any:
    """Return an attrs field that holds a part of `registry`.

    Args:
        registry: Where the table's `name` is looked up.
        default: The part used when the table, or its `name`, is left out; None: it is required.
    """
    metadata = {"registry": registry, "default": default}
    if default is None:
        return attrs.field(metadata=metadata)
    return attrs.field(metadata=metadata, factory=lambda: registry.get(default)())


def is_key(field: Attribute[Any]) -> bool:
    """Tell whether a field is a TOML key; a record may also hold what is none."""
    return bool(field.metadata.get("key", True))


def keys(cls: type) -> tuple[Attribute[Any], ...]:
    """Return the fields of an attrs class that are TOML keys."""
    return tuple(field for field in attrs.fields(cls) if is_key(field))


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the resolved type of every field of an attrs class."""
    return typing.get_type_hints(cls)


def fits(hint: Any, value: Any) -> bool:
    """Tell whether a value has the outer form of a type."""
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == c and type(value) is type(c) for c in get_args(hint))
    if origin is tuple:
        return isinstance(value, list | tuple)
    if origin is dict or (attrs.has(hint) and not hasattr(hint, "parse")):
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool)
    if hint in {str, Path} or hasattr(hint, "parse"):
        return isinstance(value, str)
    if hint is type(None):
        return value is None
    raise TypeError(f"a key cannot have the type {hint!r}")


def describe(hint: Any) -> str:
    """Return what a type takes, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(describe(member) for member in inner if member is not type(None))
    if origin is Literal:
        more = f" or another of {len(inner)}" if len(inner) > MANY else ""
        return " or ".join(map(repr, inner[:2] if more else inner)) + more
    if origin is tuple:
        one = NAMES.get(inner[0])
        return f"a list of {one.split()[-1]}s" if one else f"a list, each {describe(inner[0])}"
    if origin is dict or attrs.has(hint):
        return "a string" if hasattr(hint, "parse") else "a table"
    return NAMES.get(hint, str(hint))
