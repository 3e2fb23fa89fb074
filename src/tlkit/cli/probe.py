"""`tlkit probe`: rank the pretrained networks on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import tlkit
from tlkit.cli.app import TUNE, AsJson, command, echo
from tlkit.cli.data import Patient, Where
from tlkit.cli.run import run_json, show_run, stoppable
from tlkit.system.text import json_text, printable, shell_quoted


class Recipe(StrEnum):
    """The recipes that `--then` can run."""

    probe = "probe"
    fine_tune = "fine_tune"


@command(TUNE, "photos")
def probe(
    data: Where,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the results. Default: runs/probe-N.", metavar="DIR"),
    ] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="NAME[=FILE]",
            help="A backbone to try, with a file of weights if they are not installed. "
            "Repeatable. Unset: all whose weights are on this machine (tlkit weights list).",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="The number of folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the folds.")] = 0,
    patient: Patient = None,
    joined: Annotated[
        bool, typer.Option("--joined/--not-joined", help="Also try the best two together.")
    ] = True,
    then: Annotated[
        Recipe | None,
        typer.Option(help="Run this recipe with the best afterwards.", metavar="RECIPE"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that compute features.", min=1)] = 1,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads per process. Unset: the processors, shared out.", min=1),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the pretrained networks on this machine for your images.

    Each network is used frozen, at its own image size, with a linear classifier on its features,
    which is fitted and scored in folds of train and val. A test split is put aside.
    """
    with stoppable("interrupted; features that were computed stay in the cache") as callback:
        result = tlkit.probe(
            data,
            out,
            backbones=backbones or [],
            folds=folds,
            seed=seed,
            patient=patient,
            joined=joined,
            workers=workers,
            threads=threads,
            callback=callback,
        )
        if not as_json:
            _show(result)
        file = _experiment(result, then) if then else None
        if file and not as_json:
            typer.echo(f"\n{printable(file)}")
        finished = tlkit.run(file, callback=callback) if file else None
    if as_json:
        facts = {"folder": str(result.folder), **result.as_json()}
        typer.echo(json_text(facts | ({"run": run_json(finished)} if finished else {})))
    elif finished:
        show_run(finished)
    else:
        echo(f"next: tlkit run {printable(shell_quoted(result.experiment))}")


def _experiment(result: tlkit.ProbeResult, recipe: Recipe) -> Path:
    """Return an experiment file with the best backbone, writing it if it is not there yet."""
    from tlkit.probes.probe import write_best

    if recipe == Recipe.probe:
        return result.experiment
    path = result.folder / f"best_{recipe}.toml"
    write_best(result, path, recipe)
    return path


def _show(result: tlkit.ProbeResult) -> None:
    from tlkit.probes.result import probe_text

    for note in result.notes:
        echo(f"note: {printable(note)}", err=True)
    typer.echo(probe_text(result))
    typer.echo(f"\npage: {printable(result.folder / 'probe.html')}")
