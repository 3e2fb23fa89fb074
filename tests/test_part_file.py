"""The file of a part of one's own fits its kind, whatever the kind."""

from __future__ import annotations

from pathlib import Path

import pytest

import tlkit
from tlkit.config.part_file import write_part


@pytest.mark.parametrize("kind", [kind for kind, _ in tlkit.registries.items()])
def test_a_part_of_any_kind_can_be_made_at_once_and_lacks_only_bodies(
    kind: str, tmp_path: Path
) -> None:
    out = tmp_path / "my_own.py"
    write_part(kind, out)
    registry = dict(tlkit.registries.items())[kind]
    try:
        exec(compile(out.read_text(encoding="utf-8"), str(out), "exec"), {"__name__": "my_own"})
        part = registry.get("my_own")
        assert part.__name__ == "MyOwn"
        given = {"weights": "none"} if kind == "backbones" else {}
        made = part(strength=2.0, **given)  # no abstract method is left
        for name in registry.base.__abstractmethods__:
            assert vars(part)[name].__doc__
        assert made.strength == 2
    finally:
        registry.unregister("my_own")


@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [
        ("loses", "mine.py", r"loses: is not a kind of part.*losses"),
        ("losses", "my-own.py", r"my-own\.py: must be a Python module"),
        ("losses", "there.py", r"there\.py: exists; choose another with --out"),
    ],
)
def test_a_file_that_could_not_be_used_is_not_written(
    kind: str, name: str, error: str, tmp_path: Path
) -> None:
    (tmp_path / "there.py").write_text("mine")
    with pytest.raises(tlkit.ConfigError, match=error):
        write_part(kind, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there.py"]
    assert (tmp_path / "there.py").read_text() == "mine"
