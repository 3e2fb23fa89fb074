"""The table `[sweep]`: seeds, values and combinations, and their way back into TOML."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.config.structure import structure, toml_value
from tlkit.config.sweep import Seeds, SweepTable, expressions, flat, grid
from tlkit.system.errors import ConfigError

scalars = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_a_value_is_read_back_from_its_line(value: Any) -> None:
    line = f"key = {toml_value(value)}"
    assert "\n" not in line
    assert tomllib.loads(line) == {"key": value}


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True))
def test_seeds_are_read_back(seeds: list[int]) -> None:
    found = Seeds(tuple(seeds))
    assert Seeds.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", (0, 1, 2, 3, 4)), ("0..2", (0, 1, 2)), ("3–4", (3, 4)), (" 7, 1-2", (7, 1, 2))],
)
def test_seeds_may_be_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert Seeds.parse(text).values == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected seeds such as"),
        ("a", "expected seeds such as"),
        ("1,", "expected seeds such as"),
        ("-1", "expected seeds such as"),
        ("4-0", "seeds rise"),
        ("0-99999999999", "seeds rise"),
        ("1,0-2", "each seed once"),
    ],
)
def test_other_seeds_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seeds.parse(text)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**31], "x"])
def test_seeds_of_a_file_are_checked_too(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"^seeds: "):
        structure(SweepTable, {"seeds": seeds})


def test_keys_may_be_dotted_quoted_or_tables() -> None:
    table = tomllib.loads('"a.b" = [1]\nc.d = [2]\n[e]\n"covid 19" = 3')
    assert dict(flat(table)) == {"a.b": [1], "c.d": [2], 'e."covid 19"': 3}


def test_the_grid_has_every_combination_with_the_last_key_changing_first() -> None:
    assert [tuple(one.values()) for one in grid({"a": [1, 2], "b": [[3], [4]], "c": 5})] == [
        (1, [3], 5), (1, [4], 5), (2, [3], 5), (2, [4], 5),
    ]  # fmt: skip
    assert grid({}) == [{}]


def test_settings_become_expressions() -> None:
    settings = {"class_weights": {"name": "none"}, "optimizer.learning_rate": 2e-05}
    assert expressions(settings) == (
        'class_weights={name = "none"}',
        "optimizer.learning_rate=2e-05",
    )
