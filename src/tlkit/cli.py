"""The command line: `run`, `check`, `lr-find`, `layers`, `list`, `info`, `predict` and so on."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
import traceback
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import attrs
import typer

import tlkit
from tlkit.cache import FeatureCache, default_folder
from tlkit.classifier import sound_files
from tlkit.config.experiment import apply_overrides, load_experiment, own_parts
from tlkit.config.structure import structure
from tlkit.errors import TlkitError
from tlkit.parts.kinds import Augmentation, Backbone, Head, registries
from tlkit.registry import suggest

app = typer.Typer(
    name="tlkit",
    help="Compose, run and ship transfer-learning image classifiers from registered parts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's TOML file.", metavar="FILE")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished run.", metavar="RUN")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key, in TOML: --set fit.epochs=3. Repeatable.",
    ),
]
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A file with parts that the run was made with, unchanged. Repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        packages = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow"))
        typer.echo(f"tlkit {tlkit.__version__} ({packages})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Read the options that stand before the command."""


@app.command()
def run(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; must not exist. Unset: runs/FILE-N.", metavar="DIR"),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and write a run folder."""
    from tlkit import console

    watcher = console.Terminal()
    try:
        done = tlkit.run(file, out, overrides=overrides or [], watcher=watcher)
    except KeyboardInterrupt:
        watcher.close()  # before the message: a bar would be drawn over it
        typer.echo("interrupted; the run is not finished and cannot be resumed", err=True)
        raise typer.Exit(130) from None
    finally:
        watcher.close()
    if as_json:
        found = {"run": str(done.folder), "evaluated_on": done.plan.evaluated_on}
        found |= done.kept.as_json()
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from tlkit.results.metrics import figures, reference_figures

    typer.echo(console.scores_text(done.plan.evaluated_on, done.result))
    typer.echo("\n" + console.epochs_text(done))
    if done.experiment.reference:
        published = [
            (reference, reference_figures(reference, done.plan.classes))
            for reference in done.experiment.reference
        ]
        typer.echo("\n" + console.references_text(figures(done.result), published))
    if done.plan.stand_in:
        typer.echo("\n" + console.stand_in_banner(done.plan.stand_in))
    typer.echo(f"\nrun folder: {done.folder}\nnext: tlkit predict {done.folder} IMAGE...")


@app.command()
def check(file: ExperimentFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do, and do nothing."""
    from tlkit import console

    plan = tlkit.check(load_experiment(file, overrides or []))
    if as_json:
        typer.echo(json.dumps(plan.as_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo(console.plan_text(plan))


@app.command("lr-find")
def lr_find(
    file: ExperimentFile,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the curve. Unset: runs/FILE-lr-find-N.", metavar="DIR"),
    ] = None,
    steps: Annotated[int, typer.Option(help="How many batches are trained on at most.")] = 100,
    lowest: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="The last learning rate.")] = 1.0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a learning rate: train briefly while it rises, and draw the loss over it."""
    from tlkit import console

    watcher = console.Terminal()
    try:
        curve = tlkit.lr_find(
            file,
            out,
            overrides=overrides or [],
            steps=steps,
            lowest=lowest,
            highest=highest,
            watcher=watcher,
        )
    finally:
        watcher.close()
    if as_json:
        found = attrs.asdict(curve) | {"folder": str(curve.folder)}
        typer.echo(json.dumps(found | {"suggestion": curve.suggestion}, indent=2))
        return
    if curve.suggestion is None:
        typer.echo("no suggestion: the loss falls at none of these rates")
    else:
        typer.echo(f"suggestion: learning_rate = {curve.suggestion:.2g}")
    typer.echo(f"curve: {curve.folder / 'lr-find.png'}")
    if curve.suggestion is not None:
        rate = f"{curve.suggestion:.2g}"
        typer.echo(f"next: tlkit run {file} --set optimizer.learning_rate={rate}")


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="The backbone's name.")],
    head: Annotated[
        str | None, typer.Option(help="A head's name, to number its layers too.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="How many classes the head tells apart.")] = 2,
    image_size: Annotated[int | None, typer.Option(help="Height and width, in pixels.")] = None,
) -> None:
    """Print the numbered layers of a backbone, with a head if one is named."""
    from tlkit.plan.plan import model_layers

    settings: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    below: Backbone = structure(registries.backbones.get(backbone), settings, source=backbone)
    table = below.layers()
    if head is not None:
        above: Head = registries.heads.get(head)()
        table = model_layers(below, above, classes)
    typer.echo(table)
    typer.echo(f"{table.params:,} parameters")


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="A kind, such as backbones; unset: all.")
    ] = None,
    pattern: Annotated[str, typer.Argument(help="A name or glob.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the registered parts; imports no package but tlkit."""
    from fnmatch import fnmatchcase

    kinds = dict(registries.items())
    if kind is not None and kind not in kinds:
        message = f"no kind named {kind!r}{suggest(kind, kinds)}"
        raise typer.BadParameter(message, param_hint="KIND")
    found = [
        {"kind": name, **attrs.asdict(registry.find(part)), **_facts(name, part)}
        for name, registry in kinds.items()
        if kind in {None, name}
        for part in registry.names()
        if fnmatchcase(part, pattern)
    ]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return

    for name in dict.fromkeys(part["kind"] for part in found):
        typer.echo(f"{name}")
        of_kind = [part for part in found if part["kind"] == name]
        width = max(len(part["name"]) for part in of_kind)
        for part in of_kind:
            summary = part["summary"] or f"from {part['source']}"
            typer.echo(f"  {part['name']:<{width}}  {_size(part)}{summary}")


def _size(part: dict[str, Any]) -> str:
    """Return a backbone's parameters and image size as columns; nothing for other parts."""
    if part["kind"] != "backbones":
        return ""
    params, image_size = part["params"], part["image_size"]
    millions = "" if params is None else f"{params / 1e6:.1f} M"
    return f"{millions:>7}  {'' if image_size is None else image_size:>3} px  "


def _facts(kind: str, name: str) -> dict[str, Any]:
    """Return what a backbone tells of itself unbuilt; another package's tells nothing."""
    if kind != "backbones":
        return {}
    found = registries.backbones.find(name)
    if found.source != "tlkit":
        return {"params": None, "image_size": None}
    backbone = registries.backbones.get(name)(weights="none")  # some have no default for it
    return {"params": backbone.params, "image_size": backbone.image_size}


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="The name of a part.")],
    preview: Annotated[
        Path | None,
        typer.Option(help="Write NAME.png here: what an augmentation draws.", metavar="DIR"),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="An image to draw from. Repeatable; unset: drawn chests.", metavar="FILE"
        ),
    ] = None,
    image_px: Annotated[int, typer.Option(min=32, help="Side of each picture, in pixels.")] = 224,
    overrides: Overrides = None,
) -> None:
    """Show what a part is, where it comes from and which keys it has, or what it draws."""
    if preview is not None:
        _preview(name, preview, image or [], image_px, overrides or [])
        return
    if image or overrides:
        raise typer.BadParameter("is missing; the other options are its", param_hint="--preview")
    import inspect

    from tlkit.config.keys import describe_keys

    found = [(kind, registry) for kind, registry in registries.items() if name in registry.names()]
    if not found:
        known = sorted({part for _, registry in registries.items() for part in registry.names()})
        raise tlkit.UnknownPart(f"no part named {name!r}{suggest(name, known)}")
    for kind, registry in found:
        part = registry.get(name)
        where = registry.find(name)
        typer.echo(f"{kind}: {name}\n{where.target} ({where.source} {where.file})\n")
        typer.echo((inspect.getdoc(part) or "").partition("\nAttributes:")[0])
        typer.echo("keys")
        for key in describe_keys(part):
            typer.echo(f"  {key}")
        typer.echo("")


