"""Commands that use a finished run on images: `predict`, `evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tlkit.cli.app import AsJson, PluginFiles, RunFolder, app
from tlkit.cli.images import Images, loaded, must_be_new, named, noting, report, with_bar
from tlkit.cli.listing import Format, Listing
from tlkit.console import bracketed, share, table
from tlkit.escapes import json_text, printable, printable_lines
from tlkit.files import beside
from tlkit.named_images import Rejected
from tlkit.streams import is_unread

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlkit.classifier import Prediction
    from tlkit.results.metrics import Scores


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
            answers = with_bar(answers, len(files) if isinstance(files, list) else None)
        if features is not None:
            from tlkit.results.rows import npy_rows

            answers = _keeping(answers, stack.enter_context(npy_rows(features)))
        lines = Listing(form, classifier.classes, top).lines(noting(answers, rejected))
        if out is None:
            shown = printable_lines if sys.stdout.isatty() else str
            for line in lines:
                typer.echo(shown(line), color=True)  # or escape codes in names would be lost
                if is_unread() and features is None:
                    break
        else:
            partial = stack.enter_context(beside(out))
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
    from tlkit import console
    from tlkit.results.folder import RunFolder as Folder

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
        ends = bracketed(scores.intervals["accuracy"], 100, 1).strip(" ()")
        rows.append([name or "not given", str(scores.images), share(scores.accuracy), ends])
    return table(["source", "images", "accuracy", "95 % interval"], rows)
