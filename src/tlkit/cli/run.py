"""Commands that take an experiment: `run`, `resume`, `check`, `lr-find`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

import tlkit
from tlkit.cli.app import TRAIN, TUNE, AsJson, ExperimentFile, Overrides, PluginFiles, command, echo
from tlkit.reports import console
from tlkit.runfolder.folder import RunFolder
from tlkit.system.signals import raise_on_signal
from tlkit.system.text import json_text, printable, shell_quoted
from tlkit.train.callback import Callback


@command(TRAIN, "photos.toml")
def run(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; must not exist. Default: runs/FILE-N.", metavar="DIR"),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and write a run folder."""
    with stoppable("interrupted before the run started") as callback:
        finished = tlkit.run(file, out, overrides=overrides or [], callback=callback)
    show_run(finished, as_json)


@command(TRAIN, "runs/photos-1")
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of an unfinished run.", metavar="RUN")],
    data: Annotated[
        Path | None,
        typer.Option(help="The new place of the data, if they have moved.", metavar="PATH"),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Continue although versions, processor or threads have changed; the last bits of "
            "the results may then differ.",
        ),
    ] = False,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Continue a stopped run; the result is the same, byte for byte."""
    early = f"interrupted before the run continued; continue with: tlkit resume {shell_quoted(run)}"
    with stoppable(early) as callback:
        finished = tlkit.resume(
            run, plugins=plugins or [], data=data, anyway=anyway, callback=callback
        )
    if finished is None:
        typer.echo(f"{run}: the run is finished; there is nothing to do", err=True)
    else:
        show_run(finished, as_json)


@contextmanager
def stoppable(early: str) -> Iterator[Callback]:
    """Yield a callback for a run; if it is stopped, exit with the documented code.

    Args:
        early: The message if it is stopped before it listens for signals itself.
    """
    from tlkit.reports.progress import Terminal  # needs rich

    callback = Terminal(result=False)
    try:
        with raise_on_signal(early):
            yield callback
    except KeyboardInterrupt as stop:
        callback.close()  # before the message: a bar would overwrite it
        typer.echo(printable(stop) or early, err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    finally:
        callback.close()


def run_json(run: tlkit.Run) -> dict[str, Any]:
    """Return the results of a run as plain values."""
    head = {"run": str(run.folder), "evaluated_on": run.plan.evaluated_on}
    return head | run.kept.as_json()


def show_run(run: tlkit.Run, as_json: bool = False) -> None:
    """Print the results of a run."""
    if as_json:
        typer.echo(json_text(run_json(run)))
        return
    from tlkit.metrics.published import cited_figures, figures, remarks  # needs NumPy
    from tlkit.reports.caveats import caveats  # with all parts: `--help` stays quick without
    from tlkit.reports.diagnosis import PAGE, diagnose, next_steps
    from tlkit.reports.tables import phases_text
    from tlkit.runfolder.record import read_run

    echo(console.scores_text(run.plan.evaluated_on, run.result))
    record = read_run(RunFolder(run.folder))
    echo(f"\n{kept_text(run, record.metrics.refit_images)}")
    if run.experiment.reference:
        cited = cited_figures(run.experiment.reference, run.plan.classes)
        echo("\n" + console.references_text(figures(run.result), cited))
        for reference in () if run.plan.stand_in else run.experiment.reference:
            for text in remarks(run.result, reference):
                echo(f"! {printable(reference.source)}: {text}")
    if phases := phases_text(record):
        echo(f"\n{phases}")
    if record.calibration:
        echo("\n" + printable(record.calibration_text))
    if warnings := caveats(record):
        echo("\n" + console.caveats_text(warnings))
    if run.plan.stand_in:
        echo("\n" + console.stand_in_banner(run.plan.stand_in))
    findings = diagnose(record)
    if findings:
        echo(f"\nwhat to change (docs: {PAGE})")
        echo("\n".join(f"- {printable(str(finding))}" for finding in findings))
    folder = printable(run.folder)
    echo(f"\nreport: {printable(run.folder / 'report.html')}\nrun folder: {folder}")
    for step in next_steps(record, run.folder, findings):
        echo(f"next: {step}")


def kept_text(run: tlkit.Run, refit_images: int | None = None) -> str:
    """Return which epoch's weights were kept, and the accuracy of the alternative."""
    fit, split = run.experiment.fit, run.plan.evaluated_on
    kept, other = (run.last, run.best) if fit.keep == "last" else (run.best, run.last)
    return console.kept_epoch_text(
        fit.keep,
        fit.monitor,
        kept.epoch,
        other.epoch,
        other.scores[split].accuracy,
        split,
        refit_images,
    )


@command(TRAIN, "photos.toml --set backbone.name=resnet50")
def check(
    file: ExperimentFile,
    all_layers: Annotated[
        bool, typer.Option("--layers", help="List every layer, in large networks too.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do, without doing it."""
    from tlkit.reports.progress import Terminal  # needs rich

    callback = Terminal()
    try:
        plan = tlkit.check(file, overrides or [], callback=callback)
    finally:
        callback.close()
    for note in plan.notes:
        echo(f"note: {printable(note)}", err=True)
    if as_json:
        typer.echo(json_text(plan.as_json()))
        return
    from tlkit.train.cost import cost_text

    echo(f"{console.plan_text(plan, all_layers)}\n\n{cost_text(plan)}")


@command(TUNE, "photos.toml", "lr-find")
def lr_find(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for the curve. Default: runs/FILE-lr-find-N.", metavar="DIR"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Maximum number of training steps.")] = 100,
    lowest: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="The last learning rate.")] = 1.0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a learning rate from a short run in which it rises."""
    from tlkit.reports.progress import Terminal  # needs rich

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
        figures = {"folder": str(curve.folder), "suggestion": curve.suggestion}
        typer.echo(json.dumps(attrs.asdict(curve) | figures, indent=2))
        return
    if curve.suggestion is None:
        typer.echo("no suggestion: the loss falls at none of these rates")
    else:
        typer.echo(f"suggestion: learning_rate = {curve.suggestion:.2g}")
    typer.echo(f"curve: {curve.folder / 'lr-find.svg'}")
    if curve.suggestion is not None:
        rate = f"optimizer.learning_rate={curve.suggestion:.2g}"
        settings = [f"--set {shell_quoted(text)}" for text in (*(overrides or []), rate)]
        echo(f"next: tlkit run {shell_quoted(file)} {' '.join(settings)}")
