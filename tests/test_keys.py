"""Describing keys: what `tlkit info` and the docs say of a part is what its fields say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from attrs import field, frozen

from tlkit.config.experiment import Experiment, Fit, ModelCard, Origin, PublishedResult
from tlkit.config.schema import Key, describe_keys
from tlkit.model.layers import LayerRange
from tlkit.parts.plugins import Plugins


@frozen(kw_only=True)
class Kind:
    """A kind of part.

    Attributes:
        shared: What every part of the kind has, in two
            lines.
        named: Described here, and again below.
    """

    shared: bool = True
    named: str = "x"


@frozen(kw_only=True)
class Part(Kind):
    """A part, whose docstring goes on after its keys.

    Attributes:
        needed: Has no default.
        named: Described by the part.
        unset: May be left out.
        choice: `a` or `b`.
        many: Several.
        either: One or several.
        rate: A number.
        table: Numbers by name.
        place: Where.
        layers: Which.

    Raises:
        other: No key.
    """

    needed: int
    unset: float | None = None
    choice: Literal["a", "b"] = "a"
    many: tuple[int, ...] = (1, 2)
    either: str | tuple[str, ...] = "one"
    rate: float = 1e-3
    table: dict[str, float] = field(factory=dict)
    place: Path = Path("a/b")
    layers: LayerRange = LayerRange(1)
    undescribed: bool = False
    hidden: int = field(default=0, metadata={"key": False})


KEYS = {key.name: key for key in describe_keys(Part)}


@pytest.mark.parametrize(
    "key",
    [
        Key("needed", "an integer", "", "Has no default."),
        Key("unset", "a number", "", "May be left out."),
        Key("choice", "'a' or 'b'", "'a'", "`a` or `b`."),
        Key("many", "a list of integers", "[1, 2]", "Several."),
        Key("either", "a string or a list of strings", "'one'", "One or several."),
        Key("rate", "a number", "0.001", "A number."),
        Key("table", "a table", "{}", "Numbers by name."),
        Key("place", "a path", "'a/b'", "Where."),
        Key("layers", "a string", "'1-'", "Which."),
        Key("shared", "true or false", "true", "What every part of the kind has, in two lines."),
        Key("named", "a string", "'x'", "Described by the part."),
        Key("undescribed", "true or false", "false", ""),
    ],
    ids=lambda key: key.name,
)
def test_a_key_is_described_by_its_field_and_its_docstring(key: Key) -> None:
    assert KEYS[key.name] == key


def test_every_key_is_described_and_nothing_else() -> None:
    assert "hidden" not in KEYS
    assert "other" not in KEYS
    assert len(KEYS) == 12


def test_a_key_is_shown_with_its_default_if_it_has_one() -> None:
    assert str(KEYS["choice"]) == "choice: 'a' or 'b' (default 'a'). `a` or `b`."
    assert str(KEYS["needed"]) == "needed: an integer. Has no default."


def test_a_table_that_names_a_part_has_its_name_as_default() -> None:
    found = {key.name: key for key in describe_keys(Experiment)}
    assert found["backbone"].type == "a table that names a backbone"
    assert (found["backbone"].default, found["data"].default) == ("'vgg16'", "")
    assert found["fit"].default == "its own defaults"
    assert "origin" not in found


@pytest.mark.parametrize("record", [ModelCard, Experiment, Fit, Plugins, PublishedResult, Origin])
def test_every_key_of_tlkits_own_records_is_described(record: type) -> None:
    assert [key.name for key in describe_keys(record) if not key.meaning] == []
