"""Predictions as text: a table for people, CSV, JSON or JSON lines for programs, as they come."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.console import table
from tlkit.escapes import csv_cell, json_text, printable
from tlkit.named_images import Rejected

if TYPE_CHECKING:
    from tlkit.classifier import Prediction

WIDE = 6  # with more classes than this a table shows the three most probable ones


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


@frozen
class Listing:
    """How answers are listed.

    Attributes:
        form: The format.
        classes: Class names in the order of the probabilities.
        top: List only so many of the most probable classes; None: all.
    """

    form: Format
    classes: tuple[str, ...]
    top: int | None = None

    def lines(self, answers: Iterable[Prediction | Rejected]) -> Iterator[str]:
        """Yield the text of the answers line by line, without line ends.

        What was rejected is an entry of its own in JSON and left out of tables and CSV, whose rows
        are all of one form.
        """
        match self.form:
            case Format.json:
                return _array(self._entry(answer) for answer in answers)
            case Format.jsonl:
                return (_json(self._entry(answer)) for answer in answers)
            case Format.csv:
                return _csv(self._rows(answers, exact=True))
            case Format.table:
                if self.top is None and len(self.classes) > WIDE:
                    return Listing(self.form, self.classes, 3).lines(answers)
                head, *rows = self._rows(answers, exact=False)
                return iter(table(head, rows).splitlines() if rows else [])

    def _ranked(self, answer: Prediction) -> list[tuple[str, float]]:
        """Return the classes to be listed with their probabilities, in the order of listing."""
        pairs = [(n, _rounded(p)) for n, p in zip(self.classes, answer.probabilities, strict=True)]
        if self.top is None:
            return pairs
        return sorted(pairs, key=lambda pair: -pair[1])[: self.top]

    def _entry(self, answer: Prediction | Rejected) -> dict[str, Any]:
        if isinstance(answer, Rejected):
            return {"path": answer.path, "error": answer.reason}
        ranked = self._ranked(answer)
        entry: dict[str, Any] = {"path": answer.path, "predicted": answer.predicted}
        if self.top is None:
            return entry | {f"p_{name}": p for name, p in ranked}
        return entry | {"top": [{"class": name, "p": p} for name, p in ranked]}

    def _rows(self, answers: Iterable[Prediction | Rejected], exact: bool) -> Iterator[list[str]]:
        safe = csv_cell if exact else printable
        if self.top is None:
            yield ["path", "predicted", *(safe(f"p_{name}") for name in self.classes)]
        else:
            places = range(1, min(self.top, len(self.classes)) + 1)
            heads = [name for n in places for name in (f"class_{n}", f"p_{n}")]
            yield ["path", "predicted", *heads]
        for answer in answers:
            if isinstance(answer, Rejected):
                continue
            cells = [safe(answer.path), safe(answer.predicted)]
            for name, p in self._ranked(answer):
                cells += [] if self.top is None else [safe(name)]
                cells.append(repr(p) if exact else f"{p:.3f}")
            yield cells


def _rounded(probability: Any) -> float:
    return round(float(probability), 6)


def _json(entry: dict[str, Any]) -> str:
    r"""Return an entry on one line; what a terminal would obey is escaped as `\uXXXX`."""
    return json_text(entry, indent=None)


def _array(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a JSON array, an entry a line; a comma waits for the next entry."""
    yield "["
    last = ""
    for entry in entries:
        if last:
            yield f"{last},"
        last = f"  {_json(entry)}"
    if last:
        yield last
    yield "]"


def _csv(rows: Iterable[list[str]]) -> Iterator[str]:
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(row)  # so that both are quoted in cells
        line = buffer.getvalue().removesuffix("\r\n")
        yield line.encode("utf-8", "backslashreplace").decode()  # names that are no text
