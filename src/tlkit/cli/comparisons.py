"""The command that sets runs side by side: `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from tlkit.cli.app import AsJson, app
from tlkit.cli.images import must_be_new
from tlkit.console import table
from tlkit.escapes import json_text, printable

if TYPE_CHECKING:
    from tlkit.results.compare import Paired, Recorded

WIDEST = 40  # a setting's value on a terminal


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

    from tlkit.results.compare import notes, paired, read_run

    read = [read_run(path) for path in runs]
    pairs = [paired(read[0], run) for run in read[1:]]
    if out is not None:
        from tlkit.results.comparison_page import write_comparison

        write_comparison(out, read, pairs)
    if as_json:
        typer.echo(json_text(_json(read, pairs)))
        return
    for note in notes(read):
        typer.echo(f"note: {printable(note)}", err=True)
    typer.echo("\n\n".join([_names(read), _settings(read), _pairs(pairs), _scores(read)]))
    if out is not None:
        typer.echo(f"\npage: {out}")


def _json(runs: Sequence[Recorded], pairs: Sequence[Paired | None]) -> dict[str, Any]:
    from tlkit.results.compare import differences, notes

    return {
        "runs": [{"run": one.name, one.split: one.scores.as_json()} for one in runs],
        "notes": notes(runs),
        "differences": [attrs.asdict(one) for one in differences(runs)],
        "against_first": [one and attrs.asdict(one) for one in pairs],
    }


def _marks(runs: Sequence[Recorded]) -> list[str]:
    return [f"[{number}]" for number in range(1, len(runs) + 1)]


def _names(runs: Sequence[Recorded]) -> str:
    return "\n".join(
        f"{mark} {printable(run.name)}" for mark, run in zip(_marks(runs), runs, strict=True)
    )


def _settings(runs: Sequence[Recorded]) -> str:
    from tlkit.results.compare import differences

    found = differences(runs)
    if not found:
        return "all settings are the same"
    rows = [[printable(one.key), *map(_short, one.values)] for one in found]
    return table(["settings that differ", *_marks(runs)], rows)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _scores(runs: Sequence[Recorded]) -> str:
    from tlkit.results.compare import figures_beside

    splits = " and ".join(dict.fromkeys(run.split for run in runs))
    rows = [["images", *(str(run.scores.images) for run in runs)]]
    rows += [[printable(title), *values] for title, values in figures_beside(runs)]
    return table([f"on {splits}, with 95 % intervals", *_marks(runs)], rows)


def _pairs(pairs: Sequence[Paired | None]) -> str:
    from tlkit.results.compare import points

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
