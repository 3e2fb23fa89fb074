"""Each mutant of `mutants.py` is caught by the test that it names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "mutants.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # attrs looks it up
    spec.loader.exec_module(module)
    return module


mutants = script()


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_breaks_is_there_once(mutant: Any) -> None:
    source = mutants.ROOT / "src" / "tlkit" / mutant.file
    assert source.read_text(encoding="utf-8").count(mutant.old) == 1
    file, *_, test = mutant.test.split("::")
    assert f"def {test}(" in (mutants.ROOT / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_test_fails_when_the_code_is_broken(mutant: Any) -> None:
    assert mutants.caught(mutant)
