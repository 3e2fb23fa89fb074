"""CSV manifests: one row per image."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from tlkit.data.root import ImageRoot
from tlkit.data.splits import SPLITS
from tlkit.system.errors import DataError
from tlkit.system.text import csv_text, first_lines, nearest

COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")
MAX_BYTES = 256 << 20  # over a million rows; a larger file is something else
_LOCATION = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z]+://")  # a drive or a URL


@frozen
class Row:
    """One row of a manifest.

    Attributes:
        number: Its line in the file.
        values: Its cells by column; `path` is normalized, so that `a//b` and `./a/b` are `a/b`.
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
) -> list[Row]:
    """Return the rows of a manifest in order, wrong ones included.

    Args:
        path: The CSV file, in UTF-8 with or without a byte order mark.
        root: The folder that image paths are relative to.
        required: The columns that must be there. If this is `path` alone, no other is looked at.
        classes: The labels allowed; None allows any.

    Raises:
        DataError: If the file is not such a table.
    """
    table = _table(path)
    columns = table[0][1]
    _check_columns(path, columns, required)
    rows: list[Row] = []
    first_row: dict[str, int] = {}
    for number, cells in table[1:]:
        if len(cells) != len(columns):
            message = f"expected {len(columns)} values, got {len(cells)}"
            rows.append(Row(number, {}, message))
            continue
        values = dict(zip(columns, map(csv_text, cells), strict=True))
        problem = _path_problem(values["path"])
        if not problem and len(required) > 1:
            problem = _label_problem(values, required, classes)
        if not problem:
            values["path"] = str(PurePosixPath(values["path"]))
            before = first_row.setdefault(values["path"], number)
            if before != number:
                problem = f"path: {values['path']!r} is in row {before} already"
            elif missing := root.problem(values["path"]):
                problem = f"path: {missing}"
        rows.append(Row(number, values, problem))
    return rows


def refuse_rows(path: Path, problems: Sequence[str]) -> None:
    """Raise if any row is wrong.

    Raises:
        DataError: With the first ten wrong rows and the number of the others.
    """
    if problems:
        raise DataError("\n".join(first_lines([f"{path}: {row}" for row in problems], "rows")))


def _table(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV file with their numbers; the first names the columns."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: a manifest has at most {MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column appears twice, got {', '.join(columns)}")
    for name in required:
        if name not in columns:
            raise DataError(f"{path}: there is no column {name!r}, got {', '.join(columns)}")
    if len(required) == 1:
        return
    # Other columns are ignored, except a misspelling that would silently lose a known one.
    missing = [name for name in COLUMNS if name not in columns]
    for name in columns:
        if name not in COLUMNS and (hint := nearest(name, missing)):
            raise DataError(f"{path}: unknown column {name!r}{hint}")


def _path_problem(path: str) -> str:
    if not path or "\0" in path:
        return "path: is empty or not a path"
    if (
        PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
        or _LOCATION.match(path)
    ):
        return (
            f"path: must stay below the images' folder, got {path!r}; paths are relative to the "
            "CSV file, or to data.root if that is set"
        )
    return ""


def _label_problem(
    values: Mapping[str, str], required: Sequence[str], classes: Sequence[str] | None
) -> str:
    """Return what is wrong with a row's label or split, or an empty string."""
    label, split = values["label"], values.get("split", "")
    if not label:
        return "label: is empty"
    if classes is not None and label not in classes:
        hint = nearest(label, classes)
        return f"label: {label!r} is none of the classes {', '.join(classes)}{hint}"
    if split not in SPLITS and (split or "split" in required):
        return f"split: must be one of {', '.join(SPLITS)}, got {split!r}"
    return ""
