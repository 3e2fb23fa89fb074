"""`tlkit export`: a finished run's model for programs without tlkit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

import tlkit
from tlkit.cli.app import AsJson, PluginFiles, RunFolder, app
from tlkit.cli.predict import must_be_new
from tlkit.reports.console import table
from tlkit.system.text import json_text, printable

if TYPE_CHECKING:
    from tlkit.reports.compare import ComparedRun, Paired


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="The folders of finished runs.", metavar="RUN...")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="A new file for it all as a page, with curves."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side: settings that differ, how good each is, whether that is chance.

    Each run is compared with the first on the images that both are judged by: McNemar's exact
    test, and the difference in accuracy with its 95 % interval.
    """
    must_be_new(out, "--out")
    if len(runs) < 2:
        raise typer.BadParameter("needs two runs or more", param_hint="RUN...")

    from tlkit.reports.compare import notes, paired, read_run

    read = [read_run(path) for path in runs]
    pairs = [paired(read[0], run) for run in read[1:]]
    if out is not None:
        from tlkit.reports.comparison_page import write_comparison

        write_comparison(out, read, pairs)
    if as_json:
        typer.echo(json_text(_json(read, pairs)))
        return
    for note in notes(read):
        typer.echo(f"note: {printable(note)}", err=True)
    typer.echo("\n\n".join([_names(read), _settings(read), _pairs(pairs), _scores(read)]))
    if out is not None:
        typer.echo(f"\npage: {out}")


def _json(runs: Sequence[ComparedRun], pairs: Sequence[Paired | None]) -> dict[str, Any]:
    from tlkit.reports.compare import differences, notes

    return {
        "runs": [{"run": one.name, one.split: one.scores.as_json()} for one in runs],
        "notes": notes(runs),
        "differences": [attrs.asdict(one) for one in differences(runs)],
        "against_first": [one and attrs.asdict(one) for one in pairs],
    }


def _marks(runs: Sequence[ComparedRun]) -> list[str]:
    return [f"[{number}]" for number in range(1, len(runs) + 1)]


def _names(runs: Sequence[ComparedRun]) -> str:
    return "\n".join(
        f"{mark} {printable(run.name)}" for mark, run in zip(_marks(runs), runs, strict=True)
    )


def _settings(runs: Sequence[ComparedRun]) -> str:
    from tlkit.reports.compare import differences

    found = differences(runs)
    if not found:
        return "all settings are the same"
    rows = [[printable(one.key), *map(_short, one.values)] for one in found]
    return table(["settings that differ", *_marks(runs)], rows)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _scores(runs: Sequence[ComparedRun]) -> str:
    from tlkit.reports.compare import figures_beside

    splits = " and ".join(dict.fromkeys(run.split for run in runs))
    rows = [["images", *(str(run.scores.images) for run in runs)]]
    rows += [[printable(title), *values] for title, values in figures_beside(runs)]
    return table([f"on {splits}, with 95 % intervals", *_marks(runs)], rows)


def _pairs(pairs: Sequence[Paired | None]) -> str:
    from tlkit.reports.compare import points

    head = ["on the same images", "images", "accuracy, points", "95 % interval", "only it right",
            "only [1] right", "p", "difference"]  # fmt: skip
    rows = []
    for number, found in enumerate(pairs, start=2):
        name = f"[{number}] against [1]"
        if found is None:
            rows.append([name, "0", *["-"] * 6])
        else:
            sides = [str(found.only_second), str(found.only_first)]
            rows.append(
                [name, str(found.images), *points(found), *sides, f"{found.p:.2g}", found.verdict]
            )
    return table(head, rows)


class To(StrEnum):
    """What a model is exported to."""

    savedmodel = "savedmodel"
    keras = "keras"
    onnx = "onnx"


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


WIDEST = 40  # a setting's value on a terminal


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
