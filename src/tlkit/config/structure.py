"""Convert plain tables to attrs objects and back, strictly.

Only int is converted, to float. Unknown keys are errors. One pass finds every problem, each with
its key path. Fields may have the types `bool`, `int`, `float`, `str`, `Path`, `Literal`,
`tuple[T, ...]`, `dict[str, T]`, unions, attrs classes, classes with `parse(str)`, and parts (see
`part`). A field with metadata `formerly="old_name"` is also read under that name, and one with
`omit_empty=True` is not written while it is empty.
"""

from __future__ import annotations

import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
from attrs import NOTHING, Attribute

from tlkit.parts.registry import Registry
from tlkit.parts.validators import shown
from tlkit.system.errors import ConfigError, FieldError, PartError, Problem
from tlkit.system.renames import warn_renamed
from tlkit.system.text import nearest, suggest

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string",
         Path: "a path"}  # fmt: skip
MANY = 12  # more choices than this are not all listed
TYPES = "bool, int, float, str, Path, Literal, tuple[T, ...], dict[str, T], a union, an attrs class"


def part(registry: Registry[Any], default: str | None = None, *, optional: bool = False) -> Any:
    """Return an attrs field that holds a part of `registry`.

    Args:
        registry: The registry that the table's `name` refers to.
        default: The part to use if the table or its `name` is missing; None: it is required.
        optional: The table may be missing; the field is then None.
    """
    metadata = {"registry": registry, "default": default}
    if optional:
        return attrs.field(default=None, metadata=metadata)
    if default is None:
        return attrs.field(metadata=metadata)
    return attrs.field(metadata=metadata, factory=lambda: registry.get(default)())


def is_key(field: Attribute[Any]) -> bool:
    """Tell whether a field is a TOML key; metadata `key=False` marks one that is not."""
    return bool(field.metadata.get("key", True))


def keys(cls: type) -> tuple[Attribute[Any], ...]:
    """Return the fields of an attrs class that are TOML keys."""
    return tuple(field for field in attrs.fields(cls) if is_key(field))


def old_name(field: Attribute[Any]) -> str:
    """Return the name that a key had before this release, from its metadata `formerly`; or ""."""
    return str(field.metadata.get("formerly", ""))


@cache
def new_paths(cls: type) -> Mapping[tuple[str, str], tuple[str, str]]:
    """Return the renamed keys of an attrs class's tables: old path to new path.

    Of a table that names a part, these are the keys that all parts of its kind share.
    """
    renamed = {}
    for table in keys(cls):
        registry = table.metadata.get("registry")
        inner = registry.base if registry else hints(cls)[table.name]
        for field in keys(inner) if attrs.has(inner) else ():
            if old := old_name(field):
                renamed[table.name, old] = table.name, field.name
    return renamed


