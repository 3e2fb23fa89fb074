"""`Run`: a finished run in Python, with what a notebook shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import asdict, frozen

from tlkit.config.experiment import Experiment
from tlkit.metrics.intervals import format_share
from tlkit.metrics.scores import EpochScores, Scores
from tlkit.reports.caveats import caveats
from tlkit.reports.diagnosis import diagnose
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord, read_run
from tlkit.system.notebook import data_frame, face, few_names, html_table
from tlkit.train.callback import Epoch
from tlkit.train.plan import Plan

if TYPE_CHECKING:
    import keras
    import pandas

    from tlkit.reports.figures import Drawing
    from tlkit.reports.gallery import Source


@frozen(kw_only=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        experiment: Its experiment.
        plan: Its plan.
        history: Its epochs.
        last: The scores after the last epoch.
        best: The scores after the best epoch, by `[fit] monitor`.
        model: The model with the weights that `[fit] keep` asks for.
    """

    folder: Path
    experiment: Experiment
    plan: Plan
    history: tuple[Epoch, ...]
    last: EpochScores
    best: EpochScores
    model: keras.Model

    @property
    def kept(self) -> EpochScores:
        """Return the scores of the weights that were kept."""
        return self.best if self.experiment.fit.keep == "best" else self.last

    @property
    def scores(self) -> dict[str, Scores]:
        """Return the scores of the kept weights by split."""
        return self.kept.scores

    @property
    def result(self) -> Scores:
        """Return the scores of the kept weights on the split that the run is judged by."""
        return self.scores[self.plan.evaluated_on]

    @property
    def _record(self) -> RunRecord:
        """Return what the run's folder says."""
        return read_run(RunFolder(self.folder))

    @property
    def report(self) -> Drawing:
        """Return the report, which a notebook shows in the cell."""
        from tlkit.reports.figures import whole

        return whole(RunFolder(self.folder))

    def __repr__(self) -> str:
        scores, split = self.result, self.plan.evaluated_on
        accuracy = format_share(scores.accuracy, scores.intervals.get("accuracy"))
        return (
            f"Run({split} accuracy {accuracy}, {scores.images} images of "
            f"{few_names(scores.classes)}; {str(self.folder)[-80:]!r})"
        )

    def _repr_html_(self) -> str:
        record = self._record
        notes: dict[str, Sequence[object]] = {
            "before you believe this": caveats(record),
            "what to change": diagnose(record),
        }
        report = self.folder / "report.html"
        facts: list[Sequence[object]] = [
            ["networks", f"{record.experiment.backbone.name} + {record.experiment.head.name}"],
            ["weights from", f"epoch {self.kept.epoch} of {len(self.history)}"],
            ["report", f"{report}; run.report shows it here"],
        ]
        return face(
            f"Run, evaluated on {self.plan.evaluated_on}",
            self.result._repr_html_(),
            *(
                html_table([name], [[text] for text in texts])
                for name, texts in notes.items()
                if texts
            ),
            html_table(["", ""], facts),
        )

    def to_pandas(
        self, table: Literal["history", "predictions", "scores"] = "history"
    ) -> pandas.DataFrame:
        """Return a table of the run as a pandas DataFrame.

        Args:
            table: `history` has a row per epoch, `predictions` one per evaluated image, `scores`
                one per class and one of all.

        Raises:
            ResourceError: If pandas is not installed.
            ValueError: If there is no such table.
        """
        if table == "history":
            return data_frame(asdict(epoch) for epoch in self.history)
        if table == "scores":
            return self.result.to_pandas()
        if table != "predictions":
            raise ValueError(f"table: must be history, predictions or scores, got {table!r}")
        return data_frame(
            {"path": p.path, "split": split, "label": p.label, "predicted": p.predicted}
            | {f"p_{name}": share for name, share in p.probabilities.items()}
            for split, predictions in self._record.predictions.items()
            for p in predictions
        )

    def plot_curves(self) -> Drawing:
        """Draw the losses, accuracies and learning rates over the epochs."""
        from tlkit.reports.figures import curves

        return curves(self._record)

    def plot_confusion(self) -> Drawing:
        """Draw the confusion matrix."""
        from tlkit.reports.figures import confusion

        return confusion(self.result, self.plan.evaluated_on)

    def plot_reliability(self) -> Drawing:
        """Draw how often predictions are correct, by their confidence."""
        from tlkit.reports.figures import reliability

        return reliability(self._record)

    def plot_roc(self) -> Drawing:
        """Draw the ROC curve of each class."""
        from tlkit.reports.figures import roc

        return roc(self._record)

    def show_batch(self, count: int = 8) -> Drawing:
        """Draw training images as the network sees them, augmented.

        Args:
            count: How many.

        Raises:
            DataError: If the images are not there or have changed.
        """
        from tlkit.reports.figures import batch
        from tlkit.runner.pages import training_batch

        images = training_batch(self.experiment, self._source(), self._record, count)
        return batch(images, f"Training images at {self.experiment.backbone.image_size} px")

    def top_losses(self, count: int = 6) -> Drawing:
        """Draw the images whose true class was given the least probability, with heatmaps.

        Args:
            count: How many.

        Raises:
            DataError: If the images are not there or have changed.
        """
        from tlkit.reports.figures import top_losses

        return top_losses(self._record, self._source(), count)

    def most_confused(self) -> Drawing:
        """Draw the pairs of classes most often confused.

        Raises:
            DataError: If the images are not there or have changed.
        """
        from tlkit.reports.figures import most_confused

        return most_confused(self._record, self._source())

    def _source(self) -> Source:
        from tlkit.parts.datasets import load_splits
        from tlkit.runner.pages import picture_source

        splits = load_splits(self.experiment.data)
        return picture_source(self._record, self.experiment, splits, self.model)
