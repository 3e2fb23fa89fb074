"""Laws of the registry: what is registered is found, whatever the order, and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from attrs import make_class
from hypothesis import given
from hypothesis import strategies as st

from tlkit.parts.registry import NAME, Registry
from tlkit.system.errors import DuplicatePart, PartError, UnknownPart


class Tool:
    """A kind of part."""


names = st.from_regex(NAME, fullmatch=True)
tools = st.dictionaries(names, st.integers().map(lambda _: new_tool()), min_size=1, max_size=6)


numbers = itertools.count()


def new_tool() -> Any:
    """A fresh attrs class that nothing else has the name of."""
    return make_class(f"Tool{next(numbers)}", [], bases=(Tool,))


def filled(parts: dict[str, Any]) -> Registry[Tool]:
    registry = Registry("tool", Tool)
    for name, part in parts.items():
        registry.register(name)(part)
    return registry


@given(tools, st.data())
def test_the_order_of_registration_means_nothing(
    parts: dict[str, Any], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations([*parts.items()])))
    one, other = filled(parts), filled(shuffled)
    assert one.names() == other.names() == tuple(sorted(parts))
    assert all(one.get(name) is other.get(name) is part for name, part in parts.items())


@given(tools)
def test_registering_again_changes_nothing_and_another_class_is_refused(
    parts: dict[str, Any],
) -> None:
    registry = filled(parts)
    for name, part in parts.items():
        registry.register(name)(part)
        with pytest.raises(DuplicatePart, match="the name is taken by"):
            registry.register(name)(new_tool())
    assert {name: registry.get(name) for name in registry.names()} == parts


@given(tools, st.text())
def test_any_text_is_a_name_that_is_found_or_an_error_that_tells_all_names(
    parts: dict[str, Any], text: str
) -> None:
    registry = filled({name: part for name, part in parts.items() if name != text})
    with pytest.raises(UnknownPart, match=r"\Ano tool named ") as raised:
        registry.get(text)
    assert str(raised.value).endswith(f"known: {', '.join(registry.names()) or 'none'}")


@given(st.text().filter(lambda text: not NAME.fullmatch(text)))
def test_a_text_that_is_no_name_cannot_be_registered(text: str) -> None:
    registry = filled({})
    with pytest.raises(PartError, match="a name consists of"):
        registry.register(text)(new_tool())
    assert registry.names() == ()
