"""Every public object says what it is in the house's style, and the API pages show it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import tlkit
import tlkit.inspect
import tlkit.parts.validators
import tlkit.testing

PAGES = (Path(__file__).parent.parent.parent / "docs" / "reference" / "api").glob("*.md")
API = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
ENTRY = r"    \*{0,2}(\w+)(?: \([^)]*\))?:"


def public() -> Iterator[tuple[str, Any]]:
    """Yield what people import, and the methods of classes among it."""
    for module, names in (
        (tlkit, tlkit.__all__),
        (tlkit.testing, tlkit.testing.__all__),
        (
            tlkit.parts.validators,
            ["above", "at_least", "between", "each", "fraction", "open_interval", "unless_none"],
        ),
    ):
        for name in names:
            found = getattr(module, name)
            if not callable(found):  # a value of a documented class, such as `registries`
                continue
            yield f"{module.__name__}.{name}", found
            if inspect.isclass(found):
                for method, function in vars(found).items():
                    raw = getattr(function, "__func__", getattr(function, "fget", function))
                    explained = any(method in vars(base) for base in found.__mro__[1:])
                    if not (method.startswith("_") or explained) and inspect.isfunction(raw):
                        yield f"{module.__name__}.{name}.{method}", raw


PUBLIC = dict(public())
every_object = pytest.mark.parametrize("name", PUBLIC)


def entries(doc: str, section: str) -> list[str]:
    """Return the names that a section of a docstring explains."""
    text = doc.partition(f"\n{section}:\n")[2].partition("\n\n")[0]
    return re.findall(rf"(?m)^{ENTRY}", text)


@every_object
def test_it_has_a_summary_of_one_line(name: str) -> None:
    doc = inspect.cleandoc(PUBLIC[name].__doc__ or "")
    first, _, rest = doc.partition("\n")
    assert first.endswith((".", ":")), f"{name}: the first line is no sentence: {first!r}"
    assert not rest.partition("\n")[0], f"{name}: no empty line after the first"


@pytest.mark.parametrize(
    "name", [name for name, found in PUBLIC.items() if inspect.isfunction(found)]
)
def test_a_function_explains_all_its_arguments_or_has_hardly_any(name: str) -> None:
    function = PUBLIC[name]
    said = entries(inspect.cleandoc(function.__doc__ or ""), "Args")
    own = [each for each in inspect.signature(function).parameters if each not in {"self", "cls"}]
    assert said in ([], own), f"{name}: Args says {said}, it takes {own}"
    assert said or len(own) <= 2, f"{name}: takes {own}, and no Args explain them"


@pytest.mark.parametrize("name", [name for name, found in PUBLIC.items() if attrs.has(found)])
def test_a_record_explains_all_its_fields(name: str) -> None:
    cls = PUBLIC[name]
    said = {
        entry
        for base in cls.__mro__
        for entry in entries(inspect.cleandoc(base.__doc__ or ""), "Attributes")
    }
    fields = {field.name for field in attrs.fields(cls) if not field.name.startswith("_")}
    assert fields <= said, f"{name}: Attributes does not say {fields - said}"


def shown() -> set[int]:
    """Return the ids of all objects that the API pages show."""
    found = set()
    for path in re.findall(r"(?m)^::: ([\w.]+)$", API):
        one = resolve(path)
        found.add(id(one))
        if inspect.ismodule(one):
            found |= {id(inner) for name, inner in vars(one).items() if not name.startswith("_")}
    return found


def resolve(path: str) -> Any:
    module = path
    names: list[str] = []
    while True:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
        else:
            for name in names:
                found = getattr(found, name)
            return found


@pytest.mark.parametrize(
    "name",
    [name for name in PUBLIC if name.count(".") == 1 or name.startswith("tlkit.parts.validators")],
)
def test_it_is_on_the_api_pages(name: str) -> None:
    assert id(PUBLIC[name]) in shown()
