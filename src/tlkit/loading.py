"""A finished run's folder becoming a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlkit.classifier import Classifier
from tlkit.errors import RunFolderError
from tlkit.parts.kinds import Backbone
from tlkit.plan.plan import PREFIX_BATCH


def load(
    run: str | Path,
    *,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
) -> Classifier:
    """Load a finished run.

    The model is rebuilt from registered parts and the run's arrays; the folder holds no code, and
    none is run because a folder says so.

    Args:
        run: The run folder.
        plugins: The files with the study's own parts, if it was made with such; they must be the
            same to the byte.
        backbone: What was the backbone, if that was a `FromModel`; its layers must be the same.

    Raises:
        RunFolderError: If it is not the folder of a finished run.
        WeightsError: If its weights are missing or do not fit.
        ConfigError: If it names parts or keys that this tlkit does not know.
        PartError: If it needs a file or package of somebody else's that is not there.
    """
    from tlkit.graph import layer_table
    from tlkit.results.calibration import Calibrator, read_calibrator
    from tlkit.results.folder import METRICS, PLAN, WEIGHTS, RunFolder, read_weights
    from tlkit.results.recorded import read_experiment
    from tlkit.train.features import Extractor
    from tlkit.train.model import assemble

    folder = RunFolder(Path(run))
    folder.read_json(METRICS)  # written last: without it the run is not finished
    experiment = read_experiment(folder, plugins, backbone)
    plan = folder.read_json(PLAN)
    try:
        classes, stand_in = tuple(plan["classes"]), plan["stand_in"] or ""
    except (KeyError, TypeError):
        raise RunFolderError(f"{folder.path / PLAN}: is not a plan written by tlkit") from None
    model, _ = assemble(
        experiment.backbone,
        experiment.head,
        len(classes),
        experiment.seed,
        experiment.fit.mixed_precision,
        load_weights=False,
    )
    read_weights(folder.path / WEIGHTS, model, layer_table(model))
    extractor = Extractor(model, experiment.backbone, experiment.augmentation, PREFIX_BATCH)
    calibrator = Calibrator()
    if experiment.calibration.wanted:
        calibrator = read_calibrator(folder, classes)
    return Classifier(
        model=model,
        classes=classes,
        experiment=experiment,
        extractor=extractor,
        stand_in=stand_in,
        calibrator=calibrator,
    )