def _preview(
    name: str, folder: Path, files: list[Path], image_px: int, overrides: list[str]
) -> None:
    path = folder / f"{name}.png"
    if path.exists():
        raise typer.BadParameter(f"{path} exists; nothing is overwritten", param_hint="--preview")
    others = {part for _, registry in registries.items() for part in registry.names()}
    if name in others.difference(registries.augmentations.names()):
        message = f"shows what augmentations draw, and {name!r} is none"
        raise typer.BadParameter(message, param_hint="--preview")
    table: dict[str, Any] = {}
    apply_overrides(table, overrides)
    augmentation: Augmentation = structure(registries.augmentations.get(name), table, source=name)
    augmentation.require()

    from tlkit.results.preview import write_contact_sheet

    try:
        write_contact_sheet(path, augmentation, files, image_px)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--preview") from None
    typer.echo(path)


@app.command()
def init(
    data: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A folder with train/CLASS and val/CLASS, or a CSV manifest. Unset: phantoms.",
            metavar="DATA",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file; must not exist.", metavar="FILE")] = Path(
        "experiment.toml"
    ),
) -> None:
    """Write a commented experiment file to begin with."""
    from tlkit.config.starter import write_starter

    write_starter(data, out)
    typer.echo(f"{out}\nnext: tlkit check {shlex.quote(str(out))}")


