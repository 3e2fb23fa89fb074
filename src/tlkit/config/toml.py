"""Read an experiment file, or a dict with the same keys, as an `Experiment`."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from tlkit.config.experiment import Experiment, Origin
from tlkit.config.structure import new_paths, structure
from tlkit.parts.plugins import PluginFile, Plugins, active, read_plugins, require_given
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.notebook import argument, either, hint
from tlkit.system.renames import warn_renamed
from tlkit.system.untrusted import read_bytes

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20  # experiment files are a page long; anything larger is something else
# tomllib takes time quadratic in the parts of a dotted key: 39 s for 50,000 parts.
PLACE = re.compile(r"\s*([\w-]+)\[(\d+)\]\s*(?=\.)")  # in phase[1].epochs, which is no TOML key
ENDLESS_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


Keys = tuple[str | int, ...]  # the path of a key, with the place in a list
WORD = re.compile(r"(?!\d+$)[A-Za-z0-9_][\w./*–-]*")  # needs no quotes in --set
TEXT = re.compile(r"(?!\d+$)[^\[{\"'].*")  # neither a number nor a list, table or quoted text
WINDOWS_PATHS = "; write Windows paths in single quotes: 'D:\\new\\images'"


def read_table(
    path: Path, overrides: Sequence[str] = (), text: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return an experiment file's text, read unless it is given, and its table with overrides."""
    text = _read(path) if text is None else text
    if endless := ENDLESS_KEY.search(text):
        message = f"a key has at most 100 parts, got one that begins with {endless[0][:40]}"
        raise ConfigError([Problem("", message)], str(path))
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of 5,000 digits
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        what += WINDOWS_PATHS if "\\" in what or "escape" in what or "hex" in what else ""
        raise ConfigError([Problem("", f"not valid TOML: {what}")], str(path)) from None
    apply_overrides(table, overrides)
    return text, table


def _read(path: Path) -> str:
    try:
        return read_bytes(path, MAX_BYTES, follow=True).decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            problem = Problem("", "an experiment file has at most 1 MiB")
            raise ConfigError([problem], str(path)) from None
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}")], str(path)) from None
    except UnicodeDecodeError as error:
        message = f"must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError([Problem("", message)], str(path)) from None


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply ``a.b=value`` expressions to a table, in place."""
    if isinstance(overrides, str | Mapping):
        message = f"must be a list such as ['fit.epochs=3'], got {overrides!r}"
        raise ConfigError([Problem("overrides", message)])
    problems: list[Problem] = []
    renamed: Mapping[Any, tuple[str | int, ...]] = new_paths(Experiment)
    seen: set[Keys] = set()
    applied = list[tuple[Keys, Keys]]()
    for text in overrides:
        keys, value = _assignment(text)
        if not keys:
            problems.append(Problem(_set(text), value))
            continue
        new_keys = renamed.get(keys, keys)
        if new_keys in seen:
            problems.append(Problem(_set(text), "the key is set twice"))
        elif any(known[: len(keys)] == keys for known in seen):
            problems.append(Problem(_set(text), "would undo another override; put it first"))
        seen.add(new_keys)
        inner: Any = table
        for key, following in itertools.pairwise(keys):
            inner = _inside(inner, key)
            if inner is None:
                problems.append(Problem(_set(text), f"there is no {keys[0]}[{key}]"))
                break
            if not isinstance(inner, list if isinstance(following, int) else dict):
                what = "list of tables" if isinstance(following, int) else "table"
                problems.append(Problem(_set(text), f"{key!r} is not a {what}"))
                break
        else:
            for other in (new_keys, *(old for old, new in renamed.items() if new == new_keys)):
                inner.pop(other[-1], None)  # the file may have the key under its other name
            inner[new_keys[-1]] = value
            applied.append((keys, new_keys))
    if problems:
        raise ConfigError(problems)
    for keys, new_keys in applied:
        _warn_of_old_name(keys, new_keys)


def _set(text: str) -> str:
    """Return how an override is named in a message."""
    return f"{argument('--set')} {text}"


def _warn_of_old_name(keys: Keys, new_keys: Keys) -> None:
    if keys != new_keys:
        warn_renamed(_set(".".join(map(str, keys))), ".".join(map(str, new_keys)))


def _inside(inner: Any, key: str | int) -> Any:
    """Return what a table has under a key, made if it is missing, or a list at a place, or None."""
    if isinstance(key, int):
        return inner[key] if key < len(inner) else None
    return inner.setdefault(key, {})


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the key, as written, and the value of an ``a.b=value`` expression."""
    keys, value = _assignment(text)
    if not keys:
        raise ConfigError([Problem(_set(text), value)])
    return _key_text(text).strip(), value


def _key_text(text: str) -> str:
    """Return the text before the equals sign that ends the key; a quoted key may contain others.

    >>> _key_text('weights."a=b" = 1')
    'weights."a=b" '
    """
    for sign in re.finditer("=", text):
        with suppress(ValueError, RecursionError):
            tomllib.loads(f"{text[: sign.start()]} = 0")
            return text[: sign.start()]
    return text.partition("=")[0]


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(text))
    except (ValueError, RecursionError):
        return False


