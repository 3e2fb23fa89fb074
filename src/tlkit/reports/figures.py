"""The report's charts and pictures one at a time, for a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from attrs import frozen
from markupsafe import Markup

from tlkit.metrics.scores import Scores
from tlkit.reports.charts import Chart, learning_charts, reliability_chart, roc_chart
from tlkit.reports.gallery import Picture, Source, confused_pairs, data_url, explained, plain
from tlkit.reports.page import TEMPLATES, render
from tlkit.reports.report import REPORT, confusion_rows, judged_arrays
from tlkit.reports.svg import STYLE, standalone
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord
from tlkit.runfolder.tables import Prediction
from tlkit.system import notebook
from tlkit.system.files import write_text

DARK = '[data-jp-theme-light="false"] .tlkit, .vscode-dark .tlkit'
TINY = 1e-9  # a probability below it counts as this one


@frozen
class Drawing:
    """A chart, a table or pictures, as a notebook shows them.

    Attributes:
        title: What it shows.
        html: It, as HTML.
        charts: Its charts, if it has any.
    """

    title: str
    html: str
    charts: tuple[Chart, ...] = ()

    def __repr__(self) -> str:
        return f"Drawing({self.title!r}; a notebook shows it, .save('FILE.html') keeps it)"

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> Path:
        """Write it to a file: `.svg` for a single chart, or `.html`.

        Raises:
            ValueError: If the name ends otherwise, or there is not one chart for an `.svg`.
        """
        path = Path(path)
        if path.suffix == ".svg" and len(self.charts) == 1:
            write_text(path, standalone(self.charts[0].picture))
        elif path.suffix == ".html":
            write_text(path, f"<!doctype html><meta charset=utf-8>{self.html}")
        else:
            raise ValueError(f"{path}: must end in .html, or in .svg for a single chart")
        return path


def whole(folder: RunFolder) -> Drawing:
    """Return a run's report as a page within the page."""
    page = escape(folder.read_bytes(REPORT).decode())
    return Drawing(
        f"Report of {folder.path.name}",
        f'<iframe srcdoc="{page}" sandbox="allow-popups" title="report" loading="lazy" '
        'style="width: 100%; height: 45rem; border: 1px solid #8886"></iframe>',
    )


def curves(run: RunRecord) -> Drawing:
    """Return the losses, accuracies and learning rates over the epochs."""
    keep, metrics = run.metrics.keep, run.metrics
    best = metrics.kept.epoch if keep == "best" else metrics.other.epoch
    return _drawn("Training", charts=learning_charts(run.history, best, metrics.kept.epoch))


def confusion(scores: Scores, split: str) -> Drawing:
    """Return the confusion matrix."""
    title = f"Confusion matrix, {scores.images:,} images of {split}"
    return _drawn(title, confusion=confusion_rows(scores), classes=scores.classes)


def reliability(run: RunRecord) -> Drawing:
    """Return how often predictions are correct, by their confidence."""
    error = run.scores.calibration_error
    return _drawn("Reliability", charts=[reliability_chart(*judged_arrays(run), error)])


def roc(run: RunRecord) -> Drawing:
    """Return the ROC curve of each class."""
    areas = {name: of_class.auroc for name, of_class in run.scores.per_class.items()}
    return _drawn("ROC", charts=[roc_chart(run.classes, *judged_arrays(run), areas)])


def top_losses(run: RunRecord, source: Source, count: int) -> Drawing:
    """Return the images whose true class was given the least probability."""

    def loss(answer: Prediction) -> float:
        return -math.log(max(answer.probabilities[answer.label], TINY))

    worst = sorted(run.judged, key=lambda answer: (-loss(answer), answer.path))[:count]
    title = f"Highest losses on {run.split}, from {loss(worst[0]):.2f} to {loss(worst[-1]):.2f}"
    return _drawn(title, pictures=explained(worst, source))


def most_confused(run: RunRecord, source: Source) -> Drawing:
    """Return the pairs of classes most often confused, with images."""
    pairs = [
        (f"{pair.count:,} of {pair.of:,} images of {pair.label} called {pair.predicted}",
         plain(shown, source))
        for pair, shown in confused_pairs(run.judged)
    ]  # fmt: skip
    title = f"Most often confused on {run.split}" if pairs else "No image was misclassified"
    return _drawn(title, pairs=pairs)


def batch(images: Iterable[tuple[Any, str]], title: str) -> Drawing:
    """Return images, `(height, width, 3)` uint8, with their labels."""
    return _drawn(title, sheet=[(data_url(pixels), label) for pixels, label in images])


def _drawn(
    title: str,
    *,
    charts: Sequence[Chart] = (),
    confusion: Sequence[Any] = (),
    classes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    pairs: Sequence[tuple[str, Sequence[Picture]]] = (),
    sheet: Sequence[tuple[str, str]] = (),
) -> Drawing:
    html = render(
        "drawing.html.j2",
        style=_style(),
        title=title,
        charts=charts,
        confusion=confusion,
        classes=classes,
        pictures=pictures,
        pairs=pairs,
        sheet=sheet,
    )
    return Drawing(title, html, tuple(charts))


@cache
def _style() -> Markup:
    """Return the style sheet of all pages for what is inside `.tlkit`, in the notebook's theme."""
    light, _, rest = STYLE.read_text("utf-8").partition("@media screen and (prefers-color-scheme")
    dark, _, rules = rest.partition("{")[2].partition("\n}\n")
    variables = [text.partition("--c0")[2].rpartition("}")[0] for text in (light, dark)]
    colors = f".tlkit {{ --c0{variables[0]} }}\n{DARK} {{ --c0{variables[1]} }}"
    report = (TEMPLATES / "report.css").read_text("utf-8")
    own = report.partition("--card")[2].partition("}")[0]
    inside = f".tlkit {{ --card{own}\n{rules}\n{report} }}"
    return Markup(f"{inside}\n{notebook.STYLE}\n{colors}")  # noqa: S704  # our own files
