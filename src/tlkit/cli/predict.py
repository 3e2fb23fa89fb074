"""Commands that use a finished run on images: `predict`, `evaluate`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from attrs import frozen

import tlkit
from tlkit.cli.app import AsJson, PluginFiles, RunFolder, app
from tlkit.data.sources import STDIN, Rejected, image_files
from tlkit.metrics.intervals import format_interval, format_value
from tlkit.reports.console import table
from tlkit.system.errors import DataError
from tlkit.system.files import atomic_write
from tlkit.system.stdio import stdout_is_broken
from tlkit.system.text import csv_cell, json_text, printable, printable_lines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlkit.classifier import Prediction
    from tlkit.metrics.scores import Scores


A = TypeVar("A")

Images = Annotated[
    list[str],
    typer.Argument(
        help="Image files; folders, with all images below; quoted patterns such as "
        "'new/**/*.png'; CSV files with a column path; - for a path a line on standard input.",
        metavar="IMAGES...",
    ),
]


def loaded(run: Path, plugins: Sequence[Path] | None) -> tlkit.Classifier:
    """Load a finished run, and say so if it has not learnt from real images."""
    classifier = tlkit.load(run, plugins=plugins or [])
    if classifier.stand_in:
        typer.echo(
            f"note: trained on stand-in data ({classifier.stand_in}), not on the real images",
            err=True,
        )
    return classifier


def named(images: Sequence[str]) -> Iterable[str | Rejected]:
    """Return the images that the arguments name; a list unless they come from standard input."""
    found = image_files(images, sys.stdin)
    return found if STDIN in images else list(found)


def noting(items: Iterable[A | Rejected], rejected: list[Rejected]) -> Iterator[A | Rejected]:
    """Return the same items, and note those that were rejected."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
        yield item


def report(rejected: Sequence[Rejected]) -> None:
    """Name what was rejected, all of it.

    Raises:
        DataError: If anything was.
    """
    if rejected:
        raise DataError("\n".join(map(printable, rejected)))


def must_be_new(path: Path | None, option: str) -> None:
    """Refuse to write over what exists.

    Raises:
        BadParameter: If it does.
    """
    if path is not None and path.exists():
        raise typer.BadParameter(f"{path} exists; nothing is overwritten", param_hint=option)


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


@app.command()
def predict(
    run: RunFolder,
    images: Images,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="List the K most probable classes only.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file to write to. Unset: print.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="A new file for the features too: a row for each one printed, what the backbone's "
            "last layer gives, averaged over the picture.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Take --features from this layer: a number or name."),
    ] = None,
    plugins: PluginFiles = None,
) -> None:
    """Classify images, in the order in which they are named.

    Images that cannot be read are named at the end, and the exit code is then 4; all others have
    their row.
    """
    must_be_new(out, "--out")
    must_be_new(features, "--features")
    if features is None and layer is not None:
        raise typer.BadParameter("is for --features", param_hint="--layer")
    classifier = loaded(run, plugins)
    files, rejected = named(images), list[Rejected]()
    with ExitStack() as stack:
        answers = classifier.answers(files, features is not None, layer)
        if form is Format.table or out is not None or not sys.stdout.isatty():
            from tlkit.reports.progress import with_bar

            answers = with_bar(answers, len(files) if isinstance(files, list) else None)
        if features is not None:
            answers = _keeping(answers, stack.enter_context(_npy_rows(features)))
        lines = Listing(form, classifier.classes, top).lines(noting(answers, rejected))
        if out is None:
            shown = printable_lines if sys.stdout.isatty() else str
            for line in lines:
                typer.echo(shown(line), color=True)  # or escape codes in names would be lost
                if stdout_is_broken() and features is None:
                    break
        else:
            partial = stack.enter_context(atomic_write(out))
            file = stack.enter_context(partial.open("w", encoding="utf-8", newline="\n"))
            file.writelines(f"{line}\n" for line in lines)
    report(rejected)


def _keeping(
    answers: Iterable[Prediction | Rejected], keep: Callable[[npt.NDArray[np.float32]], None]
) -> Iterator[Prediction | Rejected]:
    """Return the same answers, and keep their features."""
    for answer in answers:
        if not isinstance(answer, Rejected) and answer.features is not None:
            keep(answer.features)
        yield answer


@contextmanager
def _npy_rows(path: Path) -> Iterator[Callable[[npt.NDArray[np.float32]], None]]:
    """Give a function that adds a row to a `.npy` file, which appears when the body succeeds.

    Args:
        path: The file, in the end `(rows, ...)` float32; without rows `(0, 0)`.
    """
    import numpy as np

    count, shape = 0, (0,)
    with atomic_write(path) as partial, partial.open("w+b") as file:

        def write_header(count: int) -> int:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            return file.tell()

        end = write_header(0)

        def add(row: npt.NDArray[np.float32]) -> None:
            nonlocal count, shape, end
            if not count:
                shape = row.shape
                file.seek(0)
                end = write_header(0)
            file.write(np.ascontiguousarray(row, np.float32).tobytes())
            count += 1

        yield add
        file.seek(0)
        assert write_header(count) == end  # NumPy leaves room for the first axis to grow


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[Path, typer.Option(help="A folder with a folder a class, or a CSV manifest.")],
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Which split of the data; unset: test if there is one, else val."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for metrics.json and predictions.csv."),
    ] = None,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run on labelled images, and by source if the manifest has several."""
    from tlkit.reports import console
    from tlkit.runfolder.folder import RunFolder as Folder

    must_be_new(out, "--out")
    classifier = loaded(run, plugins)
    found = classifier.evaluation(data, split)
    if out is not None:
        found.write(Folder.claim(out, ""))
    if as_json:
        sources = {name: scores.as_json() for name, scores in found.sources.items()}
        typer.echo(json_text(found.scores.as_json() | {"sources": sources}))
        return
    typer.echo(console.scores_text(printable(data), found.scores))
    if found.sources:
        typer.echo(f"\n{_sources_text(found.sources)}")
    if out is not None:
        typer.echo(f"\nmetrics and predictions: {out}")


def _sources_text(sources: Mapping[str, Scores]) -> str:
    """Return the accuracy on each source's images as text."""
    rows = []
    for name, scores in sources.items():
        accuracy = format_value(scores.accuracy), format_interval(scores.intervals["accuracy"])
        rows.append([name or "not given", str(scores.images), *accuracy])
    return table(["source", "images", "accuracy", "95 % interval"], rows)
