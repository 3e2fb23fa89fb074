"""The MkDocs hook: tables of parts and keys, the command line, the changelog, the repository.

Keys, types, defaults, rules and meanings come from the parts' fields and docstrings, commands from
Typer, so nothing is written twice. These lines are replaced in any page:

    <!-- tables -->              the tables of an experiment file that name a part
    <!-- parts: heads -->        the parts of a kind
    <!-- keys: heads.pooled -->  the keys of a part
    <!-- keys: heads -->         the keys of all parts of a kind, except those with their own mark
    <!-- keys: experiment -->    the keys of an experiment file that belong to no part
    <!-- keys: fit -->           the keys of one of its other tables
    <!-- repository: clone -->   what the repository's address is needed for; see `REPOSITORY`
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import typer
from attrs import frozen
from typer.testing import CliRunner

from tlkit.cli import app
from tlkit.cli.app import OUTPUT
from tlkit.config.experiment import Experiment
from tlkit.config.schema import describe_keys
from tlkit.config.structure import hints, keys
from tlkit.config.sweep import SearchTable, SweepTable
from tlkit.parts.kinds import registries
from tlkit.parts.registry import Registry
from tlkit.parts.validators import schema_of

ROOT = Path(__file__).parent.parent
TABLES = {field.metadata["registry"].kind: field.name for field in keys(Experiment)
          if "registry" in field.metadata}  # fmt: skip
KINDS: dict[str, Registry[Any]] = dict(registries.items())
MARK = re.compile(r"^<!-- (?P<word>tables|parts|keys)(?:: (?P<of>[\w.]+))? -->$", re.MULTILINE)
REPOSITORY = {  # marks: what stands there if the address is known, and if it is not
    "clone": (
        "Get the code:\n\n```sh\ngit clone {url}\ncd {name}\n```",
        (
            "Get the code: `git clone` the address at which you found tlkit, or unpack its "
            "archive. Change into its folder."
        ),
    ),
    "colab": (
        (
            "- **Colab**: [open the notebook there]({colab}); its first cell is `%pip install "
            "'tlkit[lite,notebook] @ git+{url}'`, then restart the kernel."
        ),
        (
            "- **Colab, Kaggle**: make a wheel (`pip wheel --no-deps -w dist .` in a clone), "
            "upload it and `examples/notebook.ipynb`, and begin with the cell `%pip install "
            "'tlkit-0.1.0-py3-none-any.whl[lite,notebook]'`; then restart the kernel."
        ),
    ),
}
BOOSTS = {  # of pages in the search: how to do a thing comes before its name and its figures
    "howto/": 4, "install": 4, "tutorial": 2, "cookbook": 2, "limits": 2, "faq": 6,
    "reference/api/": 0.1, "reference/cli": 0.2, "changelog": 0.05, "reference/": 0.5,
    "findings": 0.2, "roadmap": 0.5, "reliability": 0.2, "performance": 0.5,
}  # fmt: skip
SHOWN = 9  # parts named per line; the rest are counted
RULES = {  # keywords of a JSON schema, in words
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "length at least {}",
}


@frozen
class Row:
    """A row of a table of keys."""

    name: str
    takes: str
    default: str
    rule: str
    meaning: str

    def cells(self) -> list[str]:
        """Return the cells of a Markdown table."""
        takes = re.sub(r"'[^']+'", r"`\g<0>`", self.takes)
        default = f"`{self.default}`" if self.default else ""
        return [f"`{self.name}`", takes, default, self.rule, self.meaning]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Link to the project's repository, or else to the one that this clone came from, if any."""
    config.copyright = f"tlkit {version('tlkit')} · Apache-2.0"
    if address := repository():
        config.repo_url, config.repo_name = address, address.split("/", 3)[-1]
        config.edit_uri = "edit/main/docs/"
    return config


