"""Build the study's two datasets from local copies of its public sources.

python examples/covidx/build.py --dry-run
"""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from building import study, tables
from building.guide import guide, missing
from building.sources import COHEN, FIGURE1, LISTS, PROJECTS, RSNA
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tlkit.data.dicom import require_pydicom
from tlkit.system.errors import DataError, TlkitError
from tlkit.system.text import printable

HERE = Path(__file__).parent
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def folder_option(name: str, what: str) -> object:
    """Return an option for the folder of one project."""
    return typer.Option(name, help=f"{what}. Unset: below --sources.", metavar="DIR")


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def build(
    sources: Annotated[
        Path, typer.Option(help="The folder with all four projects.", metavar="DIR")
    ] = HERE / "sources",
    cohen: Annotated[
        Path | None, folder_option("--cohen", "COVID-19 Image Data Collection")
    ] = None,
    figure1: Annotated[Path | None, folder_option("--figure1", "Figure 1 initiative")] = None,
    rsna: Annotated[Path | None, folder_option("--rsna", "RSNA challenge, stage 2")] = None,
    lists: Annotated[Path | None, folder_option("--lists", "COVID-Net, with the lists")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the manifests and images.", metavar="DIR")
    ] = HERE / "data",
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Use the two growing collections as of the end of this day (UTC), from the "
            "history of their clones.",
            metavar="YYYY-MM-DD",
        ),
    ] = None,
    keep_surplus: Annotated[
        bool,
        typer.Option(
            "--keep-surplus",
            help="Keep validation images added after the study; differs from Table 2.",
        ),
    ] = False,
    leave_out_unmatched: Annotated[
        bool,
        typer.Option(
            "--leave-out-unmatched",
            help="Skip images that cannot be matched or decoded; list them in left_out.txt.",
        ),
    ] = False,
    leave_out_shared: Annotated[
        bool,
        typer.Option(
            "--leave-out-shared",
            help="Skip validation images of patients in training or test.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed for drawing COVIDxMINI from COVIDxPLUS.")] = 10,
    max_side: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Shrink larger images to this many pixels; 512 needs a quarter of the disk space. "
            "Unset: original size.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Images decoded in parallel.")] = (
        os.cpu_count() or 1
    ),
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what to download, what is missing and what would be built."
        ),
    ] = False,
    find_date: Annotated[
        bool,
        typer.Option(
            "--find-date",
            help="Show the number of validation images per day; needs git.",
        ),
    ] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="List all problems, not only the first ten of each kind.")
    ] = False,
) -> None:
    """Build COVIDxPLUS and COVIDxMINI from local copies of the public sources.

    Start with --dry-run: it shows which projects to download and where to put them, and checks
    what you have. Then run without it. Train and test follow the COVIDx lists (version 2);
    validation is what the sources have beyond them. The counts are checked against the paper's
    Table 2; nothing is skipped or guessed silently. An interrupted build continues where it
    stopped.
    """
    given = {COHEN: cohen, FIGURE1: figure1, RSNA: rsna, LISTS: lists}
    folders = {project.folder: given[project] or sources / project.folder for project in PROJECTS}
    if dry_run:
        typer.echo(guide(folders))
    if absent := missing(folders):
        if dry_run:
            raise DataError(f"{len(absent)} files or folders are missing; see above")
        lines = [f"{path}: is missing" for path in absent]
        raise DataError("\n".join([*lines, "--dry-run shows where to get them"]))
    if as_of is not None:
        _check_date(as_of)
    options = study.Options(
        folders=folders,
        out=out,
        as_of=as_of,
        keep_surplus=keep_surplus,
        leave_out_unmatched=leave_out_unmatched,
        leave_out_shared=leave_out_shared,
        seed=seed,
        max_side=max_side,
        workers=workers,
        show_all=show_all,
    )
    if find_date:
        _show_days(options)
        return
    require_pydicom()
    plus = study.gather(options)
    for note in plus.notes:
        typer.echo(f"note: {printable(note)}", err=True)
    if dry_run:
        typer.echo(tables.table("COVIDxPLUS", tables.sizes(plus.images), options.plus))
        typer.echo("everything is there; next: run without --dry-run")
        return
    _build(options, plus)


def _build(options: study.Options, plus: study.Plus) -> None:
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("writing PNG files", total=len(plus.images))

        def on_image(done: int) -> None:
            bar.update(task, completed=done)
            if done % 1000 == 0 and not console.is_terminal:
                typer.echo(f"{done:,} of {len(plus.images):,} images", err=True)

        summary = study.build(options, plus, on_image)
    seconds = time.perf_counter() - start
    typer.echo(summary)
    typer.echo(f"{seconds:.0f} s, {len(plus.images) / seconds:.0f} images per second")
    typer.echo(f"\n{options.out}\nnext: tlkit check {HERE / 'exp3.toml'}{_setting(options.out)}")


def _setting(out: Path) -> str:
    """Return the `--set` with which the study reads the data from another folder than its own."""
    if out.resolve() == (HERE / "data").resolve():
        return ""
    table = (out / "covidxmini.csv").resolve()
    return f" --set {shlex.quote(f'data.path={table.as_posix()!r}')}"


def _show_days(options: study.Options) -> None:
    typer.echo("validation images: day, normal, pneumonia, covid-19")
    wanted = options.plus["val"]
    for day, counts in study.days(options):
        mark = "  as in Table 2" if counts == wanted else ""
        typer.echo(f"{day}  {'  '.join(f'{count:>5}' for count in counts)}{mark}")


def _check_date(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        message = f"must be a day such as 2020-05-20, got {printable(text)}"
        raise typer.BadParameter(message, param_hint="--as-of") from None


def main() -> None:
    """Run the command; exit with tlkit's codes, 4 for problems with the data."""
    try:
        app()
    except TlkitError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command to continue", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
