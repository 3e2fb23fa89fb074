"""The keys of a part or record, told from its fields and docstring."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs
from attrs import NOTHING, frozen

from tlkit.config.fields import describe, hints, keys
from tlkit.config.structure import unstructure

ENTRY = re.compile(r"    (\w+): (.*)")


@frozen
class Key:
    """One TOML key.

    Attributes:
        name: Its name.
        type: What it takes, in words.
        default: Its default as TOML would show it; empty if it is required or unset.
        meaning: What the docstring says of it.
    """

    name: str
    type: str
    default: str
    meaning: str

    def __str__(self) -> str:
        default = f" (default {self.default})" if self.default else ""
        return f"{self.name}: {self.type}{default}. {self.meaning}"


def describe_keys(cls: type) -> tuple[Key, ...]:
    """Return the keys of an attrs class in the order of its fields."""
    said = meanings(cls)
    return tuple(
        Key(field.name, _type(cls, field), _default(field), said.get(field.name, ""))
        for field in keys(cls)
    )


def _type(cls: type, field: attrs.Attribute[Any]) -> str:
    registry = field.metadata.get("registry")
    return f"a table that names a {registry.kind}" if registry else describe(hints(cls)[field.name])


def _default(field: attrs.Attribute[Any]) -> str:
    if "registry" in field.metadata:
        return repr(field.metadata["default"]) if field.metadata["default"] else ""
    default: Any = field.default
    if default is NOTHING or default is None:
        return ""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types it as a function
        default = default.factory()
    if attrs.has(type(default)) and not hasattr(default, "parse"):
        return "its own defaults"
    return repr(unstructure(default)).replace("True", "true").replace("False", "false")


def meanings(cls: type) -> dict[str, str]:
    """Return the entries of the `Attributes` sections of a class and those it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = doc.partition("Attributes:\n")[2].split("\n\n")[0]
        name = ""
        for line in section.splitlines():
            if match := ENTRY.fullmatch(line):
                name, found[match[1]] = match[1], match[2]
            elif name:
                found[name] += " " + line.strip()
    return found