@cache
def repository() -> str:
    """Return the repository's address: that of `pyproject.toml`, else where the clone is from."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    command = ["git", "remote", "get-url", "origin"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed words
    return web_address(urls.get("Repository") or found.stdout.strip())


def web_address(remote: str) -> str:
    """Return the page of a Git remote; empty if it has none.

    >>> web_address("git@host.example:owner/tlkit.git")
    'https://host.example/owner/tlkit'
    >>> web_address("https://name:secret@host.example/owner/tlkit.git")
    'https://host.example/owner/tlkit'
    >>> web_address("/srv/tlkit")
    ''
    """
    remote = re.sub(r"^git@([^:/]+):", r"https://\1/", remote.removesuffix(".git"))
    remote = re.sub(r"^https://[^/@]*@", "https://", remote)
    return remote if remote.startswith("https://") else ""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the tables of a page, and say how much the search prefers it."""
    boost = next(
        (boost for start, boost in BOOSTS.items() if page.file.src_uri.startswith(start)), 1
    )
    page.meta.setdefault("search", {"boost": boost})
    up = "../" * page.file.src_uri.count("/")
    return fill(with_repository(markdown, repository()), up + "reference/")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Let readers say what is wrong or missing on a page, where there is a place for it."""
    if not repository().startswith("https://github.com/"):
        return html
    about = urlencode({"template": "idea.yml", "title": f"Docs, {page.file.src_uri}: "})
    link = f"{repository()}/issues/new?{about}"
    return f'{html}\n<p><a href="{escape(link)}">Something wrong or missing on this page?</a></p>'


def with_repository(markdown: str, url: str) -> str:
    r"""Fill in what the repository's address is needed for.

    >>> with_repository("<!-- repository: clone -->", "https://host.example/owner/tlkit")[15:72]
    '```sh\ngit clone https://host.example/owner/tlkit\ncd tlkit'
    """
    host, _, path = url.removeprefix("https://").partition("/")
    colab = f"https://colab.research.google.com/github/{path}/blob/main/examples/notebook.ipynb"

    def text(mark: re.Match[str]) -> str:
        known, unknown = REPOSITORY[mark[1]]
        there = host == "github.com" if "{colab}" in known else bool(url)
        return known.format(url=url, name=path.split("/")[-1], colab=colab) if there else unknown

    return re.sub(r"(?m)^<!-- repository: (\w+) -->$", text, markdown)


def pages() -> dict[str, str]:
    """Return every generated page by its path below `docs`."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return {"reference/cli.md": cli_page(), "changelog.md": changes}


def fill(markdown: str, folder: str = "reference/") -> str:
    """Replace the marks in a page with tables that link to the pages in `folder`."""
    placed = {mark["of"] for mark in MARK.finditer(markdown) if mark["word"] == "keys"}

    def table(mark: re.Match[str]) -> str:
        word, of = mark["word"], mark["of"] or ""
        kind, _, part = of.partition(".")
        if word == "tables":
            return kinds_table(folder)
        if word == "keys" and of in records():
            return key_table(rows(records()[of]))
        if word == "keys" and of == "experiment":
            return experiment_keys(placed)
        if kind not in KINDS or (part and part not in own_parts(KINDS[kind])):
            raise ValueError(f"{mark[0]}: there is nothing with that name")
        if word == "parts":
            return f"{_table_of(kind)}\n\n{parts_table(kind, f'{folder}{kind}.md')}"
        return key_table(own_rows(part, KINDS[kind])) if part else kind_keys(kind, placed)

    return MARK.sub(table, markdown)


def experiment_keys(placed: Container[str | None]) -> str:
    """Return the keys of an experiment file that belong to no part and are not placed elsewhere."""
    own = rows(Experiment, but={*TABLES.values(), *records()})
    text = ["## Top-level keys\n", key_table(own)]
    for name, record in records().items():
        several = str(hints(Experiment).get(name)).startswith("tuple")
        title = f"[[{name}]]" if several else f"[{name}]"
        if name not in placed:
            text += [f"## `{title}`\n", _lead(record), key_table(rows(record))]
    return "\n".join(text)


def kind_keys(kind: str, placed: Container[str | None]) -> str:
    """Return the keys that a kind's parts share, then those of parts not placed elsewhere."""
    registry = KINDS[kind]
    shared = rows(registry.base)
    text = ["## Keys they all have\n", key_table(shared)] if shared else []
    for name in own_parts(registry):
        own = own_rows(name, registry)
        if own and f"{kind}.{name}" not in placed:
            text += [f"## `{name}`\n", _lead(registry.get(name)), key_table(own)]
    return "\n".join(text)


def parts_table(kind: str, page: str) -> str:
    """Return the table of a kind's parts, linked to their keys on a page."""
    registry = KINDS[kind]
    facts = {part["name"]: part for part in _listed() if part["kind"] == kind}
    sizes = ["parameters", "image", "at least"] if registry is registries.backbones else []
    lines = []
    for name in own_parts(registry):
        cell = f"[`{name}`]({page}#{name})" if own_rows(name, registry) else f"`{name}`"
        fact = facts[name]
        lines.append([cell, *(_sizes(name, fact) if sizes else []), fact["summary"]])
    return _table(["name", *sizes, "description"], lines)


def _sizes(name: str, fact: Mapping[str, Any]) -> list[str]:
    """Return a backbone's parameters, image size and smallest image size, where known."""
    fields = {field.name: field for field in keys(registries.backbones.get(name))}
    least = schema_of(fields["image_size"].validator).get("minimum", 1)
    params, side = fact["params"], fact["image_size"]
    return [
        f"{params:,}" if params else "",
        f"{side} px" if side else "",
        f"{least} px" if least > 1 else "",
    ]


def kinds_table(folder: str) -> str:
    """Return the table of all tables that name a part, with their parts."""
    lines = []
    for kind, registry in registries.items():
        table = TABLES[registry.kind]
        default = _default_part(table)
        names = sorted(own_parts(registry), key=lambda name: name != default)
        shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        link = f"[{registry.kind}]({folder}{kind}.md)"
        lines.append([f"`[{table}]`", link, shown + more, f"`{default}`" if default else "none"])
    return _table(["table", "kind of part", "built in", "default"], lines)


