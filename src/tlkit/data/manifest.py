"""CSV manifests: one row per image; separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from tlkit.data.root import ImageRoot
from tlkit.data.splits import SPLITS
from tlkit.system.errors import DataError
from tlkit.system.notebook import argument
from tlkit.system.text import NUMBER, csv_text, first_lines, nearest

COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")
MAX_BYTES = 256 << 20  # over a million rows; a larger file is something else
# What pandas, R and Excel write for a label that is not there.
MISSING = frozenset({"nan", "<na>", "nat", "na", "n/a", "#n/a", "null"})
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Other people's names of the columns, in lower case and without other signs.
OTHER_NAMES = {
    "path": "file filename filepath image imagefile imagefilename imagename imagepath img imgpath",
    "label": "category class classname diagnosis labels target",
    "split": "dataset fold partition set subset",
    "patient": "case caseid patientid patientname patientno subject subjectid",
}
_LOCATION = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z]+://")  # a drive or a URL


@frozen
class Row:
    r"""One row of a manifest.

    Attributes:
        number: Its line in the file.
        values: Its cells by column; `path` is normalized and relative: `a//b`, `./a/b`, `a\b` and
            an absolute path to it below the root are `a/b`.
        problem: Why the row cannot be used; empty if it can.
    """

    number: int
    values: Mapping[str, str]
    problem: str = ""


def read_rows(
    path: Path,
    root: ImageRoot,
    required: Sequence[str] = ("path", "label"),
    classes: Sequence[str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Return the rows of a manifest in order, wrong ones included, and notes on the table."""
    table = _table(path)
    columns = table[0][1]
    _check_columns(path, columns, required)
    top = os.path.abspath(root.path)  # noqa: PTH100  # as it is written, links and all
    rows: list[Row] = []
    spelling = {unicodedata.normalize("NFC", name): name for name in classes or ()}
    first_row: dict[str, int] = {}
    for number, cells in table[1:]:
        if len(cells) != len(columns):
            message = f"expected {len(columns)} values, got {len(cells)}"
            rows.append(Row(number, {}, message))
            continue
        values = dict(zip(columns, map(csv_text, cells), strict=True))
        values["path"] = _relative(values["path"], root, top)
        problem = _path_problem(values["path"], root)
        if not problem and len(required) > 1:
            label = values["label"]
            values["label"] = spelling.setdefault(unicodedata.normalize("NFC", label), label)
            problem = _label_problem(values, required, classes)
        if not problem:
            values["path"] = str(PurePosixPath(values["path"]))
            before = first_row.setdefault(values["path"], number)
            if before != number:
                problem = f"path: {values['path']!r} is in row {before} already"
            elif missing := root.problem(values["path"]):
                problem = f"path: {missing}"
        rows.append(Row(number, values, problem))
    labels = () if len(required) == 1 else (row.values.get("label", "") for row in rows)
    return rows, [*_column_notes(columns), *label_notes(labels)]


def _relative(path: str, root: ImageRoot, top: str) -> str:
    """Return an absolute path below the root, or one with backslashes, as tlkit writes it."""
    if path.startswith("/"):
        return path.removeprefix(f"{top.rstrip('/')}/") if not top.startswith("//") else path
    slashes = path.replace("\\", "/")
    if slashes == path or _path_problem(path, root) or _path_problem(slashes, root):
        return path
    return slashes if root.problem(path) and not root.problem(slashes) else path


def _column_notes(columns: Sequence[str]) -> list[str]:
    """Return notes on columns that are ignored although they seem to name patients or splits."""
    return [
        f"column {name!r} is not used; if it is the {known}, rename it to {known!r}"
        for name in columns
        for known in ("patient", "split")
        if known not in columns and _plain(name) in OTHER_NAMES[known].split()
    ]


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def label_notes(labels: Iterable[str]) -> list[str]:
    """Return notes on labels that are two classes although they are one number.

    >>> label_notes(["1", "2", "1.0"])
    ["labels '1' and '1.0' are two classes; write them alike if they mean one"]
    """
    numbers: dict[float, list[str]] = {}
    for label in dict.fromkeys(labels):
        if NUMBER.fullmatch(label.strip()):
            numbers.setdefault(float(label), []).append(label)
    return [
        f"labels {' and '.join(map(repr, same))} are two classes; write them alike if they mean one"
        for same in numbers.values()
        if len(same) > 1
    ]


def refuse_rows(path: Path, problems: Sequence[str]) -> None:
    """Raise if any row is wrong."""
    if problems:
        lines = first_lines([f"{path}: {row}" for row in problems], "rows")
        if all("path: there is no file" in row for row in problems) and len(problems) > 1:
            lines.append("paths are relative to the CSV file; for another folder set data.root")
        raise DataError("\n".join(lines))


def _table(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV file with their numbers; the first names the columns."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: a manifest has at most {MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8, got another byte at {error.start}") from None
    except csv.Error as error:
        raise DataError(f"{path}: not valid CSV: {error}") from None
    if not lines:
        raise DataError(f"{path}: is empty; the first row names the columns")
    return lines


def separator(text: str) -> str:
    r"""Return what separates the columns: a comma, unless only others are in the first line.

    >>> separator("path,label;x"), separator("path;label"), separator("path\tlabel\n1,0\t2")
    (',', ';', '\t')
    """
    first = text.lstrip("\r\n").partition("\n")[0]
    return next((sign for sign in SEPARATORS if sign in first), ",")


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column appears twice, got {', '.join(columns)}")
    for name in required:
        if name not in columns:
            others = OTHER_NAMES.get(name, "").split()
            hint = next((column for column in columns if _plain(column) in {name, *others}), "")
            way_out = f"; rename {hint!r} to {name!r}" if hint else ""
            got = ", ".join(columns)
            raise DataError(f"{path}: there is no column {name!r}, got {got}{way_out}")
    if len(required) == 1:
        return
    # Other columns are ignored, except a misspelling that would silently lose a known one.
    missing = [name for name in COLUMNS if name not in columns]
    for name in columns:
        if name not in COLUMNS and (hint := nearest(name, missing)):
            raise DataError(f"{path}: unknown column {name!r}{hint}")


def _path_problem(path: str, root: ImageRoot) -> str:
    if not path or "\0" in path:
        return "path: is empty or not a path"
    if (
        PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
        or _LOCATION.match(path)
    ):
        return (
            f"path: must stay below the images' folder, {root.path}, got {path!r}; set data.root "
            f"or {argument('--root')} to a folder that holds all images"
        )
    return ""


def _label_problem(
    values: Mapping[str, str], required: Sequence[str], classes: Sequence[str] | None
) -> str:
    """Return what is wrong with a row's label or split, or an empty string."""
    label, split = values["label"], values.get("split", "")
    if not label:
        return "label: is empty"
    if label.lower() in MISSING and label not in (classes or ()):
        return f"label: is missing, got {label!r}; if it is a class, name it in data.classes"
    if classes is not None and label not in classes:
        hint = nearest(label, classes)
        return f"label: {label!r} is none of the classes {', '.join(classes)}{hint}"
    if split not in SPLITS and (split or "split" in required):
        return f"split: must be one of {', '.join(SPLITS)}, got {split!r}"
    return ""
