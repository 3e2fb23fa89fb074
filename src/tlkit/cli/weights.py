"""`tlkit weights`: list, fetch, pack and verify pretrained weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

import tlkit
from tlkit.cli.app import MACHINE, AsJson, BackboneOverrides, Group, app, command, echo
from tlkit.system.text import printable

weights_app = typer.Typer(
    name="weights",
    cls=Group,
    no_args_is_help=True,
    short_help="Pretrained weights on this machine.\n[dim]tlkit weights list[/dim]",
    help="Pretrained weights on this machine.",
)
app.add_typer(weights_app, rich_help_panel=MACHINE)

Name = Annotated[str, typer.Argument(help="The backbone's name.", metavar="BACKBONE")]
Folder = Annotated[Path, typer.Argument(help="A folder that `pack` has written.", metavar="DIR")]


@command(None, "", "list", to=weights_app)
def weights_list(as_json: AsJson = False) -> None:
    """List the backbones whose pretrained weights are here; downloads nothing."""
    from tlkit.parts.available import SHELF, available_backbones
    from tlkit.weights.shelf import shelf_faults

    found = available_backbones()
    shelf = os.environ.get(SHELF)
    for fault, advice in shelf_faults(Path(shelf)).items() if shelf else ():
        echo(f"note: {SHELF}: {printable(fault)}; {printable(advice)}", err=True)
    if as_json:
        facts = [
            {"name": x.name, "source": x.source, "image_size": x.backbone.image_size} for x in found
        ]
        typer.echo(json.dumps(facts, indent=2))
        return
    for one in found:
        typer.echo(f"{one.name:<22}  {one.backbone.image_size:>4} px  {one.source}")
    if not found:
        typer.echo(f"none; `tlkit weights fetch`, an extra (tlkit doctor), or {SHELF}=FOLDER")


@command(None, "resnet50", to=weights_app)
def fetch(backbone: Name) -> None:
    """Download Keras's ImageNet file of a backbone now, into Keras's own folder."""
    from tlkit.parts.available import published_files
    from tlkit.weights.sources import PackageFile, download

    file = published_files(tlkit.registries.backbones.get(backbone)).get("imagenet")
    if file is None:
        raise tlkit.WeightsError(f"{backbone}: nobody publishes a file that tlkit could fetch")
    path = file.find() if isinstance(file, PackageFile) else download(file)
    typer.echo(path)


@command(None, "resnet50 --out share/resnet50", to=weights_app)
def pack(
    backbone: Name,
    out: Annotated[Path, typer.Option(help="A new folder.", metavar="DIR")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="The source: imagenet, bsds500, preset or a file. Unset: the backbone's own.",
            metavar="SOURCE",
        ),
    ] = None,
    license_text: Annotated[
        str, typer.Option("--license", help="The license of the weights.", metavar="TEXT")
    ] = "not stated",
    overrides: BackboneOverrides = None,
) -> None:
    """Write a backbone's weights into a folder: safetensors, and JSON that says what they are.

    The folder is a source: weights = "DIR". A hospital keeps such folders on a share.
    """
    from tlkit.config.structure import structure
    from tlkit.config.toml import apply_overrides
    from tlkit.parts.packing import pack as write

    settings: dict[str, Any] = {} if weights is None else {"weights": weights}
    apply_overrides(settings, overrides or [])
    part: tlkit.Backbone = structure(
        tlkit.registries.backbones.get(backbone), settings, source=backbone
    )
    card = write(part, out, license_text)
    typer.echo(f"{out}\n{card.backbone}, {card.source}, SHA-256 {card.sha256}")


@command(None, "share/resnet50", to=weights_app)
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Check a packed folder: hash, names, shapes, and the features of a drawn picture."""
    from attrs import asdict

    from tlkit.parts.packing import verify as check

    card = check(folder)
    if as_json:
        typer.echo(json.dumps(asdict(card), indent=2))
        return
    typer.echo(f"{folder}: {card.backbone} with {card.source}, as packed")
    typer.echo(f"license: {card.license}\npreprocessing: {card.preprocessing}")
