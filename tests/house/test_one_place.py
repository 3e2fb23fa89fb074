"""What has one place in the library is written nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "tlkit"
PLACES = {
    "rich.progress": "reports/progress.py",  # progress bars
    "jinja2.Environment(": "reports/page.py",  # pages
    '"svg"': "reports/svg.py",  # charts
    "csv.writer(": "system/text.py",  # CSV, with its guard against formulas
    "os.walk(": "data/walk.py",  # image files below a folder
    "def same_patient(": "data/leakage.py",
    "def wilson(": "metrics/intervals.py",
    "{100 * value:.{digits}f}": "metrics/intervals.py",  # percentages
    "parent[item]": "data/leakage.py",  # groups of what hangs together
    "def toml_value(": "config/structure.py",
    "-{number}": "runfolder/folder.py",  # new folders with a number
    "nothing is overwritten": "system/notebook.py",  # what exists stays as it is
    "filelock": "system/lock.py",
    'environ["TF_': "system/keras.py",  # the start of Keras
}


# Where a command is meant whoever reads it: files and pages, and what `hint` itself writes.
FOR_THE_COMMAND_LINE = (
    "cli/", "config/recipes.py", "config/schema.py", "config/starter.py",
    "reports/report.py", "reports/figures.py", "system/notebook.py",
)  # fmt: skip
VERB = re.compile(
    r"(^|[^-.\w])tlkit (init|check|run|resume|data|sweep|lr-find|probe|predict|explain|evaluate"
    r"|compare|report|export|verify|layers|list|info|weights (?!\d)|cache|doctor|schema)\b"
    r"|(?<!pip install )(?<!\S)--[a-z]"
)
PHRASES = {"hint", "either", "argument", "command"}  # of `system/notebook.py`


def commands_for_a_terminal_only(text: str) -> list[str]:
    """Return the strings that name a command or option and are no argument of `hint` and so on."""
    tree = ast.parse(text)
    skipped = {
        id(node)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in PHRASES
        for node in ast.walk(call)
    }
    skipped |= {
        id(statement.value) for statement in ast.walk(tree) if isinstance(statement, ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in skipped
        and isinstance(node.value, str) and VERB.search(node.value)
    ]  # fmt: skip


def test_messages_name_no_command_that_a_notebook_does_not_have() -> None:
    named = {
        path.relative_to(SOURCE).as_posix(): texts
        for path in SOURCE.rglob("*.py")
        if not path.relative_to(SOURCE).as_posix().startswith(FOR_THE_COMMAND_LINE)
        and (texts := commands_for_a_terminal_only(path.read_text(encoding="utf-8")))
    }
    assert named == {}
    assert commands_for_a_terminal_only("raise E(f'{x}: tlkit resume {x}; or --out')") != []
    assert commands_for_a_terminal_only("raise E(hint('x', 'tlkit resume'))") == []


@pytest.mark.parametrize(("text", "place"), PLACES.items())
def test_one_idea_has_one_place(text: str, place: str) -> None:
    holders = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if text in path.read_text(encoding="utf-8")
    ]
    assert holders == [place]
