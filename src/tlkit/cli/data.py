"""Commands about data: `data inspect`, `data split`, `data verify`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tlkit
from tlkit.cli.app import AsJson, app
from tlkit.system.text import json_text, printable

if TYPE_CHECKING:
    from tlkit.inspect.inspect import Inspection
    from tlkit.inspect.shortcuts import Shortcut

data = typer.Typer(no_args_is_help=True, help="Look at data, split them, verify a manifest.")
app.add_typer(data, name="data")

SHOWN = 10  # how many lines of a kind are printed; --json has all
Where = Annotated[
    Path,
    typer.Argument(
        help="A folder with a folder a class, in train, val and test or not, or a CSV file.",
        metavar="PATH",
    ),
]
Patient = Annotated[
    str | None,
    typer.Option(
        help="Where the data do not say whose an image is: a regular expression whose group in "
        "the file's name is the patient, such as '^(p[0-9]+)_'.",
        metavar="REGEX",
    ),
]
NearBits = Annotated[
    int,
    typer.Option(
        min=0,
        max=256,
        help="In how many of 256 bits the hashes of near-duplicates may differ.",
    ),
]
DEFAULT_NEAR_BITS = 12  # tlkit.inspect.duplicates.NEAR_BITS, which is behind NumPy


@data.command("inspect")
def data_inspect(
    path: Where,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    mask_center: Annotated[
        float,
        typer.Option(min=0.1, max=0.9, help="The share of each side blacked out in the control."),
    ] = 0.6,
    as_json: AsJson = False,
) -> None:
    """Tell what is there, what is there twice, and what betrays the label without any medicine.

    Small models are given the source, the size, the file or the border alone. Where they tell the
    label, a network can do the same: its score then says little about what is in the images.
    """
    from tlkit.inspect.inspect import inspect_data
    from tlkit.reports.progress import counting_bar

    with counting_bar("looking at images") as on_image:
        found = inspect_data(
            path,
            patient=patient,
            near_bits=near_bits,
            mask_center=mask_center,
            on_image=on_image,
        )
    if as_json:
        typer.echo(json_text(found.as_json()))
    else:
        typer.echo(_inspection_text(found))
    if found.problems:
        raise tlkit.DataError(_listed(f"{len(found.problems)} cannot be read", found.problems))


@data.command("split")
def data_split(
    path: Where,
    out: Annotated[
        Path,
        typer.Option(
            help="The manifest; must not exist, and lie in the images' folder or above.",
            metavar="FILE",
        ),
    ],
    val: Annotated[float, typer.Option(help="The share of validation images.")] = 0.15,
    test: Annotated[float, typer.Option(help="The share of test images; 0: no test split.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another split.")] = 0,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    as_json: AsJson = False,
) -> None:
    """Write a manifest whose splits share no patient and no two images that are alike.

    Every class has about the same share in each split.
    """
    from tlkit.inspect.split import split_data
    from tlkit.reports.console import table
    from tlkit.reports.progress import counting_bar

    with counting_bar("looking at images") as on_image:
        done = split_data(
            path,
            out,
            val=val,
            test=test,
            seed=seed,
            patient=patient,
            near_bits=near_bits,
            on_image=on_image,
        )
    if as_json:
        typer.echo(json_text({"counts": done.counts, "target": done.target}))
        return
    rows = [
        [split, *(f"{n} of {done.target[split][name]:.1f}" for name, n in counts.items())]
        for split, counts in done.counts.items()
    ]
    typer.echo(table(["images, of target", *next(iter(done.counts.values()))], rows))
    typer.echo(f"\n{done.groups} groups of one patient or of images alike were kept together")
    if done.without_patient:
        typer.echo(
            f"note: {done.without_patient} images have no patient (--patient); "
            "they are told apart by likeness alone",
            err=True,
        )
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"\n{out}\nnext: tlkit data verify {shlex.quote(str(out))}")


@data.command("verify")
def data_verify(
    manifest: Where,
    patient: Patient = None,
    near_bits: NearBits = DEFAULT_NEAR_BITS,
    as_json: AsJson = False,
) -> None:
    """Check that every row is true and that no split knows another's images; exit 4 if not.

    Each file is there, decodes and has the hash it should; no patient, file, picture or
    near-duplicate is in two splits; no picture has two labels.
    """
    from tlkit.inspect.verify import verify_manifest
    from tlkit.reports.progress import counting_bar

    with counting_bar("looking at images") as on_image:
        found = verify_manifest(manifest, patient=patient, near_bits=near_bits, on_image=on_image)
    if as_json:
        typer.echo(json_text(found.as_json()))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if not found.sound:
        kinds = (
            ("rows are wrong", found.problems),
            ("are in two splits", found.leaks),
            ("pictures have two labels", found.conflicts),
        )
        told = [
            _listed(f"{manifest}: {len(lines)} {what}", lines) for what, lines in kinds if lines
        ]
        raise tlkit.DataError("\n".join(told))
    if not as_json:
        typer.echo(f"{manifest}: {found.rows} rows are as they should be")


def _inspection_text(found: Inspection) -> str:
    from tlkit.reports.console import table

    def counts(what: str, by: Mapping[str, Mapping[str, int]], unnamed: str) -> str:
        rows = [
            [key or unnamed, *map(str, row.values()), str(sum(row.values()))]
            for key, row in by.items()
        ]
        return table([what, *found.classes, "all"], rows)

    sides = " to ".join(f"{w}×{h}" for w, h in zip(found.widths, found.heights, strict=True))
    least, middle, most = sides.split(" to ")
    formats = ", ".join(f"{count} {kind}" for kind, count in found.formats.items())
    alike = found.duplicates.count
    twice = (
        f"alike: {alike('bytes')} files and {alike('pixels')} pictures stand twice, "
        f"{alike('near')} pairs are nearly the same"
    )
    lines = [
        counts("images", found.counts, "no split"),
        "",
        f"sides: {least} to {most} px, median {middle}; {formats}",
        f"patients: {found.patients} known, {found.without_patient} images without",
        "",
        *([counts("source", found.sources, "unknown"), ""] if any(found.sources) else []),
        twice,
    ]
    pairs = [
        f"{pair['kind']}: {pair['one']} and {pair['other']}"
        + (f", {' and '.join(pair['labels'])}" if len(pair["labels"]) > 1 else "")
        + (f", in {' and '.join(pair['splits'])}" if len(pair["splits"]) > 1 else "")
        for pair in found.pairs()
    ]
    lines += [_listed("", pairs).removeprefix("\n")] if pairs else []
    rows = [_shortcut_row(shortcut) for shortcut in found.shortcuts]
    lines += ["", table(["label told from", "AUC", "95 %", "shortcut"], rows), "", _summary(found)]
    return "\n".join(lines)


def _shortcut_row(one: Shortcut) -> list[str]:
    if one.auc is None:
        return [one.what, "", "", one.verdict]
    verdict = "control" if one.control else {"strong": "STRONG"}.get(one.verdict, one.verdict)
    return [one.what, f"{one.auc:.2f}", f"{one.low:.2f}-{one.high:.2f}", verdict]


def _summary(found: Inspection) -> str:
    """Return what the figures mean."""
    guilty = [
        one.what for one in found.shortcuts if one.verdict in {"strong", "some"} and not one.control
    ]
    if not guilty:
        return "no shortcut was found; that is no proof that there is none"
    return (
        f"the label can be told from {', '.join(guilty)} alone: a network can do so too, and its "
        "score may say\nlittle about what is in the images; a control without their middle: "
        "tlkit run FILE --set data.mask_center=0.6"
    )


def _listed(head: str, lines: Sequence[str]) -> str:
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([head, *(f"  {printable(line)}" for line in lines[:SHOWN]), *more])
