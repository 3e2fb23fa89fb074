"""Commands that take an experiment: `run`, `check`, `lr-find`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import attrs
import typer

import tlkit
from tlkit.cli.app import AsJson, ExperimentFile, Overrides, app
from tlkit.config.experiment import load_experiment
from tlkit.escapes import json_text, printable


@app.command()
def run(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; must not exist. Unset: runs/FILE-N.", metavar="DIR"),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and write a run folder."""
    from tlkit import console

    watcher = console.Terminal()
    try:
        done = tlkit.run(file, out, overrides=overrides or [], watcher=watcher)
    except KeyboardInterrupt:
        watcher.close()  # before the message: a bar would be drawn over it
        typer.echo("interrupted; the run is not finished and cannot be resumed", err=True)
        raise typer.Exit(130) from None
    finally:
        watcher.close()
    if as_json:
        found = {"run": str(done.folder), "evaluated_on": done.plan.evaluated_on}
        found |= done.kept.as_json()
        typer.echo(json_text(found))
        return
    from tlkit.results.cautions import cautions
    from tlkit.results.finished import read_finished
    from tlkit.results.folder import RunFolder
    from tlkit.results.metrics import figures, reference_figures
    from tlkit.results.published import remarks

    typer.echo(console.scores_text(done.plan.evaluated_on, done.result))
    typer.echo("\n" + console.epochs_text(done))
    if done.experiment.reference:
        published = [
            (reference, reference_figures(reference, done.plan.classes))
            for reference in done.experiment.reference
        ]
        typer.echo("\n" + console.references_text(figures(done.result), published))
        for reference in () if done.plan.stand_in else done.experiment.reference:
            for text in remarks(done.result, reference):
                typer.echo(f"! {printable(reference.source)}: {text}")
    typer.echo("\n" + console.cautions_text(cautions(read_finished(RunFolder(done.folder)))))
    if done.plan.stand_in:
        typer.echo("\n" + console.stand_in_banner(done.plan.stand_in))
    typer.echo(f"\nreport: {done.folder / 'report.html'}\nrun folder: {done.folder}")
    typer.echo(f"next: tlkit predict {done.folder} IMAGE...")


@app.command()
def check(file: ExperimentFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do, and do nothing."""
    from tlkit import console

    plan = tlkit.check(load_experiment(file, overrides or []))
    if as_json:
        typer.echo(json_text(plan.as_json()))
    else:
        typer.echo(console.plan_text(plan))


@app.command("lr-find")
def lr_find(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the curve. Unset: runs/FILE-lr-find-N.", metavar="DIR"),
    ] = None,
    steps: Annotated[int, typer.Option(help="How many batches are trained on at most.")] = 100,
    lowest: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="The last learning rate.")] = 1.0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a learning rate: train briefly while it rises, and draw the loss over it."""
    from tlkit import console

    watcher = console.Terminal()
    try:
        curve = tlkit.lr_find(
            file,
            out,
            overrides=overrides or [],
            steps=steps,
            lowest=lowest,
            highest=highest,
            watcher=watcher,
        )
    finally:
        watcher.close()
    if as_json:
        found = attrs.asdict(curve) | {"folder": str(curve.folder)}
        typer.echo(json.dumps(found | {"suggestion": curve.suggestion}, indent=2))
        return
    if curve.suggestion is None:
        typer.echo("no suggestion: the loss falls at none of these rates")
    else:
        typer.echo(f"suggestion: learning_rate = {curve.suggestion:.2g}")
    typer.echo(f"curve: {curve.folder / 'lr-find.png'}")
    if curve.suggestion is not None:
        rate = f"{curve.suggestion:.2g}"
        typer.echo(f"next: tlkit run {file} --set optimizer.learning_rate={rate}")
