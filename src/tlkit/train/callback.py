"""`Callback`: how a run reports its progress. The engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from tlkit.system.renames import renamed_methods

if TYPE_CHECKING:
    from tlkit.data.splits import Splits
    from tlkit.train.plan import Plan, PlannedStage


@frozen(kw_only=True)
class Epoch:
    """The figures of one epoch.

    Attributes:
        epoch: Its number in the run, from 1.
        stage: The number of its stage, from 1.
        learning_rate: The learning rate of a layer whose multiplier is 1; 0 with a solver.
        loss: Mean weighted training loss, measured while the weights were changing.
        loss_unweighted: The same without class weights.
        accuracy: Training accuracy, measured while the weights were changing.
        val_loss: Mean unweighted validation loss after the epoch.
        val_accuracy: Validation accuracy after the epoch.
        l2: With a solver, its strength of L2 regularization.
    """

    epoch: int
    stage: int
    learning_rate: float
    loss: float
    loss_unweighted: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    l2: float | None = None


def best_of(epochs: Sequence[Epoch], monitor: str) -> Epoch:
    """Return the best epoch by `[fit] monitor`; of equal ones, the first."""
    if monitor == "val_accuracy":
        return max(epochs, key=lambda epoch: epoch.val_accuracy)
    if monitor == "val_loss":
        return min(epochs, key=lambda epoch: epoch.val_loss)
    best = None  # of the stages so far, which must not lose accuracy to a later one
    for _, stage in groupby(epochs, key=lambda epoch: epoch.stage):
        least = best.val_accuracy if best else 0.0
        fair = [epoch for epoch in stage if epoch.val_accuracy >= least]
        best = min([best, *fair] if best else fair, key=lambda epoch: epoch.val_loss)
    assert best is not None
    return best


def should_stop(epochs: Sequence[Epoch], monitor: str, patience: int | None) -> bool:
    """Tell whether the last `patience` epochs brought no improvement; never if it is None."""
    if patience is None or not epochs:
        return False
    return len(epochs) - 1 - epochs.index(best_of(epochs, monitor)) >= patience


@renamed_methods(
    planned="on_plan",
    checking="on_image_checked",
    checked="on_images_checked",
    loaded="on_weights_loaded",
    resumed="on_resume",
    note="on_note",
    computing="on_features_progress",
    stage_begins="on_stage_begin",
    epoch_begins="on_epoch_begin",
    step_done="on_batch_end",
    epoch_done="on_epoch_end",
)
class Callback:
    """Callback base class; every method does nothing."""

    def on_plan(self, plan: Plan, splits: Splits) -> None:
        """The data are read and the run is planned."""

    def on_image_checked(self, done: int, count: int) -> None:
        """Another image has been decoded: `done` of `count`."""

    def on_images_checked(self, plan: Plan, splits: Splits) -> None:
        """All images are checked; plan and splits are without those that were skipped."""

    def on_weights_loaded(self, weights: Mapping[str, str]) -> None:
        """The backbone's weights are loaded: their source, file and hash."""

    def on_resume(self, history: Sequence[Epoch]) -> None:
        """The run continues after these epochs of an earlier process."""

    def on_note(self, text: str) -> None:
        """There is something the user should know."""

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        """The frozen layers have processed more of a split's images.

        Args:
            split: The split.
            done: The number of images processed so far.
            count: The number of images in the split.
        """

    def on_backbone_begin(self, name: str, number: int, count: int) -> None:
        """`tlkit probe` is about to try a backbone.

        Args:
            name: Its name.
            number: Its number, from 1.
            count: The number of backbones.
        """

    def on_stage_begin(self, number: int, planned: PlannedStage) -> None:
        """A stage is about to begin; stages are numbered from 1."""

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        """An epoch is about to begin.

        Args:
            epoch: Its number in the run, from 1.
            epochs: The number of epochs in the run.
            images: The number of images in this epoch.
        """

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """A training step is done.

        Args:
            images: The number of images so far in this epoch.
            loss: Their mean weighted loss, read from the device twice a second at most and at the
                epoch's end: of those until then.
            accuracy: Their accuracy until then.
            rate: The learning rate of a layer whose multiplier is 1; with a solver, its strength
                of L2 regularization.
        """

    def on_epoch_end(self, epoch: Epoch) -> None:
        """An epoch has ended."""

    def on_run_end(self, folder: Path) -> None:
        """The run has ended.

        Args:
            folder: Its folder, complete.
        """


@frozen(kw_only=True)
class FlipGain:
    """What averaging with the horizontal mirror image does on validation.

    Attributes:
        kept: Whether the averages are used, because their log loss is lower.
        log_loss: The log loss of the images alone.
        averaged_log_loss: That of the averages.
    """

    kept: bool
    log_loss: float
    averaged_log_loss: float