def with_new_names(cls: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain table of an object of `cls`, with old names of keys replaced."""
    copy = {key: dict(v) if isinstance(v, Mapping) else v for key, v in table.items()}
    for (name, old), (_, new) in new_paths(cls).items():
        inner = copy.get(name)
        if isinstance(inner, dict) and old in inner:
            copy[name] = {new if key == old else key: value for key, value in inner.items()}
    return copy


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the resolved type of every field of an attrs class."""
    try:
        types_of = typing.get_type_hints(cls)
    except Exception as error:  # a type in quotes is code by the part's author
        raise PartError(f"{cls.__qualname__}: {error}; its keys' types must be known") from error
    for field in keys(cls):
        if "registry" not in field.metadata and not _is_known(types_of[field.name]):
            raise PartError(
                f"{cls.__qualname__}: the key {field.name} cannot have the type "
                f"{_shown(types_of[field.name])}; what a key may have: {TYPES}"
            )
    return types_of


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
    """Tell whether a value has the outer form of a type; what is inside may still be wrong."""
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
    if hint is Path:
        return isinstance(value, str | Path)
    if hint is str or hasattr(hint, "parse"):
        return isinstance(value, str)
    return hint is type(None) and value is None


def describe(hint: Any) -> str:
    """Return a description of the values that a type accepts."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(describe(member) for member in inner if member is not type(None))
    if origin is Literal:
        more = f" or another of {len(inner)}" if len(inner) > MANY else ""
        return " or ".join(map(repr, inner[:2] if more else inner)) + more
    if origin is tuple:
        name = NAMES.get(inner[0])
        return f"a list of {name.split()[-1]}s" if name else f"a list, each {describe(inner[0])}"
    if origin is dict or attrs.has(hint):
        return "a string" if hasattr(hint, "parse") else "a table"
    return NAMES.get(hint, str(hint))


T = TypeVar("T")
BARE = re.compile(r"[\w-]+")  # keys without quotes: those TOML allows, and letters of any script


def structure(
    cls: type[T],
    table: Mapping[str, Any],
    *,
    base: Path | None = None,
    source: str = "",
    own_record: bool = False,
) -> T:
    """Make an object of attrs class `cls` from a table as `tomllib` gives it."""
    reader = _Reader(base or Path())
    value = reader.record(cls, table, "")
    if not own_record:
        for old, new in reader.renamed:
            warn_renamed(f"{source}: {old}" if source else old, new)
    if reader.problems:
        raise ConfigError(reader.problems, source)
    return typing.cast("T", value)


class _Reader:
    """One pass over a table, which collects problems and continues."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.problems: list[Problem] = []
        self.renamed: list[tuple[str, str]] = []

    def record(self, cls: type, table: Any, path: str, skip: frozenset[str] = frozenset()) -> Any:
        if not isinstance(table, Mapping):
            return self.wrong(path, f"expected a table, got {shown(table)}")
        before = len(self.problems)
        fields = {field.name: field for field in keys(cls)}
        table = self.with_new_names(fields, table, path)
        for key in table:
            if key not in fields and key not in skip:
                known = sorted({*fields, *skip})
                self.wrong(_join(path, key), f"unknown key{suggest(str(key), known)}")
        values = {}
        for name, field in fields.items():
            value = self.field(cls, field, table.get(name, NOTHING), _join(path, name))
            if value is not NOTHING:
                values[name] = value
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except FieldError as error:
            return self.wrong(".".join(filter(None, (path, error.field))), error.message)
        except ValueError as error:
            return self.wrong(path, str(error))

    def with_new_names(
        self, fields: Mapping[str, Attribute[Any]], table: Mapping[str, Any], path: str
    ) -> Mapping[str, Any]:
        """Return a table with old names of keys replaced; note each, and refuse both at once."""
        new_names = {old: name for name, field in fields.items() if (old := old_name(field))}
        if not new_names.keys() & table.keys():
            return table
        for old, new in new_names.items():
            if old in table:
                self.renamed.append((_join(path, old), _join(path, new)))
            if old in table and new in table:
                self.wrong(_join(path, old), f"is now called {new}, which is set too; delete it")
        return {new_names.get(key, key): value for key, value in table.items()}

    def field(self, cls: type, field: Attribute[Any], value: Any, path: str) -> Any:
        if "registry" in field.metadata:
            many = field.metadata.get("many")
            return self.parts(field, value, path) if many else self.part(field, value, path)
        if value is NOTHING:
            if field.default is NOTHING:
                self.wrong(path, f"missing; {describe(hints(cls)[field.name])} is required")
            return NOTHING
        before = len(self.problems)
        value = self.value(hints(cls)[field.name], value, path)
        if field.validator is not None and len(self.problems) == before:
            try:
                field.validator(typing.cast("Any", None), field, value)
            except FieldError as error:
                self.wrong(path, error.message)
            except ValueError as error:
                self.wrong(path, str(error))
        return value

    def parts(self, field: Attribute[Any], value: Any, path: str) -> Any:
        """Read a list of tables that name parts."""
        if not isinstance(value, list | tuple):
            found = "missing" if value is NOTHING else f"got {shown(value)}"
            return self.wrong(path, f"{found}; a list of tables with a name is required")
        return tuple(self.part(field, v, f"{path}[{i}]") for i, v in enumerate(value))

    def part(self, field: Attribute[Any], table: Any, path: str) -> Any:
        registry, default = field.metadata["registry"], field.metadata["default"]
        if isinstance(table, registry.base):  # made in Python, not read from TOML
            return table
        if table is NOTHING:
            if field.default is not NOTHING:
                return NOTHING
            known = ", ".join(registry.names())
            return self.wrong(path, f"missing; a table with a name is required, one of {known}")
        if not isinstance(table, Mapping):
            return self.wrong(path, f"expected a table with a name, got {shown(table)}")
        name = table.get("name", default)
        where = _join(path, "name")
        if not isinstance(name, str):
            what = "missing" if name is None else f"expected a string, got {shown(name)}"
            return self.wrong(where, f"{what}; known: {', '.join(registry.names())}")
        other = field.metadata.get("otherwise")
        if other is not None and other.knows(name):
            try:
                return other.from_table(table)
            except FieldError as error:
                where = _join(path, error.field) if error.field else path
                return self.wrong(where, error.message)
        if name not in registry.names():
            known = suggest(name, (*registry.names(), *(other.names() if other else ())))
            return self.wrong(where, f"no {registry.kind} named {name!r}{known}")
        return self.record(registry.get(name), table, path, skip=frozenset({"name"}))

    def value(self, hint: Any, value: Any, path: str) -> Any:
        origin = get_origin(hint)
        if origin in {typing.Union, types.UnionType}:
            return self.union(get_args(hint), value, path)
        if origin is Literal:
            return self.literal(get_args(hint), value, path)
        if origin is tuple:
            if not isinstance(value, list | tuple):
                return self.wrong(path, f"expected a list, got {shown(value)}")
            inner = get_args(hint)[0]
            return tuple(self.value(inner, v, f"{path}[{i}]") for i, v in enumerate(value))
        if origin is dict:
            if not isinstance(value, Mapping):
                return self.wrong(path, f"expected a table, got {shown(value)}")
            inner = get_args(hint)[1]
            return {key: self.value(inner, v, _join(path, key)) for key, v in value.items()}
        if attrs.has(hint) and not hasattr(hint, "parse"):
            return self.record(hint, value, path)
        return self.scalar(hint, value, path)

    def scalar(self, hint: Any, value: Any, path: str) -> Any:
        if not fits(hint, value):
            return self.wrong(path, f"expected {describe(hint)}, got {shown(value)}")
        if hasattr(hint, "parse"):
            try:
                return hint.parse(value)
            except ValueError as error:
                return self.wrong(path, str(error))
        if hint is Path:
            return self.path(value, path)
        if hint is float:
            return self.number(value, path)
        return value

    def path(self, value: str | Path, path: str) -> Any:
        if isinstance(value, Path):  # from Python
            return self.base / value
        if not value:
            return self.wrong(path, "is empty")
        if not value.isprintable() and any(
            char < " " for char in value
        ):  # "D:\new": \n is an escape
            way_out = "in TOML, write Windows paths in single quotes: 'D:\\new\\images'"
            return self.wrong(path, f"has a control character, got {shown(value)}; {way_out}")
        if not value.startswith("~"):  # `Path` drops the dot of ./~name
            return self.base / value
        try:
            return Path(value).expanduser()
        except RuntimeError as error:  # ~somebody who does not exist
            return self.wrong(path, f"{error}, got {shown(value)}")

    def number(self, value: float, path: str) -> Any:
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if not math.isfinite(number):
            return self.wrong(path, f"must be a finite number, got {shown(value)}")
        return number

    def literal(self, choices: tuple[Any, ...], value: Any, path: str) -> Any:
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        near = nearest(value, map(str, choices)) if isinstance(value, str) else ""
        near = "" if value in map(str, choices) else near  # "1" for 1: the type is wrong
        return self.wrong(path, f"expected {describe(Literal[choices])}, got {shown(value)}{near}")

    def union(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        """Read a value as the first member that it fits; TOML's types distinguish them."""
        for member in members:
            if fits(member, value):
                return self.value(member, value, path)
        wanted = [describe(member) for member in members if member is not type(None)]
        return self.wrong(path, f"expected {' or '.join(wanted)}, got {shown(value)}")

    def wrong(self, path: str, message: str) -> Any:
        self.problems.append(Problem(path, message))
        return NOTHING


def _join(path: str, key: object) -> str:
    """Return the path of a key as TOML would write it."""
    text = str(key)
    if not BARE.fullmatch(text):
        text = json.dumps(text, ensure_ascii=False)
    return f"{path}.{text}" if path else text


def unstructure(
    value: Any,
    *,
    base: Path | None = None,
    registry: Registry[Any] | None = None,
    words: frozenset[str] = frozenset(),
) -> Any:
    """Return plain JSON values from which `structure` makes an equal object, paths normalized.

    Args:
        value: An attrs object, or any value a field may have.
        base: The folder to make paths relative to; unset: the working directory.
        registry: The registry of the object's class, if it is a part.
        words: Words that a path must not be confused with; such a path starts with `./`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        text = Path(os.path.relpath(value, base or Path())).as_posix()
        return f"./{text}" if text in words or text.startswith("~") else text
    if isinstance(value, Mapping):
        return {key: unstructure(inner, base=base) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [unstructure(v, base=base, registry=registry, words=words) for v in value]
    if hasattr(value, "parse"):
        return str(value)
    if hasattr(value, "record"):  # made in Python: it knows its own table
        return value.record()
    cls: Any = type(value)
    table = {} if registry is None else {"name": registry.name_of(cls)}
    for field in keys(cls):
        inner = getattr(value, field.name)
        omit = inner is None or (field.metadata.get("omit_empty") and not inner)
        if not omit:  # TOML has no null: an unset key is a key left out
            table[field.name] = unstructure(
                inner,
                base=base,
                registry=field.metadata.get("registry"),
                words=_words(hints(cls)[field.name]),
            )
    return table


def _words(hint: Any) -> frozenset[str]:
    """Return the strings among a type's literals."""
    if get_origin(hint) is Literal:
        return frozenset(map(str, get_args(hint)))
    return frozenset[str]().union(*map(_words, get_args(hint)))


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line.

    >>> toml_value({"name": "fixed", "weights": {"rare-one": 12.0}}), toml_value([True, 2e-05])
    ('{name = "fixed", weights = {rare-one = 12.0}}', '[true, 2e-05]')
    """
    if isinstance(value, Mapping):
        pairs = (
            f"{key if BARE.fullmatch(key) and key.isascii() else toml_value(key)} = "
            f"{toml_value(inner)}"
            for key, inner in value.items()
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):  # JSON and TOML strings differ only in the DEL character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return str(value)  # dates, which no key accepts: reading the experiment refuses them
