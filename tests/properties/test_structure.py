"""Laws of the strict structurer, on random experiments made of every registered part.

The strategies are built from the parts' own fields, so a new part or key is covered by being there.
"""

from __future__ import annotations

import copy
import math
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
from attrs import NOTHING, Attribute
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tlkit.config.experiment import Experiment, Phase, PublishedResult
from tlkit.config.schema import json_schema
from tlkit.config.structure import hints, keys, structure, unstructure
from tlkit.model.layers import LayerRange
from tlkit.parts.kinds import StandIn
from tlkit.system.errors import ConfigError
from tlkit.testing import class_counts, layer_ranges

# Values are drawn by type and kept if they obey their key's rule; some rules are narrow.
narrow = settings(suppress_health_check=[HealthCheck.filter_too_much])
Table = dict[str, Any]
Way = tuple[str | int, ...]  # from an experiment's table to one value in it

WORDS = st.text("abcxyz_é-0", min_size=1, max_size=6)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(32, 512) | st.integers(0, 2**31 - 1),  # most rules hold for the former
    float: st.floats(0.001, 0.999) | st.integers(1, 500) | st.floats(0, 1e9),
    str: WORDS,
    Path: st.builds("{}{}/{}".format, st.sampled_from(["", "../"]), WORDS, WORDS),
    LayerRange: layer_ranges(30).map(str),
    StandIn: st.just("shapes"),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """What TOML may give for a key of some type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of([values(member) for member in inner if member is not type(None)])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        return st.lists(values(inner[0]), min_size=1, max_size=3)
    if origin is dict:
        return st.dictionaries(WORDS, values(inner[1]), min_size=1, max_size=3)
    return SCALARS[hint]


def obeys(key: Attribute[Any], value: Any) -> bool:
    """Tell whether a value of the right type keeps the rule of its key."""
    with suppress(ValueError):
        if key.validator is not None:
            key.validator(typing.cast("Any", None), key, value)
        return True
    return False


def key_values(cls: type, key: Attribute[Any]) -> st.SearchStrategy[Any]:
    if "registry" in key.metadata:
        return parts(key)
    hint = hints(cls)[key.name]
    if hint == tuple[PublishedResult, ...]:
        return st.lists(references(), max_size=2)
    if hint == tuple[Phase, ...]:
        return st.lists(records(Phase), max_size=2)
    if attrs.has(hint) and hint not in SCALARS:
        return records(hint)
    return values(hint).filter(lambda value: obeys(key, value))


@st.composite
def records(draw: st.DrawFn, cls: type) -> Table:
    """A table for an attrs class: all its required keys and some of the others."""
    return {
        key.name: draw(key_values(cls, key))
        for key in keys(cls)
        if is_required(key) or draw(st.booleans())
    }


def is_required(key: Attribute[Any]) -> bool:
    """Tell whether a table without the key is wrong."""
    return key.default is NOTHING


@st.composite
def parts(draw: st.DrawFn, key: Attribute[Any]) -> Table:
    registry = key.metadata["registry"]
    name = draw(st.sampled_from(registry.names()))
    if name == "joined":  # what members must agree on, no type can say
        members = [{"name": "vgg16"}, {"name": "mobilenet", "weights": "none"}]
        return {"name": name, "members": members, "image_size": draw(st.integers(32, 300))}
    if name == "compose":
        return {"name": name, "operations": [{"name": "RandomFlip"}, {"name": "affine"}]}
    table = {"name": name, **draw(records(registry.get(name)))}
    if "folds" in table:  # rules between two keys, which no type can say
        table.pop("val", None)
    if name == "lbfgs":
        table.pop("weakest", None)
        table.pop("strongest", None)
    if name in {"folder", "manifest"}:
        table |= {key: 0.25 for key in ("val", "test") if key in table}
        table |= {"patient": "^(p[0-9]+)_"} if table.get("patient") is not None else {}
    return table


@st.composite
def references(draw: st.DrawFn) -> Table:
    """A published result; its confusion matrix is square and not all 0, which no type can say."""
    classes = [*draw(class_counts())]
    share = st.sampled_from([0, 0.5, 0.871, 1])
    rows = st.lists(st.integers(1, 999), min_size=len(classes), max_size=len(classes))
    optional = {
        "confusion": st.lists(rows, min_size=len(classes), max_size=len(classes)),
        "accuracy": share,
        "recall": st.dictionaries(st.sampled_from(classes), share),
        "same_test": st.booleans(),
    }
    return draw(st.fixed_dictionaries({"source": WORDS}, optional=optional))


def experiments() -> st.SearchStrategy[Table]:
    return records(Experiment)


def paths_in(value: Any, path: Way = ()) -> Iterator[Way]:
    """Yield the way to every value in a table, tables and lists included."""
    if path:
        yield path
    steps = range(len(value)) if isinstance(value, list) else value
    for step in steps if isinstance(value, dict | list) else ():
        yield from paths_in(value[step], (*path, step))


def text_of(path: Way) -> str:
    """A way as messages write it: `a.b[0].c`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def wrong_for(value: Any) -> st.SearchStrategy[Any]:
    """Values that no key takes which may have the given one."""
    wrong: dict[type, list[Any]] = {
        bool: [0, 1, "true", []],
        int: [True, "12", math.nan, [1]],
        float: [True, "0.5", math.nan, math.inf, -math.inf],
        str: [7, True, 0.5],
        list: [7, True, 0.5],
        dict: [7, "x", True, []],
    }
    return st.sampled_from(wrong[type(value)])


