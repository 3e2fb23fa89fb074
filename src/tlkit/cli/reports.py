"""Commands that show a finished run: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlkit
from tlkit.cli.app import PluginFiles, RunFolder, app


@app.command()
def report(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the images are now, if they have moved.", metavar="PATH"),
    ] = None,
    plugins: PluginFiles = None,
) -> None:
    """Write report.html and MODEL_CARD.md of a finished run again.

    Everything comes from the run folder's files; nothing in it is run. With the images and the
    weights the report has pictures of mistakes and of what the model looks at.
    """
    page, missing = tlkit.report(run, data=data, plugins=plugins or [])
    if missing:
        typer.echo(f"note: no pictures: {missing}", err=True)
    typer.echo(f"report: {page}\nmodel card: {page.parent / 'MODEL_CARD.md'}")
