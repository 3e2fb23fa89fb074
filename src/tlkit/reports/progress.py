"""Progress on standard error: one kind of bar for every command, and the lines of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from tlkit.data.splits import Splits
from tlkit.metrics.intervals import format_value
from tlkit.reports.console import leakage_text, stand_in_banner
from tlkit.system.text import printable_lines
from tlkit.train.callback import Callback, Epoch
from tlkit.train.cost import cost_text
from tlkit.train.plan import Plan, PlannedStage
from tlkit.weights.earlier_run import lineage

T = TypeVar("T")
MANY = 2000  # images that take about a second to decode, or more


class ProgressBar:
    """A progress bar on standard error, shown only if that is a terminal.

    Attributes:
        console: Where it is shown, and lines above it.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None

    @property
    def shown(self) -> bool:
        """Return whether the bar is on the screen."""
        return self._bar is not None

    def start(self, text: str, total: int | None) -> None:
        """Show a bar, instead of any earlier one."""
        self.stop()
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._bar.add_task(text, total=total)
        self._bar.start()

    def update(
        self, done: int | None = None, text: str | None = None, total: int | None = None
    ) -> None:
        """Change what the bar shows; what is None stays."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, description=text, total=total)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def with_bar(items: Iterable[T], total: int | None, text: str = "images") -> Iterator[T]:
    """Yield the same items, with a progress bar."""
    with ProgressBar() as bar:
        bar.start(text, total)
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)


@contextmanager
def counting_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for work that reports how many of how many items are done."""
    with ProgressBar() as bar:
        bar.start(text, None)
        yield lambda done, count: bar.update(done, total=count)


class Terminal(Callback):
    """Shows a run's progress: bars on a terminal, otherwise one line per epoch."""

    def __init__(self) -> None:
        self._bar = ProgressBar()
        self._epoch = ""
        self._before = 0  # images of the epochs before this one
        self._rate = "rate"  # what `on_batch_end` calls it
        self._printed: set[str] = set()

    def say(self, text: str) -> None:
        """Print lines, with control characters made visible."""
        self._bar.console.print(Text(printable_lines(text)), soft_wrap=True)

    def close(self) -> None:
        """Remove a bar that is still shown."""
        self._bar.stop()

    def on_plan(self, plan: Plan, splits: Splits) -> None:
        """Print a summary of the plan."""
        if plan.stand_in:
            self.say(stand_in_banner(plan.stand_in))
        self._summary(plan, splits)
        self.say(cost_text(plan))
        if plan.evaluated_on == "val":
            self.on_note("there is no test split; results will be on val")

    def on_image_checked(self, done: int, count: int) -> None:
        """Show the number of checked images."""
        if done == 1:
            text = f"checking {count:,} images"
            self._bar.start(text, count)
            if not self._bar.shown and count >= MANY:
                self.say(text)
        self._bar.update(done)
        if done == count:
            self._bar.stop()

    def on_images_checked(self, plan: Plan, splits: Splits) -> None:
        """Print what has changed since the plan."""
        self._summary(plan, splits)

    def _summary(self, plan: Plan, splits: Splits) -> None:
        """Print notes, counts and class weights, each line only once."""
        counts = ", ".join(f"{sum(c.values())} {split}" for split, c in plan.counts.items())
        weights = ", ".join(f"{name} {w:.4g}" for name, w in plan.class_weights.items())
        lines = [f"note: {note}" for note in (*splits.notes, *plan.notes)]
        lines += [leakage_text(plan.data)] if leakage_text(plan.data) else []
        lines.append(f"images: {counts}; class weights: {weights}")
        for line in lines:
            if line not in self._printed:
                self.say(line)
                self._printed.add(line)

    def on_weights_loaded(self, weights: Mapping[str, str]) -> None:
        """Print which weights were loaded, and why others were not."""
        if "passed_over" in weights:
            self.say(f"not available: {weights['passed_over']}")
        if "run" in weights:
            self.say(f"weights: the backbone of {lineage(weights)}")
        else:
            self.say(f"weights: {weights['source']} {weights.get('sha256', '')[:12]}".rstrip())
        if "head_run" in weights:
            self.say(f"head: that of the run {weights['head_run']}")

    def on_resume(self, history: Sequence[Epoch]) -> None:
        """Print where the run continues."""
        self.say(f"resuming after epoch {history[-1].epoch}")

    def on_note(self, text: str) -> None:
        """Print the note."""
        self.say(f"note: {text}")

    def on_features_progress(self, split: str, done: int, count: int) -> None:
        """Show progress through the frozen layers, in the run's bar if there is one."""
        text = f"{self._epoch}  frozen layers: {done}/{count} {split} images".strip()
        if not self._bar.shown:
            self._bar.start(text, count)
        if self._epoch:
            self._bar.update(text=text)
            return
        self._bar.update(done, text)
        if done == count:
            self._bar.stop()

    def on_backbone_begin(self, name: str, number: int, count: int) -> None:
        """Print the backbone's name."""
        self._bar.stop()
        self.say(f"[{number}/{count}] {name}")

    def on_stage_begin(self, number: int, planned: PlannedStage) -> None:
        """Print what the stage trains."""
        self._bar.stop()
        self._epoch = ""
        self._rate = "L2" if planned.l2 else "rate"
        epochs = "strengths of L2 regularization" if planned.l2 else "epochs"
        self.say(
            f"stage {number}: {planned.stage.epochs} {epochs}, "
            f"{planned.trainable_params:,} trainable parameters"
        )

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        """Start the bar with the first epoch; it spans all of them, as does its remaining time."""
        self._epoch = f"epoch {epoch}/{epochs}"
        self._before = (epoch - 1) * images
        if not self._bar.shown:
            self._bar.start(self._epoch, epochs * images)

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """Advance the bar."""
        metrics = f"loss {loss:.4f}  accuracy {format_value(accuracy)}  {self._rate} {rate:.3g}"
        self._bar.update(self._before + images, f"{self._epoch}  {metrics}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print the epoch's line, above the bar if there is one."""
        weighted = f"loss {epoch.loss:.4f} (unweighted {epoch.loss_unweighted:.4f})"
        self.say(
            f"{self._epoch}  {weighted}  accuracy {format_value(epoch.accuracy)}  "
            f"val loss {epoch.val_loss:.4f}  val accuracy {format_value(epoch.val_accuracy)}  "
            + (f"rate {epoch.learning_rate:.3g}" if epoch.l2 is None else f"L2 {epoch.l2:.3g}")
        )
