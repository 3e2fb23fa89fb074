"""`tlkit export`: a finished run's model for programs without tlkit."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import attrs
import typer

import tlkit
from tlkit.cli.app import AsJson, PluginFiles, RunFolder, app


class To(StrEnum):
    """What a model is exported to."""

    savedmodel = "savedmodel"
    keras = "keras"
    onnx = "onnx"


@app.command()
def export(
    run: RunFolder,
    to: Annotated[
        To,
        typer.Option(
            help="savedmodel for TensorFlow, keras for one file of Keras's own layers, or onnx "
            "for ONNX Runtime (extra: pip install 'tlkit\\[onnx]')."
        ),
    ] = To.savedmodel,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder; must not exist. Unset: exports/RUN-TO.", metavar="DIR"),
    ] = None,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's model for programs without tlkit: pixels in, probabilities out.

    The preprocessing is part of the model: its input is RGB pixels from 0 to 255.

    Beside it lie model.json, with the class names, and predict.py, which shows how to use it.
    """
    done = tlkit.export(run, out, to=to.value, plugins=plugins or [])
    if as_json:
        found = attrs.asdict(done) | {"folder": str(done.folder), "file": str(done.file)}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    size = done.image_size
    typer.echo(f"{done.file}: (batch, {size}, {size}, 3) float32, RGB from 0 to 255, to")
    typer.echo(f"probabilities of {', '.join(done.classes)}")
    if done.difference is None:
        typer.echo("note: not tried out, onnxruntime is not installed", err=True)
    else:
        typer.echo(f"tried out: {done.difference:.1g} from the run's probabilities at most")
    typer.echo(f"next: python {shlex.quote(str(done.folder / 'predict.py'))} IMAGE...")
