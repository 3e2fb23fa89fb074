"""What the page on writing a part shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tlkit
from tlkit.parts.kinds import registries

DOCS = Path(__file__).parent.parent.parent / "docs" / "howto"
PAGE = (DOCS / "part.md").read_text(encoding="utf-8")


def test_the_part_on_the_page_passes_the_test_on_the_page() -> None:
    part, test = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[:2]
    found: dict[str, Any] = {"tlkit": tlkit}
    try:
        exec(part + test, found)
        found["test_power_of_count"]()
    finally:
        registries.class_weights._parts.pop("power_of_count")


def test_every_kind_is_on_the_page_and_its_group_on_the_next() -> None:
    published = (DOCS / "plugin.md").read_text(encoding="utf-8")
    for _, registry in registries.items():
        assert f"`{registry.group}`" in published
        assert f"`{registry.base.__name__}`" in PAGE.replace("`tlkit.", "`")
