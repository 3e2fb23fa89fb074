"""The keys of a table in words, and a JSON schema of experiment files for editors.

Both come from the fields, types and docstrings that `structure` uses. What the schema refuses,
`structure` refuses too; some mistakes no schema can detect, such as a range past the last layer.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
from attrs import NOTHING, Attribute, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import describe, hints, keys, old_name, unstructure
from tlkit.config.sweep import SweepTable
from tlkit.parts.kinds import registries
from tlkit.parts.registry import Registry
from tlkit.parts.validators import schema_of

ENTRY = re.compile(r"    (\w+): (.*)")


@frozen
class Key:
    """A TOML key.

    Attributes:
        name: Its name.
        type: The values that it accepts, in words.
        default: Its default in TOML; empty if it is required or unset.
        meaning: Its entry in the docstring.
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
    meaning = meanings(cls)
    return tuple(
        Key(field.name, _type(cls, field), _default(field), meaning.get(field.name, ""))
        for field in keys(cls)
    )


def _type(cls: type, field: attrs.Attribute[Any]) -> str:
    registry = field.metadata.get("registry")
    if not registry:
        return describe(hints(cls)[field.name])
    article = "an" if registry.kind[0] in "aeiou" else "a"
    table = f"a table that names {article} {registry.kind}"
    return f"a list, each {table}" if field.metadata.get("many") else table


def _default(field: attrs.Attribute[Any]) -> str:
    if "registry" in field.metadata:
        return repr(field.metadata["default"]) if field.metadata["default"] else ""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types it as a function
        default = None if default.takes_self else default.factory()
    if default is NOTHING or default is None:
        return ""
    if attrs.has(type(default)) and not hasattr(default, "parse"):
        return "its own defaults"
    return repr(unstructure(default)).replace("True", "true").replace("False", "false")


def meanings(cls: type) -> dict[str, str]:
    """Return the entries of the `Attributes` sections of a class and its bases."""
    entries: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = doc.partition("Attributes:\n")[2].split("\n\n")[0]
        name = ""
        for line in section.splitlines():
            if match := ENTRY.fullmatch(line):
                name, entries[match[1]] = match[1], match[2]
            elif name:
                entries[name] += " " + line.strip()
    return entries


DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS: Mapping[Any, Mapping[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string", "minLength": 1},
}
Schema = dict[str, Any]


def json_schema() -> tuple[Schema, tuple[str, ...]]:
    """Return the schema, and a message for each broken part, which it leaves out."""
    broken: list[str] = []
    kinds = {kind: _kind(registry, broken) for kind, registry in registries.items()}
    record = _record(Experiment)
    record["properties"] |= {"sweep": _sweep()}
    files: Schema = {"required": ["sweep"], "properties": {"sweep": {"required": ["files"]}}}
    needed = {"anyOf": [{"required": record.pop("required")}, files]}
    return {
        "$schema": DIALECT,
        "title": "tlkit experiment",
        **record,
        **needed,
        "$defs": kinds,
    }, tuple(broken)


def _sweep() -> Schema:
    """Return the schema of the table `[sweep]`, which only `tlkit sweep` reads."""
    record = _record(SweepTable)
    settings = {"type": "object", "description": "Keys as for --set; a list is several values."}
    return {
        **record,
        "description": "Many runs: each combination of values with each seed; `tlkit sweep`.",
        "properties": {**record["properties"], "set": settings},
    }


def _kind(registry: Registry[Any], broken: list[str]) -> Schema:
    """Return the schema of a table that names a part: one choice per part, selected by `name`."""
    default = next(
        field.metadata["default"]
        for field in keys(Experiment)
        if field.metadata.get("registry") is registry
    )
    choices = []
    for name in registry.names():
        try:
            choices.append(_part(name, registry.get(name), needs_name=name != default))
        except Exception as error:  # one broken package must not take the schema away
            if registry.find(name).source == "tlkit":
                raise
            part = f"{registry.kind} {name!r}: "
            broken.append(part + str(error).removeprefix(part))
    named = {
        "enum": [choice["properties"]["name"]["const"] for choice in choices],
        "description": f"Which {registry.kind}; `tlkit list` lists them.",
        **({"default": default} if default else {}),
    }
    # With `enum`, a wrong name is one short error instead of one per choice.
    return {"type": "object", "properties": {"name": named}, "oneOf": choices}


def _part(name: str, cls: type, needs_name: bool) -> Schema:
    record = _record(cls)
    properties = {"name": {"const": name, "description": _summary(cls)}, **record["properties"]}
    required = ["name"] * needs_name + record["required"]
    return {"title": name, **record, "properties": properties, "required": required}


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _record(cls: type) -> Schema:
    """Return the schema of a table with the keys of an attrs class."""
    meaning = {key.name: key.meaning for key in describe_keys(cls)}
    return {
        "type": "object",
        "properties": {
            name: schema
            for field in keys(cls)
            for name, schema in _named(field, _key(cls, field, meaning[field.name]))
        },
        "required": [field.name for field in keys(cls) if _is_required(field)],
        "additionalProperties": False,
    }


def _named(field: Attribute[Any], schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the schema of a key under its name, and as deprecated under its old name."""
    yield field.name, schema
    if old := old_name(field):
        rule = {key: value for key, value in schema.items() if key != "default"}
        yield old, {**rule, "description": f"Is now called `{field.name}`.", "deprecated": True}


def _is_required(field: Attribute[Any]) -> bool:
    return field.default is NOTHING


def _key(cls: type, field: Attribute[Any], meaning: str) -> Schema:
    notes: Schema = {"description": meaning} if meaning else {}
    if registry := field.metadata.get("registry"):
        kind = next(kind for kind, known in registries.items() if known is registry)
        default = field.metadata["default"]
        notes |= {"default": {"name": default}} if default else {}
        notes |= {"required": ["name"]} if field.default is None else {}
        one: Schema = {"$ref": f"#/$defs/{kind}"}
        if other := field.metadata.get("otherwise"):
            named: Schema = {"properties": {"name": {"enum": list(other.names())}}}
            one = {"anyOf": [one, {"type": "object", "required": ["name"], **named}]}
        return {**({"type": "array", "items": one} if field.metadata.get("many") else one), **notes}
    schema = _value(hints(cls)[field.name])
    rule = schema_of(field.validator)
    if "type" in schema:  # in a union the rule would apply to every member
        items = {**schema.get("items", {}), **rule.get("items", {})}
        schema |= {**rule, **({"items": items} if items else {})}
    return {**schema, **notes, **_schema_default(field)}


def _schema_default(field: Attribute[Any]) -> Schema:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types it as a function
        default = None if default.takes_self else default.factory()
    return {} if default is NOTHING or default is None else {"default": unstructure(default)}


def _value(hint: Any) -> Schema:
    """Return the schema of the values that `structure` accepts for a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        members = [_value(member) for member in inner if member is not type(None)]
        return members[0] if len(members) == 1 else {"anyOf": members}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _value(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(inner[1])}
    if hasattr(hint, "parse"):
        return {"type": "string"}
    return dict(SCALARS[hint]) if hint in SCALARS else _record(hint)
