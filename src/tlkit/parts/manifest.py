"""Reading a CSV manifest: every wrong row is named, nothing is guessed or stripped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from tlkit.errors import DataError
from tlkit.escapes import csv_text
from tlkit.parts.image_root import ImageRoot
from tlkit.parts.splits import SPLITS, Example
from tlkit.suggestions import nearest

REQUIRED = ("path", "label", "split")
OPTIONAL = ("patient", "source", "view", "sha256")
LOCATION = re.compile(
    r"[A-Za-z]:[\\/]|[A-Za-z]+://"
)  # a drive or an address, not a path below the folder
MAX_BYTES = 256 << 20  # a million rows and more; what is larger is something else
SHOWN = 10  # how many wrong rows a message lists


def read_manifest(
    path: Path, classes: Sequence[str] | None, root: ImageRoot | None = None
) -> dict[str, list[Example]]:
    """Return the examples of each split in the order of the rows.

    Args:
        path: The CSV file.
        classes: The labels allowed; None allows any.
        root: What image paths in it are relative to; None: its folder.

    Raises:
        DataError: With the first ten wrong rows and how many there are.
    """
    problems: list[str] = []
    found: dict[str, list[Example]] = {split: [] for split in SPLITS}
    first_row: dict[PurePosixPath, int] = {}
    root = root or ImageRoot(path.parent)
    for row, values in _rows(path):
        problem = _problem(values, classes)
        same = PurePosixPath(values["path"])  # a//b and ./a/b are a/b
        if not problem and (known := first_row.setdefault(same, row)) != row:
            problem = f"path: {values['path']!r} stands in row {known} already"
        if not problem and (missing := root.problem(values["path"])):
            problem = f"path: {missing}"
        if problem:
            problems.append(f"{path}: row {row}: {problem}")
        else:
            known_values = {key: values.get(key, "") for key in OPTIONAL}
            found[values["split"]].append(Example(values["path"], values["label"], **known_values))
    if problems:
        more = f"\n… and {len(problems) - SHOWN} more rows" if len(problems) > SHOWN else ""
        raise DataError("\n".join(problems[:SHOWN]) + more)
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows as dictionaries with their line numbers."""
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
    columns = lines[0][1]
    _check_columns(path, columns)
    for number, line in lines[1:]:
        if len(line) != len(columns):
            raise DataError(
                f"{path}: row {number}: expected {len(columns)} values, got {len(line)}"
            )
    return [
        (number, dict(zip(columns, map(csv_text, line), strict=True))) for number, line in lines[1:]
    ]


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column stands twice, got {', '.join(columns)}")
    for name in REQUIRED:
        if name not in columns:
            raise DataError(f"{path}: there is no column {name!r}, got {', '.join(columns)}")
    for name in columns:
        # Other columns are left alone, unless one is a misspelling that would be lost in silence.
        missing = [known for known in OPTIONAL if known not in columns]
        if name not in REQUIRED + OPTIONAL and nearest(name, missing):
            raise DataError(f"{path}: unknown column {name!r}{nearest(name, missing)}")


def _problem(values: Mapping[str, str], classes: Sequence[str] | None) -> str:
    """Return what is wrong with one row's values, or nothing."""
    path = values["path"]
    if not path or "\0" in path:
        return "path: is empty or not a path"
    if (
        PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
        or LOCATION.match(path)
    ):
        return f"path: must stay below the images' folder, got {path!r}; set data.root to another"
    if not values["label"]:
        return "label: is empty"
    if classes is not None and values["label"] not in classes:
        return (
            f"label: {values['label']!r} is none of the classes {', '.join(classes)}"
            f"{nearest(values['label'], classes)}"
        )
    if values["split"] not in SPLITS:
        return f"split: must be one of {', '.join(SPLITS)}, got {values['split']!r}"
    return ""
