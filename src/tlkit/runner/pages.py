"""The report of a finished run, written again from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from tlkit.classifier import load
from tlkit.config.experiment import Experiment
from tlkit.data.images import Reader
from tlkit.data.splits import Splits
from tlkit.explain import Explainer
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Dataset
from tlkit.reports.card import write_card
from tlkit.reports.gallery import Gallery, Source, make_gallery, unchanged
from tlkit.reports.report import write_report
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord, read_run
from tlkit.system.errors import ConfigError, DataError, TlkitError

if TYPE_CHECKING:
    import keras

    from tlkit.classifier import Classifier
    from tlkit.data.splits import Splits
    from tlkit.parts.kinds import Backbone
    from tlkit.reports.gallery import Gallery
    from tlkit.runfolder.record import RunRecord


def write_pages(
    folder: RunFolder, experiment: Experiment, splits: Splits, model: keras.Model
) -> None:
    """Write the report and the model card of a run that has just ended.

    Args:
        folder: Its folder, with everything else in it.
        experiment: What was asked for.
        splits: Its images.
        model: The model with the weights that were kept.
    """
    run = read_run(folder)
    write_pages_with(folder, run, make_gallery(run.judged, source(run, experiment, splits, model)))


def write_pages_with(folder: RunFolder, run: RunRecord, gallery: Gallery) -> None:
    """Write both with pictures that are there already."""
    write_report(folder, run, gallery)
    write_card(folder, run)


def source(run: RunRecord, experiment: Experiment, splits: Splits, model: keras.Model) -> Source:
    """Return where the pictures of a run come from; only those that have not changed since."""
    hashes: Mapping[str, str] = {
        example.path: example.sha256 for images in run.manifest.values() for example in images
    }
    read = unchanged(splits.read, hashes)
    backbone, data = experiment.backbone, experiment.data
    reader = Reader(read, backbone.image_size, data.resize, data.mask_center)
    try:
        explainer = Explainer(model, backbone)
    except ConfigError:  # no layer has a feature map that everything after it depends on
        explainer = None
    return Source(reader, run.classes, explainer)


def report(
    run: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> tuple[Path, str]:
    """Write the report and the model card of a finished run again.

    They are made from the folder's files, of which nothing is imported. Pictures are in the report
    if the model can be loaded and the images are where they were and as they were.

    Args:
        run: The run folder.
        data: Where the images are now: what the experiment calls `data.path`, or a dataset.
        plugins: The files with the study's own parts, if it was made with such.
        backbone: What was the backbone, if that was a `FromModel`.

    Returns:
        The report's path, and why there are no pictures in it; empty if there are.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
    """
    from tlkit.reports.gallery import without_pictures
    from tlkit.reports.report import REPORT
    from tlkit.runfolder.folder import RunFolder

    folder = RunFolder(Path(run))
    finished = read_run(folder)
    try:
        classifier = load(folder.path, plugins=plugins, backbone=backbone)
        gallery = _gallery(folder.path, finished, classifier, data)
    except TlkitError as error:
        gallery = without_pictures(finished.judged, str(error))
    write_pages_with(folder, finished, gallery)
    return folder.path / REPORT, gallery.missing


def _gallery(
    folder: Path, run: RunRecord, classifier: Classifier, data: str | Path | Dataset | None
) -> Gallery:
    from tlkit.reports.gallery import make_gallery

    splits = _splits(folder, run, classifier, data)
    return make_gallery(run.judged, source(run, classifier.experiment, splits, classifier.model))


def _splits(
    folder: Path, run: RunRecord, classifier: Classifier, data: str | Path | Dataset | None
) -> Splits:
    """Return a run's images, from where they are likely to be.

    A path is recorded relative to the experiment's file, whose place is not recorded: it is looked
    for from the working directory, and from the folder that `runs` is in.

    Raises:
        DataError: If they are nowhere.
    """
    if isinstance(data, Dataset):
        return load_splits(data)
    dataset = classifier.experiment.data
    recorded = run.experiment.data.settings.get("path")
    if recorded is None or not hasattr(dataset, "path"):
        return load_splits(dataset)
    root = run.experiment.data.settings.get("root")  # of a list's images, recorded in the same way
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
    raise DataError(f"{problems[0]}; say where the images are with --data")
