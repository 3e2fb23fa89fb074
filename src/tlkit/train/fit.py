"""Training: stage by stage, epoch by epoch; the last epoch's outcome and the best one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import keras
from attrs import frozen

from tlkit.cache import FeatureCache
from tlkit.config.experiment import Experiment
from tlkit.parts.splits import Splits
from tlkit.plan.plan import Plan
from tlkit.progress import Epoch, Watcher
from tlkit.train.best import Snapshot, best_of, stalled
from tlkit.train.stage import RunningStage
from tlkit.train.step import Probabilities


@frozen
class Outcome:
    """What the model says after one epoch.

    Attributes:
        epoch: The epoch's number.
        probabilities: By split, `(images, classes)` float32: `val`, and `test` if there is one.
    """

    epoch: int
    probabilities: Mapping[str, Probabilities]


@frozen
class Fitted:
    """What training gave.

    Attributes:
        history: The epochs.
        last: The outcome after the last one.
        best: The outcome after the best one, by `[fit] best_by`.
        keep: Which of the two the model's weights are.
    """

    history: tuple[Epoch, ...]
    last: Outcome
    best: Outcome
    keep: Literal["last", "best"]

    @property
    def kept(self) -> Outcome:
        """Return the outcome of the weights that are kept."""
        return self.best if self.keep == "best" else self.last


def fit(
    model: keras.Model,
    plan: Plan,
    experiment: Experiment,
    splits: Splits,
    hashes: Mapping[str, str],
    cache: FeatureCache | None,
    watcher: Watcher,
    on_epoch: Callable[[Epoch], None],
) -> Fitted:
    """Train a model as planned.

    Args:
        model: The model of the plan, with its weights loaded; it ends with those to keep.
        plan: What to do.
        experiment: The parts that do it.
        splits: The images.
        hashes: The hash of each image file, by its path.
        cache: Where features are kept; None: nowhere on disk.
        watcher: Told how it goes.
        on_epoch: Called with every finished epoch.

    Raises:
        NumericalError: If the loss is not finite.
        DataError: If an image cannot be read any more.
    """
    settings = experiment.fit
    snapshot = Snapshot(model, plan)
    history: list[Epoch] = []
    best_on_val = None
    for number, planned in enumerate(plan.stages, start=1):
        watcher.stage_begins(number, planned)
        stage = RunningStage(model, plan, number, experiment, splits, hashes, cache, watcher)
        done: list[Epoch] = []
        while len(done) < planned.stage.epochs:
            done.append(stage.epoch(done))
            history.append(done[-1])
            if best_of(history, settings.best_by) is done[-1]:
                snapshot.take()
                best_on_val = stage.on_val
            on_epoch(done[-1])
            watcher.epoch_done(done[-1])
            if stalled(done, settings.best_by, settings.early_stop_patience):
                break
        if len(done) < planned.stage.epochs:
            best_by, patience = settings.best_by, settings.early_stop_patience
            watcher.note(
                f"stage {number} ends early: {best_by} has not got better for {patience} epochs"
            )
    last = _outcome(history[-1], stage.on_val, stage, splits)
    best_epoch = best_of(history, settings.best_by)
    if best_epoch is history[-1]:
        return Fitted(tuple(history), last, last, settings.keep)
    assert best_on_val is not None
    snapshot.swap()
    if splits.test and best_epoch.stage != number:
        stage = RunningStage(
            model, plan, best_epoch.stage, experiment, splits, hashes, cache, watcher, only="test"
        )
    best = _outcome(best_epoch, best_on_val, stage, splits)
    if settings.keep == "last":
        snapshot.swap()
    return Fitted(tuple(history), last, best, settings.keep)


def _outcome(epoch: Epoch, on_val: Probabilities, stage: RunningStage, splits: Splits) -> Outcome:
    """Return the outcome of the model's weights of now."""
    found = {"val": on_val}
    if splits.test:
        found["test"] = stage.on_test()
    return Outcome(epoch.epoch, found)
