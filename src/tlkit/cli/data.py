"""Commands for data before training: `data inspect`, `data split`, `data verify`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tlkit
from tlkit.cli.app import DATA, AsJson, Group, app, command, echo
from tlkit.reports.console import table
from tlkit.system.text import first_lines, json_text, printable

if TYPE_CHECKING:
    from tlkit.inspect.inspect import Inspection
    from tlkit.inspect.shortcuts import Shortcut

data = typer.Typer(
    name="data",
    cls=Group,
    no_args_is_help=True,
    short_help="Inspect data, split them, verify a manifest.\n[dim]tlkit data inspect photos[/dim]",
    help="Inspect data, split them, verify a manifest.",
)
app.add_typer(data, rich_help_panel=DATA)

Where = Annotated[
    Path,
    typer.Argument(
        help="A folder with a folder per class, in train, val and test or not; or a CSV file.",
        metavar="PATH",
    ),
]
Patient = Annotated[
    str | None,
    typer.Option(
        help="For data that do not state patients: a regular expression whose one group, searched "
        "in the file name, is the patient, such as '^(p[0-9]+)_'.",
        metavar="REGEX",
    ),
]
NearBits = Annotated[
    int,
    typer.Option(
        min=0,
        max=256,
        help="The most bits, of 256, in which the hashes of near duplicates may differ.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="The folder that the paths in a CSV file are relative to. Unset: the file's own.",
        metavar="DIR",
    ),
]
DEFAULT_NEAR_BITS = 12  # tlkit.inspect.fingerprints.NEAR_BITS, whose module imports NumPy


@command(None, "photos", "inspect", to=data)
def data_inspect(
    path: Where,
    root: Root = None,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    mask_center: Annotated[
        float,
        typer.Option(min=0.1, max=0.9, help="The share of each side blacked out in the control."),
    ] = 0.6,
    as_json: AsJson = False,
) -> None:
    """Show the contents of a data set, its duplicates, and shortcuts to the label.

    A shortcut is a property such as source, size, format or border that predicts the label by
    itself. A network can use it too, and its score then says little about what the images show.
    """
    from tlkit.inspect.inspect import inspect_data
    from tlkit.reports.progress import counting_bar

    with counting_bar("reading images") as on_image:
        inspection = inspect_data(
            path,
            root=root,
            patient=patient,
            near_bits=near_bits,
            mask_center=mask_center,
            on_image=on_image,
        )
    if as_json:
        typer.echo(json_text(inspection.as_json()))
    else:
        typer.echo(_inspection_text(inspection))
    _print_notes(inspection.notes)
    if inspection.problems:
        head = f"{len(inspection.problems)} cannot be read"
        raise tlkit.DataError(_listed(head, inspection.problems))


@command(None, "photos --out photos/manifest.csv", "split", to=data)
def data_split(
    path: Where,
    out: Annotated[
        Path,
        typer.Option(
            help="The new manifest, in the images' folder or above it.",
            metavar="FILE",
        ),
    ],
    val: Annotated[float, typer.Option(help="The share of validation images.")] = 0.15,
    test: Annotated[float, typer.Option(help="The share of test images; 0: no test split.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the draw.")] = 0,
    root: Root = None,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    as_json: AsJson = False,
) -> None:
    """Write a manifest whose splits share no patient and no duplicates.

    Every class has about the same share in each split.
    """
    from tlkit.inspect.split import split_data
    from tlkit.reports.progress import counting_bar

    with counting_bar("reading images") as on_image:
        result = split_data(
            path,
            out,
            root=root,
            val=val,
            test=test,
            seed=seed,
            patient=patient,
            near_bits=near_bits,
            on_image=on_image,
        )
    if as_json:
        typer.echo(json_text({"counts": result.counts, "target": result.target}))
        return
    rows = [
        [split, *(f"{n} of {result.target[split][name]:.1f}" for name, n in counts.items())]
        for split, counts in result.counts.items()
    ]
    typer.echo(table(["images, of target", *next(iter(result.counts.values()))], rows))
    typer.echo(f"\n{result.groups} groups of one patient or of duplicates were kept together")
    if result.without_patient:
        note = f"{result.without_patient} images have no patient (--patient)"
        echo(f"note: {note}; of these only duplicates are kept together", err=True)
    _print_notes(result.notes)
    echo(f"\n{out}\nnext: tlkit data verify {shlex.quote(str(out))}")


@command(None, "photos/manifest.csv", "verify", to=data)
def data_verify(
    manifest: Where,
    root: Root = None,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    as_json: AsJson = False,
) -> None:
    """Check that every row holds and that splits share nothing; exit with 4 if not.

    Every file exists, decodes and has the stated hash; no patient, file, picture or near duplicate
    is in two splits; no picture has two labels.
    """
    from tlkit.inspect.verify import verify_manifest
    from tlkit.reports.progress import counting_bar

    with counting_bar("reading images") as on_image:
        result = verify_manifest(
            manifest, root=root, patient=patient, near_bits=near_bits, on_image=on_image
        )
    if as_json:
        typer.echo(json_text(result.as_json()))
    _print_notes(result.notes)
    if not result.sound:
        kinds = (
            ("rows are wrong", result.problems),
            ("are in two splits", result.leaks),
            ("pictures have two labels", result.conflicts),
        )
        found = [
            _listed(f"{manifest}: {len(lines)} {what}", lines) for what, lines in kinds if lines
        ]
        raise tlkit.DataError("\n".join(found))
    if not as_json:
        typer.echo(f"{manifest}: all {result.rows} rows are sound")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        echo(f"note: {printable(note)}", err=True)


def _inspection_text(inspection: Inspection) -> str:
    def counts(what: str, by: Mapping[str, Mapping[str, int]], unnamed: str) -> str:
        rows = [
            [key or unnamed, *map(str, row.values()), str(sum(row.values()))]
            for key, row in by.items()
        ]
        return table([what, *inspection.classes, "all"], rows)

    least, middle, most = map("{}×{}".format, inspection.widths, inspection.heights)
    formats = ", ".join(f"{count} {kind}" for kind, count in inspection.formats.items())
    number = inspection.duplicates.count
    lines = [
        counts("images", inspection.counts, "no split"),
        "",
        f"sides: {least} to {most} px, median {middle}; {formats}",
        f"patients: {inspection.patients} known, {inspection.without_patient} images without",
        "",
    ]
    if any(inspection.sources):
        lines += [counts("source", inspection.sources, "unknown"), ""]
    lines.append(
        f"duplicates: {number('bytes')} files and {number('pixels')} pictures appear again, "
        f"{number('near')} pairs are nearly the same"
    )
    pairs = [
        f"{pair['kind']}: {pair['one']} and {pair['other']}"
        + (f", {' and '.join(pair['labels'])}" if len(pair["labels"]) > 1 else "")
        + (f", in {' and '.join(pair['splits'])}" if len(pair["splits"]) > 1 else "")
        for pair in inspection.pairs()
    ]
    lines += _indented(pairs)
    rows = [_shortcut_row(shortcut) for shortcut in inspection.shortcuts]
    head = ["label predicted from", "AUC", "95 %", "clearest class", "shortcut"]
    return "\n".join([*lines, "", table(head, rows), "", _summary(inspection)])


def _shortcut_row(shortcut: Shortcut) -> list[str]:
    if shortcut.auc is None:
        return [shortcut.what, "", "", "", shortcut.verdict]
    verdict = {"strong": "STRONG"}.get(shortcut.verdict, shortcut.verdict)
    interval = f"{shortcut.low:.2f}-{shortcut.high:.2f}"
    last = "control" if shortcut.control else verdict
    clearest = ""
    if len(shortcut.classes) > 2:
        clearest = f"{shortcut.clearest} {shortcut.classes[shortcut.clearest].auc:.2f}"
    return [shortcut.what, f"{shortcut.auc:.2f}", interval, clearest, last]


def _summary(inspection: Inspection) -> str:
    """Return what the figures mean."""
    shortcuts = [
        shortcut.what
        for shortcut in inspection.shortcuts
        if shortcut.verdict in {"strong", "some"} and not shortcut.control
    ]
    if not shortcuts:
        return "no shortcut was found; this does not prove that there is none"
    return (
        f"{', '.join(shortcuts)} alone can predict the label: a network can use this too, and its\n"
        "score may say little about what the images show; a control without their center:\n"
        "tlkit run FILE --set data.mask_center=0.6"
    )


def _listed(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *_indented(lines)])


def _indented(lines: Sequence[str]) -> list[str]:
    """Return the first lines, indented; --json has all of them."""
    return [f"  {printable(line)}" for line in first_lines(lines)]
