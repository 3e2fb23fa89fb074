"""Layer tables cached on disk: built once, and again when anything differs or is damaged."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tlkit.model.graph import cached_table
from tlkit.model.layers import Layer, LayerTable
from tlkit.system.cache import FeatureCache, default_folder

TABLE = LayerTable(
    (
        Layer("conv", "Conv2D", "block1", (8, 8, 2), params=10, is_cut_point=False),
        Layer("bn", "BatchNormalization", "block1", (8, 8, 2), 4, 4, batch_norm=True),
    )
)


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> LayerTable:
        self.asked += 1
        return TABLE


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    return Builder()


def test_a_table_is_built_once_and_read_as_it_was(builder: Builder) -> None:
    assert [cached_table("a", {"image_size": 32}, builder) for _ in range(3)] == [TABLE] * 3
    assert builder.asked == 1


@pytest.mark.parametrize("other", [("b", {"image_size": 32}), ("a", {"image_size": 33})])
def test_another_network_has_another_table(builder: Builder, other: tuple[str, Any]) -> None:
    cached_table("a", {"image_size": 32}, builder)
    cached_table(*other, builder)
    assert builder.asked == 2


@pytest.mark.parametrize("content", ["", "[", "{}", '[{"name": 1}]', "[1]"])
def test_a_damaged_table_is_built_again(builder: Builder, tmp_path: Path, content: str) -> None:
    cached_table("a", {}, builder)
    (kept,) = (tmp_path / "cache" / "layers").iterdir()
    kept.write_text(content)
    assert cached_table("a", {}, builder) == TABLE
    assert cached_table("a", {}, builder) == TABLE
    assert builder.asked == 2


def test_a_table_is_built_again_when_the_code_that_makes_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    code = "from tlkit.model.layers import Layer, LayerTable\n"
    code += "def make():\n    return LayerTable(ROWS)\n"
    names = []
    for block in ("one", "one", "two"):
        rows = f"ROWS = (Layer('conv', 'Conv2D', {block!r}, (8, 8, 2), params=10),)"
        (tmp_path / "own_network.py").write_text(f"{code}\n{rows}\n")
        sys.modules.pop("own_network", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        names.append(
            cached_table("own", {}, importlib.import_module("own_network").make).layers[0].block
        )
    assert names == ["one", "one", "two"]


def test_a_table_that_cannot_be_kept_is_still_returned(
    builder: Builder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with caplog.at_level(logging.DEBUG, logger="tlkit"):
        assert cached_table("a", {}, builder) == TABLE
    assert "building a once to number its layers" in caplog.text
    assert "the layers of a cannot be cached" in caplog.text


def test_a_table_of_which_one_bit_or_word_changed_is_built_again(
    builder: Builder, tmp_path: Path
) -> None:
    cached_table("a", {}, builder)
    (kept,) = (tmp_path / "cache" / "layers").iterdir()
    sound = kept.read_bytes()
    for at in range(0, len(sound), 3):  # one bit of every third byte
        kept.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
        assert cached_table("a", {}, builder) == TABLE
    kept.write_bytes(sound.replace(b"block1", b"block2"))
    assert cached_table("a", {}, builder) == TABLE
    (kept.parent / f"a-{'0' * 16}.json").write_bytes(sound)


def test_clearing_the_cache_removes_the_tables(builder: Builder, tmp_path: Path) -> None:
    cached_table("a", {}, builder)
    size = sum(path.stat().st_size for path in (tmp_path / "cache" / "layers").iterdir())
    assert FeatureCache(default_folder()).clear() == size > 0
    cached_table("a", {}, builder)
    assert builder.asked == 2
