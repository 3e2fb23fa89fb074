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

from tlkit.errors import PartError
from tlkit.registry import Registry

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string",
         Path: "a path"}  # fmt: skip
MANY = 12  # choices that are not all told
TYPES = "bool, int, float, str, Path, Literal, tuple[T, ...], dict[str, T], a union, an attrs class"


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
    """Return the resolved type of every field of an attrs class.

    Raises:
        PartError: If a type is a name that means nothing, or none that a key can have.
    """
    try:
        found = typing.get_type_hints(cls)
    except Exception as error:  # a type in quotes is code of the part's author
        raise PartError(f"{cls.__qualname__}: {error}; its keys' types must be known") from error
    for field in keys(cls):
        if "registry" not in field.metadata and not _is_known(found[field.name]):
            raise PartError(
                f"{cls.__qualname__}: the key {field.name} cannot have the type "
                f"{_shown(found[field.name])}; what a key may have: {TYPES}"
            )
    return found


def _is_known(hint: Any) -> bool:
    """Tell whether values of a type can be read from TOML."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return all(map(_is_known, inner))
    if origin is tuple:
        return len(inner) == 2 and inner[1] is ... and _is_known(inner[0])
    if origin is dict:
        return inner[0] is str and _is_known(inner[1])
    known = origin is Literal or hint in NAMES or hint is type(None)
    return known or attrs.has(hint) or hasattr(hint, "parse")


def _shown(hint: Any) -> str:
    return hint.__name__ if type(hint) is type else str(hint)


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
    return hint is type(None) and value is None


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
