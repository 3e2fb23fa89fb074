"""Commands that take an experiment: `run`, `resume`, `check`, `lr-find`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import attrs
import typer

import tlkit
from tlkit.cli.app import AsJson, ExperimentFile, Overrides, PluginFiles, app
from tlkit.system.signals import raise_on_signal
from tlkit.system.text import json_text, printable, shell_quoted
from tlkit.train.callback import Callback


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
    with _stoppable("interrupted before the run began") as callback:
        done = tlkit.run(file, out, overrides=overrides or [], callback=callback)
    _show(done, as_json)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of an unfinished run.", metavar="RUN")],
    data: Annotated[
        Path | None,
        typer.Option(help="Where the data are now, if they have moved.", metavar="PATH"),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Go on although versions, processor or threads differ: so may the last bits.",
        ),
    ] = False,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped; it ends with the same bytes as if it had not been."""
    early = f"interrupted before the run went on; go on with: tlkit resume {shell_quoted(run)}"
    with _stoppable(early) as callback:
        done = tlkit.resume(run, plugins=plugins or [], data=data, anyway=anyway, callback=callback)
    if done is None:
        typer.echo(f"{run}: the run is finished; there is nothing to do", err=True)
    else:
        _show(done, as_json)


@contextmanager
def _stoppable(early: str) -> Iterator[Callback]:
    """Give a callback for a run, and end the process with the documented code if it is stopped.

    Args:
        early: What to say if that is before it takes notice of it.
    """
    from tlkit.reports.progress import Terminal

    callback = Terminal()
    try:
        with raise_on_signal(early):
            yield callback
    except KeyboardInterrupt as stop:
        callback.close()  # before the message: a bar would be drawn over it
        typer.echo(printable(stop) or early, err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    finally:
        callback.close()


def _show(done: tlkit.Run, as_json: bool) -> None:
    """Print what a run gave."""
    from tlkit.reports import console

    if as_json:
        found = {"run": str(done.folder), "evaluated_on": done.plan.evaluated_on}
        found |= done.kept.as_json()
        typer.echo(json_text(found))
        return
    from tlkit.metrics.published import cited_figures, figures, remarks
    from tlkit.reports.caveats import caveats
    from tlkit.runfolder.folder import RunFolder
    from tlkit.runfolder.record import read_run

    typer.echo(console.scores_text(done.plan.evaluated_on, done.result))
    typer.echo(f"\n{kept_text(done)}")
    if done.experiment.reference:
        cited = cited_figures(done.experiment.reference, done.plan.classes)
        typer.echo("\n" + console.references_text(figures(done.result), cited))
        for reference in () if done.plan.stand_in else done.experiment.reference:
            for text in remarks(done.result, reference):
                typer.echo(f"! {printable(reference.source)}: {text}")
    finished = read_run(RunFolder(done.folder))
    if finished.calibration:
        typer.echo("\n" + printable(finished.calibration_text))
    if warnings := caveats(finished):
        typer.echo("\n" + console.caveats_text(warnings))
    if done.plan.stand_in:
        typer.echo("\n" + console.stand_in_banner(done.plan.stand_in))
    folder = printable(done.folder)
    typer.echo(f"\nreport: {printable(done.folder / 'report.html')}\nrun folder: {folder}")
    typer.echo(f"next: tlkit predict {shlex.quote(folder)} IMAGE...")


def kept_text(done: tlkit.Run) -> str:
    """Return which epoch's weights were kept, and the accuracy of the alternative."""
    from tlkit.reports.console import kept_epoch_text

    fit, split = done.experiment.fit, done.plan.evaluated_on
    kept, other = (done.last, done.best) if fit.keep == "last" else (done.best, done.last)
    accuracy = other.scores[split].accuracy
    return kept_epoch_text(fit.keep, fit.monitor, kept.epoch, other.epoch, accuracy, split)


@app.command()
def check(file: ExperimentFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do, and do nothing."""
    from tlkit.reports import console

    plan = tlkit.check(file, overrides or [])
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
    from tlkit.reports.progress import Terminal

    callback = Terminal()
    try:
        curve = tlkit.lr_find(
            file,
            out,
            overrides=overrides or [],
            steps=steps,
            lowest=lowest,
            highest=highest,
            callback=callback,
        )
    finally:
        callback.close()
    if as_json:
        found = attrs.asdict(curve) | {"folder": str(curve.folder)}
        typer.echo(json.dumps(found | {"suggestion": curve.suggestion}, indent=2))
        return
    if curve.suggestion is None:
        typer.echo("no suggestion: the loss falls at none of these rates")
    else:
        typer.echo(f"suggestion: learning_rate = {curve.suggestion:.2g}")
    typer.echo(f"curve: {curve.folder / 'lr-find.svg'}")
    if curve.suggestion is not None:
        rate = f"{curve.suggestion:.2g}"
        typer.echo(f"next: tlkit run {file} --set optimizer.learning_rate={rate}")
