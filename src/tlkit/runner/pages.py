"""The report and the model card of a run: written when it ends, and again from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.data.images import Pixels, Reader
from tlkit.data.splits import Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Backbone, Dataset
from tlkit.reports.card import write_card
from tlkit.reports.gallery import Gallery, Source, make_gallery, unchanged, without_pictures
from tlkit.reports.report import REPORT, write_report
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import PAGES, RunFolder
from tlkit.runfolder.record import RunRecord, read_run
from tlkit.system.errors import ConfigError, DataError, TlkitError
from tlkit.system.notebook import argument

if TYPE_CHECKING:
    import keras


@frozen
class Report:
    """The report of a run.

    Attributes:
        path: The HTML page.
        note: Why there are no images in it; empty if there are.
    """

    path: Path
    note: str


def write_pages(
    folder: RunFolder, experiment: Experiment, splits: Splits, model: keras.Model
) -> None:
    """Write the report and the model card of a run that has just ended."""
    run = read_run(folder)
    _write(folder, run, _gallery(run, experiment, splits, model))


def report(
    run: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> Report:
    """Write the report and the model card of a finished run again.

    Both are made from the folder's files; none of them is run. The report has images if they have
    not changed and the model can be loaded.

    Args:
        run: The run folder.
        data: The new place of the images, as in `data.path` of an experiment, or a dataset.
        plugins: Plugin files that the run was made with.
        backbone: The backbone, if that was a `FromModel`.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
    """
    folder = RunFolder(Path(run))
    record = read_run(folder)
    try:
        experiment = read_experiment(folder, plugins, backbone)
        splits = _find_splits(folder.path, record, experiment.data, data)
        from tlkit.classifier import load  # starts Keras

        classifier = load(folder.path, plugins=plugins, backbone=backbone)
        gallery = _gallery(record, experiment, splits, classifier.model)
    except TlkitError as error:
        gallery = without_pictures(record.judged, str(error))
    _write(folder, record, gallery)
    folder.reseal(*PAGES)
    return Report(folder.path / REPORT, gallery.missing)


def _write(folder: RunFolder, run: RunRecord, gallery: Gallery) -> None:
    write_report(folder, run, gallery)
    write_card(folder, run)


def _gallery(run: RunRecord, experiment: Experiment, splits: Splits, model: keras.Model) -> Gallery:
    return make_gallery(run.judged, picture_source(run, experiment, splits, model))


def picture_source(
    run: RunRecord, experiment: Experiment, splits: Splits, model: keras.Model
) -> Source:
    """Return where a run's images, of which none may have changed, and heatmaps come from."""
    from tlkit.explain import Explainer  # starts Keras

    hashes = {image.path: image.sha256 for images in run.manifest.values() for image in images}
    backbone, data = experiment.backbone, experiment.data
    read = unchanged(splits.read, hashes)
    reader = Reader(read, backbone.image_size, data.resize, data.mask_center)
    try:
        explainer = Explainer(model, backbone)
    except ConfigError:  # no layer has a feature map that everything after it depends on
        explainer = None
    return Source(reader, run.classes, explainer)


def training_batch(
    experiment: Experiment, source: Source, run: RunRecord, count: int
) -> list[tuple[Pixels, str]]:
    """Return training images as the first epoch sees them, with their classes in turn."""
    import numpy as np

    from tlkit.reports.preview import augmented

    by_class = {name: [e for e in run.manifest["train"] if e.label == name] for name in run.classes}
    turns = zip_longest(*by_class.values())
    chosen = [example for turn in turns for example in turn if example is not None][:count]
    pixels = np.stack([source.reader(example.path) for example in chosen])
    images = augmented(experiment.augmentation, pixels, experiment.seed)
    return [*zip(images, (example.label for example in chosen), strict=True)]


def _find_splits(
    folder: Path, run: RunRecord, dataset: Dataset, data: str | Path | Dataset | None
) -> Splits:
    """Return a run's images, wherever they are likely to be.

    A path is recorded relative to the experiment's file, whose own place is not recorded. It is
    looked for from the working directory and from the folder that contains `runs`.
    """
    if isinstance(data, Dataset):
        return load_splits(data)
    recorded = run.experiment.data.settings.get("path")
    if recorded is None or not hasattr(dataset, "path"):
        return load_splits(dataset)
    root = run.experiment.data.settings.get("root")  # of a manifest's images
    problems = []
    for base in (Path(), folder / ".." / ".."):
        places = {"path": Path(data) if data else base / recorded}
        if root is not None:
            places["root"] = base / root
        try:
            return load_splits(evolve(dataset, **places, stand_in=None))  # type: ignore[arg-type]  # it has a path
        except DataError as error:
            problems.append(str(error))
    if dataset.stand_in and data is None:
        return load_splits(dataset)
    raise DataError(f"{problems[0]}; give the images' new place with {argument('--data')}")
