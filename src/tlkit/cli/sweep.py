"""`tlkit sweep`: many runs, told as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tlkit
from tlkit.cli.app import AsJson, app
from tlkit.sweeps.sweep import SweepCallback
from tlkit.system.text import json_text, shell_quoted

if TYPE_CHECKING:
    from tlkit.sweeps.sweep import Sweep
    from tlkit.sweeps.trials import Trials


@app.command("sweep")
def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment, with a table \\[sweep] or without.", metavar="[FILE]"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="The seeds, each a run: 0-4, or 0,3,7.", metavar="SEEDS"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUES",
            help="Values for one key, in TOML; a list is several, each a run: "
            "--set optimizer.learning_rate=[1e-4,2e-5]. Repeatable: every combination is run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder. Unset: sweeps/FILE-N.", metavar="DIR"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this sweep: finished runs are kept.", metavar="DIR"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all runs and list them; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run one study many times: every combination of values, with every seed and fold.

    All runs are checked before the first begins; one that fails does not end the others. With
    data.folds = 5 all five folds are run and pooled. The tables show mean and standard deviation
    over the seeds with a 95 % interval, and published results beside them.

        tlkit sweep exp3.toml --seeds 0-4

        tlkit sweep exp3.toml --seeds 0-2 --set optimizer.learning_rate=[1e-3,2e-5]

        tlkit sweep exp3.toml --set data.folds=5

    A key whose value is a list itself needs a list of lists: --set head.units=[[512],[1024,1024]].
    """
    if (file is None) == (resume is None):
        raise typer.BadParameter("give either a file or --resume DIR", param_hint="FILE")
    if resume is not None and (seeds or overrides or out or dry_run):
        raise typer.BadParameter(
            "goes on as the sweep was begun and takes no other option", param_hint="--resume"
        )
    if file is not None and dry_run:
        typer.echo(_listed(tlkit.plan_trials(file, overrides or [], seeds)))
        return
    callback = Lines()
    try:
        if file is not None:
            done = tlkit.sweep(file, out, overrides=overrides or [], seeds=seeds, callback=callback)
        else:
            assert resume is not None
            done = tlkit.resume_sweep(resume, callback=callback)
    except KeyboardInterrupt as stop:
        where = (
            f"; next: tlkit sweep --resume {shell_quoted(callback.folder)}"
            if callback.folder
            else ""
        )
        typer.echo(f"interrupted{where}", err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    _show(done, as_json)
    if done.failed:
        raise typer.Exit(done.failed[0].exit_code)


def _show(done: Sweep, as_json: bool) -> None:
    from tlkit.sweeps.page import sweep_text

    typer.echo(json_text(_as_json(done)) if as_json else sweep_text(done))


class Lines(SweepCallback):
    """Prints a line a run on standard error."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def planned(self, trials: Trials, folder: Path) -> None:
        """Print how many runs there are and what the user should know."""
        self.folder = folder
        for note in trials.notes:
            typer.echo(f"note: {note}", err=True)
        count, variants = len(trials.trials), len(trials.variants)
        said = f"{count} runs of {variants} variant{'s' * (variants > 1)}"
        typer.echo(f"{said}, all checked; into {folder}", err=True)

    def run_done(self, number: int, count: int, outcome: Any, seconds: float) -> None:
        """Print what came of a run."""
        from tlkit.sweeps.page import outcome_text

        took = f"{seconds:.0f} s" if seconds else "kept"
        width = len(str(count))
        typer.echo(f"[{number:{width}d}/{count}] {outcome_text(outcome)}  ({took})", err=True)


def _listed(trials: Trials) -> str:
    from tlkit.data.splits import SPLITS
    from tlkit.reports.console import table

    rows = [
        [f"{t.name}  {t.label}", *(str(sum(t.plan.counts.get(s, {}).values())) for s in SPLITS)]
        for t in trials.trials
    ]
    notes = [f"note: {note}" for note in trials.notes]
    return "\n".join([table(["run", *SPLITS], rows), *notes])


def _as_json(done: Sweep) -> dict[str, Any]:
    """Return plain values of what a sweep shows."""
    summaries = [*done.summaries, *([done.nested] if done.nested else [])]
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
            for s in summaries
        ],
    }
