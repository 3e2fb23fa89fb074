"""What a person sees of a run while it goes on: a bar and lines on standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from tlkit.data.splits import Splits
from tlkit.reports.console import leakage_text, share, stand_in_banner
from tlkit.system.text import printable_lines
from tlkit.train.callback import Callback, Epoch
from tlkit.train.plan import Plan, PlannedStage

MANY = 2000  # images that take about a second to look at, or more


class Terminal(Callback):
    """Shows a run's progress: bars on a terminal, a line an epoch elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.epoch = ""
        self.before = 0  # images of the epochs before this one
        self.told: set[str] = set()

    def say(self, text: str) -> None:
        """Print lines as they are, but for what a terminal would obey."""
        self.console.print(Text(printable_lines(text)), soft_wrap=True)

    def on_plan(self, plan: Plan, splits: Splits) -> None:
        """Print what will be done, without the layers."""
        if plan.stand_in:
            self.say(stand_in_banner(plan.stand_in))
        self._images(plan, splits)
        if plan.evaluated_on == "val":
            self.on_note("there is no test split; the results are those on val")

    def on_image_checked(self, done: int, count: int) -> None:
        """Show how many images are checked."""
        if done == 1:
            text = f"checking {count:,} images"
            self._start(text, count)
            if self.bar is None and count >= MANY:  # where there is no bar, a word
                self.say(text)
        self._advance(done)
        if done == count:
            self._stop()

    def on_images_checked(self, plan: Plan, splits: Splits) -> None:
        """Print what is new since the plan."""
        self._images(plan, splits)

    def _images(self, plan: Plan, splits: Splits) -> None:
        """Print notes, counts and weights, each once."""
        counts = ", ".join(f"{sum(c.values())} {split}" for split, c in plan.counts.items())
        weights = ", ".join(f"{name} {w:.4g}" for name, w in plan.class_weights.items())
        lines = [f"note: {note}" for note in splits.notes]
        lines += [leakage_text(plan.data)] if leakage_text(plan.data) else []
        lines.append(f"images: {counts}; class weights: {weights}")
        for line in lines:
            if line not in self.told:
                self.say(line)
                self.told.add(line)

    def on_weights_loaded(self, weights: Mapping[str, str]) -> None:
        """Print which weights were used, and why not others."""
        if "passed_over" in weights:
            self.say(f"not available: {weights['passed_over']}")
        self.say(f"weights: {weights['source']} {weights.get('sha256', '')[:12]}".rstrip())

    def on_resume(self, history: Sequence[Epoch]) -> None:
        """Print where the run goes on."""
        self.say(f"going on after epoch {history[-1].epoch}")

    def on_note(self, text: str) -> None:
        """Print it."""
        self.say(f"note: {text}")

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        """Show how far the features are, in the run's bar if there is one."""
        text = f"{self.epoch}  frozen layers: {done}/{count} {split} images".strip()
        if self.bar is None:
            self._start(text, count)
        if self.epoch:
            self._advance(None, text)
        else:
            self._advance(done, text)
            if done == count:
                self._stop()

    def on_stage_begin(self, number: int, planned: PlannedStage) -> None:
        """Print what the stage trains."""
        self._stop()
        self.epoch = ""
        self.say(
            f"stage {number}: {planned.stage.epochs} epochs, "
            f"{planned.trainable_params:,} parameters are trained"
        )

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        """Start the bar with the first epoch; it spans them all, so its time left is the run's."""
        self.epoch = f"epoch {epoch}/{epochs}"
        self.before = (epoch - 1) * images
        if self.bar is None:
            self._start(self.epoch, epochs * images)

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """Advance the bar."""
        figures = f"loss {loss:.4f}  accuracy {share(accuracy)}  rate {rate:.3g}"
        self._advance(self.before + images, f"{self.epoch}  {figures}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print the epoch's line, above the bar if there is one."""
        weighted = f"loss {epoch.loss:.4f} (unweighted {epoch.loss_unweighted:.4f})"
        self.say(
            f"{self.epoch}  {weighted}  accuracy {share(epoch.accuracy)}  "
            f"val loss {epoch.val_loss:.4f}  val accuracy {share(epoch.val_accuracy)}  "
            f"rate {epoch.learning_rate:.3g}"
        )

    def close(self) -> None:
        """Take away a bar that is still shown."""
        self._stop()

    def _start(self, text: str, total: int) -> None:
        self._stop()
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.bar.add_task(text, total=total)
        self.bar.start()

    def _advance(self, completed: int | None, text: str | None = None) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=completed, description=text)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
