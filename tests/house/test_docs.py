"""Every block of TOML, Python and shell, every command and every link in the docs works.

If a block cannot be run or read, a comment in the line before it gives the reason, such as
`<!-- not run: needs your photos -->`. Its names, arguments and options are checked anyway.
"""

from __future__ import annotations

import ast
import contextlib
import html
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from attrs import fields_dict, frozen
from packaging.requirements import Requirement
from tests.house.docs_hook import generated

import tlkit
from tlkit.cli import app
from tlkit.config.structure import structure
from tlkit.config.sweep import SweepTable, grid
from tlkit.parts.kinds import registries

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^(?P<indent> *)```(?P<language>\w+).*\n"
    r"(?P<text>(?:.*\n)*?)^ *```$",
    re.MULTILINE,
)
REASON = "`<!-- not run: the reason -->` in the line before it"
COMMAND = re.compile(r"(?<!`)`(tlkit [^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@frozen
class Block:
    """A fenced block of a page, or a command within a line."""

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    listed = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("text")) + 1
                content = inspect.cleandoc(match["text"]) + "\n"
                listed.append(Block(page, line, match["language"], content, match["reason"] or ""))
    return listed


def commands() -> list[Block]:
    """Return every command line of tlkit in shell blocks and in the text."""
    listed = []
    for block in blocks("sh", "bash", "console"):
        for number, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
            listed += [
                Block(block.page, block.line + number, "sh", command)
                for command in split_commands(line)
            ]
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # has commands of earlier releases
            continue
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            listed += [Block(page, number, "text", text) for text in COMMAND.findall(line)]
    return listed


def split_commands(line: str) -> Iterator[str]:
    """Yield the commands of one line of a shell without comments, pipes and redirections."""
    words = shlex.shlex(line, posix=True, punctuation_chars=";&|>")
    words.whitespace_split = True
    command: list[str] = []
    skip = False
    for word in [*words, ";"]:
        if set(word) <= set(";&|>"):
            if command:
                yield shlex.join(command)
            command, skip = [], ">" in word
        elif not skip:
            command.append(word)


def ids(listed: list[Block]) -> Any:
    return pytest.mark.parametrize("block", listed, ids=str)


@ids(blocks("toml"))
def test_every_toml_block_is_read(block: Block) -> None:
    """Whole or in part an experiment, or the entry points of a package."""
    table = tomllib.loads(block.text)
    if "project" in table:
        groups = {registry.group for _, registry in registries.items()}
        assert table["project"]["entry-points"].keys() <= groups
        return
    table.setdefault("data", {"name": "shapes"})
    if block.reason:
        assert table.keys() <= {*fields_dict(tlkit.Experiment), "sweep"}, f"{block}: no such table"
        return
    if "sweep" in table:
        sweep = table.pop("sweep")
        assert grid(sweep.pop("set", {}))
        structure(SweepTable, sweep, base=block.page.parent, source=str(block))
    structure(tlkit.Experiment, table, base=block.page.parent, source=str(block))