def _assignment(text: str) -> tuple[tuple[str | int, ...], Any]:
    """Return the key path and value of an assignment, or an empty path and an error message."""
    given, place = text, PLACE.match(text)
    if place:
        text = f"{place[1]}{text[place.end() :]}"
    key_text = _key_text(text)
    if WORD.fullmatch(word := text[len(key_text) + 1 :].strip()) and not _is_toml(text):
        text = f'{key_text}="{word}"'
    try:
        parsed: Any = tomllib.loads(text)
        marked: Any = tomllib.loads(f"{key_text} = 0")
    except (ValueError, RecursionError):
        return (), _way_out(given, key_text, word)
    if key_text.lstrip().startswith("["):  # a table header before the key
        return (), "expected exactly one key=value"
    keys: list[str] = []
    while isinstance(marked, Mapping):
        if len(marked) != 1 or not isinstance(parsed, Mapping) or list(parsed) != list(marked):
            return (), "expected exactly one key=value"
        key = next(iter(marked))
        keys.append(key)
        marked, parsed = marked[key], parsed[key]
    return (keys[0], *([int(place[2])] if place else []), *keys[1:]), parsed


def _way_out(given: str, key_text: str, word: str) -> str:
    """Return what is wrong with an assignment: as a rule, a text without quotes."""
    if not (TEXT.fullmatch(word) and _is_toml(f"{key_text} = 0")):
        return "expected key=value in TOML, with strings in quotes: 'head.name=\"pooled\"'"
    key = given.partition("=")[0].strip()
    quoted = f"{key}={json.dumps(word, ensure_ascii=False)}"
    written = either(f"--set {shlex.quote(quoted)}", f"overrides=[{quoted!r}]")
    return f"a text needs quotes, which the shell must not remove: {written}"


def load_experiment(
    path: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    in_sweep: bool = False,
    plugins: Sequence[str | Path] | None = None,
    text: str | None = None,
) -> Experiment:
    """Read an experiment file, or a dict with the same keys.

    The files listed under `[plugins] modules` are imported once the file is known to be valid TOML.

    Args:
        path: A TOML file, with paths relative to its folder; or a dict, with paths relative to the
            working directory, in which a part may take the place of its table.
        overrides: Expressions ``a.b=value`` in TOML syntax, applied before the table is checked. A
            table as value replaces the whole table, and a word needs no quotes.
        in_sweep: Ignore the table `[sweep]` silently.
        plugins: The only files that may be imported, wherever they are, for an experiment that a
            folder names and not the user; None: those that the experiment lists.
        text: The file's text, if it is known; the file is then not read.

    Raises:
        ConfigError: If the file cannot be read or is wrong, with every problem in it.
        PartError: If a part's package or file is broken, or may not be imported.
    """
    if isinstance(path, Mapping):
        return _from_table(path, overrides)
    path = Path(path)
    text, table = read_table(path, overrides, text)
    _take_out_sweep(path, table, in_sweep)
    listed, files = _own_files(path, table)
    if plugins is not None:
        require_given(files, plugins, str(path))
    with active(files):
        experiment = structure(Experiment, table, base=path.parent, source=str(path))
    used = evolve(listed, sha256=tuple(file.sha256 for file in files))
    return evolve(experiment, plugins=used, origin=Origin(path, text, tuple(overrides)))


def as_experiment(
    given: Experiment | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Experiment:
    """Return an experiment, loading it unless it is one already."""
    if not isinstance(given, Experiment):
        return load_experiment(given, overrides)
    if overrides:
        problem = "change a file or a dict; make another Experiment with attrs.evolve"
        raise ConfigError([Problem("overrides", problem)])
    return given


def _take_out_sweep(path: Path, table: dict[str, Any], in_sweep: bool) -> None:
    """Remove `[sweep]` from a table, which leaves a single run."""
    sweep = table.pop("sweep", None)
    if isinstance(sweep, Mapping) and "files" in sweep:
        message = f"lists experiments in other files; run them with {hint('sweep', path)}"
        raise ConfigError([Problem("sweep.files", message)], str(path))
    if sweep is not None and not in_sweep:
        log.info("%s: this is one run; [sweep] is for %s", path, hint("sweep", path))


def _from_table(given: Mapping[str, Any], overrides: Sequence[str]) -> Experiment:
    table = _copied(given)
    apply_overrides(table, overrides)
    listed, files = _own_files(Path(), table)
    with active(files):
        experiment = structure(Experiment, table)
    return evolve(experiment, plugins=evolve(listed, sha256=tuple(f.sha256 for f in files)))


def _copied(value: Any) -> Any:
    """Return a deep copy of tables and lists; other values are shared."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner) for inner in value]
    return value


@contextmanager
def own_parts(path: str | Path) -> Iterator[None]:
    """Register the parts in an experiment's plugin files while the body runs."""
    _, table = read_table(Path(path))
    with active(_own_files(Path(path), table)[1]):
        yield


def _own_files(path: Path, table: Mapping[str, Any]) -> tuple[Plugins, tuple[PluginFile, ...]]:
    """Return the table `plugins` and the files that it lists, without running them."""
    only = {key: table[key] for key in table.keys() & {"plugins"}}
    listed = structure(_Listed, only, base=path.parent, source=str(path)).plugins
    return listed, read_plugins(listed, path.parent, str(path))


@frozen(kw_only=True)
class _Listed:
    """The part of an experiment that is read before the rest."""

    plugins: Plugins = field(factory=Plugins)
