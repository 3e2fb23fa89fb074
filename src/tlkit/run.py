"""A run: the steps from an experiment to its folder, in order, once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.cache import FeatureCache, default_folder
from tlkit.config.experiment import Experiment, load_experiment
from tlkit.errors import RunFolderError
from tlkit.parts.datasets import load_splits
from tlkit.plan.plan import Plan, make_plan
from tlkit.progress import Epoch, Watcher

if TYPE_CHECKING:
    import keras

    from tlkit.results.folder import RunFolder
    from tlkit.results.metrics import Scores


@frozen(kw_only=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        experiment: What was asked for.
        plan: What it did.
        history: Its epochs.
        scores: Its scores by split.
        model: The trained model.
    """

    folder: Path
    experiment: Experiment
    plan: Plan
    history: tuple[Epoch, ...]
    scores: dict[str, Scores]
    model: keras.Model

    @property
    def result(self) -> Scores:
        """Return the scores on the split that the run is judged by."""
        return self.scores[self.plan.evaluated_on]


def check(experiment: Experiment) -> Plan:
    """Decide everything a run would do, and do nothing.

    Raises:
        ConfigError: If the experiment does not fit its data or itself.
        DataError: If the data are missing or wrong.
    """
    return make_plan(experiment, load_splits(experiment.data))


def run(
    experiment: Experiment | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> Run:
    """Train, evaluate and write a run folder.

    Everything that can be found wrong is found before the folder is made.

    Args:
        experiment: An experiment, or the path of its TOML file.
        out: The run folder, which must not exist; unset: `runs/NAME-N`.
        overrides: ``a.b=value`` expressions for an experiment given as a path.
        watcher: Told how it goes; unset: nobody.

    Raises:
        TlkitError: Of the kind that says what is wrong.
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment, overrides)
    out = None if out is None else Path(out)
    splits = load_splits(experiment.data)
    plan = make_plan(experiment, splits)

    from tlkit.results.folder import RunFolder, exists
    from tlkit.results.metrics import score
    from tlkit.train.fit import fit
    from tlkit.train.images import check_images
    from tlkit.train.model import assemble

    if out is not None and out.exists():
        raise RunFolderError(exists(out))
    watcher = watcher or Watcher()
    watcher.planned(plan, splits)
    hashes = check_images(splits, watcher.checking)
    model, weights = assemble(
        experiment.backbone, experiment.head, len(plan.classes), experiment.seed
    )
    watcher.loaded(weights)

    folder = RunFolder.claim(out, experiment.name)
    folder.write_inputs(experiment, plan, splits, hashes)
    folder.write_environment(experiment, weights)
    keep_record = partial(_write_history, folder, [], [time.perf_counter()])
    cache = FeatureCache(default_folder()) if plan.cache else None
    history, probabilities = fit(
        model, plan, experiment, splits, hashes, cache, watcher, keep_record
    )
    examples = dict(splits.items())
    scores = {
        split: score(splits.labels(examples[split]), found, plan.classes)
        for split, found in probabilities.items()
    }
    folder.write_weights(model, plan.layers)
    folder.write_results(_metrics(plan, weights, scores), splits, probabilities)
    return Run(
        folder=folder.path,
        experiment=experiment,
        plan=plan,
        history=tuple(history),
        scores=scores,
        model=model,
    )


def _write_history(
    folder: RunFolder, history: list[Epoch], marks: list[float], epoch: Epoch
) -> None:
    """Add an epoch to the folder's history and how long it took to its timing."""
    history.append(epoch)
    marks.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(marks)]
    folder.write_history(history, seconds)


def _metrics(
    plan: Plan, weights: Mapping[str, str], scores: Mapping[str, Scores]
) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    return {
        "stand_in": plan.stand_in or None,
        "evaluated_on": plan.evaluated_on,
        "classes": list(plan.classes),
        "weights": {key: weights[key] for key in ("source", "file", "sha256") if key in weights},
        **{split: found.as_json() for split, found in scores.items()},
    }
