"""Strange folders: what others may have made of a run's, a sweep's or a cache's files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tlkit import cli
from tlkit.runfolder.folder import BY_MACHINE, INPUTS, METRICS, RESULTS
from tlkit.system.seal import MACHINE_SEAL, hashes_of, seal

SECRET = "the content of a file outside"
LIMIT_S = 10


@frozen
class Ended:
    """How a command ended.

    Attributes:
        code: The exit code; None for a traceback.
        out: Standard output.
        err: Standard error, with the traceback.
    """

    code: int | None
    out: str
    err: str


class Hang(BaseException):
    """The command took too long."""


def command(*arguments: object, limit_s: int = LIMIT_S) -> Ended:
    """Run a command in this process; it is broken off after ten seconds."""

    def ring(*_: object) -> None:
        raise Hang(f"{arguments} hangs")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit_s)
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", ["tlkit", *map(str, arguments)])
            try:
                cli.main()
            except SystemExit as ended:
                return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
            except Exception as error:  # a traceback
                return Ended(None, out.getvalue(), f"{err.getvalue()}{error!r}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seal_run(folder: Path) -> None:
    """Seal a finished run as tlkit does."""
    seal(folder, hashes_of(folder, (*INPUTS, *RESULTS, METRICS)))
    seal(folder, hashes_of(folder, BY_MACHINE), MACHINE_SEAL)


def _link(path: Path) -> None:
    """Put a link to the same content, outside, in a file's place."""
    outside = path.parent.parent / f"outside-{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _secret(path: Path) -> None:
    outside = path.parent.parent / "secret.txt"
    outside.write_text(SECRET, encoding="utf-8")
    path.unlink()
    path.symlink_to(outside)


def _replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # takes no room


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _twice(path: Path) -> None:
    """Give the first member of an object, or the first row of a table, twice."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        head, first, *rest = text.splitlines()
        path.write_text("\n".join([head, first, first, *rest, ""]), encoding="utf-8")
    else:
        name = json.dumps(next(iter(json.loads(text))))
        path.write_text(text.replace("{", f"{{{name}: 0,", 1), encoding="utf-8")


def _nan(path: Path) -> None:
    """Put a NaN in the place of the last number, or add one."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        path.write_text(text.rstrip().rpartition(",")[0] + ",nan\n", encoding="utf-8")
    else:
        path.write_text(text.replace("{", '{"nothing": NaN,', 1), encoding="utf-8")


# What is done to a file. Of arrays, text is not tried.
ATTACKS: Mapping[str, Callable[[Path], object]] = {
    "link": _link,
    "secret": _secret,
    "pipe": _replace(os.mkfifo),
    "device": _replace(lambda path: path.symlink_to("/dev/zero")),
    "folder": _replace(Path.mkdir),
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flip": _flip,
    "huge": _huge,
    "deep": lambda path: path.write_text("[" * 100_000),
    "wide": lambda path: path.write_text("[" + "[]," * 2_000_000 + "[]]"),
    "list": lambda path: path.write_text("[1]"),
    "long number": lambda path: path.write_text('{"schema": ' + "9" * 4_000 + "}"),
    "half a character": lambda path: path.write_text(r'{"schema": "\ud800"}'),
    "twice": _twice,
    "nan": _nan,
}
OF_TEXT = ("twice", "nan")

STRANGE: Sequence[Any] = (
    None, True, -1, 0, 1e308, 2**63, 10**19, "", "x", "../../etc/passwd", "\0", "a" * 5_000, "<b>",
    "\x1b[31m", [], {}, [[]], {"": None}, [1] * 50, {"name": "vgg16"}, {"name": "os.system"}, "nan",
    0.5, "last", "test", ["a", "b"],
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a JSON value with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutate(path: Path, chance: random.Random) -> str:
    """Change a file at random, as a stranger or a bad disk might; return how."""
    kinds = [name for name in ATTACKS if path.suffix != ".safetensors" or name not in OF_TEXT]
    ways = ["value", "value", "value", "cell", "bytes", chance.choice(kinds)]
    way = chance.choice(ways)
    if path.is_symlink() or not path.is_file():
        return "none"
    if way == "value" and path.suffix == ".json":
        table = json.loads(path.read_text(encoding="utf-8"))
        found = list(places(table))
        if not found:
            return "none"
        holder, key = chance.choice(found)
        if chance.random() < 0.2:
            del holder[key]
        elif chance.random() < 0.3:
            holder[key] = deepcopy(chance.choice([inner[k] for inner, k in found]))
        else:
            holder[key] = chance.choice(STRANGE)
        path.write_text(json.dumps(table), encoding="utf-8")
    elif way in {"value", "cell"} and path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        row = chance.choice(rows) if rows else []
        if row:
            row[chance.randrange(len(row))] = str(chance.choice(STRANGE))
        path.write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    elif way in ATTACKS:
        ATTACKS[way](path)
    else:
        content = bytearray(path.read_bytes())
        for _ in range(chance.randint(1, 8)):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
    return way
