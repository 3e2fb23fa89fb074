"""The pages that mkdocs generates tell of every part, key, command and table, and of no other."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.house.docs_hook import generated

from tlkit.cli import app
from tlkit.config.experiment import Experiment, Fit, PublishedResult
from tlkit.config.structure import keys
from tlkit.parts.kinds import registries
from tlkit.parts.plugins import Plugins

ROOT = Path(__file__).parent.parent.parent
KINDS = dict(registries.items())


def shown(page: str) -> str:
    """Return a page of the reference as the site has it."""
    return str(generated.fill((ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")))


PAGES: dict[str, str] = {
    **generated.pages(),
    **{f"reference/{name}.md": shown(f"{name}.md") for name in [*KINDS, "experiment"]},
}


def test_the_command_line_page_has_no_escapes() -> None:
    assert "\\[" not in generated.cli_page()


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_and_every_key_of_a_kind_is_on_its_page(kind: str) -> None:
    page = PAGES[f"reference/{kind}.md"]
    for name in generated.own_parts(KINDS[kind]):
        cls = KINDS[kind].get(name)
        assert re.search(rf"^\| \[?`{name}`", page, re.MULTILINE), f"{name} is not in the table"
        for key in keys(cls):
            assert f"\n| `{key.name}` |" in page or key.name == "image_size"
    names = set(re.findall(r"(?m)^## `(\w+)`", page))
    assert names <= set(KINDS[kind].names())
    linked = set(re.findall(rf"\(reference/{kind}.md#(\w+)\)", page))
    assert linked == names, "a link of the table leads to no heading, or a heading has no link"


def test_the_page_of_the_experiment_has_every_table_and_key() -> None:
    page = PAGES["reference/experiment.md"]
    for field in keys(Experiment):
        assert re.search(rf"^(\| |## )`\[*{field.name}\]*`", page, re.MULTILINE), field.name
    for record in (Fit, Plugins, PublishedResult):
        for field in keys(record):
            assert f"\n| `{field.name}` |" in page, field.name


def test_a_key_has_its_type_default_rule_and_meaning() -> None:
    assert (
        "\n| `batch_size` | an integer | `32` | at least 1 | Images per optimizer step. |\n"
    ) in PAGES["reference/experiment.md"]
    assert "| `train` | a string | required |" in PAGES["reference/freezes.md"]


def test_every_command_and_option_is_on_the_page_of_the_command_line() -> None:
    page = PAGES["reference/cli.md"]

    def walk(command: Any, path: str) -> None:
        section = page.partition(f"## {path}\n")[2].partition("\n## ")[0] or page
        for parameter in command.get_params(typer.Context(command)):
            assert any(f"`{option}" in section for option in parameter.opts) or (
                f"`{parameter.metavar}" in section
            ), f"{path}: {parameter.name} is not on the page"
        for name, inner in getattr(command, "commands", {}).items():
            assert f"\n## {path} {name}\n" in page
            walk(inner, f"{path} {name}")

    walk(typer.main.get_command(app), "tlkit")


def test_every_generated_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert [page for page in PAGES if page not in navigation] == []


def test_marks_become_tables_and_an_unknown_kind_is_an_error() -> None:
    filled = generated.fill("before\n\n<!-- parts: heads -->\n\nafter\n")
    assert "| [`pooled`](reference/heads.md#pooled) |" in filled
    assert "<!--" not in filled
    assert "| `[head]` | [head](reference/heads.md) |" in generated.fill("<!-- tables -->")
    for mark in ("<!-- parts: hads -->", "<!-- keys: heads.poled -->", "<!-- keys: fitt -->"):
        with pytest.raises(ValueError, match=f"{mark}: there is nothing with that name"):
            generated.fill(mark)


def test_a_part_with_a_mark_of_its_own_stands_there_only() -> None:
    page = generated.fill("# Heads\n\n<!-- keys: heads.pooled -->\n\n<!-- keys: heads -->\n")
    assert page.count("| `dropout` |") == 1
    assert "## `pooled`" not in page
    assert "## `cosine`" in page


def test_every_mark_in_the_docs_is_understood() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    assert any("<!-- parts: " in page for page in pages)
    for page in pages:
        assert not re.search(r"<!-- (parts|tables|keys)", generated.fill(page))


def test_no_table_is_broken_by_what_is_in_it() -> None:
    for path, page in PAGES.items():
        for table in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
            columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(columns) == 1, f"{path}: {table[:200]}"


def test_the_examples_in_its_docstrings_are_true() -> None:
    failed, tried = doctest.testmod(generated)
    assert tried
    assert not failed
