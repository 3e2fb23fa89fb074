"""The command that shows where in an image a run sees a class: `explain`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tlkit.cli.app import PluginFiles, RunFolder, app
from tlkit.cli.predict import Images, loaded, named, report
from tlkit.data.sources import Rejected
from tlkit.reports.console import table
from tlkit.system.files import atomic_write
from tlkit.system.text import csv_cell, printable

if TYPE_CHECKING:
    from tlkit.classifier import Classifier
    from tlkit.data.images import Pixels
    from tlkit.explain import Explainer
    from tlkit.runfolder.folder import RunFolder as Folder


@app.command()
def explain(
    run: RunFolder,
    images: Images,
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Explain this class. Unset: the predicted."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder. Unset: runs/RUN-explain-N."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Weight this layer's feature maps: a number or name, see tlkit layers. Unset: the "
            "last layer with feature maps that is no pooling.",
        ),
    ] = None,
    method: Annotated[
        Literal["grad_cam", "grad_cam_pp", "hires_cam", "occlusion"],
        typer.Option(
            help="grad_cam and grad_cam_pp: for heads that pool; hires_cam: true to heads that "
            "flatten; occlusion: covers square after square, needs no gradients and is slow."
        ),
    ] = "grad_cam",
    plugins: PluginFiles = None,
) -> None:
    """Draw where in each image the model sees a class: a picture an image, and a CSV file.

    A heatmap shows what the model looks at, not whether it is right to. Each is scaled by its own
    highest value, so two of them say nothing about which image is surer.
    """
    from tlkit.reports.progress import with_bar
    from tlkit.runfolder.folder import RunFolder as Folder

    classifier = loaded(run, plugins)
    if class_name is not None and class_name not in classifier.classes:
        raise typer.BadParameter(
            f"must be one of {', '.join(classifier.classes)}, got {class_name!r}",
            param_hint="--class",
        )
    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists; nothing is overwritten", param_hint="--out")
    explainer = classifier.explainer(layer, method)
    files = named(images)
    folder: Folder | None = None
    rows, rejected = list[list[str]](), list[Rejected]()
    for chunk in with_bar(classifier.opened(files), None):
        sound = [item for item in chunk if not isinstance(item, Rejected)]
        rejected += [item for item in chunk if isinstance(item, Rejected)]
        if sound:
            folder = folder or Folder.claim(out, f"{run.resolve().name}-explain")
            rows += _explained(classifier, explainer, class_name, sound, folder, len(rows))
    if folder is not None:
        columns = ["path", "predicted", "p_predicted", "class", "p_class", "picture"]
        folder.write_csv("explanations.csv", columns, rows)
        shown = [[printable(cell) for cell in (row[0], *row[3:])] for row in rows]
        typer.echo(table(["path", "class", "p", "picture"], shown))
        at = f", layer {explainer.layer}" if explainer.layer else ""
        typer.echo(f"\nmethod: {method}{at}\nexplanations: {folder.path}")
    report(rejected)


def _explained(
    classifier: Classifier,
    explainer: Explainer,
    class_name: str | None,
    images: Sequence[tuple[str, Pixels]],
    folder: Folder,
    count: int,
) -> list[list[str]]:
    """Draw the heatmaps of some images and return a row for each.

    Args:
        classifier: What classifies them.
        explainer: What explains it.
        class_name: The class to be explained; None: the predicted one.
        images: Paths and pixels.
        folder: Where the pictures go.
        count: How many were drawn before.
    """
    import numpy as np

    from tlkit.reports.heatmap import explanation

    classes, pixels = classifier.classes, np.stack([found for _, found in images])
    probabilities = classifier.probabilities(pixels)
    predicted = classifier.calibrator.predicted(probabilities)
    chosen = predicted if class_name is None else predicted * 0 + classes.index(class_name)
    rows = []
    for number, heat in enumerate(explainer(pixels, chosen)):
        path, best, shown = images[number][0], predicted[number], chosen[number]
        p = [f"{probabilities[number, k]:.3f}" for k in (best, shown)]
        caption = [Path(path).name, f"{classes[shown]}  {p[1]}"]
        if shown != best:
            caption[1] += f"  (predicted: {classes[best]}  {p[0]})"
        if not heat.any():
            caption.append("nothing in the image speaks for this class")
        picture = f"{count + number + 1:03d}-{_safe(Path(path).stem)}.png"
        with atomic_write(folder.path / picture) as partial:
            explanation(pixels[number], heat, caption).save(partial, "PNG")
        text = path.encode("utf-8", "backslashreplace").decode()  # of a name that is none
        names = [csv_cell(one) for one in (text, classes[best], classes[shown])]
        rows.append([*names[:2], p[0], names[2], p[1], picture])
    return rows


def _safe(name: str) -> str:
    """Return a name of letters, digits, dots and hyphens for a file of ours, not too long.

    >>> _safe("../<b> x")
    '.._b_x'
    """
    return re.sub(r"[^\w.-]+", "_", name)[:40]
