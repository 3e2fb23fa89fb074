"""`tlkit sweep`: many runs of one study, summarized together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tlkit
from tlkit.cli.app import TUNE, AsJson, command, echo
from tlkit.data.splits import SPLITS
from tlkit.reports.console import table
from tlkit.system.text import json_text, shell_quoted

if TYPE_CHECKING:
    from tlkit.sweeps.summary import Sweep
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

    A key whose value is itself a list needs a list of lists: --set head.units=[[512],[1024,1024]].
    """
    if (file is None) == (resume is None):
        raise typer.BadParameter("give either a file or --resume DIR", param_hint="FILE")
    if resume is not None and (seeds or overrides or out or dry_run):
        raise typer.BadParameter(
            "continues the sweep as it was started and takes no other option",
            param_hint="--resume",
        )
    if file is not None and dry_run:
        typer.echo(_list(tlkit.plan_trials(file, overrides or [], seeds)))
        return
    from tlkit.sweeps.text import Lines, sweep_text

    callback = Lines()
    try:
        if file is not None:
            done = tlkit.sweep(file, out, overrides=overrides or [], seeds=seeds, callback=callback)
        else:
            assert resume is not None
            done = tlkit.resume_sweep(resume, callback=callback)
    except KeyboardInterrupt as stop:
        command = f"tlkit sweep --resume {shell_quoted(callback.folder)}"
        echo("interrupted" + (f"; next: {command}" if callback.folder else ""), err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    typer.echo(json_text(_as_json(done)) if as_json else sweep_text(done))
    if done.failed:
        raise typer.Exit(done.failed[0].exit_code)


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
