"""Text for terminals, shells, CSV and JSON, and suggestions for misspelled names."""

from __future__ import annotations

import csv
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

# The beginning of a spreadsheet formula, also in full-width characters, and the blanks that some
# programs skip before it. Plain numbers begin with a sign too and are not formulas.
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
MARK = "'"
MOST_LINES = 10  # of a list in a message


def printable(text: object) -> str:
    r"""Return text as one line, with control, invisible and bidirectional characters escaped.

    They are written as Python escapes, so a terminal shows them instead of obeying them.

    >>> print(printable("scan\n\x1b[31m1\u202egnp.png"))
    scan\n\x1b[31m1\u202egnp.png
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def printable_lines(text: object) -> str:
    r"""Return text of several lines, each made printable.

    >>> printable_lines("first\nsecond\x07")
    'first\nsecond\\x07'
    """
    return "\n".join(map(printable, str(text).split("\n")))


def shell_quoted(path: object) -> str:
    """Return a path as it can be typed in a shell.

    >>> print(shell_quoted("runs/exp-1"), shell_quoted("my runs/exp-1"))
    runs/exp-1 'my runs/exp-1'
    """
    return printable(shlex.quote(str(path)))


def csv_cell(text: str) -> str:
    """Return text as it is written to a CSV file: formulas are marked with an apostrophe.

    Text that begins with `=`, `+`, `-`, `@`, a tab or a line end, after any apostrophes, and is not
    a plain number gets one more apostrophe in front; `csv_text` removes it.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("a=b"), csv_cell("'=1")
    ("'=1+1", '-0.5', 'a=b', "''=1")
    """
    return MARK + text if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """Return the text of a cell that `csv_cell` wrote.

    >>> csv_text("'=1+1"), csv_text("-0.5"), csv_text("'quoted'")
    ('=1+1', '-0.5', "'quoted'")
    """
    return cell[1:] if cell.startswith(MARK) and FORMULA.match(cell) else cell


def csv_line(cells: Iterable[Any]) -> str:
    r"""Return cells as a line of CSV, without its line end; formulas are marked, see `csv_cell`.

    File names that are not valid UTF-8 are written with backslash escapes.

    >>> csv_line(["=1+1", "a,b", 0.5])
    '\'=1+1,"a,b",0.5'
    """
    row = [csv_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    line: str = _CSV.writerow(row)  # what `_Echo.write` returns
    return line.removesuffix("\r\n").encode("utf-8", "backslashreplace").decode()


def csv_table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV, with line feeds; see `csv_line`. All of tlkit's CSV files use it."""
    return "".join(f"{csv_line(row)}\n" for row in (columns, *rows))


class _Echo:
    """A file that returns what is written to it."""

    def write(self, text: str) -> str:
        return text


_CSV: Any = csv.writer(_Echo(), lineterminator="\r\n")  # \r and \n in cells are quoted


def json_text(value: Any, indent: int | None = 2) -> str:
    r"""Return JSON that is safe to print: what `printable` escapes is written as `\uXXXX`.

    >>> json_text("é\x9b")
    '"é\\u009b"'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` with the known name closest to `name`, or an empty string.

    >>> nearest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'?"
    >>> nearest("zzz", ["vgg16"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known name and the full list.

    >>> suggest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'? known: vgg16, resnet50"
    >>> suggest("zzz", [])
    '; known: none'
    """
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"


def first_lines(lines: Sequence[str], what: str = "") -> list[str]:
    """Return the first ten lines, and a last one that counts the others.

    >>> first_lines([str(number) for number in range(12)], "rows")[9:]
    ['9', '… and 2 more rows']
    """
    more = f"… and {len(lines) - MOST_LINES} more {what}".rstrip()
    return [*lines[:MOST_LINES], *([more] if len(lines) > MOST_LINES else [])]