@ids(blocks("python"))
def test_every_name_and_argument_in_python_blocks_is_there(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlkit"):
            module = __import__(node.module or "", fromlist=["*"])
            for name in node.names:
                assert hasattr(module, name.name), f"{block}: {node.module} has no {name.name}"
        if isinstance(node, ast.Attribute) and dotted(node).startswith("tlkit."):
            resolve(dotted(node))
        if isinstance(node, ast.Call) and dotted(node.func).startswith("tlkit."):
            check_arguments(node, block)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` as text; nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        below = dotted(node.value)
        return f"{below}.{node.attr}" if below else ""
    return node.id if isinstance(node, ast.Name) else ""


def resolve(path: str) -> Any:
    value: Any = tlkit
    for name in path.split(".")[1:]:
        value = getattr(value, name)
    return value


def check_arguments(call: ast.Call, block: Block) -> None:
    given = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    whole = len(given) == len(call.args) and len(named) == len(call.keywords)
    signature = inspect.signature(resolve(dotted(call.func)))
    try:
        (signature.bind if whole else signature.bind_partial)(*given, **named)
    except TypeError as error:
        raise AssertionError(f"{block}: {ast.unparse(call)}: {error}") from None


@ids([block for block in blocks("python") if not block.reason])
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs alone; parts that it registers are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    kinds = dict(registries.items())
    before = {kind: set(registry.names()) for kind, registry in kinds.items()}
    try:
        exec(compile(block.text, str(block), "exec"), {"__name__": "docs", "tlkit": tlkit})
    except Exception as error:
        raise AssertionError(f"{block}: {error}; if it cannot run, say why: {REASON}") from error
    finally:
        for kind, registry in kinds.items():
            for name in set(registry.names()) - before[kind]:
                registry._parts.pop(name)


@ids(commands())
def test_every_command_parses(block: Block) -> None:
    """In the text a command may be abbreviated; its options must exist."""
    words = shlex.split(block.text.replace("…", ""), comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        assert all(f"\n{target}:" in makefile for target in targets), f"{block}: {block.text}"
    elif words[:2] == ["pip", "install"]:
        check_requirements(words[2:], block)
    elif words[0] == "python" and words[1].startswith(("examples/", "bench/")):
        assert (ROOT / words[1]).is_file(), f"{block}: there is no {words[1]}"
    elif words[0] == "tlkit":
        check_command(words[1:], block)


def check_requirements(words: list[str], block: Block) -> None:
    for word in words:
        if word.startswith((".", "tlkit")):
            extras = Requirement(word.replace(".", "tlkit", 1)).extras
            assert extras <= PROJECT["optional-dependencies"].keys(), f"{block}: {word}"


def check_command(words: list[str], block: Block) -> None:
    command: Any = typer.main.get_command(app)
    path = "tlkit"
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name, *words = words
        if "|" in name:  # `tlkit cache info|clear|path`
            assert command.commands.keys() >= set(name.split("|")), f"{block}: {block.text}"
            return
        if name == "COMMAND":
            return
        assert name in command.commands, f"{block}: tlkit has no command {path[6:]} {name}"
        command, path = command.commands[name], f"{path} {name}"
    if block.language == "text":
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, f"{block}: {block.text}"
    elif not hasattr(command, "commands"):
        with contextlib.suppress(typer.Exit):  # `--help`
            command.make_context(path, words)


LINKS = [
    pytest.param(page, link, id=f"{page.relative_to(ROOT)} {link}")
    for page in PAGES
    for link in LINK.findall(re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8")))
    if not link.startswith(("http://", "https://", "mailto:"))
]
GENERATED = {ROOT / "docs" / path for path in generated.pages()}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_relative_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if target in GENERATED:
        return
    assert target.exists(), f"{page}: there is no {link}"
    assert target.is_relative_to(ROOT), f"{page}: {link} leads out of the repository"
    if anchor and target.suffix == ".md":
        headings = re.findall(r"(?m)^#+ (.+)$", generated.fill(target.read_text(encoding="utf-8")))
        assert anchor in {slug(heading) for heading in headings}, f"{page}: no heading #{anchor}"


def slug(heading: str) -> str:
    """Return what GitHub and mkdocs make of a heading.

    >>> slug("A study's own `parts`")
    'a-studys-own-parts'
    """
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_there_is_something_of_each_kind() -> None:
    """Otherwise an expression that matches nothing would let every test pass."""
    assert len(blocks("toml")) >= 4
    assert len(blocks("python")) >= 6
    assert len([block for block in commands() if block.language == "sh"]) >= 20
    assert len([block for block in commands() if block.language == "text"]) >= 20
    assert len(LINKS) >= 15


def test_the_sample_report_is_of_the_sample_experiment_and_asks_no_server() -> None:
    folder = ROOT / "docs" / "sample"
    report = (folder / "report.html").read_text(encoding="utf-8")
    experiment = (folder / "shapes.toml").read_text(encoding="utf-8")
    structure(tlkit.Experiment, tomllib.loads(experiment), base=folder, source="shapes.toml")
    assert experiment.strip() in html.unescape(report), "the sample's experiment has changed"
    assert len(report) < 1_000_000
    assert not re.search(r"(src|href)=.?(https?:)?//", report)
    assert "default-src 'none'" in report
