"""The pages a finished run leaves for people: its report and its model card."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tlkit.config.experiment import Experiment
from tlkit.errors import ConfigError
from tlkit.parts.splits import Splits
from tlkit.results.card import write_card
from tlkit.results.explain import Explainer
from tlkit.results.finished import Finished, read_finished
from tlkit.results.folder import RunFolder
from tlkit.results.gallery import Gallery, Source, make_gallery, unchanged
from tlkit.results.report import write_report
from tlkit.train.images import Reader


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
    run = read_finished(folder)
    write_pages_with(folder, run, make_gallery(run.judged, source(run, experiment, splits, model)))


def write_pages_with(folder: RunFolder, run: Finished, gallery: Gallery) -> None:
    """Write both with pictures that are there already."""
    write_report(folder, run, gallery)
    write_card(folder, run)


def source(run: Finished, experiment: Experiment, splits: Splits, model: keras.Model) -> Source:
    """Return where the pictures of a run come from; only those that have not changed since."""
    hashes: Mapping[str, str] = {
        example.path: example.sha256 for images in run.manifest.values() for example in images
    }
    read = unchanged(splits.read, hashes)
    backbone, data = experiment.backbone, experiment.data
    reader = Reader(read, backbone.image_size, data.resize, data.occlude_centre)
    try:
        explainer = Explainer(model, backbone)
    except ConfigError:  # no layer has a feature map that everything after it depends on
        explainer = None
    return Source(reader, run.classes, explainer)
