"""Training: stage by stage, epoch by epoch; the last epoch's outcome and the best one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from attrs import frozen

from tlkit.config.experiment import Experiment, Fit
from tlkit.data.splits import Splits
from tlkit.system.cache import FeatureCache
from tlkit.system.errors import DataError, NumericalError
from tlkit.system.keras import keras
from tlkit.system.signals import Interrupted
from tlkit.train.best import should_stop
from tlkit.train.callback import Callback, Epoch
from tlkit.train.checkpointer import Checkpointer
from tlkit.train.plan import Plan, PlannedStage
from tlkit.train.stage import StageTrainer
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
        best: The outcome after the best one, by `[fit] monitor`.
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
    callback: Callback,
    keeper: Checkpointer,
    on_epoch: Callable[[Sequence[Epoch]], None],
) -> Fitted:
    """Train a model as planned, from where its keeper stands.

    Args:
        model: The model of the plan, with its weights loaded; it ends with those to keep.
        plan: What to do.
        experiment: The parts that do it.
        splits: The images.
        hashes: The hash of each image file, by its path.
        cache: Where features are kept; None: nowhere on disk.
        callback: Told how it goes.
        keeper: What the run has reached, and keeps what it reaches.
        on_epoch: Called after every epoch with all so far.

    Raises:
        NumericalError: If the loss is not finite.
        DataError: If an image cannot be read any more.
        ResourceError: If a checkpoint cannot be written.
        Interrupted: If the process was asked to stop; the last finished epoch is on the disk.
    """

    def stage_of(number: int, only: str | None = None) -> StageTrainer:
        return StageTrainer(
            model, plan, number, experiment, splits, hashes, cache, callback, only=only
        )

    stage = None
    try:
        for number, planned in enumerate(plan.stages, start=1):
            if _over(planned, number, experiment.fit, keeper.history):
                continue  # a run that goes on has it behind it
            callback.on_stage_begin(number, planned)
            stage = None  # what it had in memory makes room for the next
            stage = stage_of(number)
            _run_stage(stage, keeper, callback, on_epoch)
    except (Interrupted, NumericalError, DataError):
        keeper.commit()
        raise
    stage = stage or stage_of(len(plan.stages), only="test")
    last = _outcome(keeper.history[-1], keeper.on_val, stage, splits)
    best_epoch = keeper.best
    if best_epoch is keeper.history[-1]:
        return Fitted(keeper.history, last, last, experiment.fit.keep)
    keeper.put_best()
    if splits.test and best_epoch.stage != stage.number:
        stage = stage_of(best_epoch.stage, only="test")
    best = _outcome(best_epoch, keeper.best_on_val, stage, splits)
    if experiment.fit.keep == "last":
        keeper.put_last()
    return Fitted(keeper.history, last, best, experiment.fit.keep)


def _run_stage(
    stage: StageTrainer,
    keeper: Checkpointer,
    callback: Callback,
    on_epoch: Callable[[Sequence[Epoch]], None],
) -> None:
    """Run the epochs that a stage still has before it, one at least."""
    number, planned, settings = stage.number, stage.planned, stage.experiment.fit
    done = _of_stage(number, keeper.history)
    if done:
        keeper.resume_optimizer(stage.stepper.optimizer)
    over = partial(_over, planned, number, settings)
    while not over(keeper.history):
        done.append(stage.epoch(done))
        on_epoch([*keeper.history, done[-1]])
        keeper.keep(done[-1], stage.on_val, stage.stepper.optimizer, over)
        callback.on_epoch_end(done[-1])
    if len(done) < planned.stage.epochs:
        by, patience = settings.monitor, settings.early_stop_patience
        callback.on_note(
            f"stage {number} ends early: {by} has not got better for {patience} epochs"
        )


def _over(planned: PlannedStage, number: int, settings: Fit, history: Sequence[Epoch]) -> bool:
    """Tell whether a stage has had all its epochs, or enough of them that brought nothing."""
    done = _of_stage(number, history)
    return len(done) >= planned.stage.epochs or should_stop(
        done, settings.monitor, settings.early_stop_patience
    )


def _of_stage(number: int, history: Sequence[Epoch]) -> list[Epoch]:
    return [epoch for epoch in history if epoch.stage == number]


def _outcome(epoch: Epoch, on_val: Probabilities, stage: StageTrainer, splits: Splits) -> Outcome:
    """Return the outcome of the model's weights of now."""
    found = {"val": on_val}
    if splits.test:
        found["test"] = stage.on_test()
    return Outcome(epoch.epoch, found)
