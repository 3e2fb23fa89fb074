"""The report and the model card of a run, written at its end or again from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from tlkit.config.experiment import Experiment
from tlkit.data.images import Reader
from tlkit.data.splits import Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Backbone, Dataset
from tlkit.reports.card import write_card
from tlkit.reports.gallery import Source, make_gallery, unchanged, without_pictures
from tlkit.reports.report import REPORT, write_report
from tlkit.runfolder.experiment import read_experiment
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord, read_run
from tlkit.system.errors import ConfigError, DataError, TlkitError

if TYPE_CHECKING:
    import keras


def write_pages(
    folder: RunFolder, experiment: Experiment, splits: Splits, model: keras.Model
) -> None:
    """Write the report and the model card of a run that has just ended.

    Args:
        folder: Its folder, with all other files.
        experiment: Its experiment.
        splits: Its images.
        model: The model with the kept weights.
    """
    run = read_run(folder)
    gallery = make_gallery(run.judged, _source(run, experiment, splits, model))
    write_report(folder, run, gallery)
    write_card(folder, run)


def report(
    run: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> tuple[Path, str]:
    """Write the report and the model card of a finished run again.

    They are made from the folder's files, without running any of them. The report has pictures if
    the images are where they were and unchanged, and the model can be loaded.

    Args:
        run: The run folder.
        data: Where the images are now, as in `data.path`, or a dataset.
        plugins: The plugin files that the run was made with, if any.
        backbone: The backbone, if it was a `FromModel`.

    Returns:
        The report's path, and why it has no pictures; empty if it has.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
    """
    folder = RunFolder(Path(run))
    finished = read_run(folder)
    try:
        experiment = read_experiment(folder, plugins, backbone)
        splits = _splits(folder.path, finished, experiment.data, data)
        from tlkit.classifier import load  # starts TensorFlow

        classifier = load(folder.path, plugins=plugins, backbone=backbone)
        source = _source(finished, experiment, splits, classifier.model)
        gallery = make_gallery(finished.judged, source)
    except TlkitError as error:
        gallery = without_pictures(finished.judged, str(error))
    write_report(folder, finished, gallery)
    write_card(folder, finished)
    return folder.path / REPORT, gallery.missing


def _source(run: RunRecord, experiment: Experiment, splits: Splits, model: keras.Model) -> Source:
    """Return where a run's pictures come from, restricted to images that have not changed."""
    from tlkit.explain import Explainer

    hashes = {
        example.path: example.sha256 for images in run.manifest.values() for example in images
    }
    backbone, data = experiment.backbone, experiment.data
    reader = Reader(
        unchanged(splits.read, hashes), backbone.image_size, data.resize, data.mask_center
    )
    try:
        explainer = Explainer(model, backbone)
    except ConfigError:  # no layer has a feature map that all later layers depend on
        explainer = None
    return Source(reader, run.classes, explainer)


def _splits(
    folder: Path, run: RunRecord, dataset: Dataset, data: str | Path | Dataset | None
) -> Splits:
    """Return a run's images, from where they are likely to be.

    A path is recorded relative to the experiment's file, whose place is not recorded: it is tried
    from the working directory and from the folder that contains `runs`.

    Raises:
        DataError: If they cannot be found.
    """
    if isinstance(data, Dataset):
        return load_splits(data)
    recorded = run.experiment.data.settings.get("path")
    if recorded is None or not hasattr(dataset, "path"):
        return load_splits(dataset)
    root = run.experiment.data.settings.get("root")  # of a manifest's images, in the same way
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
    raise DataError(f"{problems[0]}; give the images' new place with --data")
