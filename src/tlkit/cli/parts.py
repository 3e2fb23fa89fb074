"""Commands about parts and experiment files: `layers`, `list`, `info`, `init`, `schema`."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

import tlkit
from tlkit.cli.app import LOOK_UP, TRAIN, AsJson, BackboneOverrides, command, echo, hanging
from tlkit.cli.data import Patient
from tlkit.cli.predict import must_be_new
from tlkit.system.text import nearest, suggest


@command(LOOK_UP, "vgg16 --head pooled --classes 3")
def layers(
    backbone: Annotated[str, typer.Argument(help="The backbone's name.")],
    head: Annotated[str | None, typer.Option(help="A head's name; numbers its layers too.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="The number of classes.")] = 2,
    image_size: Annotated[int | None, typer.Option(help="Height and width, in pixels.")] = None,
    overrides: BackboneOverrides = None,
) -> None:
    """Print the numbered layers of a backbone, with a head or not.

    --set changes the backbone's keys: tlkit layers keras_hub --set 'preset="resnet_50_imagenet"'.
    """
    from tlkit.config.structure import structure
    from tlkit.config.toml import apply_overrides
    from tlkit.train.plan import model_layers

    settings: dict[str, Any] = {"weights": "none"}  # the layers do not depend on weights
    settings |= {} if image_size is None else {"image_size": image_size}
    apply_overrides(settings, overrides or [])
    base: tlkit.Backbone = structure(
        tlkit.registries.backbones.get(backbone), settings, source=backbone
    )
    table = base.layers()
    if head is not None:
        top: tlkit.Head = tlkit.registries.heads.get(head)()
        table = model_layers(base, top, classes)
    typer.echo(table)
    typer.echo(f"{table.params:,} parameters")


@command(LOOK_UP, "backbones 'resnet*'", "list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="A kind, such as backbones; unset: all.")
    ] = None,
    pattern: Annotated[str, typer.Argument(help="A name or glob.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the registered parts; imports no other package."""
    from fnmatch import fnmatchcase

    kinds = dict(tlkit.registries.items())
    kind = next((x for x in kinds if kind in {x.removesuffix("s"), x.removesuffix("es")}), kind)
    if kind is not None and kind not in kinds:
        message = f"no kind named {kind!r}{suggest(kind, kinds)}"
        raise typer.BadParameter(message, param_hint="KIND")
    parts = [
        {"kind": name, **attrs.asdict(registry.find(part)), **_facts(name, part)}
        for name, registry in kinds.items()
        if kind in {None, name}
        for part in registry.names()
        if fnmatchcase(part, pattern)
    ]
    if not parts:
        searched = [part for name in kinds if kind in {None, name} for part in kinds[name].names()]
        what = f"no part matches {pattern!r}{suggest(pattern, dict.fromkeys(searched))}"
        raise tlkit.UnknownPart(f"{kind}: {what}" if kind else what)
    if as_json:
        typer.echo(json.dumps(parts, indent=2))
        return

    for name in dict.fromkeys(part["kind"] for part in parts):
        typer.echo(name)
        of_kind = [part for part in parts if part["kind"] == name]
        width = max(len(part["name"]) for part in of_kind)
        for part in of_kind:
            summary = part["summary"] or f"from {part['source']}"
            start = f"  {part['name']:<{width}}  {_size(part)}"
            typer.echo(hanging(start, f"{summary}{_conflict(part)}"))


def _conflict(part: dict[str, Any]) -> str:
    """Return which packages claim a part's name too, and what that means."""
    if not part["conflicts"]:
        return ""
    rivals = " and ".join(part["conflicts"])
    if part["source"] == "tlkit":
        return f" (tlkit's own is used; also claimed by {rivals})"
    return f" (CONFLICT: also claimed by {rivals}; uninstall one)"


def _size(part: dict[str, Any]) -> str:
    """Return columns with a backbone's parameters and image size; empty for other parts."""
    if part["kind"] != "backbones":
        return ""
    params, image_size = part["params"], part["image_size"]
    millions = "" if params is None else f"{params / 1e6:.1f} M"
    side = "" if image_size is None else f"{image_size} px"
    return f"{millions:>7}  {side:>6}  "


def _facts(kind: str, name: str) -> dict[str, Any]:
    """Return parameters and image size of a built-in backbone, without building it."""
    from tlkit.config.structure import keys

    if kind != "backbones":
        return {}
    unknown = {"params": None, "image_size": None}
    if tlkit.registries.backbones.find(name).source != "tlkit":
        return unknown
    cls = tlkit.registries.backbones.get(name)
    if any(key.default is attrs.NOTHING and key.name != "weights" for key in keys(cls)):
        return unknown  # they depend on its keys
    backbone = cls(weights="none")  # some have no default for it
    return {"params": backbone.params, "image_size": backbone.image_size}


