"""Progress on standard error: one kind of bar for every command, and the lines of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from tlkit.data.splits import Splits
from tlkit.metrics.intervals import format_share, format_value
from tlkit.reports.console import leakage_text, stand_in_banner, style_of
from tlkit.runfolder.folder import RunFolder
from tlkit.system import notebook
from tlkit.system.parallel import available_cores
from tlkit.system.stdio import quiet
from tlkit.system.text import printable_lines
from tlkit.train.callback import Callback, Epoch
from tlkit.train.cost import cost_text, duration_text, stage_works
from tlkit.train.plan import Plan, PlannedStage
from tlkit.weights.earlier_run import lineage

T = TypeVar("T")
MANY = 2000  # images that take about a second to decode, or more
REDRAW_S = 0.2  # how often a notebook's output changes at most
COLUMNS = 80  # that an epoch's line has at most
LINE_EVERY_S = 10.0  # without a bar: how often a line tells how far it is


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

    def start(self, text: str, total: float | None, left: str | None = None) -> None:
        """Show a bar, instead of any earlier one."""
        self.stop()
        if quiet() or not self.console.is_terminal:
            return
        counted = (MofNCompleteColumn(), TimeRemainingColumn())
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20 if left is None else 12),
            *(counted if left is None else [TextColumn("{task.fields[left]}", markup=False)]),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._bar.add_task(text, total=total, left=left)
        self._bar.start()

    def update(
        self,
        done: float | None = None,
        text: str | None = None,
        total: float | None = None,
        left: str | None = None,
    ) -> None:
        """Change what the bar shows; what is None stays."""
        if self._bar is not None:
            more: dict[str, Any] = {} if left is None else {"left": left}
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, description=text, total=total, **more)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        """Show a line, above the bar if there is one."""
        if not quiet():
            self.console.print(Text(line, style_of(line)), soft_wrap=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class NotebookBar(ProgressBar):
    """Lines and a bar in one output of a notebook, which is updated in place."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._handle: Any = None
        self._on = False
        self._values: dict[str, Any] = {}
        self._drawn = 0.0

    @property
    def shown(self) -> bool:
        """Return whether the bar is in the output."""
        return self._on

    def start(self, text: str, total: float | None, left: str | None = None) -> None:
        """Show a bar, instead of any earlier one."""
        self._on, self._values = True, {"done": 0, "text": text, "total": total, "left": left}
        self._draw()

    def update(
        self,
        done: float | None = None,
        text: str | None = None,
        total: float | None = None,
        left: str | None = None,
    ) -> None:
        """Change what the bar shows; what is None stays."""
        changed = {"done": done, "text": text, "total": total, "left": left}
        self._values |= {name: value for name, value in changed.items() if value is not None}
        if self._on and time.perf_counter() - self._drawn > REDRAW_S:
            self._draw()

    def stop(self) -> None:
        """Remove the bar; the lines stay."""
        if self._on:
            self._on = False
            self._draw()

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        self._lines.append(line)
        self._draw()

    def _draw(self) -> None:
        from IPython import display as shell

        html_of: Any = shell.HTML
        html = html_of(notebook.lines_and_bar(self._lines, self._values if self._on else None))
        if self._handle is None:
            display: Any = shell.display
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)
        self._drawn = time.perf_counter()


def progress_bar() -> ProgressBar:
    """Return a bar for this process: in a notebook's output, or on the terminal."""
    return NotebookBar() if notebook.in_notebook() else ProgressBar()


def default_callback() -> Callback:
    """Return the callback of a call without one: in a notebook, a run shows its progress."""
    return Terminal() if notebook.in_notebook() else Callback()


def with_bar(items: Iterable[T], total: int | None, text: str = "images") -> Iterator[T]:
    """Yield the same items, with a progress bar."""
    with progress_bar() as bar:
        bar.start(text, total)
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)


