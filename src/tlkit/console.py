"""What a person sees: progress on standard error, tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from tlkit.config.experiment import Reference
from tlkit.escapes import printable, printable_lines
from tlkit.parts.splits import Splits
from tlkit.plan.plan import Plan, PlannedStage
from tlkit.progress import Epoch, Watcher
from tlkit.run import Run

if TYPE_CHECKING:
    from tlkit.results.intervals import Interval
    from tlkit.results.metrics import ClassScores, Scores

SHOWN = ("precision", "recall", "specificity", "auroc")  # of each class, on a terminal
MANY = 2000  # images that take about a second to look at, or more


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right."""
    head, rows = [*map(printable, head)], [[*map(printable, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    )


def stand_in_banner(stand_in: str) -> str:
    """Return the warning that results are not about real images."""
    line = (
        f"STAND-IN DATA: drawn {stand_in}s, not real images; the results only show that things work"
    )
    edge = "=" * (len(line) + 4)
    return f"{edge}\n  {line}\n{edge}"


def leakage_text(data: Mapping[str, Any]) -> str:
    """Return the warning that a patient or picture in two splits was accepted; empty if none was.

    >>> leakage_text({"leakage_accepted": {"patient": 1, "picture": 12}})
    'warning: leakage accepted: 1 patient and 12 pictures are in more than one split'
    >>> leakage_text({"leakage_accepted": {}})
    ''
    """
    accepted = data.get("leakage_accepted", {}).items()
    what = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in accepted)
    verb = "is" if sum(count for _, count in accepted) == 1 else "are"
    return f"warning: leakage accepted: {what} {verb} in more than one split" if what else ""


def plan_text(plan: Plan) -> str:
    """Return a plan as text: data, class weights, layers with rates, stages."""
    lines = [stand_in_banner(plan.stand_in)] if plan.stand_in else []
    lines += [leakage_text(plan.data), ""] if leakage_text(plan.data) else []
    rows = [
        [split, *(str(counts[name]) for name in plan.classes), str(sum(counts.values()))]
        for split, counts in plan.counts.items()
    ]
    rows.append(["weight", *(f"{plan.class_weights[name]:.4g}" for name in plan.classes), ""])
    keys = [f"{key} {value}" for key, value in plan.loss.items() if key != "name"]
    drawn = f"loss: {', '.join([plan.loss['name'], *keys])}; sampler: {plan.sampler}"
    lines += [table(["images", *plan.classes, "all"], rows), "", drawn, ""]
    if plan.evaluated_on == "val":
        lines += ["no test split: the results will be those on val", ""]
    for number, planned in enumerate(plan.stages, start=1):
        lines += [_stage_text(plan, number, planned), ""]
    return "\n".join(lines).rstrip()


def _stage_text(plan: Plan, number: int, planned: PlannedStage) -> str:
    stage = planned.stage
    head = f"stage {number} of {len(plan.stages)}, "
    head += f"{stage.epochs} epochs of {plan.steps_per_epoch} steps"
    times = "once" if len(planned.views) == 1 else f"{len(planned.views)} times"
    frozen = f"each training image goes through the frozen layers 1-{planned.cut} {times}"
    if not planned.cut:
        frozen = "no frozen layers before the first trained one"
    params = f"{planned.trainable_params:,} trainable of {plan.layers.params:,} parameters"
    return f"{head}\n{plan.layers.render(stage.rates)}\n{params}; {frozen}"


def scores_text(split: str, scores: Scores) -> str:
    """Return a split's scores as text: the figures with their intervals, the confusion matrix."""
    names = [printable(name) for name in scores.classes]
    rows = [
        [name, str(one.support), *(_of_class(one, figure) for figure in SHOWN)]
        for name, one in zip(names, scores.per_class.values(), strict=True)
    ]
    confusion = [[name, *map(str, row)] for name, row in zip(names, scores.confusion, strict=True)]
    head = ["class", "images", *(f"{figure} %" for figure in SHOWN[:3]), "AUROC"]
    means = [
        f"balanced accuracy {share(scores.balanced_accuracy)}"
        + bracketed(scores.intervals.get("balanced_accuracy"), 100, 1),
        _named("macro F1", scores.macro_f1, scores.intervals.get("macro_f1")),
        _named("kappa", scores.kappa, scores.intervals.get("kappa")),
    ]
    losses = [
        _named("log loss", scores.log_loss, scores.intervals.get("log_loss")),
        _named("Brier score", scores.brier, scores.intervals.get("brier")),
        _named("calibration error", scores.calibration_error, None),
    ]
    accuracy = share(scores.accuracy) + bracketed(scores.intervals.get("accuracy"), 100, 1)
    return "\n".join(
        [
            f"{split}: accuracy {accuracy}, {scores.images} images; in brackets 95 % intervals",
            ", ".join(means),
            *([", ".join(losses)] if scores.log_loss is not None else []),
            "",
            table(head, rows),
            "",
            table(["truth \\ predicted", *names], confusion),
        ]
    )


def _of_class(one: ClassScores, figure: str) -> str:
    """Return a class's figure with its interval, short enough for a table of 80 columns."""
    value: float | None = getattr(one, figure)
    if value is None:
        return "-" if figure == "auroc" else "undefined"
    scale, digits = (1, 2) if figure == "auroc" else (100, 0)
    text = f"{value:.2f}" if figure == "auroc" else f"{100 * value:.1f}"
    return text + bracketed(one.intervals.get(figure), scale, digits)


def _named(name: str, value: float | None, interval: Interval | None) -> str:
    if value is None:
        return f"{name} undefined"
    return f"{name} {value:.2f}{bracketed(interval, 1, 2)}"


def bracketed(interval: Interval | None, scale: int, digits: int) -> str:
    """Return an interval in brackets, with a blank before it; nothing if there is none.

    Args:
        interval: The interval.
        scale: What its ends are multiplied with: 100 for per cent.
        digits: How many digits they have after the point.
    """
    if interval is None:
        return ""
    return f" ({scale * interval.low:.{digits}f}–{scale * interval.high:.{digits}f})"


def cautions_text(found: Sequence[str]) -> str:
    """Return warnings as text, one below the other."""
    return "\n".join(f"! {printable(text)}" for text in found)


def epochs_text(run: Run) -> str:
    """Return which epoch's weights were kept, and how good those of the other choice are."""
    fit, split = run.experiment.fit, run.plan.evaluated_on
    last = f"last epoch, {run.last.epoch}"
    best = f"best epoch by {fit.best_by}, {run.best.epoch}"
    if run.last.epoch == run.best.epoch:
        return f"weights of the {last}, which is the best by {fit.best_by} too"
    kept, other, scored = (best, last, run.last) if fit.keep == "best" else (last, best, run.best)
    accuracy = share(scored.scores[split].accuracy)
    return f"weights of the {kept}; those of the {other}, have accuracy {accuracy} on {split}"


def references_text(
    ours: Mapping[str, float | None],
    published: Sequence[tuple[Reference, Mapping[str, float | None]]],
) -> str:
    """Return our figures beside published ones, as text.

    Args:
        ours: Our figures by name.
        published: Published results with their figures under the same names.
    """
    rows = [
        [name, share(ours[name]), *(share(found[name], "-") for _, found in published)]
        for name in ours
        if any(found[name] is not None for _, found in published)
    ]
    numbers = [f"[{number}]" for number in range(1, len(published) + 1)]
    sources = [
        f"{number} {reference.source}" + ("" if reference.same_test else ", on other test images")
        for number, (reference, _) in zip(numbers, published, strict=True)
    ]
    return "\n".join([table(["beside published results", "ours", *numbers], rows), *sources])


def share(value: float | None, missing: str = "undefined") -> str:
    """Return a share as a percentage with one decimal.

    >>> share(0.7792), share(None)
    ('77.9 %', 'undefined')
    """
    return missing if value is None else f"{100 * value:.1f} %"


class Terminal(Watcher):
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

    def planned(self, plan: Plan, splits: Splits) -> None:
        """Print what will be done, without the layers."""
        if plan.stand_in:
            self.say(stand_in_banner(plan.stand_in))
        self._images(plan, splits)
        if plan.evaluated_on == "val":
            self.note("there is no test split; the results are those on val")

    def checking(self, done: int, count: int) -> None:
        """Show how many images are checked."""
        if done == 1:
            text = f"checking {count:,} images"
            self._start(text, count)
            if self.bar is None and count >= MANY:  # where there is no bar, a word
                self.say(text)
        self._advance(done)
        if done == count:
            self._stop()

    def checked(self, plan: Plan, splits: Splits) -> None:
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

    def loaded(self, weights: Mapping[str, str]) -> None:
        """Print which weights were used, and why not others."""
        if "passed_over" in weights:
            self.say(f"not available: {weights['passed_over']}")
        self.say(f"weights: {weights['source']} {weights.get('sha256', '')[:12]}".rstrip())

    def resumed(self, history: Sequence[Epoch]) -> None:
        """Print where the run goes on."""
        self.say(f"going on after epoch {history[-1].epoch}")

    def note(self, text: str) -> None:
        """Print it."""
        self.say(f"note: {text}")

    def computing(self, split: str, done: int, count: int) -> None:
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

    def stage_begins(self, number: int, planned: PlannedStage) -> None:
        """Print what the stage trains."""
        self._stop()
        self.epoch = ""
        self.say(
            f"stage {number}: {planned.stage.epochs} epochs, "
            f"{planned.trainable_params:,} parameters are trained"
        )

    def epoch_begins(self, epoch: int, epochs: int, images: int) -> None:
        """Start the bar with the first epoch; it spans them all, so its time left is the run's."""
        self.epoch = f"epoch {epoch}/{epochs}"
        self.before = (epoch - 1) * images
        if self.bar is None:
            self._start(self.epoch, epochs * images)

    def step_done(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        """Advance the bar."""
        figures = f"loss {loss:.4f}  accuracy {share(accuracy)}  rate {rate:.3g}"
        self._advance(self.before + images, f"{self.epoch}  {figures}")

    def epoch_done(self, epoch: Epoch) -> None:
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
