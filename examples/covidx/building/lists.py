"""The COVIDx split lists: one image per row, parsed from the right, starting at the class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

# Class names in the lists, and in the manifests.
LABELS = {"normal": "normal", "pneumonia": "pneumonia", "COVID-19": "covid-19"}
CLASSES = tuple(LABELS.values())


@frozen
class Row:
    """One row of a list.

    Attributes:
        where: The list's name and the line.
        file: The image file's name.
        label: Its class, as in the manifests.
        patient: The patient as in the list; may contain spaces.
    """

    where: str
    file: str
    label: str
    patient: str


@frozen
class Lists:
    """The content of both lists.

    Attributes:
        train: The rows of the training list by file name.
        test: The rows of the test list.
        problems: Rows that contradict others or cannot be parsed.
        notes: Repeated rows.
    """

    train: Mapping[str, Row] = field(factory=dict)
    test: Mapping[str, Row] = field(factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> dict[str, Row]:
        """Return all rows by file name."""
        return {**self.train, **self.test}


def parse_row(text: str, where: str) -> Row | None:
    """Return a row; None if it has no class, or nothing before the class.

    The class is the last word that is a class name. Before it come the patient, which may contain
    spaces (version 8A), and the file; after it a source (from version 3 on), a view, or nothing.

    >>> parse_row("COVID 1 COVID(1).png COVID-19 sirm", "").patient
    'COVID 1'
    """
    words = text.split()
    at = max((index for index, word in enumerate(words) if word in LABELS), default=0)
    if at < 2:
        return None
    return Row(where, words[at - 1], LABELS[words[at]], " ".join(words[: at - 1]))


def read_lists(train: Path, test: Path) -> Lists:
    """Read both lists; a file in both is a problem of the second."""
    problems: list[str] = []
    notes: list[str] = []
    taken: dict[str, Row] = {}
    found: dict[str, dict[str, Row]] = {}
    for split, path in (("train", train), ("test", test)):
        rows = found.setdefault(split, {})
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            row = parse_row(line, where)
            if row is None:
                problems.append(f"{where}: needs patient, file and class, got {line[:80]!r}")
            elif row.file not in taken:
                rows[row.file] = taken[row.file] = row
            elif row.file in rows and rows[row.file].label == row.label:
                notes.append(f"{where}: {row.file}: is already in {rows[row.file].where}")
            else:
                before = taken[row.file]
                problems.append(
                    f"{where}: {row.file}: is {row.label} here and {before.label} in {before.where}"
                )
    return Lists(found["train"], found["test"], tuple(problems), tuple(notes))
