"""The experiment file that `tlkit init` writes from a recipe.

The short file has the keys that matter, each with a few words. The full one has every key, and the
comment above a key is the key's docstring.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment, Phase
from tlkit.config.recipes import (
    Facts,
    Recipe,
    Table,
    backbone_here,
    has_gpu,
    recipe_named,
    recommended,
)
from tlkit.config.schema import describe_keys
from tlkit.config.structure import keys, toml_value
from tlkit.parts.datasets import Folder, Manifest
from tlkit.parts.kinds import Dataset
from tlkit.system.errors import ConfigError, DataError, FieldError, Problem, ResourceError
from tlkit.system.files import exists, is_dir
from tlkit.system.notebook import choose_another

WIDTH = 100
COLUMN = 34  # where the comments of a short file begin, if the key leaves room
MAX_CLASSES = 12  # a short file names so many classes at most
DIGITS_PX = {"vgg16": 32}  # of the network's input; 64 for others, which halve it once more


@frozen(kw_only=True)
class Starter:
    """A starter file.

    Attributes:
        text: Its content.
        recipe: The name of its recipe.
        reason: Why it was chosen; empty if the user named it.
    """

    text: str
    recipe: str
    reason: str = ""


def write_starter(
    data: Path | None,
    out: Path,
    recipe: str | None = None,
    *,
    full: bool = False,
    backbone: Table | None = None,
    patient: str | None = None,
) -> Starter:
    """Write a starter file.

    Args:
        data: A folder with a folder per class, inside `train` and `val` or not, or a CSV manifest;
            None: scikit-learn's digits.
        out: The file, which must not exist.
        recipe: The name of a recipe; None: the one for these data and this machine.
        full: Write every key with its meaning.
        backbone: The backbone's table; None: the best one on this machine.
        patient: The key `data.patient`.
    """
    made = starter(data, out, recipe, full=full, backbone=backbone, patient=patient)
    try:
        text = made.text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{data}: names must be UTF-8; rename the one that is not") from None
    write_new(out, text)
    return made


def write_new(out: Path, content: bytes) -> None:
    """Write a file that must not exist."""
    try:
        with out.open("xb") as file:  # fails if another process makes it first
            file.write(content)
    except FileExistsError:
        message = f"exists; {choose_another()}"
        raise ConfigError([Problem("", message)], str(out)) from None
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror}") from None


def starter(
    data: Path | None,
    out: Path,
    recipe: str | None = None,
    *,
    full: bool = False,
    backbone: Table | None = None,
    patient: str | None = None,
) -> Starter:
    """Return a starter file for a place; see `write_starter`."""
    about_backbone = "the best in tlkit probe"
    if backbone is None:
        backbone, about_backbone = backbone_here()
    facts = Facts(images=0, backbone=backbone, gpu=has_gpu())
    if data is None:
        table, about_data = {"name": "digits"}, ["handwriting that comes with scikit-learn"]
        size = {"image_size": DIGITS_PX.get(str(backbone["name"]), 64)}
        facts = evolve(facts, backbone={**backbone, **size}, mirrored=False)
    else:
        table, about_data, facts = _inspect(data, out, facts, patient)
    name, reason = (recipe, "") if recipe else recommended(facts)
    reason = reason if facts.images else ""
    chosen = recipe_named(name, facts)
    tables = {"data": table, **{key: dict(value) for key, value in chosen.tables.items()}}
    if data is None and name == "probe":
        tables["fit"]["epochs"] = 6  # half the strengths, so that a first run is quick
    notes = {"data": about_data, "backbone": [about_backbone]}
    text = _full(tables, chosen, notes, out) if full else _short(tables, chosen, notes, name, out)
    return Starter(text=text, recipe=name, reason=reason)


def _short(
    tables: Mapping[str, Table],
    recipe: Recipe,
    notes: Mapping[str, list[str]],
    name: str,
    out: Path,
) -> str:
    """Return the keys that the recipe sets, each with its comment on the same line."""
    intro = (
        f"Recipe {name}: {recipe.summary}. Show the plan: tlkit check {out.name}. Run it: tlkit "
        f"run {out.name}. Every key with its meaning: tlkit init --full."
    )
    why = {
        "data.patient": "finds whose an image is in its file name",
        "data.val": "the share held out for validation; see split_seed",
        "data.test": "the share held out for the final score",
        "data.resize": 'to a square; "pad" and "crop" keep the aspect ratio',
        "backbone.image_size": "small, as the pictures are",
        "backbone.weights": notes["backbone"][0],
        **recipe.why,
    }
    lines = [*_comment(intro), "", _commented("seed = 0", "of all random draws")]
    order = [field.name for field in keys(Experiment) if field.name in tables]
    for table in order:
        lines += ["", f"[{table}]"]
        lines += [line for note in notes["data"] for line in _comment(note)] * (table == "data")
        lines += _set_keys(tables[table], table, why)
    for number, phase in enumerate(recipe.phases):
        path = f"phase[{number}]"
        lines += ["", _commented("[[phase]]", why.get(path, "")), *_set_keys(phase, path, why)]
    return "\n".join(lines) + "\n"


def _set_keys(table: Table, path: str, why: Mapping[str, str]) -> Iterator[str]:
    for key, value in table.items():
        if key == "classes" and len(value) > MAX_CLASSES:
            continue  # the default: the names, sorted
        yield _commented(f"{key} = {toml_value(value)}", why.get(f"{path}.{key}", ""))


def _commented(line: str, why: str) -> str:
    """Return a line with a comment at its end, if there is one."""
    return f"{line:<{COLUMN - 2}}  # {why}" if why else line


def _full(
    tables: dict[str, Table], recipe: Recipe, notes: Mapping[str, list[str]], out: Path
) -> str:
    """Return every key below its meaning; those that are not set are comments."""
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
    replaced = set.intersection(*map(set, recipe.phases)) if recipe.phases else set()
    for name in (name for name in fields if name in tables and name not in replaced):
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
    for number, phase in enumerate(recipe.phases):
        lines += ["", f"# --- {recipe.why.get(f'phase[{number}]', meanings['phase'])}"]
        lines += ["[[phase]]", *_keys(Phase, phase)]
    return "\n".join(lines) + "\n"


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


def dataset_at(data: Path, patient: str | None = None) -> Folder | Manifest:
    """Return the dataset of a folder or CSV file; `patient` is its key of that name."""
    if not exists(data):
        raise DataError(f"{data}: there is no such folder or CSV file")
    part = Folder if is_dir(data) else Manifest
    try:
        return part(path=data, patient=patient)
    except FieldError as error:
        raise DataError(str(error)) from None


def _inspect(
    data: Path, out: Path, facts: Facts, patient: str | None
) -> tuple[Table, list[str], Facts]:
    """Return the table of a path's dataset, notes about it, and what a recipe depends on."""
    dataset = dataset_at(data, patient)
    splits = dataset.load()
    notes = [note for note in splits.notes if "held out" not in note]
    for split, _ in splits.items():
        counts = ", ".join(f"{name} {count}" for name, count in splits.counts(split).items())
        notes.append(f"{split}: {counts}")
    train = splits.counts("train").values()
    table = {
        **_dataset_table(dataset, data, out),
        **({} if patient is None else {"patient": patient}),
        "classes": list(splits.classes),
        "resize": "stretch",
        **splits.held_out,
    }
    facts = evolve(facts, images=sum(train), imbalance=max(train) / min(train))
    return table, notes, facts


def _dataset_table(dataset: Dataset, data: Path, out: Path) -> Table:
    """Return the table of a dataset, with its path relative to the starter file."""
    path = Path(os.path.relpath(data, out.parent)).as_posix()
    if path.startswith("~"):  # else it would mean a home directory
        path = f"./{path}"
    return {"name": "folder" if isinstance(dataset, Folder) else "manifest", "path": path}


def _comment(text: str) -> list[str]:
    """Return text as comment lines, with unprintable characters escaped."""
    plain = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    return textwrap.wrap(plain, WIDTH, initial_indent="# ", subsequent_indent="# ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
