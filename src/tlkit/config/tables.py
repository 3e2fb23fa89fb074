"""An experiment file as a plain table, with `--set` expressions applied and nothing checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlkit.errors import ConfigError, Problem

MAX_BYTES = 1 << 20  # an experiment file is a page; what is larger is something else
# The time that tomllib takes for a dotted key grows with the square of its parts: 39 s for 50,000.
ENDLESS_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


def read_table(path: Path, overrides: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Return an experiment file's text and its table with the overrides applied.

    Raises:
        ConfigError: If it is not TOML, or an override is wrong.
    """
    text = _read(path)
    if endless := ENDLESS_KEY.search(text):
        message = f"a key has at most 100 parts, got one that begins with {endless[0][:40]}"
        raise ConfigError([Problem("", message)], str(path))
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of 5,000 digits
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError([Problem("", f"not valid TOML: {what}")], str(path)) from None
    apply_overrides(table, overrides)
    return text, table


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError([Problem("", "an experiment file has at most 1 MiB")], str(path))
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}")], str(path)) from None
    except UnicodeDecodeError as error:
        message = f"must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError([Problem("", message)], str(path)) from None


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply ``a.b=value`` expressions to a table, in place.

    Raises:
        ConfigError: If an expression is not one TOML assignment, or two set the same key.
    """
    if isinstance(overrides, str | Mapping):
        message = f"must be a list such as ['fit.epochs=3'], got {overrides!r}"
        raise ConfigError([Problem("overrides", message)])
    problems: list[Problem] = []
    seen: set[tuple[str, ...]] = set()
    for text in overrides:
        keys, value = _assignment(text)
        if not keys:
            problems.append(Problem(f"--set {text}", value))
            continue
        if keys in seen:
            problems.append(Problem(f"--set {text}", "the key is set twice"))
        elif any(known[: len(keys)] == keys for known in seen):
            problems.append(Problem(f"--set {text}", "would undo another --set; put it first"))
        seen.add(keys)
        inner: Any = table
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                problems.append(Problem(f"--set {text}", f"{key!r} is not a table"))
                break
        else:
            inner[keys[-1]] = value
    if problems:
        raise ConfigError(problems)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the key, as it was written, and the value of one ``a.b=value`` expression.

    Raises:
        ConfigError: If it is not one TOML assignment.
    """
    keys, value = _assignment(text)
    if not keys:
        raise ConfigError([Problem(f"--set {text}", value)])
    return _key_text(text).strip(), value


def _key_text(text: str) -> str:
    """Return what stands before the equals sign that ends the key; a quoted key may hold others.

    >>> _key_text('weights."a=b" = 1')
    'weights."a=b" '
    """
    for sign in re.finditer("=", text):
        with suppress(ValueError, RecursionError):
            tomllib.loads(f"{text[: sign.start()]} = 0")
            return text[: sign.start()]
    return text.partition("=")[0]


def _assignment(text: str) -> tuple[tuple[str, ...], Any]:
    """Return the key path and value of one assignment; no path and a message if it is none."""
    key_text = _key_text(text)
    try:
        parsed: Any = tomllib.loads(text)
        marked: Any = tomllib.loads(f"{key_text} = 0")
    except (ValueError, RecursionError):
        return (
            (),
            "expected key=value in TOML, with strings in quotes: --set 'head.name=\"pooled\"'",
        )
    if key_text.lstrip().startswith("["):  # a table's head before the key
        return (), "expected exactly one key=value"
    keys: list[str] = []
    while isinstance(marked, Mapping):
        if len(marked) != 1 or not isinstance(parsed, Mapping) or list(parsed) != list(marked):
            return (), "expected exactly one key=value"
        key = next(iter(marked))
        keys.append(key)
        marked, parsed = marked[key], parsed[key]
    return tuple(keys), parsed
