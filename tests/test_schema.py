"""The JSON schema: what editors get to know of experiment files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from jsonschema import Draft202012Validator

from tlkit.config.schema import describe_keys, json_schema
from tlkit.parts.kinds import Optimizer, registries
from tlkit.parts.registry import Registry

ROOT = Path(__file__).parent.parent
SCHEMA, BROKEN = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SHAPES = {"data": {"name": "shapes"}}


def complaints(table: dict[str, Any]) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(table)]


def test_it_is_a_schema_of_its_dialect() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert BROKEN == ()


# Those of the example plugin need its parts; tests/examples/plugin looks at them.
EXAMPLES = sorted(set(ROOT.glob("examples/**/*.toml")) - set(ROOT.glob("examples/plugin/*")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_valid(path: Path) -> None:
    assert complaints(tomllib.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, registry in registries.items() for name in registry.names()],
)
def test_every_part_is_a_choice_with_its_keys_and_what_they_mean(kind: str, name: str) -> None:
    choices = {choice["title"]: choice for choice in SCHEMA["$defs"][kind]["oneOf"]}
    properties = dict(choices[name]["properties"])
    assert properties.pop("name")["const"] == name
    keys = describe_keys(dict(registries.items())[kind].get(name))
    described = {
        key: schema["description"]
        for key, schema in properties.items()
        if not schema.get("deprecated")
    }
    assert described == {key.name: key.meaning for key in keys}
    assert choices[name]["additionalProperties"] is False


def undescribed(schema: Any, path: str = "$") -> Iterator[str]:
    """Yield the path of every key that nothing is said of; `anyOf` repeats some, to need them."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if isinstance(schema, dict):
        for key, said in schema.get("properties", {}).items():
            if not said.get("description"):
                yield f"{path}.{key}"
        for key, inner in schema.items():
            if key != "anyOf":
                yield from undescribed(inner, f"{path}/{key}")


def test_every_key_says_what_it_means() -> None:
    assert list(undescribed(SCHEMA)) == []


def test_only_what_is_no_default_must_be_named() -> None:
    assert complaints(SHAPES) == []
    assert complaints({**SHAPES, "optimizer": {"beta_1": 0.5}}) == []  # adam's
    assert complaints({**SHAPES, "optimizer": {"momentum": 0.5}}) == ["$.optimizer"]  # sgd's
    assert complaints({**SHAPES, "optimizer": {"name": "sgd", "momentum": 0.5}}) == []
    assert complaints({"data": {"train": 6}}) == ["$.data"]
    assert complaints({}) == ["$"]
    assert complaints({**SHAPES, "phase": [{}, {"optimizer": {"name": "sgd"}}]}) == []
    assert complaints({**SHAPES, "phase": [{"optimizer": {}}]}) == ["$.phase[0].optimizer"]
    assert complaints({"sweep": {"seeds": "0-4"}}) == ["$"]
    assert complaints({"sweep": {"files": ["a.toml"], "seeds": [0, 1]}}) == []


@pytest.mark.parametrize(
    "table",
    [
        {"fit": {"epochs": 0}},
        {"fit": {"early_stop_patience": 0}},
        {"seed": -1},
        {"seed": 2**31},
        {"head": {"units": [0]}},
        {"head": {"units": [True]}},
        {"head": {"name": "pooled", "dropout": 1}},
        {"backbone": {"image_size": 31}},
        {"backbone": {"weights": ""}},
        {"backbone": {"weights": ["imagenet", 3]}},
        {"optimizer": {"learning_rate": 0}},
        {"freeze": {"name": "layer_range"}},
        {"freeze": {"name": "layer_range", "train": 19}},
        {"freeze": {"name": "layer_decay", "factor": 1}},
        {"class_weights": {"name": "fixed", "weights": {"a": "1"}}},
        {"plugins": {"module": ["mine.py"]}},
        {"reference": [{"accuracy": 0.5}]},
        {"schema": 2},
        {"origin": {}},
        {"sweep": {"seed": "0-4"}},
        {"sweep": {"seeds": [0.5]}},
        {"sweep": {"set": [1]}},
    ],
    ids=str,
)
def test_a_value_that_breaks_a_rule_is_refused(table: dict[str, Any]) -> None:
    assert complaints({**SHAPES, **table})


def test_a_wrong_name_is_one_complaint_that_lists_the_names() -> None:
    errors = list(VALIDATOR.iter_errors({**SHAPES, "optimizer": {"name": "adma"}}))
    named = [error for error in errors if error.json_path == "$.optimizer.name"]
    assert [error.validator_value for error in named] == [[*registries.optimizers.names()]]


@frozen(kw_only=True)
class Unreadable(Optimizer):
    """A part of somebody else's, whose key has a type that does not exist."""

    size: NoSuchType = 3  # type: ignore[name-defined]  # noqa: F821

    def build(self, rates: Any) -> Any:
        raise NotImplementedError


def test_a_part_of_somebody_elses_that_is_broken_is_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizers: Registry[Any] = registries.optimizers
    monkeypatch.setattr(optimizers, "_parts", {**dict(optimizers.registered())})
    optimizers.register("unreadable")(Unreadable)
    schema, broken = json_schema()
    (said,) = broken
    assert said.startswith("optimizer 'unreadable': Unreadable: name 'NoSuchType' is not defined;")
    assert schema == SCHEMA


def test_an_old_name_of_a_key_is_known_as_deprecated() -> None:
    fit = json_schema()[0]["properties"]["fit"]["properties"]
    assert fit["best_by"] == {
        "enum": ["val_loss", "val_accuracy", "val_loss_and_accuracy"],
        "description": "Is now called `monitor`.",
        "deprecated": True,
    }
