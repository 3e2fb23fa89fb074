"""The command line's look: groups with an example for each verb, 80 columns, colors."""

from __future__ import annotations

import logging
import os
import re
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import typer
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app, main
from tlkit.cli.app import echo, hanging
from tlkit.reports.progress import ProgressBar

NAMES = re.compile(r"│ ([a-z-]+) ")


def help_of(*command: str, columns: int = 80) -> str:
    env = {"COLUMNS": f"{columns}", "NO_COLOR": "1"}
    done = CliRunner().invoke(app, [*command, "--help"], env=env)
    assert done.exit_code == 0
    return done.stdout


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {}).items()
    return [path, *(one for name, sub in inner for one in commands(sub, (*path, name)))]


def test_help_lists_every_verb_once_in_a_group_with_an_example_below() -> None:
    text = help_of()
    panels = re.findall(r"╭─ ([A-Z][a-z ]+) ─", text)
    assert panels == [
        "Options", "Output", "Train", "Look at data", "Find better settings", "Use a run",
        "Look up", "This machine",
    ]  # fmt: skip
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    lines = text.splitlines()
    for verb in verbs:
        (row,) = [number for number, line in enumerate(lines) if line.startswith(f"│ {verb} ")]
        assert f"tlkit {verb}" in lines[row + 1]


@pytest.mark.parametrize("path", commands(typer.main.get_command(app)), ids=" ".join)
def test_help_fits_80_columns_and_flags_take_no_value(path: tuple[str, ...]) -> None:
    text = help_of(*path)
    assert max(map(len, text.splitlines())) <= 80
    assert "<bool>" not in text
    usage = text.partition("Usage:")[2].partition("\n\n")[0]
    assert not set("{}") & set(usage)
    if path and "COMMAND" not in usage:
        assert f"Example: tlkit {' '.join(path)}" in text
        assert set(re.findall(r"--[a-z-]+", text.partition("─ Output ─")[2])) >= {
            "--quiet", "--verbose", "--no-color", "--debug",
        }  # fmt: skip


def test_set_shows_keys_that_the_command_takes() -> None:
    for path in (["layers", "vgg16"], ["weights", "pack", "vgg16"], ["info", "affine"]):
        text = re.sub(r"[│\s]+", " ", help_of(*path[:-1]))
        about = text.partition(" --set ")[2].partition("Repeatable")[0]
        keys = re.findall(r"--set ([a-z_]+)=", about)
        kind = tlkit.registries.augmentations if path[0] == "info" else tlkit.registries.backbones
        assert keys
        assert {*keys} <= {key.name for key in attrs.fields(kind.get(path[-1]))}


@pytest.mark.parametrize("path", commands(typer.main.get_command(app)), ids=" ".join)
def test_help_shows_every_bracket_in_its_texts(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    texts = [command.help, command.epilog, *(getattr(p, "help", "") for p in command.params)]
    texts += [inner.short_help for inner in getattr(command, "commands", {}).values()]
    written = " ".join(filter(None, texts)).replace("[dim]", "").replace("[/dim]", "")
    shown = re.sub(r"[│\s]", "", help_of(*path, columns=300))
    for part in re.findall(r"\[[^\[\]]*\]", written.replace("\\[", "[")):
        assert re.sub(r"\s", "", part) in shown, part
    assert "\\" not in shown


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("option", "first"), [(None, "note: old"), ("-q", ""), ("-v", "note: old")]
)
def test_notes_are_fewer_or_more_if_asked_before_the_verb_or_after_it(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    option: str | None,
    first: str,
    before: bool,
) -> None:
    def noted(*_: Any, **__: Any) -> str:
        logging.getLogger("tlkit").info("old")
        return "[]"

    monkeypatch.setattr("tlkit.cli.parts.json", SimpleNamespace(dumps=noted))
    verb, options = ["list", "heads", "--json"], [option] if option else []
    words = [*options, *verb] if before else [*verb, *options]
    monkeypatch.setattr("sys.argv", ["tlkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert said.out == "[]\n"
    assert lines[:1] == ([first] if first else [])
    assert [line[:11] for line in lines[1:]] == (["note: took "] if option == "-v" else [])


def test_quiet_is_no_progress_and_no_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("tlkit")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    for bar in (ProgressBar(), tlkit.Terminal()):
        bar.say("a line")
    echo("note: x", err=True)
    echo("error", err=True)
    assert capsys.readouterr().err == "error\n"


def test_no_color_is_a_variable_that_every_printer_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    CliRunner().invoke(app, ["list", "heads", "--no-color"])
    assert os.environ["NO_COLOR"] == "1"


def test_lines_have_colors_by_what_they_say_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typer, "echo", lambda text, err: print(text))
    monkeypatch.delenv("NO_COLOR", raising=False)
    echo("test: accuracy 93 %\nimages: 3\n! few: 3 images")
    result, plain, caution = capsys.readouterr().out.splitlines()
    assert (result[:4], plain, caution[:5]) == ("\x1b[1m", "images: 3", "\x1b[33m")
    monkeypatch.setenv("NO_COLOR", "1")
    echo("! few: 3 images")
    assert capsys.readouterr().out == "! few: 3 images\n"


@pytest.mark.parametrize("head", ["pooled", "flatten_dense", "probe"])
def test_a_table_of_layers_fits_80_columns(head: str) -> None:
    data = {"name": "shapes", "train": 6, "val": 6, "test": 6}
    plan = tlkit.check({"data": data, "backbone": {"name": "vgg16"}, "head": {"name": head}})
    text = plan.layers.render(plan.stages[0].stage.lr_multipliers)
    assert max(map(len, text.splitlines())) <= 80


def test_on_a_terminal_a_long_text_goes_on_below_its_own_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert hanging("  name  ", "word " * 20) == "  name  " + "word " * 20
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    first, *others = hanging("  name  ", "word " * 20).splitlines()
    assert first.startswith("  name  word")
    assert others
    assert all(line.startswith(" " * 8 + "word") and len(line) <= 40 for line in others)


@pytest.mark.parametrize("err", [False, True])
@pytest.mark.parametrize("start", ["! ", "- ", "note: ", "weights from "])
def test_sentences_break_between_words_on_a_terminal_alone(
    start: str, err: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = start + "few images " * 20 + "end"
    echo(text, err)
    assert "".join(capsys.readouterr()) == f"{text}\n"
    monkeypatch.setattr(f"sys.{'stderr' if err else 'stdout'}.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    echo(f"{text}\nrun folder: {'x' * 90}", err)
    *lines, last = "".join(capsys.readouterr()).splitlines()
    assert last == f"run folder: {'x' * 90}"
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines) == text
    assert all(line.startswith(" " * len(start)) for line in lines[1:])