@contextmanager
def counting_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for work that reports how many of how many items are done."""
    with progress_bar() as bar:

        def show(done: int, count: int) -> None:
            if done == 1:  # not before: a process with the bar's thread could not be forked
                bar.start(text, count)
            bar.update(done)

        yield show


class TimeLeft:
    """The time that is left of a run: from the estimate at first, then from what is done."""

    def __init__(self, plan: Plan) -> None:
        self.first_epochs = [planned.first_epoch for planned in plan.stages]
        self.cores = available_cores()
        self.stages = stage_works(plan, self.cores)
        self.stage = 0
        self.done = 0.0  # in estimated seconds on one core, as is `left`
        self.left = sum(stage.left(0) for stage in self.stages)
        self._started = time.perf_counter()
        self._epoch = 0.0  # of the epoch, what is done
        self._passed = 0  # of the stage, images that have gone through the frozen layers

    def begin_stage(self, number: int) -> None:
        """Begin a stage, by its number from 1."""
        self.stage, self._passed = number - 1, 0
        self.begin(0)

    def begin(self, number: int) -> None:
        """Begin a stage, or continue with it after epoch `number` of the run was announced."""
        done = max(0, number - self.first_epochs[self.stage])
        later = sum(stage.left(0) for stage in self.stages[self.stage + 1 :])
        stage = self.stages[self.stage]
        ahead = min(self._passed, stage.passes) * stage.prefix if done == 0 else 0.0
        self.left, self._epoch = stage.left(done) - ahead + later, 0.0

    def images(self, count: int) -> None:
        """So many images have gone through the frozen layers."""
        self._passed += count
        self._add(count * self.stages[self.stage].prefix)

    def batch(self, share: float) -> None:
        """This share of an epoch's training images is done."""
        work = share * self.stages[self.stage].epoch
        self._add(work - self._epoch)
        self._epoch = work

    def _add(self, work: float) -> None:
        self.done, self.left = self.done + work, max(0.0, self.left - work)

    def __str__(self) -> str:
        if self.done < 0.05 * (self.done + self.left):
            return f"about {duration_text(self.left / self.cores)} left"
        elapsed = time.perf_counter() - self._started
        return f"about {duration_text(elapsed * self.left / self.done)} left"


