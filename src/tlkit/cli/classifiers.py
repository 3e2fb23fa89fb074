"""Commands that use a finished run: `predict`, `evaluate`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

import tlkit
from tlkit.classifier import sound_files
from tlkit.cli.app import AsJson, PluginFiles, RunFolder, app


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def predict(
    run: RunFolder,
    files: Annotated[list[Path], typer.Argument(help="Image files.", metavar="FILES...")],
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    plugins: PluginFiles = None,
) -> None:
    """Classify image files; those that cannot be read are named and the others still printed."""
    from tlkit.console import predictions_text

    classifier = tlkit.load(run, plugins=plugins or [])
    sound, rejected = sound_files(files)
    rows = list(classifier.probabilities(sound))
    if classifier.stand_in:
        typer.echo(f"note: trained on drawn {classifier.stand_in}s, not real images", err=True)
    typer.echo(predictions_text(sound, rows, classifier.classes, form.value))
    if rejected:
        raise tlkit.DataError("\n".join(rejected))


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[Path, typer.Option(help="A folder with a folder a class, or a CSV manifest.")],
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Which split of the data; unset: test if there is one, else val."),
    ] = None,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run on labelled images."""
    from tlkit import console

    classifier = tlkit.load(run, plugins=plugins or [])
    scores = classifier.evaluate(data, split)
    if as_json:
        typer.echo(json.dumps(scores.as_json(), indent=2, ensure_ascii=False))
        return
    if classifier.stand_in:
        typer.echo(f"note: trained on drawn {classifier.stand_in}s, not real images", err=True)
    typer.echo(console.scores_text(str(data), scores))
