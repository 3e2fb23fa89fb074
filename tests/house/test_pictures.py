"""The docs' pictures are what the code says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = load_script()


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_committed_picture_is_what_the_script_draws(name: str) -> None:
    committed = (ROOT / "docs" / "img" / name).read_text(encoding="utf-8")
    assert committed == pictures.PICTURES[name](), "run: python docs/pictures.py"


def test_the_picture_of_freezing_has_every_policy() -> None:
    from tlkit.parts.kinds import registries

    drawn = (ROOT / "docs" / "img" / "freezes.svg").read_text(encoding="utf-8")
    for name, part in registries.freezes.registered():
        if part.__module__.startswith("tlkit."):
            assert f"name = &#34;{name}&#34;" in drawn
