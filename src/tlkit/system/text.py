"""What to say after a name that nobody knows."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

# What spreadsheets take for the beginning of a formula, full-width forms too, and the blanks that
# some of them skip before it. Plain numbers begin with a sign and are none.
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
MARK = "'"


def printable(text: object) -> str:
    r"""Return text as one line without control, invisible or direction-changing characters.

    They are written as Python would write them, so a terminal shows them and obeys none.

    >>> print(printable("scan\n\x1b[31m1\u202egnp.png"))
    scan\n\x1b[31m1\u202egnp.png
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in str(text)
    )


def printable_lines(text: object) -> str:
    r"""Return text of several lines with each made printable.

    >>> printable_lines("one\ntwo\x07")
    'one\ntwo\\x07'
    """
    return "\n".join(map(printable, str(text).split("\n")))


def shell_quoted(path: object) -> str:
    """Return a path as it can be typed in a shell.

    >>> print(typed("runs/exp-1"), typed("my runs/exp-1"))
    runs/exp-1 'my runs/exp-1'
    """
    return printable(shlex.quote(str(path)))


def csv_cell(text: str) -> str:
    """Return a text as it is written to a CSV file: an apostrophe stands before a formula.

    What begins with `=`, `+`, `-`, `@`, a tab or a line end, apostrophes before it or not, and is
    no plain number gets one more apostrophe; `csv_text` takes it away.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("a=b"), csv_cell("'=1")
    ("'=1+1", '-0.5', 'a=b', "''=1")
    """
    return MARK + text if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` made a cell of.

    >>> csv_text("'=1+1"), csv_text("-0.5"), csv_text("'quoted'")
    ('=1+1', '-0.5', "'quoted'")
    """
    return cell[1:] if cell.startswith(MARK) and FORMULA.match(cell) else cell


def json_text(value: Any, indent: int | None = 2) -> str:
    r"""Return JSON that a terminal may show too: what `printable` escapes is `\uXXXX` here.

    >>> json_text("é\x9b")
    '"é\\u009b"'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(
        one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or nothing.

    >>> nearest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'?"
    >>> nearest("zzz", ["vgg16"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown name: the nearest known one and the whole list.

    >>> suggest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'? known: vgg16, resnet50"
    >>> suggest("zzz", [])
    '; known: none'
    """
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"
