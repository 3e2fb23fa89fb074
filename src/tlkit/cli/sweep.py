"""`tlkit sweep`: many runs of one study, summarized together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tlkit
from tlkit.cli.app import TUNE, AsJson, command, echo
from tlkit.data.splits import SPLITS
from tlkit.reports.console import table
from tlkit.system.text import json_text, printable_lines

if TYPE_CHECKING:
    from tlkit.sweeps.results import Sweep
    from tlkit.sweeps.trials import Trials


@command(TUNE, "photos.toml --seeds 0-4 --set head.depths=[1,3]", "sweep")
def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment, with or without a table \\[sweep].", metavar="[FILE]"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="One run per seed: 0-4, or 0,3,7.", metavar="SEEDS"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUES",
            help="Values of a key, in TOML; a list means one run per value: "
            "--set optimizer.learning_rate=[1e-4,2e-5]. Repeatable: all combinations are run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder. Unset: sweeps/FILE-N.", metavar="DIR"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Resume this sweep; finished runs are kept.", metavar="DIR"),
    ] = None,
    join: Annotated[
        Path | None,
        typer.Option(
            help="Take part in this sweep, next to other processes and machines that see its "
            "folder; start as many as you like.",
            metavar="DIR",
        ),
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(
            help="Show who makes which run of this sweep, and what is left.", metavar="DIR"
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            help="Processes on this machine, or where else to start them: ray:auto, "
            "ray:HOST:PORT, slurm:PARTITION.",
            metavar="N|WHERE",
        ),
    ] = "1",
    processes: Annotated[
        int | None,
        typer.Option(help="Processes for ray and slurm. Unset: all processors; 16.", min=1),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads per process. Unset: the processors, shared out.", min=1),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Begin no run after this time: 2h, 1h30m. --resume makes the others.",
            metavar="TIME",
        ),
    ] = None,
    plugins: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            metavar="FILE",
            help="With a sweep's folder: a file with parts that it uses, unchanged. Repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all runs and list them; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study for every combination of values, seeds and folds.

    All runs are checked before the first one starts; a run that fails does not end the others.
    With data.folds = 5, all five folds are run and pooled. The tables show the mean and standard
    deviation over the seeds with a 95 % interval, next to published results.

        tlkit sweep exp3.toml --seeds 0-4

        tlkit sweep exp3.toml --seeds 0-2 --set optimizer.learning_rate=[1e-3,2e-5]

        tlkit sweep exp3.toml --set data.folds=5

        tlkit sweep exp3.toml --seeds 0-4 --workers 4

        tlkit sweep --join sweeps/exp3-1

        tlkit sweep search.toml --budget 2h

    A table [sweep.search] draws some of the combinations and drops weak ones early.

    A key whose value is itself a list needs a list of lists: --set head.units=[[512],[1024,1024]].
    """
    folders = {"--resume": resume, "--join": join, "--status": status}
    named = [option for option, folder in folders.items() if folder is not None]
    if len(named) > 1 or (file is None and not named):
        raise typer.BadParameter(
            "give either a file or one of --resume DIR, --join DIR and --status DIR",
            param_hint="FILE",
        )
    if named and (seeds or overrides or out or dry_run):
        raise typer.BadParameter(
            "continues the sweep as it was started and takes none of its options",
            param_hint=named[0],
        )
    if file is not None and plugins and not named:
        message = "goes with a sweep's folder; FILE lists its own"
        raise typer.BadParameter(message, param_hint="--plugin")
    if file is not None and dry_run:
        typer.echo(printable_lines(_list(tlkit.plan_trials(file, overrides or [], seeds))))
        return
    if status is not None:
        found = tlkit.sweep_status(status, file=file, plugins=plugins or [])
        typer.echo(json_text(found.as_json()) if as_json else printable_lines(found))
        return
    from tlkit.sweeps.text import Lines, sweep_text

    callback = Lines()
    where: dict[str, Any] = {
        "workers": workers, "processes": processes, "threads": threads, "budget": budget
    }  # fmt: skip
    begin: Callable[..., Sweep]
    if resume is not None:
        begin = functools.partial(tlkit.resume_sweep, resume, file=file, plugins=plugins or [])
    elif join is not None:
        begin = functools.partial(tlkit.join_sweep, join, file=file, plugins=plugins or [])
    else:
        assert file is not None
        begin = functools.partial(tlkit.sweep, file, out, overrides=overrides or [], seeds=seeds)
    try:
        done = begin(callback=callback, **where)
    except KeyboardInterrupt as stop:
        echo("interrupted" + (f"; next: {callback.next}" if callback.next else ""), err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    typer.echo(json_text(_as_json(done)) if as_json else printable_lines(sweep_text(done)))
    if done.failed:
        raise typer.Exit(done.failed[0].exit_code)


@command(TUNE, "photos.toml --workers 2")
def features(
    file: Annotated[Path, typer.Argument(help="An experiment or a sweep.", metavar="FILE")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUES", help="As for tlkit sweep. Repeatable."),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            help="Processes on this machine, or actors: ray:auto, ray:HOST:PORT.",
            metavar="N|WHERE",
        ),
    ] = "1",
    processes: Annotated[
        int | None, typer.Option(help="Actors for ray. Unset: one per processor.", min=1)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads per process. Unset: the processors, shared out.", min=1),
    ] = None,
) -> None:
    """Compute the features of all images ahead, for a sweep to find.

    Runs on any number of machines that see the cache; start it on each. If it is stopped, it goes
    on where it was. Augmented versions of the training images are those of each seed and fold.
    """
    done = tlkit.features(
        file, overrides=overrides or [], workers=workers, processes=processes, threads=threads
    )
    typer.echo(str(done))


def _list(trials: Trials) -> str:
    rows = [
        [f"{t.name}  {t.label}", *(str(sum(t.plan.counts.get(s, {}).values())) for s in SPLITS)]
        for t in trials.trials
    ]
    notes = [f"note: {note}" for note in trials.notes]
    return "\n".join([table(["run", *SPLITS], rows), *notes])


def _as_json(done: Sweep) -> dict[str, Any]:
    return {
        "sweep": str(done.folder),
        "failed": {outcome.trial.name: outcome.error for outcome in done.failed},
        "variants": [
            {
                "variant": s.label,
                "seeds": list(s.seeds),
                "folds": s.folds,
                "runs": s.runs,
                "split": s.split,
                "images": s.images,
                "interval": s.interval,
                "figures": {
                    name: {"mean": f.mean, "sd": f.sd, "low": f.low, "high": f.high}
                    for name, f in s.figures.items()
                },
            }
            for s in done.all_summaries
        ],
    }
