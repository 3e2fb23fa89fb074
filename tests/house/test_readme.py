"""What the README shows works as it stands."""

from __future__ import annotations

import ast
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import tlkit
from tlkit.config.structure import structure
from tlkit.train.plan import model_layers

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_example_file_is_a_valid_experiment() -> None:
    experiment = structure(tlkit.Experiment, tomllib.loads(blocks("toml")[0]))
    layers = model_layers(experiment.backbone, experiment.head, 2)
    trained = experiment.freeze.planned(layers, 1)[0].lr_multipliers
    assert {layers[number].block for number, rate in enumerate(trained, start=1) if rate} == {
        "head"
    }
    assert [layer.name for _, layer in layers].count("block5_pool") == 1


def test_the_example_part_registers_and_works() -> None:
    part = next(block for block in blocks("python") if "SquareRoot" in block)
    try:
        exec(part, {})
        found = tlkit.registries.class_weights.get("square_root")()
        assert found.for_counts({"a": 1, "b": 3}) == {"a": 2**0.5, "b": (4 / 6) ** 0.5}
    finally:
        tlkit.registries.class_weights._parts.pop("square_root")


def test_the_plain_keras_lines_are_those_of_the_example() -> None:
    example = (ROOT / "examples" / "plain_keras.py").read_text(encoding="utf-8")
    shown = next(block for block in blocks("python") if "tlkit.freeze(" in block)
    for line in shown.splitlines():
        assert line.partition("#")[0].rstrip().removesuffix(")") in example


def test_the_page_on_plain_keras_shows_the_whole_example() -> None:
    page = (ROOT / "docs" / "howto" / "keras.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "plain_keras.py").read_text(encoding="utf-8")
    shown = page.partition("```python\n")[2].partition("\n```")[0]
    assert code(shown) == code(example)


def code(text: str) -> str:
    """Return what Python runs of a text: no comments, no docstring."""
    tree = ast.parse(text)
    return "\n".join(ast.unparse(line) for line in tree.body if not is_text(line))


def is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def test_the_plain_keras_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "plain_keras.py"), run_name="__main__")
    row = next(line for line in capsys.readouterr().out.splitlines() if " block_16_expand " in line)
    assert row.split()[-1] == "0.1"
