"""What the package promises: its names, explained, and light to import."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tlkit

ROOT = Path(__file__).parent.parent.parent


def test_every_public_name_is_there_and_explained() -> None:
    page = (ROOT / "docs" / "reference" / "api" / "index.md").read_text(encoding="utf-8")
    table = {
        name
        for row in page.splitlines()
        if row.startswith("|")
        for name in re.findall(r"`(\w+)`", row)
    }
    assert set(tlkit.__all__) - table == set()
    for name in tlkit.__all__:
        assert getattr(tlkit, name).__doc__


# Public attributes on which nothing is promised.
INTERNAL = {f"Classifier.{x}" for x in ("extractor", "calibrator", "threshold", "learned_from")}
INTERNAL |= {"Comparison.runs", "Drawing.charts"}


def test_everything_that_a_public_call_returns_is_public_too() -> None:
    exported = {id(getattr(tlkit, name)) for name in tlkit.__all__}
    missing = {
        f"{name}: {cls.__module__}.{cls.__qualname__}"
        for exported_name in tlkit.__all__
        for name, annotation, module in results(exported_name, getattr(tlkit, exported_name))
        if name not in INTERNAL
        for cls in named_classes(annotation, module)
        if id(cls) not in exported
    }
    assert missing == set()


def results(name: str, public: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what a public object hands out: each with its name, annotation and module."""
    if inspect.isfunction(public):
        yield f"{name}()", public.__annotations__.get("return", ""), public.__module__
    elif inspect.isclass(public):
        for base in public.__mro__:
            if base.__module__.partition(".")[0] != "tlkit":
                continue
            for attribute, annotation in inspect.get_annotations(base).items():
                if not attribute.startswith("_"):
                    yield f"{name}.{attribute}", str(annotation), base.__module__
            for attribute, method in vars(base).items():
                inner = getattr(method, "fget", getattr(method, "func", method))
                function = getattr(inner, "__func__", inner)
                if inspect.isfunction(function) and not attribute.startswith("_"):
                    annotation = function.__annotations__.get("return", "")
                    yield f"{name}.{attribute}()", annotation, base.__module__


@functools.cache
def imported_names(module: str) -> dict[str, tuple[str, str]]:
    """Return the names that a module imports from tlkit, also for type checking only."""
    source = inspect.getsource(importlib.import_module(module))
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlkit")
        for alias in node.names
        if node.module
    }


def named_classes(annotation: str, module: str) -> Iterator[type]:
    """Yield tlkit's classes among the names in an annotation."""
    for name in re.findall(r"[A-Za-z_]\w*", annotation):
        home, original = imported_names(module).get(name, (module, name))
        found = getattr(importlib.import_module(home), original, None)
        if inspect.isclass(found) and found.__module__.partition(".")[0] == "tlkit":
            yield found


def test_an_old_name_works_with_a_warning_that_gives_the_new_one() -> None:
    old = tlkit.__dict__["_RENAMED"]
    assert len(old) == 5
    for name, new in old.items():
        with pytest.warns(
            tlkit.RenamedWarning, match=rf"^tlkit.{name}: is now called tlkit.{new}$"
        ) as seen:
            assert getattr(tlkit, name) is getattr(tlkit, new)
        assert seen[0].filename == __file__


def test_the_package_is_typed() -> None:
    assert (ROOT / "src" / "tlkit" / "py.typed").is_file()


def test_nothing_else_is_promised_by_accident() -> None:
    with_module_getattr = subprocess.run(
        [sys.executable, "-c", "import tlkit; tlkit.TransferClassifer"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has no attribute 'TransferClassifer'" in with_module_getattr.stderr


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("tensorflow", "keras", "sklearn", "numpy", "attrs", "typer")
    code = f"import sys, tlkit; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