@command(LOOK_UP, "natural --preview sheets")
def info(
    name: Annotated[str, typer.Argument(help="The name of a part.")],
    preview: Annotated[
        Path | None,
        typer.Option(help="Write NAME.png to DIR: samples of an augmentation.", metavar="DIR"),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="An image to draw from. Repeatable; unset: drawn shapes.", metavar="FILE"
        ),
    ] = None,
    image_px: Annotated[int, typer.Option(min=32, help="Side of each picture, in pixels.")] = 224,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the augmentation, in TOML syntax: --set rotation_deg=20. "
            "Repeatable.",
        ),
    ] = None,
) -> None:
    """Describe a part and its keys, or preview an augmentation."""
    if preview is not None:
        _preview(name, preview, image or [], image_px, overrides or [])
        return
    if image or overrides:
        raise typer.BadParameter(
            "is missing; the other options only apply to it", param_hint="--preview"
        )
    import inspect

    from tlkit.config.schema import describe_keys

    kinds = dict(tlkit.registries.items())
    matches = [(kind, registry) for kind, registry in kinds.items() if name in registry.names()]
    if not matches:
        known = sorted({part for registry in kinds.values() for part in registry.names()})
        raise tlkit.UnknownPart(
            f"no part named {name!r}{nearest(name, known) or ';'} tlkit list shows all"
        )
    for kind, registry in matches:
        part, where = registry.get(name), registry.find(name)
        typer.echo(f"{kind}: {name}\n{where.target} ({where.source} {where.file})\n")
        typer.echo((inspect.getdoc(part) or "").partition("\nAttributes:")[0])
        typer.echo("keys")
        for key in describe_keys(part):
            typer.echo(f"  {key}")
        typer.echo("")


def _preview(
    name: str, folder: Path, files: list[Path], image_px: int, overrides: list[str]
) -> None:
    from tlkit.config.structure import structure
    from tlkit.config.toml import apply_overrides

    path = folder / f"{name}.png"
    must_be_new(path, "--preview")
    others = {part for _, registry in tlkit.registries.items() for part in registry.names()}
    if name in others.difference(tlkit.registries.augmentations.names()):
        message = f"shows augmentations only, and {name!r} is not one"
        raise typer.BadParameter(message, param_hint="--preview")
    table: dict[str, Any] = {}
    apply_overrides(table, overrides)
    augmentation: tlkit.Augmentation = structure(
        tlkit.registries.augmentations.get(name), table, source=name
    )
    augmentation.require()

    from tlkit.reports.preview import write_contact_sheet

    try:
        write_contact_sheet(path, augmentation, files, image_px)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--preview") from None
    typer.echo(path)


@command(TRAIN, "--from photos --out photos.toml")
def init(
    data: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A folder with a folder per class, inside train and val or not, or a CSV "
            "manifest. Unset: handwritten digits that come with scikit-learn.",
            metavar="DATA",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file; must not exist.", metavar="FILE")] = Path(
        "experiment.toml"
    ),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="probe: a linear classifier on frozen features. fine_tune: that, then the last "
            "blocks too. study: a new head, by gradient descent. Unset: one that fits the data.",
        ),
    ] = None,
    patient: Patient = None,
    full: Annotated[bool, typer.Option("--full", help="Write every key with its meaning.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Write a part of your own instead, such as losses, in a Python file to complete.",
        ),
    ] = None,
) -> None:
    """Write an experiment file to start from."""
    if part is not None:
        from tlkit.config.part_file import write_part

        out = Path("mine.py") if out.name == "experiment.toml" else out
        write_part(part, out)
        typer.echo(f"{out}: complete its methods; tlkit info tells what built-in parts do")
        return
    from tlkit.config.starter import write_starter
    from tlkit.train.cost import cost_text

    if patient is not None and data is None:
        raise tlkit.ConfigError([tlkit.Problem("--patient", "needs --from DATA")])
    made = write_starter(data, out, recipe, full=full, patient=patient)
    because = f", because of {made.reason}" if made.reason else ""
    typer.echo(f"{out}: recipe {made.recipe}{because}")
    typer.echo(cost_text(tlkit.check(out)))
    echo(f"next: tlkit check {shlex.quote(str(out))}")


@command(LOOK_UP, "> experiment.schema.json")
def schema(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment file whose own parts to include.", metavar="[FILE]"),
    ] = None,
) -> None:
    """Print a JSON schema of experiment files, for editors.

    Imports every installed part.
    """
    from tlkit.config.schema import json_schema
    from tlkit.config.toml import own_parts

    with own_parts(file) if file else contextlib.nullcontext():
        contents, broken = json_schema()
    typer.echo(json.dumps(contents, indent=2, ensure_ascii=False))
    for note in broken:
        echo(f"note: left out: {note}", err=True)
