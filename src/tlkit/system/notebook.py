"""What objects show in a notebook: small tables in HTML, and tables for pandas."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.system.errors import ResourceError
from tlkit.system.text import printable, printable_lines, shell_quoted

if TYPE_CHECKING:
    import pandas

# Colors follow the theme of JupyterLab or VS Code; without one, the page is light.
STYLE = """
.tlkit { --page: var(--jp-layout-color0, var(--vscode-editor-background, #ffffff));
  --ink: var(--jp-content-font-color1, var(--vscode-editor-foreground, #1a1e24));
  --soft: var(--jp-content-font-color2, #55606d); --line: var(--jp-border-color2, #d5dae1);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--page); max-width: 62rem; overflow-x: auto; }
.tlkit p { margin: .2rem 0; } .tlkit .soft { color: var(--soft); }
.tlkit details { margin: .3rem 0; } .tlkit summary { cursor: pointer; color: var(--soft); }
.tlkit table { border-collapse: collapse; margin: .4rem 0; font-variant-numeric: tabular-nums; }
.tlkit th, .tlkit td { padding: .15rem .6rem; text-align: right; background: none;
  color: inherit; border: 0; border-bottom: 1px solid var(--line); }
.tlkit th { font-weight: 500; color: var(--soft); }
.tlkit th:not(:first-child), .tlkit td:not(:first-child) { white-space: nowrap; }
.tlkit th:first-child, .tlkit td:first-child { text-align: left; padding-left: 0; }
.tlkit pre { margin: 0; max-height: 22rem; overflow: auto; white-space: pre-wrap; font-size: 12px;
  word-break: normal; overflow-wrap: anywhere; color: inherit; background: none; }
.tlkit progress { width: 12rem; vertical-align: middle; margin-right: .6rem; }
"""
CALLS = {  # what verbs are in Python
    "compare": "tlkit.compare({}, {})",
    "data inspect": "tlkit.inspect_data({})",
    "data verify": "tlkit.verify_manifest({})",
    "lr-find": "tlkit.lr_find({})",
    "predict": "tlkit.load({}).predict([{}])",
    "resume": "tlkit.resume({})",
    "run": "tlkit.run({})",
    "sweep": "tlkit.sweep({})",
    "sweep --resume": "tlkit.resume_sweep({})",
    "verify": "tlkit.verify({})",
}
ARGUMENTS = {"--set": "overrides", "--plugin": "plugins", "--backbone": "backbones"}


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def either(command: str, call: str) -> str:
    """Return a way out as it is typed here: a call in a notebook, a command elsewhere."""
    return call if in_notebook() else command


def command(verb: str, *arguments: str | Path) -> str:
    """Return a command: words such as FOLDER as they are, paths quoted.

    >>> command("predict", Path("my runs/1"), "IMAGE...")
    "tlkit predict 'my runs/1' IMAGE..."
    """
    words = (a if isinstance(a, str) else shell_quoted(a) for a in arguments)
    return " ".join(["tlkit", verb, *words])


def hint(verb: str, *arguments: str | Path) -> str:
    """Return how a verb is used from here: the command, or in a notebook its function's call.

    A verb without a function is written as a cell runs it: `!tlkit init --from FOLDER`.
    """
    typed = command(verb, *arguments)
    names = (
        a.lower().replace("...", ", ...") if isinstance(a, str) else repr(str(a)) for a in arguments
    )
    return either(typed, CALLS[verb].format(*names) if verb in CALLS else f"!{typed}")


def argument(option: str) -> str:
    """Return an option's name, or in a notebook that of the argument: `--seeds`, `seeds`."""
    return either(option, ARGUMENTS.get(option, option.lstrip("-").replace("-", "_")))


def choose_another(option: str = "--out") -> str:
    """Return the way out of a message that a file or folder exists."""
    name = argument(option)
    return f"choose another with {either(name, f'{name}=...')}, nothing is overwritten"


def face(title: str, *blocks: str) -> str:
    """Return an object's HTML: a line in bold, then blocks of HTML."""
    head = f"<p><b>{escape(printable(title))}</b></p>"
    return f'<div class="tlkit"><style>{STYLE}</style>{head}{"".join(blocks)}</div>'


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; every cell is escaped."""
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', head)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[object]) -> str:
    inside = "".join(f"<{tag}>{escape(printable(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def lines_and_bar(lines: Sequence[str], bar: Mapping[str, Any] | None) -> str:
    """Return a run's lines, and its bar below them: `text`, `done` of `total`, and `left`."""
    html = f"<pre>{escape(printable_lines(chr(10).join(lines)))}</pre>"
    if bar:
        ends = (
            f' value="{float(bar["done"]):g}" max="{float(bar["total"]):g}"' if bar["total"] else ""
        )
        text = "; ".join(filter(None, (bar["text"], bar["left"])))
        html += f"<p><progress{ends}></progress>{escape(printable(text))}</p>"
    return f'<div class="tlkit"><style>{STYLE}</style>{html}</div>'


def folded(summary: str, content: str) -> str:
    """Return content that is shown on a click."""
    return f"<details><summary>{escape(printable(summary))}</summary>{content}</details>"


def few_names(names: Sequence[str], most: int = 4, characters: int = 24) -> str:
    """Return some names, the first ones in full.

    >>> few_names(["ant", "bee", "cat", "dog", "elk", "fox"])
    'ant, bee, cat, dog and 2 more'
    """
    shown = [n if len(n) <= characters else f"{n[: characters - 1]}…" for n in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return printable(", ".join(shown) + more)


def data_frame(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows as a DataFrame."""
    try:
        import pandas
    except ImportError:
        message = "pandas: is not installed; pip install 'tlkit[notebook]'"
        raise ResourceError(message) from None
    return pandas.DataFrame([*rows])
