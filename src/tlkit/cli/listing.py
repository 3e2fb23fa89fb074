"""Predictions as a table, CSV, JSON or JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.data.sources import Rejected
from tlkit.reports.console import table
from tlkit.system.text import csv_line, json_text, printable

if TYPE_CHECKING:
    from tlkit.classifier import Prediction

MANY_CLASSES, SHOWN_CLASSES = 6, 3  # a table of more than 6 classes shows the 3 most probable


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


@frozen
class Listing:
    """A way to list predictions.

    Attributes:
        form: The format.
        classes: Class names in the order of the probabilities.
        top: List only this many of the most probable classes; None: all.
    """

    form: Format
    classes: tuple[str, ...]
    top: int | None = None

    def lines(self, predictions: Iterable[Prediction | Rejected]) -> Iterator[str]:
        """Yield the lines of the listing, without line ends.

        Rejected entries are included in JSON, and omitted from tables and CSV.
        """
        match self.form:
            case Format.json:
                return _json_array(map(self._entry, predictions))
            case Format.jsonl:
                return map(_json_line, map(self._entry, predictions))
            case Format.csv:
                return map(csv_line, self._rows(predictions, repr))
            case Format.table:
                if self.top is None and len(self.classes) > MANY_CLASSES:
                    return evolve(self, top=SHOWN_CLASSES).lines(predictions)
                head, *rows = (
                    list(map(printable, row)) for row in self._rows(predictions, "{:.3f}".format)
                )
                return iter(table(head, rows).splitlines() if rows else [])

    def _ranked(self, prediction: Prediction) -> list[tuple[str, float]]:
        """Return the classes to list with their probabilities, in order."""
        rounded = (round(float(p), 6) for p in prediction.probabilities)
        pairs = list(zip(self.classes, rounded, strict=True))
        return pairs if self.top is None else sorted(pairs, key=lambda p: -p[1])[: self.top]

    def _entry(self, prediction: Prediction | Rejected) -> dict[str, Any]:
        if isinstance(prediction, Rejected):
            return {"path": prediction.path, "error": prediction.reason}
        ranked = self._ranked(prediction)
        entry: dict[str, Any] = {"path": prediction.path, "predicted": prediction.predicted}
        if self.top is None:
            return entry | {f"p_{name}": p for name, p in ranked}
        return entry | {"top": [{"class": name, "p": p} for name, p in ranked]}

    def _rows(
        self, predictions: Iterable[Prediction | Rejected], number: Any
    ) -> Iterator[list[str]]:
        """Yield the column names and a row per prediction; `number` formats probabilities."""
        if self.top is None:
            yield ["path", "predicted", *(f"p_{name}" for name in self.classes)]
        else:
            ranks = range(1, min(self.top, len(self.classes)) + 1)
            heads = [name for rank in ranks for name in (f"class_{rank}", f"p_{rank}")]
            yield ["path", "predicted", *heads]
        for prediction in predictions:
            if isinstance(prediction, Rejected):
                continue
            cells = [prediction.path, prediction.predicted]
            for name, p in self._ranked(prediction):
                cells += [number(p)] if self.top is None else [name, number(p)]
            yield cells


def _json_line(entry: dict[str, Any]) -> str:
    return json_text(entry, indent=None)


def _json_array(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a JSON array, one entry per line; a comma is written when the next entry comes."""
    yield "["
    last = ""
    for entry in entries:
        if last:
            yield f"{last},"
        last = f"  {_json_line(entry)}"
    if last:
        yield last
    yield "]"
