"""What the package promises: its names, explained, and light to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def test_every_public_name_has_one_home() -> None:
    homes = [name for names in tlkit.HOMES.values() for name in names.split()]
    assert sorted(homes) == sorted(tlkit.__all__)


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