class Terminal(Callback):
    """Shows a run's progress, and its result at the end.

    On a terminal and in a notebook there is a bar, elsewhere one line per epoch.

    Args:
        result: Show the result.
    """

    def __init__(self, result: bool = True) -> None:
        self._bar = progress_bar()
        self._result = result
        self._epoch = ""
        self._rate = "rate"  # what `on_batch_end` calls it
        self._said = ""  # the rate of the last line
        self._staged = False  # whether a stage has begun
        self._images = self._through = 0  # of an epoch; those that the frozen layers have done
        self._time: TimeLeft | None = None
        self._next_line = 0.0  # when a line may tell how far it is, where there is no bar
        self._started = time.perf_counter()
        self._printed: set[str] = set()

    def say(self, text: str) -> None:
        """Print lines, with control characters made visible."""
        for line in printable_lines(text).split("\n"):
            self._bar.say(line)

    def close(self) -> None:
        """Remove a bar that is still shown."""
        self._bar.stop()

    def on_plan(self, plan: Plan, splits: Splits) -> None:
        """Print a summary of the plan."""
        if plan.stand_in:
            self.say(stand_in_banner(plan.stand_in))
        self._summary(plan, splits)
        self.say(cost_text(plan))
        self._time = TimeLeft(plan)
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
        weighted = any(weight != 1 for weight in plan.class_weights.values())
        lines.append(f"images: {counts}" + (f"; class weights: {weights}" if weighted else ""))
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
            known = f" (sha256 {digest[:12]}…)" if (digest := weights.get("sha256")) else ""
            self.say(f"weights: {weights['source']}{known}")
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
        if self._time and self._staged:  # before the first epoch too: to standardize features
            self._time.images(done - self._through if done > self._through else done)
            self._through = done if done < count else 0
            self._show(f"{self._epoch}  frozen layers: {done:,}/{count:,} {split} images".strip())
            return
        text = f"frozen layers: {done:,}/{count:,} {split} images"
        if not self._bar.shown:
            self._bar.start(text, count)
        self._bar.update(done, text)
        self._line(text)
        if done == count:
            self._bar.stop()

    def _show(self, text: str) -> None:
        """Show how far the run is: in its bar, or in a line now and then."""
        time_left = self._time
        if time_left is None:
            self._bar.update(text=text)
        else:
            whole = time_left.done + time_left.left
            if not self._bar.shown:
                self._bar.start(text, whole, str(time_left))
            self._bar.update(time_left.done, text, whole, left=str(time_left))
            self._line(f"{text}; {time_left}")

    def _line(self, text: str) -> None:
        """Say how far it is, where there is no bar, if nothing was said for some seconds."""
        now = time.perf_counter()
        if not self._bar.shown and now >= self._next_line:
            if self._next_line:
                self.say(text)
            self._next_line = now + self._pause()

    def _pause(self) -> float:
        """Return how long to say nothing: longer in a long run."""
        return max(LINE_EVERY_S, 0.05 * (time.perf_counter() - self._started))

    def on_backbone_begin(self, name: str, number: int, count: int) -> None:
        """Print the backbone's name."""
        self._bar.stop()
        self.say(f"[{number}/{count}] {name}")

    def on_stage_begin(self, number: int, planned: PlannedStage) -> None:
        """Print what the stage trains."""
        self._bar.stop()
        self._epoch = ""
        self._rate, self._said = "L2" if planned.l2 else "rate", ""
        if self._time:
            self._time.begin_stage(number)
            self._staged, self._through = True, 0
        many = planned.stage.epochs != 1
        epochs = "strengths of L2 regularization" if planned.l2 else "epochs" if many else "epoch"
        self.say(
            f"stage {number}: {planned.stage.epochs} {epochs}, "
            f"{planned.trainable_params:,} trainable parameters"
        )

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        """Start the bar with the first epoch; it spans the whole run, as does the time left."""
        self._epoch, self._images, self._through = f"epoch {epoch}/{epochs}", images, 0
        if self._time is None:
            if not self._bar.shown:
                self._bar.start(self._epoch, epochs * images)
            return
        self._time.begin(epoch)
        if not self._bar.shown:
            self._bar.start(self._epoch, self._time.done + self._time.left, str(self._time))
        self._show(self._epoch)

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """Advance the bar."""
        if self._time:
            self._time.batch(images / max(images, self._images))
        self._show(f"{self._epoch}  loss {loss:.4f}  accuracy {format_value(accuracy)}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print the epoch's line, above the bar if there is one."""
        line = (
            f"{self._epoch}  loss {epoch.loss_unweighted:.4f}, val {epoch.val_loss:.4f}  accuracy "
            f"{format_value(epoch.accuracy)}, val {format_value(epoch.val_accuracy)}"
        )
        number = epoch.learning_rate if epoch.l2 is None else epoch.l2
        rate = f"  {self._rate} {_short(number)}"
        if rate != self._said:
            line += rate if len(line + rate) <= COLUMNS else "\n" + rate
        self.say(line)
        self._said = rate
        self._next_line = time.perf_counter() + self._pause()

    def on_run_end(self, folder: Path) -> None:
        """Remove the bar; print the result, its cautions, what to change, and what is next."""
        self.close()
        if not self._result:
            return
        from tlkit.reports.caveats import caveats  # with all parts
        from tlkit.reports.diagnosis import diagnose, next_steps
        from tlkit.runfolder.record import read_run

        run = read_run(RunFolder(folder))
        accuracy = format_share(run.scores.accuracy, run.scores.intervals["accuracy"])
        self.say(f"{run.split}: accuracy {accuracy}, {run.scores.images:,} images")
        findings = diagnose(run)
        lines = [f"! {text}" for text in caveats(run)]
        lines += [f"- {finding}" for finding in findings]
        lines += [f"report: {folder}/report.html"]
        lines += [f"next: {step}" for step in next_steps(run, folder, findings)]
        self.say("\n".join(lines))


def _short(number: float) -> str:
    """Return a rate in few columns: 0.001, 8.1e-5."""
    number = float(f"{number:.2g}")
    if number >= 0.001 or not number:
        return f"{number:g}"
    digits, _, power = f"{number:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
