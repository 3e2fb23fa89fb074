"""What `make quick` runs: every test that needs no Keras, no scikit-learn and no other process.

A pytest plug-in. A test or module is skipped at the moment it imports one of these packages or
starts a process, so nobody keeps a list. Laws are tried with five examples each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from hypothesis import settings

EXAMPLES = 5
HEAVY = ("tensorflow", "keras", "sklearn")
AT_TOP = re.compile(
    r"^((import|from) (tensorflow|keras|sklearn)\b|from tlkit\.system\.keras import (keras|tf)\b)",
    re.MULTILINE,
)


class SkipHeavy(MetaPathFinder, Loader):
    """Finds the heavy packages like Python does, and skips the test that imports one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a heavy package, which `importlib.util.find_spec` may look at."""
        return ModuleSpec(name, self) if name in HEAVY else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Skip the test, or the whole module if it imports it at its top."""
        pytest.skip(f"needs {spec.name}", allow_module_level=True)

    def exec_module(self, module: ModuleType) -> None:
        """Never called."""


def skip_process(*arguments: Any, **settings: Any) -> NoReturn:
    """Skip the test that starts a process."""
    pytest.skip("starts a process", allow_module_level=True)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a module that imports a heavy package at its top, before Python compiles it."""
    if collection_path.suffix == ".py" and AT_TOP.search(collection_path.read_text("utf-8")):
        return True
    return None  # others may have a reason


def pytest_collection() -> None:
    """Block heavy packages and processes once pytest's own workers run, and try fewer examples."""
    sys.meta_path.insert(0, SkipHeavy())
    subprocess.Popen.__init__ = skip_process  # type: ignore[method-assign]
    settings.register_profile("quick", settings.get_profile("tlkit"), max_examples=EXAMPLES)
    settings.load_profile("quick")