def own_parts(registry: Registry[Any]) -> list[str]:
    """Return the names of a kind's built-in parts."""
    return [name for name in registry.names() if registry.find(name).source == "tlkit"]


def own_rows(name: str, registry: Registry[Any]) -> list[Row]:
    """Return the rows of a part, without those of its whole kind.

    A backbone's image size is in the table of all backbones.
    """
    shared = set(rows(registry.base))
    sized = {"image_size"} if registry is registries.backbones else set()
    return [row for row in rows(registry.get(name), but=sized) if row not in shared]


def rows(cls: type, but: Iterable[str] = ()) -> list[Row]:
    """Return the keys of an attrs class as rows, except the keys in `but`."""
    fields = {field.name: field for field in keys(cls)}
    return [
        Row(
            key.name,
            key.type,
            key.default if fields[key.name].default is not attrs.NOTHING else "",
            _rule(schema_of(fields[key.name].validator), fields[key.name]),
            key.meaning,
        )
        for key in describe_keys(cls)
        if key.name not in but
    ]


def key_table(key_rows: Iterable[Row]) -> str:
    """Return keys as a table without empty columns."""
    lines = [row.cells() for row in key_rows]
    titles = ["key", "type", "default", "rule", "meaning"]
    used = [number for number in range(len(titles)) if any(line[number] for line in lines)]
    return _table([titles[n] for n in used], [[line[n] for n in used] for line in lines])


def cli_page() -> str:
    """Return the page on the command line, from Typer."""
    command = typer.main.get_command(app)
    text = [
        "# Command line\n",
        "`tlkit COMMAND --help` shows the same. See [Exit codes](runs.md#exit-codes).\n",
        "`--quiet`, `--verbose`, `--no-color` and `--debug` may stand after any command too.\n",
        *_command(command, "tlkit"),
    ]
    return "\n".join(text).replace("\\[", "[")  # escaped for Rich


def _command(command: Any, path: str) -> Iterator[str]:
    context = typer.Context(command, info_name=path)
    if path != "tlkit":
        yield f"## {path}\n"
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    yield f"```text\n{usage}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    if command.epilog and path != "tlkit":
        yield f"```sh\n{command.epilog.removeprefix('Example: ')}\n```\n"
    records = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if path == "tlkit" or parameter.name not in OUTPUT
    ]
    shown = [(f"`{name}`", meaning) for name, meaning in filter(None, records)]
    if shown:
        yield _table(["argument or option", "meaning"], shown)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{path} {name}")


@cache
def _listed() -> list[Mapping[str, Any]]:
    """Return the output of `tlkit list --json`."""
    done = CliRunner().invoke(app, ["list", "--json"], catch_exceptions=False)
    parts: list[Mapping[str, Any]] = json.loads(done.stdout)
    return parts


def records() -> dict[str, type]:
    """Return the experiment's tables that name no part, with their classes."""
    classes: dict[str, type] = {}
    for field in keys(Experiment):
        hint = hints(Experiment)[field.name]
        inner = next(
            (cls for cls in [hint, *getattr(hint, "__args__", ())] if attrs.has(cls)), None
        )
        if inner is not None and "registry" not in field.metadata:
            classes[field.name] = inner
    return {**classes, "sweep": SweepTable, "sweep.search": SearchTable}


def _default_part(table: str) -> str | None:
    fields = {field.name: field for field in keys(Experiment)}
    name: str | None = fields[table].metadata["default"]
    return name


def _table_of(kind: str) -> str:
    table = TABLES[KINDS[kind].kind]
    name = _default_part(table)
    default = f"the default is `{name}`" if name else "it is required"
    return f"The table `[{table}]` names one; {default}."


def _rule(schema: Mapping[str, Any], field: Any) -> str:
    """Return a rule of a JSON schema in words.

    >>> _rule({"minimum": 0, "exclusiveMaximum": 1}, attrs.fields(Row).name)
    'at least 0 and below 1; required'
    >>> _rule({"minItems": 1, "items": {"minimum": 1}}, attrs.fields(Row).name)
    'length at least 1, each at least 1; required'
    """
    rules = [_words(schema)]
    if inner := schema.get("items"):
        rules.append(f"each {_words(inner)}")
    rule = ", ".join(filter(None, rules))
    required = field.default is attrs.NOTHING and "registry" not in field.metadata
    return "; ".join(filter(None, [rule, "required" if required else ""]))


def _words(schema: Mapping[str, Any]) -> str:
    rules = [text.format(schema[word]) for word, text in RULES.items() if word in schema]
    return " and ".join(rule for rule in rules if rule != "length at least 0")


def _lead(cls: type) -> str:
    """Return a class's docstring without its sections."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return re.split(r"\n\n(?:Attributes|Args|Raises|Returns):\n", text)[0] + "\n"


def _table(head: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, lines), ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
