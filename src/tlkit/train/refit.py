"""The kept weights once more, learned from training and validation images together.

Validation has chosen the epoch, so its images may be learned too. What led to the chosen weights is
repeated with them: the same phases, epochs, learning rates and order of draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import evolve

from tlkit.config.experiment import Fit
from tlkit.train.callback import Callback, Epoch, best_of
from tlkit.train.checkpointer import Checkpointer
from tlkit.train.plan import PlannedStage
from tlkit.train.stage import PreparedRun, StageTrainer


def refit(
    run: PreparedRun, checkpointer: Checkpointer, kept: Epoch, callback: Callback
) -> tuple[StageTrainer, int]:
    """Fit a model to the training and validation images together, as its kept weights were.

    Returns:
        The trainer of the last stage, and the number of images.
    """
    path = path_to(kept, checkpointer.history, run.plan.stages, run.experiment.fit)
    images = len(run.splits.train) + len(run.splits.val)
    solved_alone = len(path) == 1 or not run.experiment.fit.refit
    if kept.l2 is not None and solved_alone:  # goes on from its solution, and is quick
        stage = StageTrainer(run, kept.stage, callback)
        stage.refit(kept)
        return stage, images
    checkpointer.load_initial()
    both, progress = _with_val(run), _Progress(callback)
    for number, epochs in path:
        count = f"{len(epochs)} epoch{'s' * (len(epochs) != 1)}"
        what = count if epochs[-1].l2 is None else "its solver"
        callback.on_note(f"once more, with the images of val: stage {number}, {what}")
        stage = StageTrainer(both, number, progress)
        stage.repeat(epochs)
    return stage, images


def path_to(
    kept: Epoch, history: Sequence[Epoch], stages: Sequence[PlannedStage], fit: Fit
) -> list[tuple[int, list[Epoch]]]:
    """Return the numbers of the stages that led to an epoch's weights, each with its epochs."""
    number = kept.stage
    own = [epoch for epoch in history if epoch.stage == number and epoch.epoch <= kept.epoch]
    before = [epoch for epoch in history if epoch.stage < number]
    if not before:
        return [(number, own)]
    opens = stages[number - 1].phase != stages[number - 2].phase
    start = best_of(before, fit.monitor) if opens and fit.keep == "best" else before[-1]
    return [*path_to(start, before, stages, fit), (number, own)]


def _with_val(run: PreparedRun) -> PreparedRun:
    """Return a run whose training images are those of both splits."""
    both = evolve(run, learns_val=True)
    of_both = Counter(example.label for example in both.examples["train"])
    steps = -(-of_both.total() // run.experiment.fit.batch_size)
    counts = {**run.plan.counts, "train": {name: of_both[name] for name in run.plan.classes}}
    return evolve(both, plan=evolve(run.plan, counts=counts, steps_per_epoch=steps))


class _Progress(Callback):
    """Tells of the images that pass through frozen layers, and of nothing else: no new epochs."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        """Pass it on."""
        self.callback.on_features_progress(split, done, count)
