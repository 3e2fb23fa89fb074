"""Being told how a run goes; the engine talks to a `Callback` and prints nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from tlkit.data.splits import Splits
    from tlkit.train.plan import Plan, PlannedStage


@frozen(kw_only=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: Its number in the run, from 1.
        stage: Its stage's number, from 1.
        learning_rate: The rate of a layer whose multiplier is 1.
        loss: The mean weighted training loss, while the weights were changing.
        loss_unweighted: The same without class weights.
        accuracy: The share of training images classified rightly, while the weights were changing.
        val_loss: The mean unweighted loss on the validation split, after the epoch.
        val_accuracy: The accuracy there.
    """

    epoch: int
    stage: int
    learning_rate: float
    loss: float
    loss_unweighted: float
    accuracy: float
    val_loss: float
    val_accuracy: float


class Callback:
    """Somebody who is told how a run goes and does nothing about it; override what matters."""

    def on_plan(self, plan: Plan, splits: Splits) -> None:
        """Data are found and everything is decided."""

    def on_image_checked(self, done: int, count: int) -> None:
        """So many of the images have been decoded once."""

    def on_images_checked(self, plan: Plan, splits: Splits) -> None:
        """Every image has been looked at: what is left of them, and the plan for these."""

    def on_weights_loaded(self, weights: Mapping[str, str]) -> None:
        """The backbone's weights are loaded; what they are."""

    def on_resume(self, history: Sequence[Epoch]) -> None:
        """The run goes on after these epochs, which an earlier process has left."""

    def on_note(self, text: str) -> None:
        """Something the user should know."""

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        """So many of a split's images have gone through the frozen layers, to be kept.

        Args:
            split: The split.
            done: How many of its images have.
            count: How many it has.
        """

    def on_stage_begin(self, number: int, planned: PlannedStage) -> None:
        """A stage is about to begin."""

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        """An epoch is about to begin.

        Args:
            epoch: Its number in the run, from 1.
            epochs: How many epochs the run has.
            images: How many images it will see.
        """

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """So many images of the epoch are done, with its figures so far.

        Args:
            images: How many.
            loss: Their mean weighted loss.
            accuracy: The share of them that was classified rightly.
            rate: The learning rate of a layer whose multiplier is 1.
        """

    def on_epoch_end(self, epoch: Epoch) -> None:
        """An epoch has ended."""
