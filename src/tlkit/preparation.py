"""What is found and checked before a run's folder is made: data, plan, images, model, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.cache import FeatureCache, default_folder
from tlkit.config.experiment import Experiment
from tlkit.config.loading import as_experiment
from tlkit.errors import ConfigError, Problem, RunFolderError
from tlkit.parts.datasets import load_splits
from tlkit.parts.splits import SPLITS, Splits
from tlkit.plan.plan import Plan, make_plan
from tlkit.progress import Watcher
from tlkit.trackers import require_trackers

if TYPE_CHECKING:
    import keras


@frozen(kw_only=True)
class Ready:
    """Everything that training needs, checked.

    Attributes:
        experiment: What was asked for.
        splits: Its images.
        hashes: The hash of each image file, by its path.
        plan: What will be done.
        model: The model, with its first weights.
        weights: What these are.
        cache: Where features are kept, if they are.
    """

    experiment: Experiment
    splits: Splits
    hashes: Mapping[str, str]
    plan: Plan
    model: keras.Model
    weights: Mapping[str, str]
    cache: FeatureCache | None


def make_ready(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: Path | None,
    overrides: Sequence[str],
    watcher: Watcher,
) -> Ready:
    """Find and check everything that training needs, down to the last image.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        out: The folder that results will go to, which must not exist.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        watcher: Told how it goes.

    Raises:
        TlkitError: Of the kind that says what is wrong.
    """
    experiment = as_experiment(experiment, overrides)
    require_trackers(experiment.track)
    splits = load_splits(experiment.data)
    plan = make_plan(experiment, splits)

    from tlkit.results.places import exists
    from tlkit.train.checks import check_images
    from tlkit.train.model import assemble
    from tlkit.train.remembered import Remembered

    if out is not None and out.exists():
        raise RunFolderError(exists(out))
    _refuse_among_images(out, experiment)
    watcher.planned(plan, splits)
    checked = check_images(splits, experiment.data, watcher.checking, Remembered(default_folder()))
    splits, plan = checked.splits, make_plan(experiment, checked.splits)
    watcher.checked(plan, splits)
    model, weights = assemble(
        experiment.backbone,
        experiment.head,
        len(plan.classes),
        experiment.seed,
        experiment.fit.mixed_precision,
    )
    watcher.loaded(weights)
    return Ready(
        experiment=experiment,
        splits=splits,
        hashes=checked.hashes,
        plan=plan,
        model=model,
        weights=weights,
        cache=FeatureCache(default_folder()) if plan.cache else None,
    )


def _refuse_among_images(out: Path | None, experiment: Experiment) -> None:
    """Refuse a run folder whose pictures would be taken for images the next time."""
    top = getattr(experiment.data, "path", None)
    if out is None or not isinstance(top, Path):
        return
    for split in SPLITS:
        if out.absolute().is_relative_to((top / split).absolute()):
            what = f"{out}: is among the images of {top / split}; choose another"
            raise ConfigError([Problem("--out", what)])
