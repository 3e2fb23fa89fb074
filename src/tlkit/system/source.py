"""tlkit's own functions as text that runs without tlkit, for scripts next to exported models."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from attrs import define, field, frozen

OWN = __name__.partition(".")[0]
Key = tuple[str, str]  # a module and a name in it


def standalone(*functions: Callable[..., Any]) -> tuple[str, str]:
    """Return the imports and the definitions that some functions of tlkit need, as source.

    Definitions come in an order in which they can be executed. Of two different definitions with
    the same name, the second gets the name of its module too.
    """
    bundle = _Bundle()
    for function in functions:
        bundle.add((function.__module__, function.__name__))
    for_types = [f"    {line}" for line in sorted(bundle.for_types - bundle.imports)]
    if for_types:
        bundle.imports.add("from typing import TYPE_CHECKING")
        for_types = ["", "if TYPE_CHECKING:", *for_types]
    return "\n".join([*sorted(bundle.imports), *for_types]), "\n\n\n".join(bundle.texts())


@frozen
class _Definition:
    """A statement at the top level of a module, and where the names in it are defined."""

    text: str
    names: Mapping[str, Key]


@define
class _Bundle:
    """What was collected so far; definitions come after all that they need."""

    imports: set[str] = field(factory=set)
    for_types: set[str] = field(factory=set)
    definitions: dict[Key, _Definition] = field(factory=dict)
    visited: dict[Key, Key] = field(factory=dict)

    def add(self, key: Key) -> Key | None:
        """Add a name after everything that it needs; return where it is defined, if in tlkit."""
        if key in self.visited:
            return self.visited[key]
        module, name = key
        lines, names = _top_level(module)
        if name not in names:  # a builtin or a local name
            return None
        node, for_types = names[name]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return self._add_import(node, name, for_types)
        self.visited[key] = key
        needed = {}
        for inner in ast.walk(node):
            if isinstance(inner, ast.ImportFrom) and _is_own(inner):
                raise ValueError(f"{module}.{name}: imports {inner.module} in its body")
            if isinstance(inner, ast.Name) and (home := self.add((module, inner.id))):
                needed[inner.id] = home
        start = min([node.lineno, *(x.lineno for x in getattr(node, "decorator_list", ()))])
        text = "\n".join(lines[start - 1 : node.end_lineno])
        self.definitions[key] = _Definition(text, {**needed, name: key})
        return key

    def _add_import(
        self, node: ast.Import | ast.ImportFrom, name: str, for_types: bool
    ) -> Key | None:
        alias = next(x for x in node.names if (x.asname or x.name.partition(".")[0]) == name)
        if isinstance(node, ast.ImportFrom) and _is_own(node):
            return self.add((str(node.module), alias.name))
        one: ast.stmt = ast.Import([alias])
        if isinstance(node, ast.ImportFrom):
            one = ast.ImportFrom(node.module, [alias], node.level)
        (self.for_types if for_types else self.imports).add(ast.unparse(one))
        return None

    def texts(self) -> list[str]:
        """Return the definitions' source, each name with one meaning."""
        homes: dict[str, str] = {}
        names: dict[Key, str] = {}
        for module, name in self.definitions:
            same = homes.setdefault(name, module) == module
            names[module, name] = name if same else f"{name}_{module.rpartition('.')[2]}"
        texts = []
        for definition in self.definitions.values():
            text = definition.text
            for name, home in definition.names.items():
                if names[home] != name:
                    text = re.sub(rf"(?<![\w.]){name}\b", names[home], text)
            texts.append(text)
        return list(dict.fromkeys(texts))  # one statement may bind several names


def _is_own(node: ast.ImportFrom) -> bool:
    return str(node.module).partition(".")[0] == OWN


@cache
def _top_level(module: str) -> tuple[list[str], Mapping[str, tuple[Any, bool]]]:
    """Return a module's lines, and which statement binds each name, with whether only for types.

    A block such as `try` around imports counts as one statement.
    """
    source = inspect.getsource(importlib.import_module(module))
    names: dict[str, tuple[Any, bool]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            names |= {name: (x, True) for x in node.body for name in _bound(x)}
        else:
            names |= dict.fromkeys(_bound(node), (node, False))
    return source.splitlines(), names


def _bound(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.Try, ast.If, ast.With)):
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                yield from _bound(inner)
