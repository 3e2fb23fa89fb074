"""Labelled images as they lie there: a folder a class, with or without splits, or a CSV file."""

from __future__ import annotations

import csv
import errno
import glob
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import evolve, field, frozen

from tlkit.data import dicom
from tlkit.data.splits import SPLITS, Example
from tlkit.system.errors import DataError
from tlkit.system.text import csv_text, nearest, printable

SUFFIXES = dicom.SUFFIXES | {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Uncompressed, the largest picture that is decoded takes 81 million pixels of 6 bytes.
MAX_FILE_BYTES = 512 << 20
# A FIFO must not block, whenever it took the place of a file.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@frozen
class ImageRoot:
    """A folder with images.

    Attributes:
        path: The folder.
        follow_links: Whether symbolic links may lead out of it.
    """

    path: Path
    follow_links: bool = False
    _real: str = field(init=False, eq=False, repr=False)
    _folders: dict[str, str] = field(factory=dict, init=False, eq=False, repr=False)

    @_real.default
    def _where(self) -> str:
        return os.path.realpath(self.path)

    def problem(self, name: str) -> str:
        """Return why there is no image file of this name, or nothing; opens no file."""
        folder, _, last = name.rpartition("/")
        try:
            if folder not in self._folders:  # most files share theirs
                self._folders[folder] = os.path.realpath(self.path / folder)
            path = os.path.join(self._folders[folder], last)  # noqa: PTH118  # one a row of many
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                path = os.path.realpath(path)
                found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):  # ValueError: NUL
            return f"there is no file {name!r}"
        if not self._holds(path):
            return f"{name!r} is a link that leads out of {self.path}"
        return "" if stat.S_ISREG(found.st_mode) else f"{name!r} is no ordinary file"

    def _holds(self, real: str) -> bool:
        return self.follow_links or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file.

        Where it lies is looked at again once it is open, so that a link that is put in its place
        meanwhile leads nowhere.

        Raises:
            OSError: If it cannot be read, is no ordinary file, is too large or lies outside.
        """
        path = self.path / name
        handle = os.open(path, _OPEN)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is no ordinary file")
            if found.st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"has more than {MAX_FILE_BYTES >> 20} MiB")
            if not self.follow_links:
                real = os.path.realpath(path)
                if not self._holds(real) or not os.path.samestat(found, os.stat(real)):  # noqa: PTH116
                    raise OSError(errno.EACCES, f"leads out of {self.path}")
            return file.read()


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


STDIN = "-"


@frozen
class Rejected:
    """Something that was named and has no answer.

    Attributes:
        path: What was named.
        reason: Why it has none.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def folders(top: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; hidden ones are left out."""
    return tuple(
        sorted(entry.name for entry in top.iterdir() if entry.is_dir() and entry.name[0] != ".")
    )


def image_files_below(top: Path, left_out: list[str]) -> list[Path]:
    """Return the image files below a folder; symbolic links to folders are not followed."""
    images = []
    for folder, inner, names in os.walk(top):
        inner[:] = [name for name in inner if name[0] != "."]
        for name in names:
            path = Path(folder, name)
            if name[0] == ".":
                continue
            if path.suffix.lower() in SUFFIXES and path.is_file():  # no FIFO, no broken link
                images.append(path)
            else:
                left_out.append(str(path))
    return sorted(images)


def image_files(named: Sequence[str], stdin: Iterable[str] = ()) -> Iterator[str | Rejected]:
    """Yield the images that are named, in order; nothing that is named vanishes in silence.

    Args:
        named: Each an image file, a folder (every image file below it, sorted), a pattern such as
            ``images/**/*.png``, a CSV file with a column `path` (relative to its folder), or ``-``
            for a path a line from `stdin`. What exists is no pattern, whatever its name.
        stdin: The lines of standard input.
    """
    for name in named:
        nothing, found = _named(name, stdin)
        first = None
        for first in found:
            yield first
        if first is None:
            yield Rejected(name, nothing)


def _named(name: str, stdin: Iterable[str]) -> tuple[str, Iterable[str | Rejected]]:
    """Return the images that one argument names, and what to say if there are none."""
    path = Path(name)
    if name == STDIN:
        lines = (line.rstrip("\r\n") for line in stdin)
        return "standard input names no image", (line for line in lines if line)
    if path.is_dir():
        return f"no image below this folder ({', '.join(sorted(SUFFIXES))})", _below(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return "the manifest has no rows", _named_images_rows(path)
    if not os.path.lexists(path) and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # Path takes no absolute one
        return "no file matches this pattern", (m for m in matches if Path(m).is_file())
    return "", [name]


def _below(top: Path) -> Iterator[str]:
    """Yield the image files below a folder; links to folders are not followed, hidden are left."""
    for folder, inner, names in os.walk(top):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] != "." and path.suffix.lower() in SUFFIXES and path.is_file():
                yield str(path)


def _named_images_rows(path: Path) -> Iterator[str | Rejected]:
    """Yield the images of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "path" not in (reader.fieldnames or ()):
                yield Rejected(str(path), "has no column 'path'")
                return
            for row in reader:
                if row["path"]:
                    yield str(path.parent / csv_text(row["path"]))
                else:
                    yield Rejected(f"{path}: row {reader.line_num}", "path: is empty")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield Rejected(str(path), f"cannot be read: {error}")


def read_regular(path: str) -> bytes:
    """Return a file's bytes; what may never end, such as a pipe, is refused."""
    file = Path(path)
    if file.exists() and not file.is_file():
        raise OSError("is no regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise OSError(error.strerror) from None  # without the path, which is said already


COLUMNS = ("path", "label", "split", "patient", "source", "view", "sha256")


@frozen(kw_only=True)
class Listed(Example):
    """An image, and what is said of it.

    Attributes:
        split: Its split; empty if there is none yet.
        where: What names it in a message: the file's row or path.
    """

    split: str = ""
    where: str = ""


@frozen(kw_only=True)
class Collection:
    """Labelled images, whether they are split or not.

    Attributes:
        root: The folder that paths are relative to.
        images: They, in the order of the rows or sorted by path.
        problems: Rows that cannot be used, and why.
    """

    root: Path
    images: tuple[Listed, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the labels, sorted."""
        return tuple(sorted({image.label for image in self.images}))

    def read(self, image: Listed) -> bytes:
        """Return an image file's bytes."""
        return (self.root / image.path).read_bytes()


def collect(path: Path, patient: str | None = None) -> Collection:
    """Find labelled images.

    Args:
        path: `CLASS/…` or `train|val|test/CLASS/…` below a folder, or a CSV file with columns
            `path, label` and, if known, `split, patient, source, view, sha256`.
        patient: A regular expression whose first group, found in an image's file name, is its
            patient; for data that do not say. Where it does not match, the patient is unknown.

    Raises:
        DataError: If there is nothing of the kind. Single wrong rows are `problems`.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    found = _from_rows(path) if path.is_file() else _from_folders(path)
    if not found.images and not found.problems:
        raise DataError(f"{path}: has no images in folders a class, or rows; see the help")
    if patient is None:
        return found
    return evolve(found, images=tuple(_with_patients(found.images, patient)))


def _with_patients(images: Iterable[Listed], pattern: str) -> Iterable[Listed]:
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise DataError(f"patient: {pattern!r} is no regular expression: {error}") from None
    if rule.groups != 1:
        raise DataError(f"patient: {pattern!r} must have one group, such as '^([^_]+)_'")
    for image in images:
        match = rule.search(PurePosixPath(image.path).name)
        yield evolve(image, patient=match[1] if match and match[1] else image.patient)


def _from_folders(top: Path) -> Collection:
    children = [child for child in sorted(top.iterdir()) if child.is_dir() and child.name[0] != "."]
    splits = [child for child in children if child.name in SPLITS]
    if splits and len(splits) < len(children):
        other = next(child for child in children if child not in splits)
        raise DataError(f"{other}: is no split, but {splits[0].name} beside it is one")
    images = [
        Listed(
            path=file.relative_to(top).as_posix(),
            label=label.name,
            split="" if parent is top else parent.name,
            where=file.relative_to(top).as_posix(),
        )
        for parent in (splits or [top])
        for label in sorted(parent.iterdir())
        if label.is_dir() and label.name[0] != "."
        for file in sorted(label.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()
    ]
    return Collection(root=top, images=tuple(images))


def _from_rows(path: Path) -> Collection:
    """Read a CSV file; a row that is wrong is named and the others still read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [name for name in ("path", "label") if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: there is no column {missing[0]!r}")
        images, problems, first = [], [], dict[str, int]()
        for row in reader:
            number = reader.line_num
            problem = _collection_problem(row, path.parent)
            if not problem and (before := first.setdefault(row["path"], number)) != number:
                problem = f"path: {row['path']!r} stands in row {before} already"
            if problem:
                problems.append(f"row {number}: {problem}")
            else:
                known = {name: row.get(name) or "" for name in COLUMNS}
                images.append(Listed(**known, where=f"row {number}: {row['path']}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8: {error}") from None
    return Collection(root=path.parent, images=tuple(images), problems=tuple(problems))


def _collection_problem(row: Mapping[str | None, str | None], root: Path) -> str:
    """Return what is wrong with a row, or nothing."""
    if None in row or None in row.values():
        return "must have as many values as there are columns"
    path = row["path"] or ""
    if not path or "\0" in path:
        return "path: is empty or not a path"
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "://" in path:
        return f"path: must stay below the file's folder, got {path!r}"
    if not row["label"]:
        return f"label: is empty for {path!r}"
    if row.get("split") and row["split"] not in SPLITS:
        return f"split: must be one of {', '.join(SPLITS)}, got {row['split']!r}"
    if not (root / path).is_file():
        return f"path: there is no file {path!r}"
    return ""