def broken(table: Table, changes: dict[Way, Any]) -> Table:
    """A copy of a table with other values at some places."""
    table = copy.deepcopy(table)
    for path, value in changes.items():
        inner: Any = table
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
    return table


def problem_paths(table: Table) -> list[str]:
    with pytest.raises(ConfigError, match=r"\S") as raised:
        structure(Experiment, table)
    return [problem.path for problem in raised.value.problems]


def hides(one: Way, other: Way) -> bool:
    """Tell whether a problem at `one` keeps `other` from being looked at.

    It does if `other` is inside it, or if `one` names the part whose key `other` is.
    """
    inside = len(one) - 1 if one[-1] == "name" else len(one)
    return other[:inside] == one[:inside]


@st.composite
def experiments_and_mistakes(draw: st.DrawFn, count: int) -> tuple[Table, dict[Way, Any]]:
    """A valid experiment and as many wrong values, none of which hides another."""
    table = draw(experiments())
    places = sorted(paths_in(table), key=str)
    mistakes: dict[Way, Any] = {}
    for _ in range(count):
        free = [
            path
            for path in places
            if not any(hides(path, known) or hides(known, path) for known in mistakes)
        ]
        assume(free)
        path = draw(st.sampled_from(free))
        if draw(st.booleans()) and isinstance(value_at(table, path), dict) and is_record(path):
            path, wrong = (*path, "no_such_key"), 1
        else:
            wrong = draw(wrong_for(value_at(table, path)))
        mistakes[path] = wrong
    return table, mistakes


def value_at(table: Table, path: Way) -> Any:
    value: Any = table
    for step in path:
        value = value[step]
    return value


def is_record(path: Way) -> bool:
    """Tell whether the table at `path` has fixed keys: a part, `fit`, a reference or a phase."""
    return (
        len(path) == 1
        or (len(path) == 2 and path[0] in {"reference", "phase"})
        or (len(path) == 3 and path[0] == "phase")
    )


@narrow
@given(experiments())
def test_an_experiment_reads_back_from_what_it_is_written_as(table: Table) -> None:
    experiment = structure(Experiment, table)
    written = unstructure(experiment)
    assert structure(Experiment, written) == experiment


@narrow
@given(experiments(), st.sampled_from([".", "study", "../study", "/some/study"]))
def test_where_the_experiment_lies_changes_nothing_that_is_written(table: Table, base: str) -> None:
    experiment = structure(Experiment, table, base=Path(base))
    written = unstructure(experiment, base=Path(base))
    assert structure(Experiment, written, base=Path(base)) == experiment
    assert written == unstructure(structure(Experiment, table))


@narrow
@given(experiments(), st.randoms(use_true_random=False))
def test_the_order_of_keys_means_nothing(table: Table, random: typing.Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        random.shuffle(items)
        return {key: shuffled(inner) for key, inner in items}

    assert structure(Experiment, shuffled(table)) == structure(Experiment, table)


@narrow
@given(experiments_and_mistakes(count=1))
def test_one_wrong_value_is_one_problem_at_its_path(case: tuple[Table, dict[Way, Any]]) -> None:
    table, mistakes = case
    structure(Experiment, table)  # raises nothing
    assert problem_paths(broken(table, mistakes)) == [text_of(path) for path in mistakes]


@narrow
@given(experiments_and_mistakes(count=2))
def test_two_wrong_values_are_two_problems(case: tuple[Table, dict[Way, Any]]) -> None:
    table, mistakes = case
    assert problem_paths(broken(table, mistakes)) == sorted(map(text_of, mistakes))


@narrow
@given(experiments(), st.data())
def test_a_required_key_left_out_is_one_problem_at_its_path(
    table: Table, data: st.DataObject
) -> None:
    required = [
        ("data",),
        ("data", "name"),
        *(("reference", n, "source") for n in range(len(table.get("reference", ())))),
    ]
    path = data.draw(st.sampled_from(required))
    shorter = copy.deepcopy(table)
    del value_at(shorter, path[:-1])[path[-1]]
    assert problem_paths(shorter) == [text_of(path)]


SCHEMA = Draft202012Validator(json_schema()[0])


@narrow
@given(experiments())
def test_the_json_schema_accepts_what_is_accepted(table: Table) -> None:
    structure(Experiment, table)
    assert not [*SCHEMA.iter_errors(table)]


@narrow
@given(experiments_and_mistakes(count=1))
def test_the_json_schema_refuses_unknown_keys_and_wrong_types(
    case: tuple[Table, dict[Way, Any]],
) -> None:
    table, mistakes = case
    (wrong,) = mistakes.values()
    assume(not isinstance(wrong, float) or math.isfinite(wrong))  # NaN is a number to a schema
    assert not SCHEMA.is_valid(broken(table, mistakes))