@app.command()
def schema(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment whose own parts are to be in it.", metavar="[FILE]"),
    ] = None,
) -> None:
    """Print a JSON schema of experiment files, for editors; imports every installed part."""
    from tlkit.config.schema import json_schema

    with own_parts(file) if file else contextlib.nullcontext():
        found, broken = json_schema()
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    for note in broken:
        typer.echo(f"note: left out: {note}", err=True)


@app.command()
def predict(
    run: RunFolder,
    files: Annotated[list[Path], typer.Argument(help="Image files.", metavar="FILES...")],
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    plugins: PluginFiles = None,
) -> None:
    """Classify image files; those that cannot be read are named and the others still printed."""
    from tlkit.console import predictions_text

    classifier = tlkit.load(run, plugins=plugins or [])
    sound, rejected = sound_files(files)
    rows = list(classifier.probabilities(sound))
    if classifier.stand_in:
        typer.echo(f"note: trained on drawn {classifier.stand_in}s, not real images", err=True)
    typer.echo(predictions_text(sound, rows, classifier.classes, form.value))
    if rejected:
        raise tlkit.DataError("\n".join(rejected))


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[Path, typer.Option(help="A folder with a folder a class, or a CSV manifest.")],
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Which split of the data; unset: test if there is one, else val."),
    ] = None,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run on labelled images."""
    from tlkit import console

    classifier = tlkit.load(run, plugins=plugins or [])
    scores = classifier.evaluate(data, split)
    if as_json:
        typer.echo(json.dumps(scores.as_json(), indent=2, ensure_ascii=False))
        return
    if classifier.stand_in:
        typer.echo(f"note: trained on drawn {classifier.stand_in}s, not real images", err=True)
    typer.echo(console.scores_text(str(data), scores))


caches = typer.Typer(no_args_is_help=True, help="The cache of frozen layers' features.")
app.add_typer(caches, name="cache")


@caches.command("info")
def cache_info(as_json: AsJson = False) -> None:
    """Tell where the cache is, what it holds and what it may take."""
    cache = FeatureCache(default_folder())
    entries = cache.entries()
    used, limit = sum(entry.size_bytes for entry in entries), cache.limit()
    if as_json:
        found = {"folder": str(cache.folder), "entries": len(entries), "bytes": used}
        typer.echo(json.dumps(found | {"limit_bytes": limit}, indent=2))
        return
    typer.echo(f"{cache.folder}: {len(entries)} entries, {used / 1e9:.2f} of {limit / 1e9:.1f} GB")


@caches.command("clear")
def cache_clear() -> None:
    """Remove every entry."""
    freed = FeatureCache(default_folder()).clear()
    typer.echo(f"freed {freed / 1e9:.2f} GB")


@caches.command("path")
def cache_path() -> None:
    """Print where the cache is."""
    typer.echo(default_folder())


def main() -> NoReturn:
    """Run the command line and end the process with the documented exit code."""
    notes = logging.StreamHandler()
    notes.setFormatter(logging.Formatter("note: %(message)s"))
    logging.getLogger("tlkit").addHandler(notes)
    logging.getLogger("tlkit").setLevel(logging.INFO)
    # Pillow warns of large pictures without naming them; tlkit names and refuses them itself.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    try:
        app()
    except TlkitError as error:
        if "--debug" in sys.argv:  # typer's own options are gone by now
            traceback.print_exc()
        typer.echo(f"{error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(0)
