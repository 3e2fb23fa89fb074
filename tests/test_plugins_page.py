"""What the page on parts of one's own shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tlkit
from tlkit.parts.kinds import registries

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_the_part_on_the_page_passes_the_test_on_the_page() -> None:
    part, test = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[:2]
    found: dict[str, Any] = {"tlkit": tlkit}
    try:
        exec(part + test, found)
        found["test_power_of_count"]()
    finally:
        registries.class_weights._parts.pop("power_of_count")


def test_every_kind_and_its_group_is_on_the_page() -> None:
    for _, registry in registries.items():
        assert f"`{registry.group}`" in PAGE
        assert f"`{registry.base.__name__}`" in PAGE.replace("`tlkit.", "`")
