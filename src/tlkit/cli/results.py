"""Commands on finished runs: `compare`, `ensemble`, `report`, `verify`, `export`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import attrs
import typer

import tlkit
from tlkit.cli.app import USE, AsJson, PluginFiles, RunFolder, command, echo
from tlkit.cli.predict import must_be_new
from tlkit.reports.console import scores_text
from tlkit.system.errors import RunFolderError
from tlkit.system.text import json_text, printable, shell_quoted


@command(USE, "runs/photos-1 runs/photos-2")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a page with curves to this new file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: what differs, and whether it is chance.

    Each run is compared with the first on the images that both were evaluated on, with McNemar's
    exact test and a 95 % interval of the difference in accuracy.
    """
    must_be_new(out, "--out")
    if len(runs) < 2:
        raise typer.BadParameter("needs two runs or more", param_hint="RUN...")

    comparison = tlkit.compare(*runs)
    if out is not None:
        comparison.write(out)
    if as_json:
        typer.echo(json_text(comparison.as_json()))
        return
    for note in comparison.notes:
        echo(f"note: {printable(note)}", err=True)
    typer.echo(comparison)
    if out is not None:
        typer.echo(f"\npage: {out}")


@command(USE, "runs/photos-1 runs/photos-2")
def ensemble(
    members: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs, or of sweeps.", metavar="MEMBER..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder. Unset: ensembles/NAME-N."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Average the probabilities of runs, or of sweeps, and score them.

    Recorded probabilities are averaged with equal weights, and the average is compared with each
    member on the same images.

    tlkit predict and tlkit evaluate take an ensemble of runs like a run.

    Of sweeps, every variant and seed is a member; they are averaged fold by fold.
    """
    made = tlkit.ensemble(*members, out=out)
    if as_json:
        typer.echo(json_text(made.as_json()))
        return
    notes = [made.note, *(made.comparison.notes if made.comparison else ())]
    for note in filter(None, notes):
        echo(f"note: {printable(note)}", err=True)
    if made.comparison is not None:
        judged = made.comparison.runs[0]
        echo(f"{scores_text(judged.split, judged.scores)}\n\n{made.comparison}\n")
    typer.echo(printable(f"ensemble: {made.folder}"))
    if not made.of_sweeps:
        echo(f"next: tlkit predict {shell_quoted(made.folder)} IMAGE...")


@command(USE, "runs/photos-1")
def report(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the images are now, if they have moved.", metavar="PATH"),
    ] = None,
    plugins: PluginFiles = None,
) -> None:
    """Write report.html and MODEL_CARD.md of a finished run again.

    Everything comes from the run folder's files; none of them is run. If the images and weights
    are there, the report shows mistakes and heatmaps.
    """
    written = tlkit.report(run, data=data, plugins=plugins or [])
    if written.note:
        echo(f"note: no images in the report: {written.note}", err=True)
    typer.echo(f"report: {written.path}\nmodel card: {written.path.parent / 'MODEL_CARD.md'}")


@command(USE, "runs/photos-1")
def verify(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, sweeps or exports.", metavar="FOLDER..."),
    ],
    as_json: AsJson = False,
) -> None:
    """Check that every file of a folder is as it was written.

    Runs are also read as for a report, and their weights must be finite; a sweep's runs must be
    the planned ones. Exit 7 if anything is damaged, with every file.
    """
    found = [tlkit.verify(folder) for folder in folders]
    if as_json:
        typer.echo(json_text([attrs.asdict(one) | {"folder": str(one.folder)} for one in found]))
    for one in found:
        for note in one.notes:
            typer.echo(printable(f"note: {note}"), err=True)
        if not as_json and not one.problems:
            typer.echo(printable(f"{one.folder}: {one.files} files are as they were written"))
    if damaged := [problem for one in found for problem in one.problems]:
        raise RunFolderError("\n".join(damaged))


class To(StrEnum):
    """Formats that a model can be exported to."""

    savedmodel = "savedmodel"
    keras = "keras"
    onnx = "onnx"


@command(USE, "runs/photos-1 --to onnx")
def export(
    run: RunFolder,
    to: Annotated[
        To,
        typer.Option(
            help="savedmodel for TensorFlow, keras for a single file of standard Keras layers, or "
            "onnx for ONNX Runtime (extra: pip install 'tlkit\\[onnx]')."
        ),
    ] = To.savedmodel,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder; must not exist. Unset: exports/RUN-TO.", metavar="DIR"),
    ] = None,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's model for programs without tlkit.

    The model includes the preprocessing: RGB pixels from 0 to 255 in, probabilities out.

    Next to it are model.json, with the class names, and predict.py, which shows how to use it.
    """
    done = tlkit.export(run, out, to=to.value, plugins=plugins or [])
    if as_json:
        values = attrs.asdict(done) | {"folder": str(done.folder), "file": str(done.file)}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    size = done.image_size
    typer.echo(f"{done.file}: (batch, {size}, {size}, 3) float32, RGB from 0 to 255, to")
    typer.echo(f"probabilities of {', '.join(done.classes)}")
    if done.difference is None:
        echo("note: not tested, because onnxruntime is not installed", err=True)
    else:
        typer.echo(f"tested: differs from the run's probabilities by at most {done.difference:.1g}")
    echo(f"next: python {shell_quoted(done.folder / 'predict.py')} IMAGE...")
