"""`tlkit explain`: heatmaps of where a run sees a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tlkit.cli.app import USE, PluginFiles, RunFolder, command
from tlkit.cli.predict import (
    Images,
    Root,
    load_run,
    must_be_new,
    named_images,
    raise_rejected,
)
from tlkit.data.sources import Rejected
from tlkit.reports.console import table
from tlkit.runfolder import folder as runfolder
from tlkit.system.files import atomic_write
from tlkit.system.text import printable

if TYPE_CHECKING:
    from tlkit.classifier import Classifier
    from tlkit.data.images import Pixels
    from tlkit.explain import Explainer


@command(USE, "runs/photos-1 new/1.jpg")
def explain(
    run: RunFolder,
    images: Images,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="Explain this class. Unset: the predicted class."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder. Unset: runs/RUN-explain-N."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Use this layer's feature maps: a number or name, see tlkit layers. Unset: the "
            "last layer with feature maps, pooling excepted.",
        ),
    ] = None,
    method: Annotated[
        Literal["grad_cam", "grad_cam_pp", "hires_cam", "occlusion"],
        typer.Option(
            help="grad_cam and grad_cam_pp: for heads that pool; hires_cam: faithful for heads "
            "that flatten; occlusion: covers one square after another, needs no gradients, slow."
        ),
    ] = "grad_cam",
    root: Root = None,
    plugins: PluginFiles = None,
) -> None:
    """Draw where the model sees a class, one picture per image.

    A heatmap shows what the model uses, not whether it is right to use it. Each is scaled to its
    own maximum, so heatmaps of different images cannot be compared in strength.
    """
    must_be_new(out, "--out")
    classifier = load_run(run, plugins)
    if class_name is not None and class_name not in classifier.classes:
        raise typer.BadParameter(
            f"must be one of {', '.join(classifier.classes)}, got {class_name!r}",
            param_hint="--class",
        )
    from tlkit.reports.progress import with_bar

    explainer = classifier.explainer(layer, method)
    folder: runfolder.RunFolder | None = None
    rows, rejected = list[list[str]](), list[Rejected]()
    for chunk in with_bar(classifier.read_images(named_images(images, classifier, root)), None):
        valid = [item for item in chunk if not isinstance(item, Rejected)]
        rejected += [item for item in chunk if isinstance(item, Rejected)]
        if valid:
            folder = folder or runfolder.RunFolder.claim(out, f"{run.resolve().name}-explain")
            rows += _draw(classifier, explainer, class_name, valid, folder.path, len(rows))
    if folder is not None:
        columns = ["path", "predicted", "p_predicted", "class", "p_class", "picture"]
        folder.write_csv("explanations.csv", columns, rows)
        shown = [[printable(cell) for cell in (row[0], *row[3:])] for row in rows]
        typer.echo(table(["path", "class", "p", "picture"], shown))
        at = f", layer {explainer.layer}" if explainer.layer else ""
        typer.echo(f"\nmethod: {method}{at}\nexplanations: {folder.path}")
    raise_rejected(rejected, len(rows))


def _draw(
    classifier: Classifier,
    explainer: Explainer,
    class_name: str | None,
    images: Sequence[tuple[str, Pixels]],
    folder: Path,
    count: int,
) -> list[list[str]]:
    """Draw the heatmaps of some images and return a row for each.

    Args:
        classifier: Classifies them.
        explainer: Computes the heatmaps.
        class_name: The class to explain; None: the predicted one.
        images: Paths and pixels.
        folder: Where the pictures go.
        count: Number of pictures drawn before.
    """
    import numpy as np

    from tlkit.reports.heatmap import explanation

    classes, pixels = classifier.classes, np.stack([array for _, array in images])
    probabilities = classifier.predict_proba(pixels)
    predicted = classifier.calibrator.predicted(probabilities)
    chosen = predicted if class_name is None else predicted * 0 + classes.index(class_name)
    rows = []
    for number, heat in enumerate(explainer(pixels, chosen)):
        path, best, shown = images[number][0], predicted[number], chosen[number]
        p_best, p_shown = (f"{probabilities[number, k]:.3f}" for k in (best, shown))
        caption = [Path(path).name, f"{classes[shown]}  {p_shown}"]
        if shown != best:
            caption[1] += f"  (predicted: {classes[best]}  {p_best})"
        if not heat.any():
            caption.append("nothing in the image speaks for this class")
        picture = f"{count + number + 1:03d}-{_file_name(Path(path).stem)}.png"
        with atomic_write(folder / picture) as partial:
            explanation(pixels[number], heat, caption).save(partial, "PNG")
        rows.append([path, classes[best], p_best, classes[shown], p_shown, picture])
    return rows


def _file_name(name: str) -> str:
    """Return a short file name of letters, digits, dots and hyphens.

    >>> _file_name("../<b> x")
    '.._b_x'
    """
    return re.sub(r"[^\w.-]+", "_", name)[:40]
