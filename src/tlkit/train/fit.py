"""`fit`: train a model stage by stage, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attrs import field, frozen

from tlkit.system.errors import DataError, NumericalError
from tlkit.system.signals import Interrupted
from tlkit.train.callback import Callback, Epoch, FlipGain, should_stop
from tlkit.train.checkpointer import Checkpointer
from tlkit.train.refit import refit
from tlkit.train.stage import PreparedRun, StageTrainer
from tlkit.train.step import Probabilities


@frozen(kw_only=True)
class Training(PreparedRun):
    """A prepared run with the progress it has made.

    Attributes:
        checkpointer: Holds the progress, and saves it.
        record: Called with the history after each epoch, before the epoch is saved.
    """

    checkpointer: Checkpointer = field(repr=False)
    record: Callable[[Sequence[Epoch]], object] = field(repr=False)


@frozen
class Outcome:
    """The model's predictions after one epoch.

    Attributes:
        epoch: The epoch's number.
        probabilities: `(images, classes)` float32 by split: `val`, and `test` if there is one.
        flip: What averaging with the mirror images does; None: it was not asked for.
    """

    epoch: int
    probabilities: Mapping[str, Probabilities]
    flip: FlipGain | None = None


@frozen
class Fitted:
    """The result of training.

    Attributes:
        history: The epochs.
        last: The outcome of the last epoch.
        best: The outcome of the best epoch, by `[fit] monitor`; the same object as `last` if that
            is the best.
        kept: The outcome of the weights that the model has now.
        refit_images: The number of training and validation images to which these were fitted once
            more; None: they were not, and they are the epoch's.
    """

    history: tuple[Epoch, ...]
    last: Outcome
    best: Outcome
    kept: Outcome
    refit_images: int | None = None


def fit(training: Training, callback: Callback) -> Fitted:
    """Train a model as planned, continuing from its checkpointer's progress.

    The model ends with the weights that `[fit] keep` asks for.
    """
    checkpointer, stages = training.checkpointer, training.plan.stages
    stage = None
    try:
        for number, planned in enumerate(stages, start=1):
            if _is_over(training, number, checkpointer.history):
                continue  # done by an earlier process
            callback.on_stage_begin(number, planned)
            stage = None  # free its memory for the next one
            if _starts_from_best(training, number):
                callback.on_note(
                    f"phase {planned.phase} starts from epoch {checkpointer.best.epoch}, the best "
                    "so far"
                )
                checkpointer.load_best()
            stage = StageTrainer(training, number, callback)
            _run_stage(training, stage)
    except (Interrupted, NumericalError, DataError):
        checkpointer.commit()
        raise
    scored = ("val", "test") if training.experiment.calibration.tta else ("test",)
    stage = stage or StageTrainer(training, len(stages), callback, only=scored)
    last = best = _outcome(checkpointer.history[-1], checkpointer.on_val, stage)
    if checkpointer.best is not checkpointer.history[-1]:
        checkpointer.load_best()
        needed = "val" in scored or bool(training.splits.test)
        if needed and checkpointer.best.stage != stage.number:
            stage = StageTrainer(training, checkpointer.best.stage, callback, only=scored)
        best = _outcome(checkpointer.best, checkpointer.best_on_val, stage)
        if training.experiment.fit.keep == "last":
            checkpointer.load_last()
    keeps_best = training.experiment.fit.keep == "best"
    kept = best if keeps_best else last
    epoch = checkpointer.best if keeps_best else checkpointer.history[-1]
    if not stages[epoch.stage - 1].refit:
        return Fitted(checkpointer.history, last, best, kept)
    stage, images = refit(training, checkpointer, epoch, callback)
    refitted = _with_test(epoch, kept.probabilities["val"], stage, kept.flip)
    last, best = (refitted if outcome is kept else outcome for outcome in (last, best))
    return Fitted(checkpointer.history, last, best, refitted, images)


def _starts_from_best(training: Training, number: int) -> bool:
    """Tell whether a stage is to start from an earlier epoch than the last: it opens a phase."""
    history, stages = training.checkpointer.history, training.plan.stages
    if training.experiment.fit.keep == "last" or not history or _of_stage(number, history):
        return False
    opens = stages[number - 1].phase != stages[number - 2].phase
    return opens and training.checkpointer.best is not history[-1]


def _run_stage(training: Training, stage: StageTrainer) -> None:
    """Run the remaining epochs of a stage; there is at least one."""
    checkpointer, settings = training.checkpointer, stage.experiment.fit
    is_over = partial(_is_over, training, stage.number)
    done = _of_stage(stage.number, checkpointer.history)
    if done:
        checkpointer.resume_optimizer(stage.step.state)
    else:
        stage.fit_statistics()
    while not is_over(checkpointer.history):
        done.append(stage.epoch(done))
        training.record([*checkpointer.history, done[-1]])
        checkpointer.keep(done[-1], stage.on_val, stage.step.state, is_over)
        stage.callback.on_epoch_end(done[-1])
    if len(done) < stage.planned.stage.epochs:
        stage.callback.on_note(
            f"stage {stage.number} ends early: {settings.monitor} has not improved for "
            f"{settings.early_stop_patience} epoch{'s' * (settings.early_stop_patience != 1)}"
        )


def _is_over(training: Training, number: int, history: Sequence[Epoch]) -> bool:
    """Tell whether a stage has had all its epochs, or is stopped early."""
    planned = training.plan.stages[number - 1]
    done, settings = _of_stage(number, history), training.experiment.phases[planned.phase - 1].fit
    return len(done) >= planned.stage.epochs or should_stop(
        done, settings.monitor, settings.early_stop_patience
    )


def _of_stage(number: int, history: Sequence[Epoch]) -> list[Epoch]:
    return [epoch for epoch in history if epoch.stage == number]


def _outcome(epoch: Epoch, on_val: Probabilities, stage: StageTrainer) -> Outcome:
    """Return the outcome of the model's present weights."""
    if stage.run.experiment.calibration.tta is None:
        return _with_test(epoch, on_val, stage)
    averaged = stage.averaged(on_val, "val")
    losses = stage.log_loss(on_val, "val"), stage.log_loss(averaged, "val")
    flip = FlipGain(kept=losses[1] < losses[0], log_loss=losses[0], averaged_log_loss=losses[1])
    return _with_test(epoch, averaged if flip.kept else on_val, stage, flip)


def _with_test(
    epoch: Epoch, on_val: Probabilities, stage: StageTrainer, flip: FlipGain | None = None
) -> Outcome:
    """Return an outcome with the probabilities on the test split, averaged if those on val are."""
    probabilities = {"val": on_val}
    if stage.run.splits.test:
        plain = stage.on_test()
        probabilities["test"] = stage.averaged(plain, "test") if flip and flip.kept else plain
    return Outcome(epoch.epoch, probabilities, flip)
